"""Exclusion as a NOT: the query is freed of what is left out, and what still shows it falls back, or goes.

Subtracting a vector (q - w e) prefers whatever is unlike e, and with each thing left out what was asked for counts for
less. Here q is projected onto the complement of the excluded vectors, so that being unlike them earns nothing, and an
item that stands out for one of them among the library's items pays for it or is vetoed. Measured
(`benchmarks/exclusion.py`): as good as subtraction with the weight that is best for the test, better than with weight
1, and better than either half alone, most of all where several things are left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import QueryError
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

# Sigmas of standing that one sigma of standing for an excluded term costs, and where that is too much: chosen by
# `benchmarks/exclusion.py`.
SLOPE = 0.5
VETO = 2.0
# Of a unit vector: less than this is rounding.
CONTRADICTED = 1e-2


def without(vectors: Embeddings, excluded: Embeddings, weights: Sequence[float]) -> Embeddings:
    """Return (n, dim) unit vectors: those of the wanted terms, projected onto the complement of the excluded ones.

    `vectors` (n, dim) and `excluded` (m, dim) are unit rows. With v = sum_j c_j e_j + rest by least squares, which is
    Widdows 2003, "Orthogonal Negation in Vector Spaces", each part c_j e_j is taken away, or the share w_j of it where
    its weight is below 1. Raises QueryError if nothing remains of a term.
    """
    shares = np.minimum(np.asarray(weights, np.float32), 1)
    parts = np.linalg.lstsq(excluded.T, vectors.T, rcond=None)[0]
    rest = vectors - (shares[:, None] * parts).T @ excluded
    if (np.linalg.norm(rest, axis=1) < CONTRADICTED).any():
        raise QueryError(
            "the query leaves out what it asks for", remedy="take away the term after -, or the one before"
        )
    return l2_normalize(rest)


def penalty(
    standings: NDArray[np.float32], weights: Sequence[float], *, slope: float = SLOPE, veto: float = VETO
) -> NDArray[np.float32]:
    """Return (n,) what to take from an item's standing for the wanted terms: inf, for those that are vetoed.

    `standings` (m, n) tell how far each item stands out for each excluded term, in sigmas of the library's items
    (`fusion.standings`). It costs sum_j slope w_j max(0, standing_j); and an item with any w_j standing_j > veto is
    no answer at all.
    """
    weighted = np.asarray(weights, np.float32)[:, None] * np.asarray(standings, np.float32)
    cost = slope * np.maximum(weighted, 0).sum(axis=0)
    return np.where((weighted > veto).any(axis=0), np.float32(np.inf), cost).astype(np.float32)
