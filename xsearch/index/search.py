"""One search over a library: what the index covers through the index, the rest exactly."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsearch.index.exact import Found, search_exact
from xsearch.index.plan import SearchSettings
from xsearch.vectors import VectorTable

if TYPE_CHECKING:
    from xsearch.index.ivfpq import IvfPq  # loads FAISS, which a library without an index file never needs

SELECTIVE_ROWS = 10_000
"""A filter that leaves no more rows, and not most of the library, is served by a scan of just these rows."""


def search(
    vectors: VectorTable,
    index: "IvfPq | None",
    queries: NDArray[np.float32],
    k: int,
    *,
    settings: SearchSettings | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> Found:
    """Return the k best rows for each of (q, dim) float32 queries; `settings` are those of the index.

    `allowed` (len(vectors),) says which rows may be found; None means all. Where at least k may be found, k are.
    """
    if queries.ndim != 2 or queries.shape[1] != vectors.dim:
        raise ValueError(f"queries of shape {queries.shape} for vectors of {vectors.dim} dimensions")
    if not np.isfinite(queries).all():
        raise ValueError("a query is not finite (NaN or infinity)")
    if allowed is not None and allowed.shape != (len(vectors),):
        raise ValueError(f"a mask of shape {allowed.shape} for {len(vectors)} vectors")
    matches = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
    if index is None or matches <= min(SELECTIVE_ROWS, len(vectors) // 2):
        return search_exact(vectors, queries, k, allowed=allowed)
    if settings is None:
        raise ValueError("a search through an index needs settings")
    found = index.search(queries, k, vectors=vectors, settings=settings, allowed=allowed)
    if index.rows < len(vectors):
        added = search_exact(vectors, queries, k, allowed=allowed, start=index.rows)
        found = _best_of(found, added)
    short = found.rows[:, min(k, matches) - 1] < 0  # the probed lists held too few
    if short.any():
        exact = search_exact(vectors, queries[short], k, allowed=allowed)
        found.rows[short] = exact.rows
        found.scores[short] = exact.scores
    return found


def _best_of(a: Found, b: Found) -> Found:
    """Merge two answers about disjoint rows, those of `a` before those of `b`."""
    k = a.rows.shape[1]
    rows = np.concatenate([a.rows, b.rows], axis=1)
    scores = np.concatenate([a.scores, b.scores], axis=1)
    # Stable: equal scores keep their order, and that is by row already.
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1))
