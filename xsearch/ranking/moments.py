"""Moments: neighbouring frames of a film that answer a query, as one stretch of time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEIGHT = 0.5
"""How high above the level of the library a frame has to score, as a part of its moment's best, to belong to it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Frames `first` up to and including `last` of a film, positions in its order, of which `best` scores highest."""

    first: int
    best: int
    last: int


def moments(
    scores: NDArray[np.float32], starts_new: NDArray[np.bool_], peaks: Sequence[int], level: float
) -> list[Moment]:
    """Return the moments around `peaks`, positions of frames, best first; a frame belongs to one moment only.

    `scores` (n,) are cosines of frames in the order of time, film after film; `starts_new` (n,) is True where a frame
    does not continue the one before it: another film begins there, or what lies between was removed. From each peak a
    moment reaches, to both sides, as far as the scores stay above the half height between `level`, what is
    scored by a picture that is not meant, and the peak: its full width at half maximum.
    """
    taken = np.zeros(len(scores), np.bool_)
    found: list[Moment] = []
    for peak in sorted(peaks, key=lambda at: (-float(scores[at]), at)):
        if taken[peak]:
            continue
        least = level + HEIGHT * (float(scores[peak]) - level)
        first = last = peak
        while not starts_new[first] and not taken[first - 1] and scores[first - 1] >= least:
            first -= 1
        while last + 1 < len(scores) and not starts_new[last + 1] and not taken[last + 1] and scores[last + 1] >= least:
            last += 1
        taken[first : last + 1] = True
        found.append(Moment(first, peak, last))
    return found
