"""Use case: ask a library."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import EncoderMismatch, LibraryDamaged, QueryError
from xsearch.index.exact import Found
from xsearch.index.plan import SearchSettings
from xsearch.index.search import search
from xsearch.index_file import open_index
from xsearch.library import Library, Manifest
from xsearch.moments import Answer, Group, in_moments
from xsearch.originals import read_original
from xsearch.ranking.merge import merged_order, standardized
from xsearch.types import Embeddings, Hit, Kind, Modality

if TYPE_CHECKING:
    from PIL.Image import Image

    from xsearch.index.ivfpq import IvfPq

    ImageSource = str | Path | bytes | Image | NDArray[Any]

DEFAULT_DATA = Path("index_data")

# Kinds whose vectors come from the same tower share a scale; each group is searched and standardized by itself.
TOWERS = ((Kind.IMAGE, Kind.FRAME), (Kind.TEXT,))
BACKGROUND_ROWS = 1_000

NOT_MEANT = 0.1
"""At least so many of the pictures in a library do not answer a query: what they score is the level of moments."""

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Hits(Sequence[Hit]):
    """The answer to one query, best first. `took_ms` tells where the time went: load, encode, search."""

    hits: tuple[Hit, ...]
    took_ms: Mapping[str, float]

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
        on_warning: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open the library in `data` with the encoder that it was made with.

        `model` names it otherwise (a folder that moved), `encoder` is one already open. `on_warning` is told when the
        index cannot be used; answers are then exact and slower. Raises LibraryNotFound, LibraryDamaged,
        EncoderUnavailable, and EncoderMismatch if the encoder's vectors cannot be compared with the library's.
        """
        self._clock = _Clock()
        self._pools: dict[tuple[Kind, ...], _Pool] = {}
        with self._clock.time("load"):
            self.library, self._index = _open(Path(data), on_warning)
            name = model or self.library.manifest.encoder
            self.encoder = encoder or get_encoder(name)
        if self.encoder.spec.fingerprint != self.library.manifest.fingerprint:
            raise EncoderMismatch(
                f"{data} holds vectors of {self.library.manifest.encoder}; {name} is not the encoder that made them",
                remedy="leave out --model and XSEARCH_MODEL, or index anew into another folder with --data",
            )

    def query(
        self,
        text: str | None = None,
        *,
        image: "ImageSource | None" = None,
        k: int = 10,
        kind: str = "any",
        group: str = "moment",
    ) -> Hits:
        """Return the k items nearest to a text, or to an image (path, bytes, PIL image or array).

        `kind` is image, text, frame or any. `group` says what frames of films come back as: each moment once, each film
        once with its best moment, or none of this: every frame. Fewer than k hits come back only where the library
        holds fewer. Raises QueryError, and Undecodable for a picture that cannot be read.
        """
        if text is not None and image is None:
            return self.query_batch([text], k=k, kind=kind, group=group)[0]
        if text is not None or image is None:
            raise QueryError("a query is a text or an image", remedy='`xsearch query "a cat"` or `--image cat.jpg`')
        if isinstance(image, str | Path) and not Path(image).is_file():
            # A device or a pipe may have no end.
            raise QueryError(f"{image} is not a file", remedy="name a picture")
        from xsearch.media.images import open_image

        clock = _Clock()
        with clock.time("encode"):
            vectors = self.encoder.encode_images([open_image(image, self.encoder.spec.image_px)])
        return self._answer(vectors, Modality.IMAGE, k, kind, group, clock)[0]

    def query_batch(self, texts: Sequence[str], *, k: int = 10, kind: str = "any", group: str = "moment") -> list[Hits]:
        """Return the answer to each text, with one encode and one search for all."""
        if any(not text.strip() for text in texts):
            raise QueryError("the query is empty", remedy='say what to find: `xsearch query "a cat on grass"`')
        if not _is_utf8("".join(texts)):
            raise QueryError("the query is not UTF-8", remedy="type it again in a UTF-8 terminal")
        clock = _Clock()
        with clock.time("encode"):
            vectors = self.encoder.encode_texts(texts)
        return self._answer(vectors, Modality.TEXT, k, kind, group, clock)

    def search(self, vectors: Embeddings, modality: Modality, *, k: int, kinds: Sequence[Kind] = tuple(Kind)) -> Found:
        """Return rows of the library and their cosines for (q, dim) unit vectors, padded with -1 and -inf.

        `modality` says which tower made the vectors.
        """
        return search(
            self.library.vectors,
            self._index,
            vectors,
            k,
            settings=self._settings.get(modality),
            allowed=self._pool(tuple(kinds)).allowed,
        )

    def _answer(
        self, vectors: Embeddings, modality: Modality, k: int, kind: str, group: str, clock: "_Clock"
    ) -> list[Hits]:
        if k < 1:
            raise QueryError(f"k must be at least 1, not {k}")
        wanted = tuple(Kind) if kind == "any" else (_named(Kind, kind, "kind", ("any",)),)
        grouped = _named(Group, group, "group")
        with clock.time("search"):
            pools = [kinds for tower in TOWERS if (kinds := tuple(k for k in tower if k in wanted))]
            pools = [kinds for kinds in pools if self._pool(kinds).size]
            found = [self._of_pool(kinds, vectors, modality, k, grouped) for kinds in pools]
            answers: list[list[Answer]] = []
            for q, vector in enumerate(vectors):
                standing = [np.array([answer.score for answer in one[q]], np.float32) for one in found]
                if len(pools) > 1:
                    backgrounds = [self._pool(kinds).background @ vector for kinds in pools]
                    standing = [standardized(*pair) for pair in zip(standing, backgrounds, strict=True)]
                answers.append([found[pool][q][at] for pool, at in merged_order(standing, k)])
            items = iter(self.library.items(np.array([answer.row for best in answers for answer in best], np.int64)))
            hits = [
                [Hit(rank, best.score, next(items), read_original, best.stretch) for rank, best in enumerate(one, 1)]
                for one in answers
            ]
        took_ms = self._clock.took_ms | clock.took_ms
        return [Hits(tuple(one), took_ms) for one in hits]

    def _of_pool(
        self, kinds: tuple[Kind, ...], vectors: Embeddings, modality: Modality, k: int, group: Group
    ) -> list[list[Answer]]:
        """Return at most k answers a query, best first, from the items of these kinds; fewer where there are fewer."""
        pool, frames = self._pool(kinds), self._pool((Kind.FRAME,))
        answers: list[list[Answer]] = [[] for _ in vectors]
        waiting, depth = list(range(len(vectors))), k
        while waiting:
            found = self.search(vectors[waiting], modality, k=depth, kinds=kinds)
            for q, rows, scores in zip(waiting, found.rows.tolist(), found.scores.tolist(), strict=True):
                # A float16 row may be a little longer than 1, and no cosine is.
                best = [Answer(row, min(1.0, score)) for row, score in zip(rows, scores, strict=True) if row >= 0]
                if Kind.FRAME in kinds and group is not Group.NONE and frames.size:
                    level = float(np.quantile(pool.background @ vectors[q], NOT_MEANT))
                    best = in_moments(
                        best, vectors[q], library=self.library, is_frame=frames.mask, level=level, group=group
                    )
                answers[q] = best[:k]
            # Many frames make one moment: look deeper until there are k.
            waiting = [q for q in waiting if len(answers[q]) < min(k, pool.size) and depth < pool.size]
            depth *= 4
        return answers

    def _pool(self, kinds: tuple[Kind, ...]) -> "_Pool":
        if kinds not in self._pools:
            self._pools[kinds] = _Pool(self.library, kinds)
        return self._pools[kinds]

    @property
    def _settings(self) -> dict[Modality, SearchSettings]:
        entry = self.library.manifest.index
        by_modality = entry.details["settings"] if entry is not None else {}
        return {Modality(name): SearchSettings(s["nprobe"], s["depth"]) for name, s in by_modality.items()}


def _open(data: Path, on_warning: Callable[[str], None]) -> "tuple[Library, IvfPq | None]":
    """Open the last commit of a library and its index, without it if that is damaged."""
    while True:
        library = Library.open(data)
        try:
            return library, open_index(library)
        except LibraryDamaged as error:
            if Manifest.load(data).commit != library.manifest.commit:
                continue  # a writer has put another index in its place meanwhile
            on_warning(
                f"{error.message}: searching without it, which is slower; `xsearch verify --repair` makes it anew"
            )
            return library, None


class _Pool:
    """The living items of some kinds in a library: `mask` (rows,), or `allowed`, which is None where it is all rows."""

    def __init__(self, library: Library, kinds: Sequence[Kind]) -> None:
        self._vectors = library.vectors
        self.mask = library.of_kinds(kinds)
        self.size = int(np.count_nonzero(self.mask))
        self.allowed = None if self.size == len(self.mask) else self.mask

    @cached_property
    def background(self) -> NDArray[np.float32]:
        """(m, dim) the vectors of a random sample."""
        rows = np.flatnonzero(self.mask)
        sample = np.random.default_rng(0).choice(rows, min(len(rows), BACKGROUND_ROWS), replace=False)
        return self._vectors.take(np.sort(sample))


class _Clock:
    """Adds up milliseconds by name."""

    def __init__(self) -> None:
        self.took_ms: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self.took_ms[name] = round((time.perf_counter() - start_s) * 1000, 2)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # the shell's undecodable bytes, or half of a pair of surrogates
        return False
    return True


def _named(choices: type[_Choice], name: str, noun: str, others: Sequence[str] = ()) -> _Choice:
    try:
        return choices(name)
    except ValueError as error:
        raise QueryError(
            f"there is no {noun} {name!r}", remedy=f"{noun}s are {', '.join((*choices, *others))}"
        ) from error
