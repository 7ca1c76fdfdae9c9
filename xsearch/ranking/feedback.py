"""Relevance feedback: a query that is moved towards what was liked and away from what was not (Rocchio 1971)."""

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import QueryError
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

MORE = 0.7
"""What many liked items count for, the query being 1: one counts half of it, three three quarters.

Chosen by `benchmarks/feedback.py` with version 0 of the built-in encoder: with one of a text's first ten hits liked,
.045 more of the next ten are right (.596 before, on pictures that the encoder has not seen), with two .065 (.645
before). Rocchio's usual .75 for a single one brings half of that, as the query then follows whatever else is there.
With version 3, which finds more by itself, one brings .017 (.621 before), two .020, three .051 (.685 before).
"""

LESS = 0.3
"""The same for disliked items. Of the pictures most like them in the first fifty, a fifth to three fifths leave them.

Beside something liked that costs up to .013 of precision@10, alone up to .05: words say better what is not meant.
"""

MAX_TURN_DEG = 25.0
"""No feedback turns a query farther. Good examples turn it by less and lose nothing; one that has little to do with the
query, or weights of a caller's own, are kept from taking its place. Captions lie 69 degrees from their pictures."""

_CANCELLED = 1e-3  # what float16 and rounding leave of vectors that cancel each other


def moved(
    query: NDArray[np.float32] | None,
    liked: Embeddings,
    disliked: Embeddings,
    *,
    more: float = MORE,
    less: float = LESS,
    max_turn_deg: float = MAX_TURN_DEG,
) -> NDArray[np.float32]:
    """Return (dim,) unit: the query (dim,), moved by the (n, dim) liked and the (m, dim) disliked vectors, unit rows.

    With q0 the query, or the mean of the liked ones where there is none,

        q = q0 + more n / (n + 1) mean(liked) - less m / (m + 1) mean(disliked)

    which is Rocchio 1971 (Manning, Raghavan & Schütze 2008, "Introduction to Information Retrieval", 9.1.1) with
    weights that rise with the number of examples: one says less than the mean of many. The guard: where q lies farther
    than `max_turn_deg` from q0, it is that point on the great circle from q0 to q which does not. The disliked ones
    cannot dominate: however many, they move no farther than `less`. Raises QueryError if there is neither query nor
    liked item, or if the liked ones cancel each other.
    """
    if query is None and not len(liked):
        raise QueryError("nothing says what to find", remedy="ask for something, or name an item to find the like of")
    start = liked.mean(axis=0) if query is None else query
    if np.linalg.norm(start) < _CANCELLED:
        raise QueryError("the liked items cancel each other", remedy="name fewer of them")
    start = l2_normalize(start)
    pull = more * _weighted(liked) - less * _weighted(disliked)
    target = l2_normalize(start + pull)
    cosine = float(np.clip(start @ target, -1, 1))
    turn = np.radians(max_turn_deg)
    if np.arccos(cosine) <= turn:
        return target
    aside = target - cosine * start
    if np.linalg.norm(aside) < _CANCELLED:  # straight back: there is no side to turn to
        return start
    return l2_normalize(np.cos(turn) * start + np.sin(turn) * l2_normalize(aside))


def _weighted(examples: Embeddings) -> NDArray[np.float32]:
    """Return (dim,) n / (n + 1) times the mean, which is 0 of none."""
    weighted: NDArray[np.float32] = examples.sum(axis=0) / np.float32(len(examples) + 1)
    return weighted
