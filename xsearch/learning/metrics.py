"""How well rankings find what belongs to queries, and captions say what people say.

The owner of ir_measures and sacrebleu.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import XSearchError
from xsearch.types import Embeddings

DEPTH = 100
"""Hits of a query that are looked at; what comes later adds less than 1/100 to a mean average precision."""

MEASURES = {
    "recall@1": "Success@1",
    "recall@5": "Success@5",
    "recall@10": "Success@10",
    "map": f"AP@{DEPTH}",
    "ndcg@10": "nDCG@10",
}
"""Their names here, and in ir_measures. Recall@k is the share of queries with a right answer among the first k."""

RESAMPLES = 2_000
_BLOCK_QUERIES = 512


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What q queries found: `values` (q,) of each measure, and `ranks` (q,) of the first right answer, from 1.

    `groups` (q,) tells which queries belong together, as the captions of one picture do.
    """

    values: Mapping[str, NDArray[np.float64]]
    ranks: NDArray[np.int64]
    groups: NDArray[np.int64]

    def means(self) -> dict[str, float]:
        """Return each measure, and the median rank."""
        return {name: float(of.mean()) for name, of in self.values.items()} | {
            "median_rank": float(np.median(self.ranks))
        }

    def intervals(self, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each measure."""
        return {name: bootstrap(of, self.groups, seed) for name, of in self.values.items()}


def rankings(
    queries: Embeddings, documents: Embeddings, relevant: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Compare (q, dim) queries with all (d, dim) documents; `relevant` are those that are right, by query.

    Returns (q, DEPTH) the best documents and their cosines, and (q,) the rank of the first right one; a document that
    ties with it does not come before it.
    """
    depth = min(DEPTH, len(documents))
    best = np.empty((len(queries), depth), np.int64)
    scores = np.empty((len(queries), depth), np.float32)
    ranks = np.empty(len(queries), np.int64)
    for low in range(0, len(queries), _BLOCK_QUERIES):
        cosines = queries[low : low + _BLOCK_QUERIES] @ documents.T
        for at, of_query in enumerate(cosines, low):
            near = np.argpartition(-of_query, depth - 1)[:depth]
            best[at] = near[np.argsort(-of_query[near], kind="stable")]
            scores[at] = of_query[best[at]]
            ranks[at] = 1 + np.count_nonzero(of_query > of_query[relevant[at]].max())
    return best, scores, ranks


def measure(
    best: NDArray[np.int64],
    scores: NDArray[np.float32],
    ranks: NDArray[np.int64],
    relevant: Sequence[NDArray[np.int64]],
    groups: NDArray[np.int64],
) -> Measured:
    """Measure rankings; -1 among the `best` is no document. Raises XSearchError where ir_measures is missing."""
    try:
        import ir_measures
    except ImportError as error:
        raise _missing(error) from error
    names = {ir_measures.parse_measure(theirs): ours for ours, theirs in MEASURES.items()}
    values = {name: np.zeros(len(best)) for name in MEASURES}
    truth = {str(q): {str(document): 1 for document in right.tolist()} for q, right in enumerate(relevant)}
    # Scored by rank: equal cosines would be put in the order of their names.
    found = {
        str(q): {str(document): float(-place) for place, document in enumerate(row.tolist()) if document >= 0}
        for q, row in enumerate(best)
    }
    for one in ir_measures.iter_calc(list(names), truth, found):
        values[names[one.measure]][int(one.query_id)] = one.value
    return Measured(values, ranks, groups)


def bootstrap(values: NDArray[np.float64], groups: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of (q,) values, drawing whole groups (Efron 1979)."""
    _, group = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975])
    return float(low), float(high)


def corpus_bleu(said: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4, 0 to 100, of captions against what people said of each picture (Papineni et al. 2002).

    Lower case, tokenised by sacrebleu's `13a`. Raises XSearchError where sacrebleu is missing.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise _missing(error) from error
    most = max(map(len, references))
    # None stands where a picture has fewer texts than others.
    columns: list[Any] = [[of[at] if at < len(of) else None for of in references] for at in range(most)]
    return float(sacrebleu.corpus_bleu(list(said), columns, lowercase=True, force=True).score)


def _missing(error: ImportError) -> XSearchError:
    return XSearchError(
        f"a package of xsearch eval is missing here ({error.name})", remedy="pip install 'xsearch[eval]'"
    )
