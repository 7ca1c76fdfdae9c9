"""Pictures with texts that describe them, read by indexing them: what is learned from and measured on.

So every kind of source is read, and everything that cannot be taken is told, as by `xsearch index`; and the vectors of
the library are the features that a head is trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.errors import SourceError
from xsearch.index.plan import IndexKind
from xsearch.indexer import index
from xsearch.library import Library
from xsearch.library.pairs import Pairs
from xsearch.pipeline import Progress
from xsearch.survey import Layout, made_rows
from xsearch.types import Embeddings, Item, Kind


@dataclass(frozen=True, eq=False)
class PairSet:
    """n pictures with m texts: `images` (n,) and `texts` (m,) are rows of the library, text j is of picture owner[j].

    A picture that lies in two places is one picture, with the texts of both. Every picture has a text. `skipped` counts
    by reason what the sources hold and could not be taken.
    """

    library: Library
    images: NDArray[np.int64]
    texts: NDArray[np.int64]
    owner: NDArray[np.int64]
    skipped: dict[str, int]

    @cached_property
    def image_vectors(self) -> Embeddings:
        """(n, dim) float32."""
        return self.library.vectors.take(self.images)

    @cached_property
    def text_vectors(self) -> Embeddings:
        """(m, dim) float32."""
        return self.library.vectors.take(self.texts)

    @cached_property
    def sentences(self) -> list[str]:
        """The m texts."""
        return [item.text or "" for item in self.library.items(self.texts)]

    def pictures(self) -> list[Item]:
        """Return the n pictures."""
        return self.library.items(self.images)

    def subset(self, pictures: NDArray[np.int64]) -> "PairSet":
        """Return some of the pictures, by position, with all their texts."""
        position = np.full(len(self.images), -1, np.int64)
        position[pictures] = np.arange(len(pictures))
        kept = position[self.owner] >= 0
        return replace(self, images=self.images[pictures], texts=self.texts[kept], owner=position[self.owner[kept]])

    def split(self, share: float, seed: int = 0) -> "tuple[PairSet, PairSet]":
        """Return the pairs in two parts, the second with this share of the pictures, one at least and not all.

        With a share of 0 both are all pairs: what is measured then is what was learned.
        """
        if not share:
            return self, self
        n = len(self.images)
        held_out = min(max(1, round(share * n)), n - 1)
        order = np.random.default_rng(seed).permutation(n)
        return self.subset(np.sort(order[held_out:])), self.subset(np.sort(order[:held_out]))


def take_pairs(
    sources: Sequence[str | Path],
    data: Path,
    encoder: Encoder,
    *,
    layout: Layout | None = None,
    index_kind: IndexKind | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> PairSet:
    """Index the sources into the library `data` and return the pairs in it.

    What is in the library already is not encoded again. Raises as `indexer.index`, and SourceError where fewer than two
    pictures have texts.
    """
    report = index(
        sources,
        data,
        encoder,
        layout=layout,
        index_kind=index_kind,
        on_progress=on_progress,
        on_stage=on_stage,
    )
    return pairs_of(Library.open(data), report.skipped)


def pairs_of(library: Library, skipped: dict[str, int] | None = None) -> PairSet:
    """Return the pairs in a library. Raises SourceError where fewer than two pictures have texts."""
    item_of = Pairs(library).item_of
    item_of[list(made_rows(library))] = -1  # what xsearch read or made up itself is no truth
    texts = np.flatnonzero((item_of >= 0) & library.of_kinds([Kind.IMAGE])[item_of])
    described, owner = np.unique(item_of[texts], return_inverse=True)
    hashes = np.array([item.content_hash for item in library.items(described)])
    _, first, same = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they come, not by hash
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    if len(first) < 2:
        raise SourceError(
            f"{len(first)} pictures with texts are too few",
            remedy="give captions: dog.txt beside dog.jpg, or a table with --path-column and --text-column",
        )
    return PairSet(library, described[first[order]], texts, position[same[owner]], dict(skipped or {}))
