"""Exact search by scanning the stored vectors: no index file, no FAISS. Defines what the score of a row is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsearch.vectors import VectorTable

BLOCK_BYTES = 1 << 20
"""float32 values scanned at once: a block that stays in the second-level cache between widening and multiplying."""

GATHER_SHARE = 0.4
"""Below this share of allowed rows, gathering them is cheaper than scanning all."""

_PAIRS = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """Answers to q queries, best first: `rows` (q, k) int64 and `scores` (q, k) float32, padded with -1 and -inf.

    A score is the dot product of the query with the stored float16 row, summed in float64 and rounded to float32.
    Equal scores are ordered by row.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def nothing(cls, n_queries: int, k: int) -> "Found":
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        return cls(np.full((n_queries, k), -1, np.int64), np.full((n_queries, k), -np.inf, np.float32))

    def at(self, places: NDArray[np.int64]) -> "Found":
        """Return the answers at these places (q, k') of each query, in their order."""
        return Found(np.take_along_axis(self.rows, places, axis=1), np.take_along_axis(self.scores, places, axis=1))

    def put(self, queries: NDArray[np.bool_], others: "Found") -> None:
        """Replace, in place, the answers of those of the `queries` (q,) that are True by the others, in order."""
        self.rows[queries] = others.rows
        self.scores[queries] = others.scores

    def improve(
        self,
        queries: NDArray[np.float32],
        rows: NDArray[np.int64],
        block: NDArray[np.float32],
        keep: NDArray[np.bool_] | None = None,
    ) -> None:
        """Merge, in place, the (m, dim) unit vectors `block` of `rows` (m,); `keep` (m,) says which count.

        A float32 product, whose last bits depend on how BLAS cuts it, finds the few rows that may belong to the
        answer; only those are scored as documented. Its error is below dim * 2^-24 * |query| for unit rows
        (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), so that no row is missed.
        """
        k = self.rows.shape[1]
        slack = (queries.shape[1] + 2) * 2.0**-22 * np.linalg.norm(queries, axis=1, keepdims=True)
        estimates = queries @ block.T
        passing = estimates >= self.scores[:, -1:] - slack
        if keep is not None:
            passing &= keep
        crowded = np.flatnonzero(np.count_nonzero(passing, axis=1) > 4 * k)
        if len(crowded):
            candidates = np.where(passing[crowded], estimates[crowded], -np.inf)
            kth = np.partition(candidates, -k, axis=1)[:, -k, None]
            passing[crowded] &= candidates >= kth - slack[crowded]
        query_of, column = np.nonzero(passing)
        if len(query_of):
            self._merge(query_of, rows[column], _scores(queries, query_of, block, column))

    def _merge(self, query_of: NDArray[np.intp], rows: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        k = self.rows.shape[1]
        touched, newcomer = np.unique(query_of, return_inverse=True)
        owner = np.concatenate([np.repeat(np.arange(len(touched)), k), newcomer])
        rows = np.concatenate([self.rows[touched].ravel(), rows])
        scores = np.concatenate([self.scores[touched].ravel(), scores])
        order = np.lexsort((rows, -scores, owner))
        # Every owner brings at least its k old places, so the first k of each run are its answer.
        first = np.searchsorted(owner[order], np.arange(len(touched)))
        best = order[first[:, None] + np.arange(k)]
        self.rows[touched] = rows[best]
        self.scores[touched] = scores[best]


def search_exact(
    vectors: VectorTable,
    queries: NDArray[np.float32],
    k: int,
    *,
    allowed: NDArray[np.bool_] | None = None,
    start: int = 0,
    end: int | None = None,
) -> Found:
    """Return the k best rows from `start` to before `end` for each of (q, dim) float32 queries.

    `allowed` (len(vectors),) says which rows may be found; None means all.
    """
    end = len(vectors) if end is None else end
    found = Found.nothing(len(queries), k)
    block_rows = max(1, BLOCK_BYTES // (4 * vectors.dim))
    if allowed is not None:
        gathered = start + np.flatnonzero(allowed[start:end])
        if len(gathered) < GATHER_SHARE * (end - start):
            for low in range(0, len(gathered), block_rows):
                rows = gathered[low : low + block_rows]
                found.improve(queries, rows, vectors.take(rows))
            return found
    for first, block in vectors.blocks(start, block_rows, end):
        rows = np.arange(first, first + len(block))
        found.improve(queries, rows, block, None if allowed is None else allowed[rows])
    return found


def best_of(answers: Sequence[Found]) -> Found:
    """Merge answers about disjoint rows, each of which lies behind those of the one before."""
    k = answers[0].rows.shape[1]
    rows = np.concatenate([one.rows for one in answers], axis=1)
    scores = np.concatenate([one.scores for one in answers], axis=1)
    # Stable: equal scores keep their order, and that is by row already.
    return Found(rows, scores).at(np.argsort(-scores, axis=1, kind="stable")[:, :k])


def exact_scores(query: NDArray[np.float32], block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (m,) the scores of a query (dim,) with the rows of `block` (m, dim), as `Found` says."""
    everyone = np.arange(len(block))
    return _scores(query[None], np.zeros_like(everyone), block, everyone)


def _scores(
    queries: NDArray[np.float32], query_of: NDArray[np.intp], block: NDArray[np.float32], column: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return the documented score of each pair (query_of[i], column[i]); it does not depend on the neighbours."""
    scores = np.empty(len(column), np.float32)
    for low in range(0, len(column), _PAIRS):
        pairs = slice(low, low + _PAIRS)
        products = np.multiply(block[column[pairs]], queries[query_of[pairs]], dtype=np.float64)
        scores[pairs] = products.sum(axis=1)
    return scores
