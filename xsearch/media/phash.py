"""Whether two pictures are the same photograph: a perceptual hash that bears cut edges.

Its bits are the signs of the lowest frequencies of the discrete cosine transform of the brightness (pHash: Zauner 2010,
"Implementation and Benchmarking of Perceptual Image Hash Functions"). They hardly change when a picture is resized,
recompressed, made brighter or richer in contrast. Cutting its edges moves all that is in it, and changes half of them;
so there is a hash for each of WINDOWS on a picture, and the whole of each of two pictures is compared with the windows
of the other.
"""

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

SIDE_PX = 64
"""Pictures are hashed as squares of so many pixels."""

FREQUENCIES = 16
"""Of rows, and as many of columns: 255 bits without the constant. The classic 8, 63 bits, take two dogs that run
through plain water for one photograph: where little is in a picture, few of its bits say anything."""

MARGINS = (0, 2, 4, 6)
"""Pixels that a window may leave out at each edge: up to a tenth of the width or height on every side."""

SAME_PHOTOGRAPH = 0.14
"""Two pictures at most so far from each other are taken as one photograph.

Distances by `benchmarks/duplicates.py`, of 304 photographs and their copies:

                                                          median   of 95 %   most
    a JPEG of quality 10                                    .02      .05      .10
    resized to 100 px                                       .03      .06      .09
    a third brighter                                        .04      .09      .12
    a tenth cut off at two edges                            .05      .08      .12
    a twentieth cut off at all edges                        .09      .11      .15
    turned by 1.5 degrees                                   .10      .15      .18
    15 % cut off at two edges, mirrored, turned by 90       .37 and more

and of 80,964 pairs of different photographs with a cosine above .6 the least is .15: it is one photograph, cropped, in
other colours. Then come .16 and .17, of one scene from one place. Frames of a film half a second apart have a median of
.23, and 7 of 29 are below: what was taken at another second must be told by its time. Two pages of text in one layout
differ by .24 and more, but pages of one form that are filled in differently may be taken for one.
"""

LEAST_CONTRAST = 2.0
"""Of less, as a standard deviation of the levels 0..255, the signs are those of noise: blank pages, a covered lens."""

_EDGES = tuple(product(MARGINS, MARGINS))
WINDOWS = len(_EDGES) ** 2
_BITS = FREQUENCIES**2 - 1


def hashes(brightness: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (WINDOWS, bytes) packed bits of a picture (SIDE_PX, SIDE_PX), first those of the whole of it."""
    waves = _waves()
    spectra = (waves @ brightness)[:, None] @ waves.transpose(0, 2, 1)
    return np.packbits(spectra.reshape(WINDOWS, -1)[:, 1:] > 0, axis=1)


def distances(windows: NDArray[np.uint8], wholes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (m,) the shares of bits in which m pictures differ from the nearest window on another.

    `windows` are the `hashes` of the other, `wholes` (m, bytes) the first of each one's own. 0 to 1; .4 if unlike.
    """
    # Signs as +-1: their products tell how many agree, for all at once.
    a, b = (2 * np.unpackbits(bits, axis=1, count=_BITS).astype(np.float32) - 1 for bits in (windows, wholes))
    agreement = (b @ a.T).max(axis=1, initial=-_BITS)
    return np.asarray((_BITS - agreement) / (2 * _BITS), np.float64)


@lru_cache(maxsize=1)
def _waves() -> NDArray[np.float32]:
    """(windows of one side, FREQUENCIES, SIDE_PX) the cosines of the transform (DCT-II), 0 outside of each window."""
    waves = np.zeros((len(_EDGES), FREQUENCIES, SIDE_PX), np.float32)
    frequencies = np.arange(FREQUENCIES)[:, None]
    for window, (before, after) in enumerate(_EDGES):
        width = SIDE_PX - before - after
        waves[window, :, before : SIDE_PX - after] = np.cos(np.pi / width * (np.arange(width) + 0.5) * frequencies)
    return waves
