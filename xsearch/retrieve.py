"""From a query's terms, as vectors, to rows of the library, best first: fusion, exclusion, filters, moments.

A picture is found by what it shows, by the texts that belong to it, and by words in those and in its name. Texts and
words only ever add to the standing of an item, so none is hidden by what is written about it:

    standing = z + max(0, text) + share^3 max(z)      but z no lower than 0 where share is 1

z is the cosine's standing among random pictures, `text` how far the best of its texts stands above what the library's
texts give to generic queries (`ranking.confidence.Background`): only a text that stands out says something.
`share` is that of the query's words, by rarity, which the item has: with all of them it leads. All weights are one;
`benchmarks/words.py` measures what this brings, and what it costs pictures that nothing is written about.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from xsearch.index.exact import Found
from xsearch.library import Library
from xsearch.library.pairs import Pairs
from xsearch.library.words import NO_WORDS, WordHits
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
EACH = 10
"""So many for each answer: that these are among them is what an index has to be sure of."""

WORDS_POWER = 3
"""A half of the words says much less than half of what all of them say."""
ALL_WORDS = 0.999
SURE_BY_WORDS = 0.9
"""How sure an item with all words of the query is to be what is meant, at least: .90 of 4,708 captions with all words
of a concept are of pictures of which another caption names it (`benchmarks/words.py`)."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The terms of a query as unit vectors, `wanted` (n, dim) and `excluded` (m, dim), and how they are combined.

    Where nothing is wanted, what is least like the excluded terms comes first. `modality` says which tower made the
    vectors; of a query of both it is text, which is harder to find for. `words` are those of the wanted texts, to be
    looked for literally; an item with all words of one of `excluded_words` is left out.
    """

    wanted: Embeddings
    excluded: Embeddings
    weights: tuple[float, ...]
    excluded_weights: tuple[float, ...]
    modality: Modality
    fusion: Fusion = Fusion.LATE
    words: str = ""
    excluded_words: tuple[str, ...] = ()

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
    asked for. `texts` are those that belong to these items, `words` looks for words in what is written about them, and
    `of_pictures` gives what (b,) pictures, as queries without an answer, score on rows of texts: (b, rows).
    """

    def __init__(
        self,
        library: Library,
        kinds: Sequence[Kind],
        search: Callable[[Embeddings, Modality, int, NDArray[np.bool_] | None, int | None], Found],
        bank: Callable[[], Embeddings],
        allowed: NDArray[np.bool_] | None = None,
        whole: "Pool | None" = None,
        texts: "Texts | None" = None,
        words: Callable[[str, int, NDArray[np.bool_]], WordHits] | None = None,
        of_pictures: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None,
    ) -> None:
        self.library = library
        self.kind = kinds[0]
        of_kinds = library.of_kinds(kinds)
        self.mask = of_kinds if allowed is None else of_kinds & allowed
        self.size = int(np.count_nonzero(self.mask))
        self._kinds = kinds
        self._search = search
        self._bank = bank
        self._whole = whole
        self.texts = texts
        self._words = words
        self._of_pictures = of_pictures
        self._levels: dict[Modality, Background] = {}

    def search(self, vectors: Embeddings, modality: Modality, k: int, sure: int | None = None) -> Found:
        """Return the k best rows; `sure` is as for `index.search.search`."""
        return self._search(vectors, modality, k, None if self.size == len(self.mask) else self.mask, sure)

    def with_words(self, words: str, k: int) -> WordHits:
        """Return items that have any of the words, k at most."""
        if self._words is None or not words:
            return NO_WORDS
        return self._words(words, k, self.mask)

    @property
    def has_words(self) -> bool:
        return self._words is not None

    @cached_property
    def frames(self) -> NDArray[np.bool_]:
        """(rows,) True for those that are frames."""
        frames = self.library.of_kinds([Kind.FRAME]) if Kind.FRAME in self._kinds else np.zeros_like(self.mask)
        return frames & self.mask

    @cached_property
    def background(self) -> NDArray[np.float32]:
        """(m, dim) the vectors of a random sample."""
        return self._whole.background if self._whole is not None else self.library.vectors.take(self._sample)

    @cached_property
    def _sample(self) -> NDArray[np.int64]:
        rows = np.flatnonzero(self.mask)
        return np.sort(np.random.default_rng(0).choice(rows, min(len(rows), BACKGROUND_ROWS), replace=False))

    def level(self, modality: Modality) -> Background:
        """Return what these items give to generic queries: texts of the bank, or pictures, or else one another."""
        if self._whole is not None:
            return self._whole.level(modality)
        if modality not in self._levels:
            is_alone = len(self.background) < 2  # and has no others to be compared with
            if modality is Modality.TEXT or (is_alone and self._of_pictures is None):
                scores = self._bank() @ self.background.T
            elif self._of_pictures is not None:
                scores = self._of_pictures(self._sample)
            else:
                scores = among_themselves(self.background)
            self._levels[modality] = Background.fit(scores, self.size)
        return self._levels[modality]


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """The texts that belong to the items of a pool, as a pool of their own."""

    pool: Pool
    pairs: Pairs

    def over(self, rows: NDArray[np.int64], vector: NDArray[np.float32], modality: Modality) -> NDArray[np.float64]:
        """Return (n,) how far these texts stand above the best that the library's texts give to anything."""
        mean = float((self.pool.background @ vector).mean())
        return self.pool.level(modality).standing(self.pool.library.vectors.take(rows) @ vector, mean)


def retrieve(pool: Pool, asked: Sequence[Sequence[Asked]], k: int, group: Group) -> list[list[Answer]]:
    """Return at most k answers to each query, best first; fewer where there are fewer.

    A query is asked in parts, and an item counts by the part that it answers best.
    """
    vectors = [np.stack([_vector(part, pool) for part in parts]) for parts in asked]
    answers: list[list[Answer]] = [[] for _ in asked]
    waiting = list(range(len(asked)))
    is_plain = all(len(parts) == 1 and _is_plain(parts[0], pool) for parts in asked)
    depth = k if is_plain else max(EACH * k, CANDIDATES)
    while waiting:
        found = _searched(
            pool,
            [part.modality for q in waiting for part in asked[q]],
            np.concatenate([vectors[q] for q in waiting]),
            depth,
            depth if is_plain else depth // EACH,
        )
        still = []
        for q in waiting:
            best, bound = _best_of_parts(asked[q], vectors[q], pool, islice(found, len(asked[q])), depth)
            if group is not Group.NONE and pool.frames.any():
                level = float(np.quantile((pool.background @ vectors[q].T).max(axis=1), NOT_MEANT))
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


def _searched(
    pool: Pool, modalities: Sequence[Modality], vectors: NDArray[np.float32], depth: int, sure: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Return the rows and scores for each of these vectors, in their order, with one search for each modality."""
    found: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
    for modality in Modality:
        of_one = [at for at, one in enumerate(modalities) if one is modality]
        if of_one:
            rows_and_scores = pool.search(vectors[of_one], modality, depth, sure)
            found |= zip(of_one, zip(rows_and_scores.rows, rows_and_scores.scores, strict=True), strict=True)
    return (found[at] for at in range(len(modalities)))


def _best_of_parts(
    parts: Sequence[Asked],
    vectors: NDArray[np.float32],
    pool: Pool,
    found: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
    depth: int,
) -> tuple[list[Answer], float]:
    """Return the candidates of a query, best first, and how high the next one after them could stand."""
    each, bounds = [], []
    for at, (part, vector, (rows, scores)) in enumerate(zip(parts, vectors, found, strict=True)):
        known = rows >= 0
        best, bound = _in_order(part, vector, pool, rows[known], scores[known], depth)
        if len(parts) == 1:
            return best, bound
        (weight,) = part.weights
        each += [replace(answer, standing=weight * answer.standing, part=at) for answer in best]
        bounds.append(weight * bound)
    each.sort(key=lambda answer: -answer.standing)
    first: dict[int, Answer] = {}
    for answer in each:
        first.setdefault(answer.row, answer)
    return list(first.values()), max(bounds)


def _with_confidence(
    best: list[Answer], parts: Sequence[Asked], vectors: NDArray[np.float32], pool: Pool
) -> list[Answer]:
    """Return the answers with how sure each is, of the part that it answers."""
    sure: dict[int, Answer] = {}
    for at, (asked, vector) in enumerate(zip(parts, vectors, strict=True)):
        of_part = [answer for answer in best if answer.part == at]
        if of_part and not asked.is_negative:
            sure |= zip((answer.row for answer in of_part), _sure(of_part, asked, vector, pool), strict=True)
    return [sure.get(answer.row, answer) for answer in best]


def _sure(best: list[Answer], asked: Asked, vector: NDArray[np.float32], pool: Pool) -> list[Answer]:
    scores = np.array([answer.score for answer in best], np.float32)
    mean = float((pool.background @ vector).mean())
    sure = confidence(scores, mean, pool.level(asked.modality), asked=asked.modality, found=pool.kind)
    if pool.texts is not None:
        texts = pool.texts.pool
        of_texts = np.array([answer.text_score for answer in best], np.float32)
        mean = float((texts.background @ vector).mean())
        by_text = confidence(of_texts, mean, texts.level(asked.modality), asked=asked.modality, found=Kind.TEXT)
        sure = np.where([answer.text_row is not None for answer in best], np.maximum(sure, by_text), sure)
    sure = np.where([answer.words >= ALL_WORDS for answer in best], np.maximum(sure, SURE_BY_WORDS), sure)
    return [replace(answer, confidence=float(one)) for answer, one in zip(best, sure, strict=True)]


def _is_plain(asked: Asked, pool: Pool) -> bool:
    """Whether candidates come in their final order."""
    if asked.excluded_words or (asked.words and (pool.has_words or pool.texts is not None)):
        return False
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
    said: _Said | None = None

    def costs(of: NDArray[np.int64]) -> NDArray[np.float32] | float:
        """Return what the excluded terms take from the standing of rows."""
        if not asked.has_veto:
            return 0.0
        how_far = standings(asked.excluded @ pool.library.vectors.take(of).T, asked.excluded @ background.T)
        return penalty(how_far, asked.excluded_weights)

    if asked.fusion is Fusion.RRF and len(terms) > 1:
        each = [pool.search(term[None], asked.modality, depth, depth // EACH).rows[0] for term in terms]
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
        bound = float(standardized(scores[-1:], background @ vector)[0]) if len(scores) else bound
        said = _said(asked, vector, pool, rows, depth)
        rows, scores = said.rows, pool.library.vectors.take(said.rows) @ vector
        standing = standardized(scores, background @ vector)
        top = max(0.0, float(standing.max(initial=0.0)))
        weight = said.words**WORDS_POWER
        standing = standing + said.over + weight * (top - np.minimum(standing, 0)) - costs(rows)
        bound += said.bound + float(said.last_words**WORDS_POWER) * top
    if asked.excluded_words and pool.has_words:
        for words in asked.excluded_words:
            having = pool.with_words(words, pool.size)
            standing = np.where(np.isin(rows, having.rows[having.shares >= ALL_WORDS]), np.float32(-np.inf), standing)
    order = [at for at in np.argsort(-standing, kind="stable").tolist() if np.isfinite(standing[at])]
    # A float16 row may be a little longer than 1, and no cosine is.
    columns = [rows, np.minimum(scores, 1), standing]
    if said is None:
        return [Answer(*of_row) for of_row in zip(*(column[order].tolist() for column in columns), strict=True)], bound
    columns += [said.texts, said.text_scores, said.words]
    return [
        Answer(row, score, stands, text_row=text if text >= 0 else None, text_score=text_score, words=share)
        for row, score, stands, text, text_score, share in zip(
            *(column[order].tolist() for column in columns), strict=True
        )
    ], bound


@dataclass(frozen=True, slots=True, eq=False)
class _Said:
    """What is written about candidates, (n,) each; `bound` and `last_words` are the most that others can have of it."""

    rows: NDArray[np.int64]
    over: NDArray[np.float64]
    texts: NDArray[np.int64]
    text_scores: NDArray[np.float32]
    words: NDArray[np.float64]
    bound: float
    last_words: float


def _said(asked: Asked, vector: NDArray[np.float32], pool: Pool, rows: NDArray[np.int64], depth: int) -> _Said:
    """Return what is written about these rows, and about others that are found by it."""
    by_words = pool.with_words(asked.words, depth)
    last_words = float(by_words.shares.max(initial=0.0)) if len(by_words.rows) == depth else 0.0
    by_text = np.empty(0, np.int64)
    bound = 0.0
    texts = pool.texts if asked.words else None
    if texts is not None:
        found = texts.pool.search(vector[None], asked.modality, depth, depth // EACH).rows[0]
        found = found[found >= 0]
        over = np.maximum(texts.over(found, vector, asked.modality), 0)
        bound = float(over[-1]) if len(found) == depth else 0.0
        by_text = texts.pairs.item_of[found[over > 0]]
    rows = np.unique(np.concatenate([rows, by_words.rows, by_text]))
    words = np.zeros(len(rows))
    words[np.searchsorted(rows, by_words.rows)] = by_words.shares
    best = np.zeros(len(rows))
    best_text = np.full(len(rows), -1, np.int64)
    scores = np.zeros(len(rows), np.float32)
    if texts is not None:
        of_rows, at = texts.pairs.texts_of(rows)
        for text, position, one in zip(of_rows, at, texts.over(of_rows, vector, asked.modality), strict=True):
            if one > best[position]:
                best[position], best_text[position] = one, text
        spoken = best_text >= 0
        scores[spoken] = texts.pool.library.vectors.take(best_text[spoken]) @ vector
    return _Said(rows, best, best_text, scores, words, bound, last_words)
