"""Answers of several kinds in one order: cosines of texts and of pictures are not on one scale."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def standardized(scores: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how many standard deviations each score lies above the mean of `background`, scores of random items.

    Texts and pictures live in different cones of the joint space (Liang et al. 2022, "Mind the Gap"): for a text query
    an ordinary text scores higher than the best picture. How far a hit stands out among its own kind can be compared.
    """
    spread = max(background.std(), np.float32(1e-6))
    standing: NDArray[np.float32] = (scores - background.mean()) / spread
    return standing


def merged_order(groups: Sequence[NDArray[np.float32]], k: int) -> list[tuple[int, int]]:
    """Return (group, position) of the k greatest over all groups, greatest first; equal ones in the order given."""
    entries = [(-float(score), group, at) for group, scores in enumerate(groups) for at, score in enumerate(scores)]
    return [(group, at) for _, group, at in sorted(entries)[:k]]
