"""Captions for pictures: chosen from the texts of a library, or written by a model that has learned to."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.errors import EncoderUnavailable, SourceError, Undecodable
from xsearch.index_file import keep_index
from xsearch.library import Library, LibraryWriter
from xsearch.library.pairs import Pairs
from xsearch.library.tags import keep_tags
from xsearch.library.words import keep_words
from xsearch.media.images import open_image
from xsearch.moments import Group
from xsearch.originals import read_original
from xsearch.query import Query
from xsearch.ranking.confidence import GOOD_MATCH
from xsearch.searcher import Searcher
from xsearch.survey import Made, is_made, made_items, made_rows
from xsearch.types import Embeddings, Hit, Item, Kind, RGBImage, Skipped

CANDIDATES = 50
"""Texts among which the one is chosen that says what most of them say.

BLEU on 500 unseen pictures of Flickr8k, with version 0 of the built-in encoder: 15.3; of 10 texts 14.4, of 400 14.8,
the nearest one alone 11.3, a random one 1.9. With version 3: 13.9, the nearest one alone 11.9.
"""

AT_ONCE = 32
STORED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Caption:
    """What is said of a picture. `confidence`, 0 to 1, that it is right; None where a model wrote it."""

    text: str
    confidence: float | None = None


class Captioner(Protocol):
    """Says what pictures show."""

    @property
    def how(self) -> str:
        """Where the captions come from, in words."""

    @property
    def image_px(self) -> int:
        """The least side that pictures are to have, if they have it."""

    def caption(self, pictures: Sequence[RGBImage]) -> list[Caption | None]:
        """Return a caption for each picture, None where it has nothing to say."""


@runtime_checkable
class Writes(Protocol):
    """An encoder that can write captions."""

    def write_captions(
        self, images: Sequence[RGBImage], *, beams: int | None = None, nucleus: float | None = None
    ) -> list[str]: ...


class WrittenCaptions:
    """Captions by a model's decoder. Raises EncoderUnavailable for an encoder that has none."""

    def __init__(self, model: Encoder, *, beams: int | None = None, nucleus: float | None = None) -> None:
        if not isinstance(model, Writes):
            raise EncoderUnavailable(
                f"{model.spec.name} writes no captions", remedy="name a CoCa, as openclip:coca_ViT-B-32/..."
            )
        self._model, self._beams, self._nucleus = model, beams, nucleus
        self.how = f"written by {model.spec.name}"
        self.image_px = model.spec.image_px

    def caption(self, pictures: Sequence[RGBImage]) -> list[Caption | None]:
        written = self._model.write_captions(pictures, beams=self._beams, nucleus=self._nucleus)
        return [Caption(text) if text else None for text in written]


class ChosenCaptions:
    """Captions chosen among the texts of a library, those that xsearch itself came to left out.

    Of the texts nearest to a picture the one is taken that is most like all of them: what several people said of like
    pictures is likelier right than the single nearest text (Devlin et al. 2015, "Exploring Nearest Neighbor Approaches
    for Image Captioning"). Raises SourceError for a library without texts.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        library = searcher.library
        self._made = len(made_rows(library))
        if library.counts()[Kind.TEXT] == self._made:
            raise SourceError(
                f"{library.folder} holds no texts to choose captions from",
                remedy="index some, or name a model that writes captions: --model openclip:coca_ViT-B-32/...",
            )
        self.how = "chosen from the library's own texts"
        self.image_px = searcher.encoder.spec.image_px

    def caption(self, pictures: Sequence[RGBImage]) -> list[Caption | None]:
        queries = [Query(image=picture) for picture in pictures]
        k = CANDIDATES + self._made
        found = self._searcher.query_batch(queries, k=k, kind=Kind.TEXT, group=Group.NONE, words=False)
        return [self._chosen([hit for hit in hits if not is_made(hit.item)][:CANDIDATES]) for hits in found]

    def _chosen(self, hits: Sequence[Hit]) -> Caption | None:
        if not any((hit.confidence or 0) >= GOOD_MATCH for hit in hits):
            return None
        library = self._searcher.library
        rows = [row for hit in hits if (row := library.row_of(hit.item_id)) is not None]
        texts = library.vectors.take(np.array(rows))
        best = hits[consensus(np.array([hit.score for hit in hits], np.float32), texts)]
        return Caption(best.text or "", best.confidence)


def consensus(scores: NDArray[np.float32], texts: Embeddings) -> int:
    """Return which of (n, dim) texts is most like all of them, each counted by its cosine (n,) with the picture."""
    return int((texts @ (np.maximum(scores, 0) @ texts)).argmax())


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture, and what is said of it: a caption, None, or why it could not be looked at.

    `item` is the picture where it is one of a library.
    """

    path: str
    caption: Caption | Skipped | None
    item: Item | None = None


def without_captions(library: Library) -> list[Item]:
    """Return the pictures that no text belongs to, those read in them left out."""
    item_of = Pairs(library).item_of
    item_of[list(made_rows(library, [Made.OCR]))] = -1
    are_free = library.of_kinds([Kind.IMAGE]).copy()
    are_free[item_of[item_of >= 0]] = False
    return library.items(np.flatnonzero(are_free))


def caption_items(captioner: Captioner, library: Library, items: Sequence[Item]) -> Iterator[Captioned]:
    """Yield each of these pictures of a library with its caption."""
    for low in range(0, len(items), AT_ONCE):
        pictures: dict[int, RGBImage] = {}
        told: dict[int, Caption | Skipped | None] = {}
        for at, item in enumerate(items[low : low + AT_ONCE]):
            try:
                pictures[at] = open_image(read_original(item, library.manifest.image_columns), captioner.image_px)
            except (OSError, SourceError, Undecodable) as error:
                told[at] = Skipped(str(item.file), "unreadable file", str(error))
        told |= dict(zip(pictures, captioner.caption(list(pictures.values())), strict=True)) if pictures else {}
        yield from (Captioned(_path(item), told[at], item) for at, item in enumerate(items[low : low + AT_ONCE]))


def store_captions(
    data: Path, encoder: Encoder, said: Iterable[Captioned], on_stage: Callable[[str], None] = lambda stage: None
) -> int:
    """Keep captions as texts of their pictures, in place of earlier ones that xsearch made; return how many.

    They are found as any text, and move and go with the file of their picture. `encoder` is that of the library. Raises
    LibraryLocked, EncoderMismatch.
    """
    n_stored = 0
    with LibraryWriter(data, encoder.spec) as writer:
        library = Library.open(data)
        pairs = library.column("pair").to_pylist()
        earlier = {pairs[row]: row for row in made_rows(library, [Made.CAPTION])}
        for batch in _batches(said, STORED_AT_ONCE):
            items, bury = [], []
            for one in batch:
                # What was removed or changed meanwhile has no caption any more.
                if one.item is None or not isinstance(one.caption, Caption) or library.row_of(one.item.id) is None:
                    continue
                items += made_items(one.item, [one.caption.text], Made.CAPTION)
                bury += [earlier[one.item.id]] if one.item.id in earlier else []
            if items:
                writer.add(items, encoder.encode_texts([item.text or "" for item in items]), bury=bury)
                n_stored += len(items)
        writer.merge()
        keep_index(writer, encoder, on_stage=on_stage)
        keep_words(writer, on_stage=on_stage)
        keep_tags(writer)
    return n_stored


def _path(item: Item) -> str:
    return f"{item.file}#{item.part}" if item.part else str(item.file)


def _batches(said: Iterable[Captioned], size: int) -> Iterator[list[Captioned]]:
    waiting = iter(said)
    while batch := list(islice(waiting, size)):
        yield batch
