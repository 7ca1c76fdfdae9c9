"""Several terms, one order: fused as one vector before the search (early), or as scores after it (late).

Measured (`benchmarks/exclusion.py`): the late weighted sum is the better of both, most of all for a text with a
picture, whose cosines spread differently. Reciprocal ranks are for signals without a common scale, as words beside
vectors; for terms that are all to be met they are the worst. Vectors are not centred by modality before they are added:
it gains for two short texts, nothing for a text with a picture, and harms captions.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xsearch.errors import QueryError
from xsearch.ranking.merge import standardized
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

# Cormack, Clarke & Buettcher 2009: results hardly depend on it, and all use it.
RRF_K = 60
# What float16 and rounding leave of unit vectors that cancel each other.
CANCELLED = 1e-3


class Fusion(StrEnum):
    """How the terms of a query are combined.

    early: one vector, one search. late: each term searches, and standardized scores are added. rrf: each term
    searches, and reciprocal ranks are added. hybrid: early finds the candidates, late puts them in order. max: each
    term searches, and an item counts by the term for which it stands highest (CombMAX, Fox & Shaw 1994): any will do.
    """

    EARLY = "early"
    LATE = "late"
    RRF = "rrf"
    HYBRID = "hybrid"
    MAX = "max"


def early(vectors: Embeddings, weights: Sequence[float]) -> NDArray[np.float32]:
    """Return (dim,) v = sum_i w_i v_i, made unit, for (n_terms, dim) unit vectors.

    Weights may be negative: with those of all terms negative, v points away from what is left out. Raises QueryError
    if the terms cancel each other.
    """
    w = np.asarray(weights, np.float32)
    summed = w @ vectors
    if np.linalg.norm(summed) < CANCELLED * np.abs(w).sum():
        raise QueryError("the terms of the query cancel each other", remedy="leave one out, or give it another weight")
    return l2_normalize(summed)


def late(scores: ArrayLike, backgrounds: ArrayLike, weights: Sequence[float]) -> NDArray[np.float32]:
    """Return (n,) standings: how far the weighted sum of an item's scores lies above that of random items, in sigmas.

    `scores` (n_terms, n) are cosines of candidates of one tower, `backgrounds` (n_terms, m) those of random items of
    the same tower. Each term counts by how far the item stands out for it: sum_i w_i (s_i - mean_i) / sigma_i; the sum
    is standardized again, so that answers of several towers, and penalties, are on one scale. As the sum is linear,
    this is the order of early fusion with the weights w_i / sigma_i.
    """
    rows = np.asarray(scores, np.float32), np.asarray(backgrounds, np.float32)
    w = np.asarray(weights, np.float32)
    return standardized(w @ standings(*rows), w @ standings(rows[1], rows[1]))


def standings(scores: ArrayLike, backgrounds: ArrayLike) -> NDArray[np.float32]:
    """Return (n_terms, n) `standardized` scores, each term (row) against its own background (n_terms, m)."""
    pairs = zip(np.asarray(scores, np.float32), np.asarray(backgrounds, np.float32), strict=True)
    return np.stack([standardized(*pair) for pair in pairs])


def reciprocal_ranks(scores: ArrayLike, weights: Sequence[float], k: int = RRF_K) -> NDArray[np.float64]:
    """Return (n,) sum_i w_i / (k + rank_i): reciprocal rank fusion (Cormack, Clarke & Buettcher 2009), weighted.

    `scores` (n_lists, n) are those of all items that any list found, -inf where this list did not: it then adds
    nothing. Ranks start at 1, and equal scores share the best of their ranks.
    """
    table = np.asarray(scores, np.float64)
    descending = -np.sort(-table, axis=1)
    ranks = np.stack([np.searchsorted(-line, -row) + 1 for line, row in zip(descending, table, strict=True)])
    shares = np.where(np.isneginf(table), 0.0, 1.0 / (k + ranks))
    fused: NDArray[np.float64] = np.asarray(weights, np.float64) @ shares
    return fused
