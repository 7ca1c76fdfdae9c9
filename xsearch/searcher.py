"""Use case: ask a library."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from xsearch.bank import read_bank
from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import LibraryDamaged, QueryError, SourceError, Undecodable, repair_command
from xsearch.index.exact import Found
from xsearch.index.plan import SearchSettings
from xsearch.index.search import RowSearch, search
from xsearch.index_file import PICTURES, measured_among, open_index
from xsearch.library import Library, Manifest
from xsearch.library.pairs import Pairs
from xsearch.library.remote import local_folder
from xsearch.library.words import NO_WORDS, WordHits, WordIndex, open_words
from xsearch.moments import Group
from xsearch.originals import read_original
from xsearch.query import MAX_TERMS, Picture, Query, Stored, Term
from xsearch.ranking.confidence import GOOD_MATCH, bank_rows
from xsearch.ranking.fusion import Fusion
from xsearch.ranking.merge import merged_order
from xsearch.retrieve import Asked, Pool, Texts, retrieve
from xsearch.types import Embeddings, Hit, Kind, Modality, item_id

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from PIL.Image import Image

    from xsearch.index.ivfpq import IvfPq

    ImageSource = str | Path | bytes | Image | NDArray[Any]

DEFAULT_DATA = Path("index_data")

# Kinds whose vectors come from the same tower share a scale; each group is searched and standardized by itself.
TOWERS = (PICTURES, (Kind.TEXT,))
RERANKED = 50
"""So many of the best hits may change places."""

Searching: TypeAlias = "Callable[[Library, IvfPq | None], RowSearch]"
"""Gives the search of a commit and its index."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class Rerank(StrEnum):
    """By what the best hits are put in another order."""

    ATTENTION = "attention"


@dataclass(frozen=True, slots=True)
class Hits(Sequence[Hit]):
    """The answer to one query, best first. `took_ms` tells where the time went: load, encode, search."""

    hits: tuple[Hit, ...]
    took_ms: Mapping[str, float]

    @property
    def good_match(self) -> bool:
        """Whether any hit stands out from what the library has for anything at all."""
        return any(hit.confidence is None or hit.confidence >= GOOD_MATCH for hit in self.hits)

    def to_arrow(self) -> "pa.Table":
        """Return the hits as a table of the columns `notebook.HITS`."""
        from xsearch.notebook import arrow_table

        return arrow_table(self)

    def to_pandas(self) -> "pd.DataFrame":
        """Return `to_arrow` for pandas. Raises XSearchError if that is not installed."""
        from xsearch.notebook import data_frame

        return data_frame(self)

    def _repr_html_(self) -> str:
        from xsearch.notebook import html  # Jupyter asks for this

        return html(self, good_match=self.good_match)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)


class Searcher:
    """Answers queries from one commit of a library. May be shared between threads."""

    def __init__(
        self,
        data: str | Path = DEFAULT_DATA,
        *,
        model: str | None = None,
        encoder: Encoder | None = None,
        searching: "Searching | None" = None,
        on_warning: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open the library in `data`, a folder or a URI (`s3://bucket/path`), with the encoder that it was made with.

        `model` names it otherwise (a folder that moved), `encoder` is one already open. `searching` gives the search of
        a commit and its index, where it is not to be searched here. `on_warning` is told when the index cannot be used;
        answers are then exact and slower. Raises LibraryNotFound, LibraryDamaged, EncoderUnavailable, and
        EncoderMismatch if the encoder's vectors cannot be compared with the library's.
        """
        self._clock = _Clock()
        self._pools: dict[tuple[Kind, ...], Pool] = {}
        self._matching = lru_cache(maxsize=8)(self._matching_rows)
        with self._clock.time("load"):
            self.library, index = _open(local_folder(data), on_warning)
            self._rows = (searching or _search_here)(self.library, index)
            self._on_warning = on_warning
            self._read = partial(read_original, image_columns=self.library.manifest.image_columns)
            name = model or self.library.manifest.encoder
            self.encoder = encoder or get_encoder(name)
        if self.encoder.spec.fingerprint != self.library.manifest.fingerprint:
            remedy = "leave out --model and XSEARCH_MODEL, or index anew into another folder with --data"
            raise self.library.manifest.mismatch(data, self.encoder.spec, remedy=remedy)

    def query(
        self,
        query: str | Query | None = None,
        *,
        image: "ImageSource | None" = None,
        k: int = 10,
        kind: str = "any",
        group: str = "moment",
        where: str | None = None,
        fusion: str = "late",
        words: bool = True,
        rerank: str | None = None,
        more_like: Sequence[str] = (),
        less_like: Sequence[str] = (),
    ) -> Hits:
        """Return the k items nearest to a text, to an image (path, bytes, PIL image or array), or to a `Query`.

        A str is text, literally; `Query.parse` reads the query language. An image beside a query is one more term of
        it. `kind` is image, text, frame or any. `group` says what frames of films come back as: each moment once, each
        film once with its best moment, or none of this: every frame. `where` is a condition on metadata, see
        `library.where.matching`. `fusion` says how several terms are combined, see `ranking.fusion.Fusion`. With
        `words` an item is also found by the words of a text that stand in its name or in what is written about it, and
        a picture by the texts that belong to it, see `retrieve`. With `rerank` "attention" the best pictures for a text
        are put in another order by its words and their regions, see `explain.reranked`; scores stay cosines.
        `more_like` and `less_like` name items by id, or by the path of their file: they turn the query towards
        themselves or away, see `ranking.feedback`, and none of them comes back. Without a query, what is liked is it:
        its mean, or with the fusion "max" any of it, `MAX_TERMS` items of more.

        Fewer than k hits come back only where fewer items match. Raises QueryError, and Undecodable for a picture that
        cannot be read.
        """
        terms = Query(text=query) if isinstance(query, str) else query
        if image is not None:
            terms = Query(terms.terms if terms is not None else (), image=image)
        if terms is None and not more_like:
            raise QueryError("a query is a text or an image", remedy='`xsearch query "a cat"` or `--image cat.jpg`')
        if rerank is None:
            return self._found([terms], k, kind, group, where, fusion, words, self._judged(more_like, less_like))[0]
        _named(Rerank, rerank, "rerank")
        (wanted, *others) = terms.terms if terms is not None else (None,)
        if wanted is None or more_like or less_like or others or wanted.excluded or not isinstance(wanted.content, str):
            raise QueryError("only the answers to one text can be re-ranked", remedy="leave out --rerank")
        depth = max(k, RERANKED)
        (hits,) = self._found([terms], depth, kind, group, where, fusion, words)
        return self._reranked(wanted.content, hits, k)

    def query_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int = 10,
        kind: str = "any",
        group: str = "moment",
        where: str | None = None,
        fusion: str = "late",
        words: bool = True,
    ) -> list[Hits]:
        """Return the answer to each query, with one encode and, where they are of one modality, one search for all."""
        terms = [Query(text=one) if isinstance(one, str) else one for one in queries]
        return self._found(terms, k, kind, group, where, fusion, words)

    def _found(
        self,
        queries: Sequence[Query | None],
        k: int,
        kind: str,
        group: str,
        where: str | None,
        fusion: str,
        words: bool,
        judged: "_Judged | None" = None,
    ) -> list[Hits]:
        if k < 1:
            raise QueryError(f"k must be at least 1, not {k}")
        kinds = tuple(Kind) if kind == "any" else (_named(Kind, kind, "kind", ("any",)),)
        grouping, fused = _named(Group, group, "group"), _named(Fusion, fusion, "fusion")
        judged = judged or _Judged()
        clock = _Clock()
        terms = [term.content for query in queries if query is not None for term in query.terms]
        named = [content.item_id for content in terms if isinstance(content, Stored)]
        but = (*judged.rows, *self._rows_of(named))
        with clock.time("encode"):
            asked = [self._steered(parts, judged) for parts in self._encoded(queries, fused, words)]
        with clock.time("search"):
            shown = self._shown(kinds, where, but, words and grouping is not Group.NONE)
            hits = list(self._answers(shown, asked, k, grouping))
        took_ms = self._clock.took_ms | clock.took_ms
        return [Hits(one, took_ms) for one in hits]

    def search(
        self,
        vectors: Embeddings,
        modality: Modality,
        *,
        k: int,
        kinds: Sequence[Kind] = tuple(Kind),
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        """Return rows of the library and their cosines for (q, dim) unit vectors, padded with -1 and -inf.

        `modality` says which tower made the vectors, `allowed` (rows,) which rows may be found.
        """
        mask = self.library.of_kinds(kinds)
        mask = mask if allowed is None else mask & allowed
        return self._search(vectors, modality, k, None if mask.all() else mask)

    def _search(
        self,
        vectors: Embeddings,
        modality: Modality,
        k: int,
        allowed: NDArray[np.bool_] | None,
        sure: int | None = None,
    ) -> Found:
        settings = self._settings.get(modality)
        return self._rows(vectors, k, sure=sure, settings=settings, allowed=allowed, measured=self._measured)

    def _answers(
        self, pools: Sequence[Pool], asked: Sequence[Sequence[Asked]], k: int, group: Group
    ) -> Iterator[tuple[Hit, ...]]:
        found = [retrieve(pool, asked, k, group) for pool in pools]
        for q in range(len(asked)):
            standings = [np.array([answer.standing for answer in one[q]], np.float32) for one in found]
            best = [found[pool][q][at] for pool, at in merged_order(standings, k)]
            items = self.library.items(np.array([answer.row for answer in best], np.int64))
            said = [answer.text_row for answer in best if answer.text_row is not None]
            texts = iter(self.library.items(np.array(said, np.int64)))
            yield tuple(
                Hit(
                    rank,
                    answer.score,
                    item,
                    self._read,
                    answer.stretch,
                    answer.confidence,
                    None if answer.text_row is None else next(texts).text,
                )
                for rank, (answer, item) in enumerate(zip(best, items, strict=True), 1)
            )

    def _reranked(self, text: str, hits: Hits, k: int) -> Hits:
        """Return the best k after the pictures among the hits have changed places; one that is gone keeps its own."""
        from xsearch.explain import reranked
        from xsearch.media.images import open_image

        clock = _Clock()
        shown: dict[int, NDArray[np.uint8]] = {}
        with clock.time("rerank"):
            for at, hit in enumerate(hits):
                if hit.kind is not Kind.TEXT:
                    with suppress(OSError, SourceError, Undecodable):
                        shown[at] = open_image(hit.open(), self.encoder.spec.image_px)
            cosines = np.array([hits[at].score for at in shown], np.float32)
            order = np.argsort(-reranked(self.encoder, text, shown.values(), cosines), kind="stable")
        places = list(shown)
        moved = dict(zip(places, (hits[places[at]] for at in order), strict=True))
        best = [replace(moved.get(at, hit), rank=at + 1) for at, hit in enumerate(hits)]
        return Hits(tuple(best[:k]), {**hits.took_ms, **clock.took_ms})

    def _judged(self, more_like: Sequence[str], less_like: Sequence[str]) -> "_Judged":
        return _Judged(self._rows_of(more_like), self._rows_of(less_like))

    def _rows_of(self, items: Sequence[str]) -> tuple[int, ...]:
        """Return the rows of items that are named by their ids, or by the paths of their files."""
        rows = []
        for item in items:
            row = self.library.row_of(item)
            row = self.library.row_of(item_id(Path(os.path.realpath(item)))) if row is None else row
            if row is None:
                raise QueryError(f"{item} is not in the library", remedy="name an item by its id, or by its path")
            rows.append(row)
        return tuple(rows)

    def _steered(self, parts: list[Asked], judged: "_Judged") -> list[Asked]:
        """Return the query with each of its terms turned towards what was liked, and away from what was not."""
        if not judged.rows:
            return parts
        from xsearch.ranking.feedback import moved

        liked, disliked = (self._vectors_of(rows) for rows in (judged.liked, judged.disliked))
        if len(parts[0].wanted):
            return [
                replace(part, wanted=np.stack([moved(term, liked, disliked) for term in part.wanted])) for part in parts
            ]
        (asked,) = parts
        if len(liked):
            is_text = self.library.of_kinds([Kind.TEXT])[list(judged.liked)].any()
            asked = replace(asked, weights=(1.0,), modality=Modality.TEXT if is_text else Modality.IMAGE)
            if asked.fusion is not Fusion.MAX:
                return [replace(asked, wanted=moved(None, liked, disliked)[None])]
            some = liked[bank_rows(len(liked), MAX_TERMS)]
            return [replace(asked, wanted=moved(one, liked[:0], disliked)[None]) for one in some]
        weights = (*asked.excluded_weights, *(1.0 for _ in disliked))
        return [replace(asked, excluded=np.concatenate([asked.excluded, disliked]), excluded_weights=weights)]

    def _vectors_of(self, rows: Sequence[int]) -> Embeddings:
        return self.library.vectors.take(np.array(rows, np.int64))

    def _encoded(self, queries: Sequence[Query | None], fusion: Fusion, words: bool) -> list[list[Asked]]:
        """Encode the terms of all queries, texts in one call and pictures in another; return the parts of each."""
        terms = [term for query in queries if query is not None for term in query.terms]
        texts = [term.content for term in terms if isinstance(term.content, str)]
        pictures = [self._pixels(term.content) for term in terms if isinstance(term.content, Picture)]
        none = np.empty((0, self.encoder.spec.dim), np.float32)
        stored = [term.content.item_id for term in terms if isinstance(term.content, Stored)]
        stored_rows = self._rows_of(stored)
        is_text = self.library.of_kinds([Kind.TEXT])
        of_library = iter(zip(self._vectors_of(stored_rows), is_text[list(stored_rows)], strict=True))
        of_texts = iter(self.encoder.encode_texts(texts) if texts else none)
        of_pictures = iter(self.encoder.encode_images(pictures) if pictures else none)
        asked = []
        for query in queries:
            kept: list[_Encoded] = []
            left_out: list[_Encoded] = []
            for term in query.terms if query is not None else ():
                if isinstance(term.content, Stored):
                    vector, said = next(of_library)
                else:
                    said = isinstance(term.content, str)
                    vector = next(of_texts if said else of_pictures)
                (left_out if term.excluded else kept).append(_Encoded(term, vector, bool(said)))
            parts = [[one] for one in kept] if kept and fusion is Fusion.MAX else [kept]
            asked.append([self._asked(part, left_out, fusion, words) for part in parts])
        return asked

    def _asked(self, kept: Sequence["_Encoded"], left_out: Sequence["_Encoded"], fusion: Fusion, words: bool) -> Asked:
        none = np.empty((0, self.encoder.spec.dim), np.float32)
        return Asked(
            wanted=np.array([one.vector for one in kept] or none),
            excluded=np.array([one.vector for one in left_out] or none),
            weights=tuple(one.term.weight for one in kept),
            excluded_weights=tuple(one.term.weight for one in left_out),
            modality=Modality.TEXT if any(one.is_text for one in kept or left_out) else Modality.IMAGE,
            fusion=fusion,
            words=" ".join(_texts(kept)) if words else "",
            excluded_words=tuple(_texts(left_out)) if words else (),
        )

    def _pixels(self, picture: Picture) -> NDArray[np.uint8]:
        from xsearch.media.images import open_image

        source = picture.source
        if picture.is_url:
            from xsearch.sources.web import fetch

            source = fetch(source)
        elif isinstance(source, str) and not Path(source).expanduser().is_file():
            # A device or a pipe may have no end.
            raise QueryError(f"{source} is not a file", remedy="name a picture")
        elif isinstance(source, str):
            source = Path(source).expanduser()
        return open_image(source, self.encoder.spec.image_px)

    def _shown(self, kinds: Sequence[Kind], where: str | None, but: Sequence[int], together: bool) -> list[Pool]:
        """Return the items of each tower that may be found.

        `together`: texts that belong to a picture among them speak for it, in place of being found themselves.
        """
        pictures, texts = (tuple(kind for kind in tower if kind in kinds) for tower in TOWERS)
        allowed = None
        if where is not None or but:
            allowed = np.ones(len(self.library), np.bool_) if where is None else self._matching(where).copy()
            allowed[list(but)] = False
        pools = []
        is_of_picture = np.zeros(len(self.library), np.bool_)
        if pictures:
            pool = self._pool(pictures, allowed)
            if together and len(self._pairs):
                item_of = self._pairs.item_of
                is_of_picture = (item_of >= 0) & pool.mask[item_of]
                pool.texts = Texts(self._pool((Kind.TEXT,), is_of_picture), self._pairs)
            pools.append(pool)
        if texts:
            if is_of_picture.any():
                allowed = ~is_of_picture if allowed is None else allowed & ~is_of_picture
            pools.append(self._pool(texts, allowed))
        return [pool for pool in pools if pool.size]

    def _pool(self, kinds: tuple[Kind, ...], allowed: NDArray[np.bool_] | None) -> Pool:
        by_pictures = self._of_pictures if kinds == (Kind.TEXT,) and self.library.of_kinds(TOWERS[0]).any() else None
        whole = self._pools.get(kinds) or self._pools.setdefault(
            kinds,
            Pool(self.library, kinds, self._search, self._bank, words=self._with_words, of_pictures=by_pictures),
        )
        return Pool(self.library, kinds, self._search, self._bank, allowed, whole, words=self._with_words)

    def _of_pictures(self, texts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (b, n) cosines of some pictures of the library with the texts of these (n,) rows.

        As generic queries have no answer, a picture is none to its own captions.
        """
        pictures = np.flatnonzero(self.library.of_kinds(TOWERS[0]))
        pictures = pictures[bank_rows(len(pictures))]
        scores = self.library.vectors.take(pictures) @ self.library.vectors.take(texts).T
        scores[self._pairs.item_of[texts] == pictures[:, None]] = scores.mean()
        return scores

    def _with_words(self, words: str, k: int, allowed: NDArray[np.bool_]) -> WordHits:
        index = self._words
        return NO_WORDS if index is None else index.search(words, k, allowed=allowed)

    @cached_property
    def _words(self) -> WordIndex | None:
        try:
            return open_words(self.library)
        except LibraryDamaged as error:
            if Manifest.load(self.library.folder).commit == self.library.manifest.commit:
                self._on_warning(f"{error.message}: nothing is found by its words; {error.remedy}")
            return None

    @cached_property
    def _pairs(self) -> Pairs:
        return Pairs(self.library)

    def _matching_rows(self, where: str) -> NDArray[np.bool_]:
        from xsearch.library.where import matching  # DuckDB, which most queries do without

        return matching(self.library, where)

    def _bank(self) -> Embeddings:
        return read_bank(self.library.folder, self.encoder)

    @property
    def _settings(self) -> dict[Modality, SearchSettings]:
        entry = self.library.manifest.index
        by_modality = entry.details["settings"] if entry is not None else {}
        return {Modality(name): SearchSettings(s["nprobe"], s["depth"]) for name, s in by_modality.items()}

    @cached_property
    def _measured(self) -> NDArray[np.bool_] | None:
        return measured_among(self.library)


def search_resident(device: str) -> Searching:
    """Return the exact search of commits whose vectors are copied to the memory of a GPU.

    It raises XSearchError where they do not fit. torch is loaded.
    """
    from xsearch.index.resident import Resident

    return lambda library, index: Resident(library.vectors, device)


def _search_here(library: Library, index: "IvfPq | None") -> RowSearch:
    return partial(search, library.vectors, index)


def _open(data: Path, on_warning: Callable[[str], None]) -> "tuple[Library, IvfPq | None]":
    """Open the last commit of a library and its index, without it if that is damaged."""
    while True:
        library = Library.open(data)
        try:
            return library, open_index(library)
        except LibraryDamaged as error:
            if Manifest.load(data).commit != library.manifest.commit:
                continue  # a writer has put another index in its place meanwhile
            on_warning(f"{error.message}: searching without it, which is slower; {repair_command(data)} makes it anew")
            return library, None


@dataclass(frozen=True, slots=True)
class _Judged:
    """Rows that a person said to want more of, and less of."""

    liked: tuple[int, ...] = ()
    disliked: tuple[int, ...] = ()

    @property
    def rows(self) -> tuple[int, ...]:
        return self.liked + self.disliked


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """A term and its vector; `is_text` where the text tower made it."""

    term: Term
    vector: NDArray[np.float32]
    is_text: bool


class _Clock:
    """Adds up milliseconds by name."""

    def __init__(self) -> None:
        self.took_ms: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self.took_ms[name] = round((time.perf_counter() - start_s) * 1000, 2)


def _texts(encoded: Sequence[_Encoded]) -> list[str]:
    return [one.term.content for one in encoded if isinstance(one.term.content, str)]


def _named(choices: type[_Choice], name: str, noun: str, others: Sequence[str] = ()) -> _Choice:
    try:
        return choices(name)
    except ValueError as error:
        raise QueryError(
            f"there is no {noun} {name!r}", remedy=f"{noun}s are {', '.join((*choices, *others))}"
        ) from error
