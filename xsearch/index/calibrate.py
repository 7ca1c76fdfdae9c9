"""Find the cheapest search settings that reach a target recall, by measuring on this library's own vectors."""

from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsearch.index.candidates import Candidates, packed
from xsearch.index.exact import search_exact
from xsearch.index.plan import MEASURED_K, RERANK_CODES, SearchSettings
from xsearch.vectors import VectorTable

if TYPE_CHECKING:
    from xsearch.index.ivfpq import IvfPq

DEPTHS = (50, 100, 200, 400, 800, 1600, 3200)

ONE_SIDED_95 = 1.645


@dataclass(frozen=True, slots=True)
class Calibration:
    """The settings to search with and the recall@k they showed on `n_queries`.

    `recall_low` is the lower end of its one-sided 95 % confidence interval; `met` says whether that reaches the target.
    """

    settings: SearchSettings
    recall: float
    recall_low: float
    n_queries: int
    met: bool


def calibrate(
    index: "IvfPq",
    vectors: VectorTable,
    queries: NDArray[np.float32],
    target_recall: float,
    *,
    k: int = MEASURED_K,
    allowed: NDArray[np.bool_] | None = None,
) -> Calibration:
    """Return the cheapest settings whose recall@k against exact search is surely at least `target_recall`.

    `queries` (q, dim) float32 stand for those to come. Where no settings reach the target, those of the highest recall
    are returned. Cost is counted in codes scanned and rows re-ranked, so that the choice does not depend on how busy
    the machine is.
    """
    if len(queries) == 0:
        raise ValueError("there are no queries to calibrate with")
    if allowed is None:
        allowed = np.ones(len(vectors), np.bool_)
    # The index answers for the rows it covers; the rest is scanned exactly, and cannot be missed.
    covered = allowed & (np.arange(len(vectors)) < index.rows)
    relevant = _relevant(vectors, queries, k, covered)
    depths = _ladder(DEPTHS, k, index.rows)
    probes = _ladder(tuple(1 << i for i in range(index.nlist.bit_length())), 1, index.nlist)
    codes_per_list = index.rows / index.nlist
    mask = None if covered[: index.rows].all() else covered
    bits = None if mask is None else packed(mask)

    best: Calibration | None = None  # the cheapest that meets the target
    best_work = inf
    fallback: Calibration | None = None
    for nprobe in probes:
        scan_work = nprobe * codes_per_list
        cheaper = tuple(depth for depth in depths if scan_work + RERANK_CODES * depth < best_work)
        if not cheaper:
            break
        candidates = index.scan(index.routes(queries, nprobe, allowed=mask), cheaper[-1] + 1, allowed=bits)
        # Candidates come best first, so those of a smaller depth are the first of a larger one; and a true answer that
        # is a candidate is never lost in the exact re-rank.
        recalls = _recalls(candidates, relevant, k, cheaper, index.rows)
        for depth, recall in zip(cheaper, recalls, strict=True):
            low = wilson_low(recall, len(queries))
            measured = Calibration(SearchSettings(nprobe, depth), recall, low, len(queries), met=low >= target_recall)
            if measured.met:
                best, best_work = measured, scan_work + RERANK_CODES * depth
                break
            if fallback is None or recall > fallback.recall:
                fallback = measured
    if best is not None:
        return best
    assert fallback is not None  # the first step was affordable, and did not meet
    return fallback


def wilson_low(share: float, n: int) -> float:
    """Return the lower end of the one-sided 95 % score interval of a mean of n values between 0 and 1.

    Wilson, J. Am. Stat. Assoc. 22 (1927). It is exact in form for values that are 0 or 1; a mean of values in between
    varies less (Bhatia and Davis, Am. Math. Monthly 107, 2000), so the bound is on the safe side.
    """
    z2 = ONE_SIDED_95**2
    centre = share + z2 / (2 * n)
    margin = ONE_SIDED_95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, (centre - margin) / (1 + z2 / n))


def _relevant(
    vectors: VectorTable, queries: NDArray[np.float32], k: int, covered: NDArray[np.bool_]
) -> list[NDArray[np.int64]]:
    """Return for each query the rows that score at least as high as its k-th best; copies of a picture tie."""
    exact = search_exact(vectors, queries, 2 * k, allowed=covered)  # k more for ties
    return [
        rows[(rows >= 0) & (scores >= scores[k - 1])] for rows, scores in zip(exact.rows, exact.scores, strict=True)
    ]


def _recalls(
    candidates: Candidates, relevant: list[NDArray[np.int64]], k: int, depths: tuple[int, ...], n_rows: int
) -> list[float]:
    """Return the mean recall@k at each depth; a query without any answer counts as answered."""
    total = np.zeros(len(depths))
    is_wanted = np.zeros(n_rows + 1, np.bool_)  # the padding, -1, looks up the last one
    kept = np.stack([candidates.kept(depth) for depth in depths], axis=1)
    for rows, of_depths, wanted in zip(candidates.rows, kept, relevant, strict=True):
        answers = min(k, len(wanted))
        if answers == 0:
            total += 1
            continue
        is_wanted[wanted] = True
        found = np.concatenate([[0], np.cumsum(is_wanted[rows])])[of_depths]
        is_wanted[wanted] = False
        total += np.minimum(found, answers) / answers
    return [float(share) for share in total / len(relevant)]


def _ladder(steps: tuple[int, ...], least: int, most: int) -> tuple[int, ...]:
    """Return the steps held between `least` and `most`, ascending, none twice."""
    return tuple(sorted({min(max(step, least), most) for step in steps}))
