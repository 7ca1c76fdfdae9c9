"""Groups of vectors that point the same way: spherical k-means, and how many groups there are."""

import numpy as np
from numpy.typing import NDArray

from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""How many clusters may be chosen: not more than a person looks through."""

NEARLY = 0.9
"""Photographs of everyday scenes lie as well, or as badly, in two clusters as in fifty; fifty have better titles."""

LEAST_ROWS = 5

STARTS = 4
MAX_ROUNDS = 50

_SAME = 1e-5  # squared distance; what float16 and rounding leave between equal vectors


def spherical_kmeans(vectors: Embeddings, k: int, *, seed: int = 0) -> Embeddings:
    """Return (k, dim) unit centres for (n, dim) unit rows; fewer where fewer rows differ.

    Each row belongs to the centre of the greatest cosine, and each centre is the mean of its rows, made unit (Dhillon &
    Modha 2001, "Concept Decompositions for Large Sparse Text Data Using Clustering"). The first centres are rows drawn
    by k-means++ (Arthur & Vassilvitskii 2007). Of STARTS the one with the greatest sum of cosines is kept; a seed
    always gives the same. Raises ValueError if k is below 1 or there are no rows.
    """
    if k < 1 or not len(vectors):
        raise ValueError(f"{k} clusters of {len(vectors)} vectors")
    rng = np.random.default_rng(seed)
    starts = [_settled(vectors, _drawn(vectors, k, rng)) for _ in range(STARTS)]
    return max(starts, key=lambda centres: float((vectors @ centres.T).max(axis=1).sum()))


def cluster_count(vectors: Embeddings, *, seed: int = 0) -> int:
    """Return how many clusters suit (n, dim) unit rows: the most of COUNTS whose mean silhouette is NEARLY the best.

    Clusters of fewer than LEAST_ROWS rows in the mean are not tried; 1 where there are too few rows for two. Memory
    grows with n squared: hand over a sample.
    """
    widths = {
        k: silhouette(vectors, (vectors @ spherical_kmeans(vectors, k, seed=seed).T).argmax(axis=1))
        for k in COUNTS
        if k * LEAST_ROWS <= len(vectors)
    }
    return max((k for k, width in widths.items() if width >= NEARLY * max(widths.values())), default=1)


def silhouette(vectors: Embeddings, groups: NDArray[np.intp]) -> float:
    """Return how well (n, dim) unit rows lie in their groups (n,), from -1 to 1 (Rousseeuw 1987).

    The mean of (b - a) / max(a, b): a is the mean distance (1 - cosine) of a row to the others of its group, b that to
    the nearest other group. It is 0 for a row that is alone, and for all where there is but one group.
    """
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    if len(sizes) < 2:
        return 0.0
    rows = np.arange(len(vectors))
    apart = np.maximum(0, 1 - vectors @ vectors.T)
    apart[rows, rows] = 0
    sums = _sums(apart, group, len(sizes)).T.astype(np.float64)
    own = sums[rows, group] / np.maximum(sizes[group] - 1, 1)
    means = sums / sizes
    means[rows, group] = np.inf
    nearest = means.min(axis=1)
    wider = np.maximum(own, nearest)
    widths = np.divide(nearest - own, wider, out=np.zeros_like(wider), where=(wider > 0) & (sizes[group] > 1))
    return float(widths.mean())


def _drawn(vectors: Embeddings, k: int, rng: np.random.Generator) -> Embeddings:
    """Draw up to k rows that differ, each by its squared distance to the nearest of those before."""
    rows = [int(rng.integers(len(vectors)))]
    squared = np.full(len(vectors), np.inf)
    while len(rows) < k:
        newest = 2 - 2 * (vectors @ vectors[rows[-1]]).astype(np.float64)
        squared = np.minimum(squared, np.where(newest > _SAME, newest, 0))
        if not squared.any():
            break
        rows.append(int(rng.choice(len(vectors), p=squared / squared.sum())))
    return vectors[rows]


def _settled(vectors: Embeddings, centres: Embeddings) -> Embeddings:
    """Return the centres after rounds of k-means, when no row changes its cluster any more."""
    belongs = np.empty(0)
    for _ in range(MAX_ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        if np.array_equal(nearest, belongs):
            break
        belongs = nearest
        filled = np.bincount(nearest, minlength=len(centres)) > 0
        # One that nothing belongs to any more stays where it is.
        centres = np.where(filled[:, None], l2_normalize(_sums(vectors, nearest, len(centres))), centres)
    return centres


def _sums(rows: NDArray[np.float32], groups: NDArray[np.intp], n: int) -> NDArray[np.float32]:
    """Return (n, dim) the sum of the (m, dim) rows of each group, much faster than `np.add.at`."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((n, rows.shape[1]), np.float32)
    sums[present] = np.add.reduceat(rows[order], starts, axis=0)
    return sums
