"""Which few frames stand for a film: vectors and times in, representatives and weights out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsearch.types import Embeddings

MAX_CANDIDATES = 500
"""Of more frames, so many, evenly spread, may represent; all are represented. So time and memory grow with the length
of the film and not with its square."""

TIME_SHARE = 0.01
"""Two frames a film's length apart are as far as if their cosine were less by twice this. So, of frames that look the
same, those spread over the film are chosen, and each stands for what is around it."""

_LEAST_GAIN = 1e-5  # of a mean distance; above the rounding of float32, so that exchanges end


@dataclass(frozen=True, slots=True)
class Summary:
    """`rows` (k,) of the representatives, ascending; `weights` (k,) > 0, in sum 1: the share that each stands for."""

    rows: NDArray[np.intp]
    weights: NDArray[np.float64]


def summary(vectors: Embeddings, t_s: NDArray[np.float64], length_s: NDArray[np.float64], k: int) -> Summary:
    """Return k representatives of the frames of a film, diverse and central, or all where there are no more.

    `vectors` (n, dim) unit rows, in time order; `t_s` (n,) their times; `length_s` (n,) > 0, the stretches that they
    stand for. Raises ValueError if k is below 1.

    The frames are clustered around k of their own, each weighing as much as its stretch is long, so that the mean
    distance d of the film to the nearest representative is small: (1 - cosine) / 2, and a little of the time between.
    This is to make the facility location function great,

        f(S) = sum_i w_i max_{j in S} (1 - d_ij),    w_i = length_i / sum(length)

    which is monotone and submodular: a central frame adds much to it, a second one of the same look little (Lin &
    Bilmes 2011, "A Class of Submodular Functions for Document Summarization"; for films Gygli et al. 2015, "Video
    Summarization by Learning Submodular Mixtures of Objectives"). Taken greedily, S reaches 1 - 1/e of the greatest f
    (Nemhauser et al. 1978). Then a representative is exchanged for another frame as long as that gains: the two steps
    of PAM (Kaufman & Rousseeuw 1987). Of equal choices the earlier frame is taken.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    shares = length_s / length_s.sum()
    n_candidates = min(len(vectors), max(k, MAX_CANDIDATES))
    candidates = np.linspace(0, len(vectors) - 1, n_candidates).astype(np.intp)
    apart = _apart(vectors, t_s, candidates)
    parts = shares.astype(np.float32)
    columns = np.sort(_exchanged(apart, parts, _greedy(apart, parts, min(k, n_candidates))))
    rows = candidates[columns]
    nearest = apart[:, columns].argmin(axis=1)
    nearest[rows] = np.arange(len(rows))  # also where another one looks just the same
    return Summary(rows, np.array([shares[nearest == position].sum() for position in range(len(rows))]))


def _apart(vectors: Embeddings, t_s: NDArray[np.float64], candidates: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return (n, candidates) distances, 0 to 1."""
    at = (t_s / (np.ptp(t_s) or 1.0)).astype(np.float32)
    apart = (1 - TIME_SHARE) / 2 * (1 - vectors @ vectors[candidates].T)
    apart += TIME_SHARE * np.abs(at[:, None] - at[candidates])
    return np.clip(apart, 0, 1, out=apart)


def _greedy(apart: NDArray[np.float32], shares: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return k columns, each the one that adds most to f."""
    columns: list[int] = []
    nearest = np.ones(len(apart), np.float32)
    for _ in range(k):
        gains = shares @ np.maximum(nearest[:, None] - apart, 0)
        gains[columns] = -1
        columns.append(int(gains.argmax()))
        nearest = np.minimum(nearest, apart[:, columns[-1]])
    return np.array(columns)


def _exchanged(apart: NDArray[np.float32], shares: NDArray[np.float32], columns: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return columns of which none can be exchanged for another with a gain.

    All exchanges are priced in one pass (Schubert & Rousseeuw 2019, "Faster k-Medoids Clustering"): what a new
    representative takes over, and what the frames of the old one lose, which go to it or to their second nearest.
    """
    columns = columns.copy()
    alone = np.ones((len(apart), 1), np.float32)
    while True:
        own = apart[:, columns]
        nearest = own.argmin(axis=1)
        first, second = np.split(np.partition(np.hstack([own, alone]), 1, axis=1)[:, :2], 2, axis=1)
        taken_over = shares @ np.minimum(apart - first, 0)
        change = np.empty((len(columns), len(taken_over)), np.float32)
        for old in range(len(columns)):
            left = nearest == old
            lost = np.clip(apart[left], first[left], second[left]) - first[left]
            change[old] = taken_over + shares[left] @ lost
        if change.min() > -_LEAST_GAIN:
            return columns
        replaced, replacing = np.unravel_index(change.argmin(), change.shape)
        columns[replaced] = replacing
