"""Two pictures side by side, behind the frozen stages, of which each half is to tell its own text.

CutMix (Yun et al. 2019) on maps: it costs no run of the frozen stages. Of each picture every other column is taken, not
a part, as its text is about the whole of it. One in two pairs stands one above the other.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def beside(left: NDArray[np.float16], right: NDArray[np.float16], columns: int) -> NDArray[np.float16]:
    """Return maps (n, channels, side, side): half of their columns, rounded up or down, are of `left`, the others of
    `right`."""
    side = left.shape[3]
    return np.concatenate([left[..., (side + 1) // 2 - columns :: 2], right[..., columns - side // 2 :: 2]], axis=3)


def halves(patches: Tensor, columns: int, *, above: bool) -> Tensor:
    """Return (2n, d), the means of patches (n, side * side, d) over the first columns, or rows if `above`, and over the
    rest."""
    side = math.isqrt(patches.shape[1])
    grid = patches.unflatten(1, (side, side))
    grid = grid.transpose(1, 2) if above else grid
    return torch.cat([grid[:, :, :columns].mean(dim=(1, 2)), grid[:, :, columns:].mean(dim=(1, 2))])
