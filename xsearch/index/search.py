"""One search over a library: what the index covers through the index, the rest exactly."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xsearch.index.candidates import Lists
from xsearch.index.exact import Found, best_of, search_exact
from xsearch.index.plan import RERANK_CODES, SearchSettings
from xsearch.vectors import VectorTable

SELECTIVE_ROWS = 1_000
"""A scan of no more rows costs less than a call of the index."""

STABLE_SHARE = 0.95
"""A filtered answer is settled when it holds so much of what a search twice as wide finds."""


class RowSearch(Protocol):
    """A search of one commit of a library: here (`search`), by several machines (`distributed.serving`), or on a GPU
    (`resident.Resident`).
    """

    def __call__(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        sure: int | None = None,
        settings: SearchSettings | None = None,
        allowed: NDArray[np.bool_] | None = None,
        measured: NDArray[np.bool_] | None = None,
    ) -> Found: ...


class ExactSearch(Protocol):
    """As `search_exact`."""

    def __call__(
        self,
        vectors: VectorTable,
        queries: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        start: int = 0,
    ) -> Found: ...


def search(
    vectors: VectorTable,
    index: Lists | None,
    queries: NDArray[np.float32],
    k: int,
    *,
    sure: int | None = None,
    settings: SearchSettings | None = None,
    allowed: NDArray[np.bool_] | None = None,
    measured: NDArray[np.bool_] | None = None,
    exactly: ExactSearch = search_exact,
) -> Found:
    """Return the k best rows for each of (q, dim) float32 queries; where at least k may be found, k are.

    `settings` are those of the index. The first `sure` answers have the recall that these were measured to have, all of
    them by default: fewer where the rest are only candidates for something else. `allowed` (len(vectors),) says which
    rows may be found, `measured` among which rows the settings were measured; None means all.
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
    if matches <= SELECTIVE_ROWS:
        return search_exact(vectors, queries, k, allowed=allowed)
    if index is None:
        return exactly(vectors, queries, k, allowed=allowed)
    if settings is None:
        raise ValueError("a search through an index needs settings")
    sure = k if sure is None else min(sure, k)
    settings = settings.reaching(sure)
    if allowed is None:
        found = index.search(queries, k, vectors=vectors, settings=settings)
        unsettled = np.zeros(len(queries), np.bool_)
    else:
        found, settled = _search_as_measured(index, vectors, queries, k, sure, settings, allowed, measured)
        unsettled = ~settled
        if unsettled.any():
            filtered, settled = _search_filtered(index, vectors, queries[unsettled], k, settings, allowed)
            found.put(unsettled, filtered)
            unsettled[unsettled] = ~settled
    if index.rows < len(vectors) and not unsettled.all():
        found = best_of([found, exactly(vectors, queries, k, allowed=allowed, start=index.rows)])
    unsettled |= found.rows[:, min(k, matches) - 1] < 0  # the probed lists held too few
    if unsettled.any():
        found.put(unsettled, exactly(vectors, queries[unsettled], k, allowed=allowed))
    return found


def _search_as_measured(
    index: Lists,
    vectors: VectorTable,
    queries: NDArray[np.float32],
    k: int,
    spare: int,
    settings: SearchSettings,
    allowed: NDArray[np.bool_],
    measured: NDArray[np.bool_] | None,
) -> tuple[Found, NDArray[np.bool_]]:
    """Return what is left of k + spare answers when those that may not be found are dropped, and (q,) True where k are.

    So a few removed rows cost next to nothing. Where fewer are left, the mask leaves out what the query is about, or
    most rows, and the settings do not hold.
    """
    among = len(vectors) if measured is None else int(np.count_nonzero(measured))
    beyond = measured is not None and bool((allowed > measured).any())
    if beyond or (k + spare) * np.count_nonzero(allowed) < k * among:
        return Found.nothing(len(queries), k), np.zeros(len(queries), np.bool_)
    found = index.search(queries, k + spare, vectors=vectors, settings=settings, allowed=measured)
    kept = (found.rows >= 0) & allowed[found.rows]
    # Stable: those that are kept stay in their order, before the others.
    return found.at(np.argsort(~kept, axis=1, kind="stable")[:, :k]), kept.sum(axis=1) >= k


def _search_filtered(
    index: Lists,
    vectors: VectorTable,
    queries: NDArray[np.float32],
    k: int,
    settings: SearchSettings,
    allowed: NDArray[np.bool_],
) -> tuple[Found, NDArray[np.bool_]]:
    """Return the answers of the index, and (q,) False where none is settled and an exact scan is the cheaper way on.

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
        found.put(unsettled, wider)
        unsettled[unsettled] = ~np.array(settled)
        settings = SearchSettings(2 * settings.nprobe, 2 * settings.depth)
    return found, ~unsettled


def _work(index: Lists, settings: SearchSettings, matches: int) -> float:
    """Return what a filtered search costs, in codes scanned; an exact scan costs RERANK_CODES for each match."""
    lists = min(index.nlist, settings.nprobe * index.rows / max(1, matches))
    return lists * index.rows / index.nlist + RERANK_CODES * settings.depth
