"""Two pictures side by side, behind the frozen stages, and the loss by which each half tells its own text.

CutMix (Yun et al. 2019) on maps: it costs no run of the frozen stages. Of each picture every other column is taken, not
a part, as its text is about the whole of it. One in two pairs stands one above the other.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SIDE = 7


def beside(left: NDArray[np.float16], right: NDArray[np.float16], columns: int) -> NDArray[np.float16]:
    """Return maps (n, channels, 7, 7) of which 3 or 4 columns are of `left`, the others of `right`."""
    return np.concatenate([left[..., SIDE // 2 + 1 - columns :: 2], right[..., columns - SIDE // 2 :: 2]], axis=3)


def halves(patches: Tensor, columns: int, *, above: bool) -> Tensor:
    """Return (2n, d), the means of patches (n, 49, d) over the first columns, or rows if `above`, and over the rest."""
    grid = patches.unflatten(1, (SIDE, SIDE))
    grid = grid.transpose(1, 2) if above else grid
    return torch.cat([grid[:, :, :columns].mean(dim=(1, 2)), grid[:, :, columns:].mean(dim=(1, 2))])


def pointing_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the symmetric InfoNCE of `scores` (2n, 2n) between halves and texts, half i beside half n + i.

    `targets` (2n, 2n) are 1 where a text is that of the half, also by chance.
    """
    by_half, by_text = (one / one.sum(dim=1, keepdim=True) for one in (targets, targets.T))
    return (functional.cross_entropy(scores, by_half) + functional.cross_entropy(scores.T, by_text)) / 2
