"""An explanation's maps, drawn over its picture."""

import numpy as np
from numpy.typing import NDArray

from xsearch.explain import Explanation
from xsearch.types import RGBImage

OPACITY = 0.8
LEAST_PEAK = 0.05
"""A map is drawn relative to its hottest region, so that one can see it, but below this heat it fades."""

# matplotlib's perceptually uniform map inferno, at quarters.
_COLOURS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


def heated(pixels: RGBImage, found: Explanation, heat: NDArray[np.float64]) -> RGBImage:
    """Return a picture of any size under a map (regions,), smooth between the middles of regions.

    What the encoder did not see stays as it is.
    """
    rows, columns = found.grid
    down = _spread(rows, found.frame.top, found.frame.height, pixels.shape[0])
    across = _spread(columns, found.frame.left, found.frame.width, pixels.shape[1])
    shares = down @ strength(heat).reshape(rows, columns) @ across.T
    cover = OPACITY * shares[:, :, None]
    return np.round((1 - cover) * pixels + cover * colours(shares)).astype(np.uint8)


def strength(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a map as it is drawn, 0 to 1."""
    drawn: NDArray[np.float64] = heat / max(heat.max(), LEAST_PEAK)
    return drawn


def colours(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (..., 3) from 0 to 255."""
    points = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(shares, points, channel) for channel in zip(*_COLOURS, strict=True)], axis=-1)


def _spread(n: int, start: float, share: float, n_px: int) -> NDArray[np.float64]:
    """Return (n_px, n) weights of linear interpolation of n cells over `share` of a side from `start`; 0 beyond."""
    at = ((np.arange(n_px) + 0.5) / n_px - start) / share * n - 0.5
    inside = (at >= -0.5) & (at <= n - 0.5)
    near: NDArray[np.float64] = np.maximum(0, 1 - abs(at.clip(0, n - 1)[:, None] - np.arange(n)))
    return near * inside[:, None]
