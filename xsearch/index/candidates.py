"""Which rows an index proposes for a query, whoever scans its lists: this process, or several that share them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xsearch.index.exact import Found
from xsearch.index.plan import RERANK_CODES, SearchSettings
from xsearch.vectors import VectorTable


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Where q queries look: `reduced` (q, reduced dim) float32, `lists` (q, nprobe) int64, the likeliest first.

    `affinities` (q, nprobe) float32 are the products with the lists' centroids. A list of -1 is not scanned.
    """

    reduced: NDArray[np.float32]
    lists: NDArray[np.int64]
    affinities: NDArray[np.float32]

    def of(self, queries: NDArray[np.intp]) -> "Routes":
        """Return the routes of some of the queries, in their order."""
        if len(queries) == len(self.lists):
            return self
        return Routes(self.reduced[queries], self.lists[queries], self.affinities[queries])

    def within(self, part: int, parts: int) -> "Routes":
        """Return the routes through the lists of one of several parts.

        With all affinities: FastScan rounds what it looks codes up in by the span of these, and so codes have the same
        scores, bit for bit, in whatever company their list is scanned.
        """
        return Routes(self.reduced, np.where(self.lists % parts == part, self.lists, -1), self.affinities)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows by the scores of their codes, best first: (q, n) int64 and float32, padded with -1 and -inf."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    def kept(self, depth: int) -> NDArray[np.int64]:
        """Return (q,) how many of the first belong to a search of this depth: those above the next score, at [depth].

        Codes have few scores, so rows tie, and which of those at the end come first is up to FAISS and to who scans
        what. Left out together, the candidates are the same however lists are shared (of 400 among 60,000 synthetic
        pictures 1.6 go). Where fewer than `depth` are there, all are kept.
        """
        kept: NDArray[np.int64] = (self.scores > self.scores[:, depth, None]).sum(axis=1)
        return kept

    def is_cut(self, depth: int, kept: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
        """Return (q,) whether fewer than k are kept though there are more: at the end all tie, as copies do."""
        return (kept < k) & (self.rows[:, depth] >= 0)


class Lists(Protocol):
    """The index as a search sees it."""

    @property
    def rows(self) -> int:
        """It covers so many of the library, the first."""

    @property
    def nlist(self) -> int: ...

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        vectors: VectorTable,
        settings: SearchSettings,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        """Return the k best of the candidates for each of (q, dim) float32 queries, scored on the stored vectors.

        Fewer than k where the probed lists hold fewer. `allowed` is at least `rows` long.
        """


def packed(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a mask with a bit a row, as FAISS reads it."""
    return np.packbits(mask, bitorder="little")


def deepened(
    scan: Callable[[NDArray[np.intp], int], tuple[Found, NDArray[np.bool_]]],
    n_queries: int,
    k: int,
    depth: int,
    n_rows: int,
) -> Found:
    """Return what `scan(queries, depth)` finds for so many queries, deeper for those that it says were cut.

    As long as a scan of all rows would cost more.
    """
    waiting = np.arange(n_queries)
    depth = min(max(depth, k), n_rows)
    found, is_cut = scan(waiting, depth)
    while is_cut.any() and RERANK_CODES * 4 * depth < n_rows:
        waiting, depth = waiting[is_cut], 4 * depth
        deeper, is_cut = scan(waiting, depth)
        found.rows[waiting] = deeper.rows
        found.scores[waiting] = deeper.scores
    return found
