"""From a query's terms, as vectors, to rows of the library, best first: fusion, exclusion, filters, moments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xsearch.index.exact import Found
from xsearch.library import Library
from xsearch.moments import Answer, Group, in_moments
from xsearch.ranking.confidence import Background, among_themselves, confidence
from xsearch.ranking.exclusion import penalty, without
from xsearch.ranking.fusion import Fusion, early, late, reciprocal_ranks, standings
from xsearch.ranking.merge import standardized
from xsearch.types import Embeddings, Kind, Modality

BACKGROUND_ROWS = 1_000

NOT_MEANT = 0.1
"""At least so many of the pictures in a library do not answer a query: what they score is the level of moments."""

CANDIDATES = 100
"""So many at least are looked at where candidates are put in another order."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The terms of a query as unit vectors, `wanted` (n, dim) and `excluded` (m, dim), and how they are combined.

    Where nothing is wanted, what is least like the excluded terms comes first. `modality` says which tower made the
    vectors; of a query of both it is text, which is harder to find for.
    """

    wanted: Embeddings
    excluded: Embeddings
    weights: tuple[float, ...]
    excluded_weights: tuple[float, ...]
    modality: Modality
    fusion: Fusion = Fusion.LATE

    @property
    def is_negative(self) -> bool:
        return not len(self.wanted)

    @property
    def has_veto(self) -> bool:
        return bool(len(self.wanted) and len(self.excluded))

    def freed(self) -> Embeddings:
        """Return the wanted terms without what they have of the excluded ones."""
        return without(self.wanted, self.excluded, self.excluded_weights) if self.has_veto else self.wanted


class Pool:
    """The living items of some kinds that a query may find.

    `search` finds rows for (q, dim) vectors among those of a mask, and `bank` gives the vectors of generic texts.
    `background` are random items, unfiltered: what an item has to stand out from is the library, whatever part of it is
    asked for.
    """

    def __init__(
        self,
        library: Library,
        kinds: Sequence[Kind],
        search: Callable[[Embeddings, Modality, int, NDArray[np.bool_] | None], Found],
        bank: Callable[[], Embeddings],
        allowed: NDArray[np.bool_] | None = None,
        whole: "Pool | None" = None,
    ) -> None:
        self.library = library
        self.kind = kinds[0]
        self.mask = library.of_kinds(kinds)
        if allowed is not None:
            self.mask &= allowed
        self.size = int(np.count_nonzero(self.mask))
        self._kinds = kinds
        self._search = search
        self._bank = bank
        self._whole = whole
        self._levels: dict[Modality, Background] = {}

    def search(self, vectors: Embeddings, modality: Modality, k: int) -> Found:
        return self._search(vectors, modality, k, None if self.size == len(self.mask) else self.mask)

    @cached_property
    def frames(self) -> NDArray[np.bool_]:
        """(rows,) True for those that are frames."""
        frames = self.library.of_kinds([Kind.FRAME]) if Kind.FRAME in self._kinds else np.zeros_like(self.mask)
        return frames & self.mask

    @cached_property
    def background(self) -> NDArray[np.float32]:
        """(m, dim) the vectors of a random sample."""
        if self._whole is not None:
            return self._whole.background
        rows = np.flatnonzero(self.mask)
        sample = np.random.default_rng(0).choice(rows, min(len(rows), BACKGROUND_ROWS), replace=False)
        return self.library.vectors.take(np.sort(sample))

    def level(self, modality: Modality) -> Background:
        """Return what these items give to generic queries of a modality: texts of the bank, or one another."""
        if self._whole is not None:
            return self._whole.level(modality)
        if modality not in self._levels:
            is_alone = len(self.background) < 2  # and has no others to be compared with
            by_text = modality is Modality.TEXT or is_alone
            scores = self._bank() @ self.background.T if by_text else among_themselves(self.background)
            self._levels[modality] = Background.fit(scores, self.size)
        return self._levels[modality]


def retrieve(pool: Pool, asked: Sequence[Asked], k: int, group: Group) -> list[list[Answer]]:
    """Return at most k answers to each query, best first; fewer where there are fewer.

    All are of one modality, so that one search serves them all as long as it goes deep enough for each.
    """
    vectors = np.stack([_vector(one, pool) for one in asked])
    answers: list[list[Answer]] = [[] for _ in asked]
    waiting = list(range(len(asked)))
    depth = k if all(_is_plain(one) for one in asked) else max(10 * k, CANDIDATES)
    while waiting:
        found = pool.search(vectors[waiting], asked[0].modality, depth)
        still = []
        for q, rows, scores in zip(waiting, found.rows, found.scores, strict=True):
            known = rows >= 0
            best, bound = _in_order(asked[q], vectors[q], pool, rows[known], scores[known], depth)
            if group is not Group.NONE and pool.frames.any():
                level = float(np.quantile(pool.background @ vectors[q], NOT_MEANT))
                best = in_moments(
                    best, vectors[q], library=pool.library, is_frame=pool.frames, level=level, group=group
                )
            answers[q] = _with_confidence(best[:k], asked[q], vectors[q], pool)
            # Many frames make one moment, and what stands high may be vetoed: look deeper, until there are k that stand
            # higher than whatever was not looked at.
            if depth < pool.size and not (len(best) >= k and best[k - 1].standing >= bound):
                still.append(q)
        waiting, depth = still, 4 * depth
    return answers


def _with_confidence(best: list[Answer], asked: Asked, vector: NDArray[np.float32], pool: Pool) -> list[Answer]:
    if asked.is_negative or not best:
        return best
    scores = np.array([answer.score for answer in best], np.float32)
    mean = float((pool.background @ vector).mean())
    sure = confidence(scores, mean, pool.level(asked.modality), asked=asked.modality, found=pool.kind)
    return [replace(answer, confidence=float(one)) for answer, one in zip(best, sure, strict=True)]


def _is_plain(asked: Asked) -> bool:
    """Whether candidates come in their final order."""
    return not asked.has_veto and (len(asked.wanted) == 1 or asked.fusion in (Fusion.EARLY, Fusion.LATE))


def _vector(asked: Asked, pool: Pool) -> NDArray[np.float32]:
    """Return (dim,) the one unit vector whose cosines are the scores, and find the candidates."""
    if asked.is_negative:
        return early(asked.excluded, [-weight for weight in asked.excluded_weights])
    vectors = asked.freed()
    if len(vectors) == 1:
        (vector,) = vectors
        return np.asarray(vector, np.float32)
    weights = np.array(asked.weights)
    if asked.fusion is Fusion.LATE:
        # The sum of standings is linear, so one search finds exactly what stands highest.
        weights = weights / np.maximum((vectors @ pool.background.T).std(axis=1), 1e-6)
    return early(vectors, weights.tolist())


def _in_order(
    asked: Asked,
    vector: NDArray[np.float32],
    pool: Pool,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    depth: int,
) -> tuple[list[Answer], float]:
    """Return the candidates, best first, and how high the next one after them could stand."""
    background = pool.background
    bound = -np.inf
    terms = asked.freed()

    def costs(of: NDArray[np.int64]) -> NDArray[np.float32] | float:
        """Return what the excluded terms take from the standing of rows."""
        if not asked.has_veto:
            return 0.0
        how_far = standings(asked.excluded @ pool.library.vectors.take(of).T, asked.excluded @ background.T)
        return penalty(how_far, asked.excluded_weights)

    if asked.fusion is Fusion.RRF and len(terms) > 1:
        each = [pool.search(term[None], asked.modality, depth).rows[0] for term in terms]
        rows = np.unique(np.concatenate([*each, rows]))
        rows = rows[rows >= 0]
        scores = pool.library.vectors.take(rows) @ vector
        listed = np.stack([np.isin(rows, found) for found in each])
        # Before the ranks, which are on another scale than what exclusion costs.
        of_terms = standings(terms @ pool.library.vectors.take(rows).T, terms @ background.T) - costs(rows)
        ranks = reciprocal_ranks(np.where(listed, of_terms, -np.inf), asked.weights).astype(np.float32)
        standing = np.where(np.isfinite(of_terms).all(axis=0), ranks, np.float32(-np.inf))
    elif asked.fusion is Fusion.HYBRID and len(terms) > 1:
        of_terms = terms @ pool.library.vectors.take(rows).T
        standing = late(of_terms, terms @ background.T, asked.weights) - costs(rows)
    else:
        standing = standardized(scores, background @ vector)
        bound = float(standing[-1]) if len(standing) else bound
        standing = standing - costs(rows)
    order = [at for at in np.argsort(-standing, kind="stable").tolist() if np.isfinite(standing[at])]
    # A float16 row may be a little longer than 1, and no cosine is.
    return [Answer(int(rows[at]), min(1.0, float(scores[at])), float(standing[at])) for at in order], bound
