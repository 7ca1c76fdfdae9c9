"""One search over a library: what the index covers through the index, the rest exactly."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from xsearch.index.calibrate import RERANK_CODES
from xsearch.index.exact import Found, search_exact
from xsearch.index.plan import SearchSettings
from xsearch.vectors import VectorTable

if TYPE_CHECKING:
    from xsearch.index.ivfpq import IvfPq  # loads FAISS, which a library without an index file never needs

SELECTIVE_ROWS = 1_000
"""A scan of no more rows costs less than a call of the index."""

STABLE_SHARE = 0.95
"""A filtered answer is settled when it holds so much of what a search twice as wide finds."""


class RowSearch(Protocol):
    """A search of one commit of a library, here (`search`) or in the memory of a GPU (`resident.Resident`)."""

    def __call__(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        settings: SearchSettings | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found: ...


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
    if matches == len(vectors):
        allowed = None
    if index is None or matches <= SELECTIVE_ROWS:
        return search_exact(vectors, queries, k, allowed=allowed)
    if settings is None:
        raise ValueError("a search through an index needs settings")
    if allowed is None:
        found = index.search(queries, k, vectors=vectors, settings=settings)
        unsettled = np.zeros(len(queries), np.bool_)
    else:
        found, unsettled = _search_filtered(index, vectors, queries, k, settings, allowed)
    if index.rows < len(vectors) and not unsettled.all():
        found = _best_of(found, search_exact(vectors, queries, k, allowed=allowed, start=index.rows))
    unsettled |= found.rows[:, min(k, matches) - 1] < 0  # the probed lists held too few
    if unsettled.any():
        exact = search_exact(vectors, queries[unsettled], k, allowed=allowed)
        found.rows[unsettled] = exact.rows
        found.scores[unsettled] = exact.scores
    return found


def _search_filtered(
    index: "IvfPq",
    vectors: VectorTable,
    queries: NDArray[np.float32],
    k: int,
    settings: SearchSettings,
    allowed: NDArray[np.bool_],
) -> tuple[Found, NDArray[np.bool_]]:
    """Return the answers of the index, and (q,) True where none is settled and an exact scan is the cheaper way on.

    The settings were measured without a filter. One that leaves out what a query is about sends it to rows that lie
    farther off and wider apart, where as many lists and candidates find less (400k synthetic pictures, filters on their
    subject: recall@10 .59 to .93 in place of .95). So the search is widened until that changes nothing (.98 and more).
    """
    found = Found.nothing(len(queries), k)
    settings = SearchSettings(settings.nprobe, max(settings.depth, k))
    unsettled = np.ones(len(queries), np.bool_)
    matches = int(np.count_nonzero(allowed[: index.rows]))
    # Twice the work, as no answer is settled before a second: all that is done in vain then costs less than the scan.
    while unsettled.any() and 2 * _work(index, settings, matches) < RERANK_CODES * matches:
        wider = index.search(queries[unsettled], k, vectors=vectors, settings=settings, allowed=allowed)
        settled = [
            np.isin(new, old[old >= 0]).mean() >= STABLE_SHARE  # twice nothing is no answer
            for new, old in zip(wider.rows, found.rows[unsettled], strict=True)
        ]
        found.rows[unsettled] = wider.rows
        found.scores[unsettled] = wider.scores
        unsettled[unsettled] = ~np.array(settled)
        settings = SearchSettings(2 * settings.nprobe, 2 * settings.depth)
    return found, unsettled


def _work(index: "IvfPq", settings: SearchSettings, matches: int) -> float:
    """Return what a filtered search costs, in codes scanned; an exact scan costs RERANK_CODES for each match."""
    lists = min(index.nlist, settings.nprobe * index.rows / max(1, matches))
    return lists * index.rows / index.nlist + RERANK_CODES * settings.depth


def _best_of(a: Found, b: Found) -> Found:
    """Merge two answers about disjoint rows, those of `a` before those of `b`."""
    k = a.rows.shape[1]
    rows = np.concatenate([a.rows, b.rows], axis=1)
    scores = np.concatenate([a.scores, b.scores], axis=1)
    # Stable: equal scores keep their order, and that is by row already.
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Found(np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1))
