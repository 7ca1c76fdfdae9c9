"""Use case: ask a library."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import EncoderMismatch, LibraryDamaged, QueryError
from xsearch.index.exact import Found
from xsearch.index.plan import SearchSettings
from xsearch.index.search import search
from xsearch.index_file import open_index
from xsearch.library import Library, Manifest
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
        self, text: str | None = None, *, image: "ImageSource | None" = None, k: int = 10, kind: str = "any"
    ) -> Hits:
        """Return the k items nearest to a text, or to an image (path, bytes, PIL image or array).

        `kind` is image, text, frame or any. Fewer than k hits come back only where the library holds fewer. Raises
        QueryError, and Undecodable for a picture that cannot be read.
        """
        if text is not None and image is None:
            return self.query_batch([text], k=k, kind=kind)[0]
        if text is not None or image is None:
            raise QueryError("a query is a text or an image", remedy='`xsearch query "a cat"` or `--image cat.jpg`')
        if isinstance(image, str | Path) and not Path(image).is_file():
            # A device or a pipe may have no end.
            raise QueryError(f"{image} is not a file", remedy="name a picture")
        from xsearch.media.images import open_image

        clock = _Clock()
        with clock.time("encode"):
            vectors = self.encoder.encode_images([open_image(image, self.encoder.spec.image_px)])
        return self._answer(vectors, Modality.IMAGE, k, kind, clock)[0]

    def query_batch(self, texts: Sequence[str], *, k: int = 10, kind: str = "any") -> list[Hits]:
        """Return the answer to each text, with one encode and one search for all."""
        if any(not text.strip() for text in texts):
            raise QueryError("the query is empty", remedy='say what to find: `xsearch query "a cat on grass"`')
        if not _is_utf8("".join(texts)):
            raise QueryError("the query is not UTF-8", remedy="type it again in a UTF-8 terminal")
        clock = _Clock()
        with clock.time("encode"):
            vectors = self.encoder.encode_texts(texts)
        return self._answer(vectors, Modality.TEXT, k, kind, clock)

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

    def _answer(self, vectors: Embeddings, modality: Modality, k: int, kind: str, clock: "_Clock") -> list[Hits]:
        if k < 1:
            raise QueryError(f"k must be at least 1, not {k}")
        wanted = tuple(Kind) if kind == "any" else (_kind(kind),)
        with clock.time("search"):
            pools = [kinds for tower in TOWERS if (kinds := tuple(k for k in tower if k in wanted))]
            pools = [kinds for kinds in pools if not self._pool(kinds).is_empty]
            found = [self.search(vectors, modality, k=k, kinds=kinds) for kinds in pools]
            answers: list[list[tuple[int, float]]] = []
            for q, vector in enumerate(vectors):
                standing = [one.scores[q] for one in found]
                if len(pools) > 1:
                    backgrounds = [self._pool(kinds).background @ vector for kinds in pools]
                    standing = [standardized(*pair) for pair in zip(standing, backgrounds, strict=True)]
                order = merged_order(standing, k)
                # A float16 row may be a little longer than 1, and no cosine is.
                best = [
                    (int(found[pool].rows[q, at]), min(1.0, float(found[pool].scores[q, at]))) for pool, at in order
                ]
                answers.append([(row, score) for row, score in best if row >= 0])
            items = iter(self.library.items(np.array([row for best in answers for row, _ in best], np.int64)))
            hits = [
                [Hit(rank, score, next(items), read_original) for rank, (_, score) in enumerate(best, 1)]
                for best in answers
            ]
        took_ms = self._clock.took_ms | clock.took_ms
        return [Hits(tuple(one), took_ms) for one in hits]

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
    """The living items of some kinds in a library."""

    def __init__(self, library: Library, kinds: Sequence[Kind]) -> None:
        self._vectors = library.vectors
        self._mask = library.of_kinds(kinds)
        self.is_empty = not self._mask.any()
        self.allowed = None if self._mask.all() else self._mask

    @cached_property
    def background(self) -> NDArray[np.float32]:
        """(m, dim) the vectors of a random sample."""
        rows = np.flatnonzero(self._mask)
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


def _kind(name: str) -> Kind:
    try:
        return Kind(name)
    except ValueError as error:
        raise QueryError(f"there is no kind {name!r}", remedy=f"kinds are {', '.join(Kind)}, any") from error
