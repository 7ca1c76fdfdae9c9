"""Use case: what kinds of pictures a library holds, found without asking for any."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from xsearch.bank import read_bank
from xsearch.encoders import Encoder
from xsearch.errors import QueryError
from xsearch.index.exact import search_exact
from xsearch.labels import Labels, clean_labels, label_vectors
from xsearch.library import Library
from xsearch.originals import read_original
from xsearch.probes import ACTIONS, BEINGS, OBJECTS, PLACES
from xsearch.ranking.clusters import cluster_count, spherical_kmeans
from xsearch.types import Embeddings, Hit, Kind
from xsearch.vectors import l2_normalize

SAMPLE_ROWS = 20_000
"""Centres are found among so many pictures, drawn at random; all are put to the nearest."""

COUNT_ROWS = 1_000
"""How many clusters there are is found among so many of them."""

FITTING_ROWS = 1_000
"""How well a title fits is found on so many pictures of all kinds, and as many of the cluster."""

TITLES_TRIED = 20
"""So many of a library's texts are tried as titles of each cluster."""

FITS = 0.5
"""A title fits if at least this share of the cluster's pictures probably shows what it says."""

VOCABULARY = tuple(phrase for phrase in re.split(r"[|\n]", BEINGS + OBJECTS + ACTIONS + PLACES) if phrase)

_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pictures and frames that are alike: how many, and the most central of them, with their cosines to the centre.

    `title` is the text that tells them best from the others; `share` is how many of them, from 0 to 1, are expected to
    show what it says.
    """

    size: int
    title: str
    share: float
    hits: tuple[Hit, ...]

    @property
    def fits(self) -> bool:
        """Whether the title holds for enough of them to name them; else it is only the nearest there is."""
        return self.share >= FITS


@dataclass(frozen=True, slots=True, eq=False)
class _Grouped:
    """The pictures of a library by their `rows` (n,), the cluster of each, and its cosine with the centre of that."""

    library: Library
    rows: NDArray[np.int64]
    group: NDArray[np.intp]
    cosines: NDArray[np.float32]


def clusters(
    library: Library,
    encoder: Encoder,
    *,
    k: int | None = None,
    shown: int = 3,
    titles: Sequence[str] = (),
    seed: int = 0,
) -> list[Cluster]:
    """Return the pictures and frames of a library in up to k clusters, the greatest first, each with `shown` items.

    Spherical k-means on a sample (`ranking.clusters.spherical_kmeans`); without k the silhouette chooses
    (`ranking.clusters.cluster_count`). Titles are chosen from `titles`, else from the texts of the library, else from a
    vocabulary of everyday things, acts and places. That of a cluster is, of those that fit, or of all if none does, the
    one with the greatest expected F1 as a test of what belongs to it, by the probabilities of `labels.Labels`;
    `encoder` is the library's. Of the same library, the same seed makes the same clusters.

    Raises QueryError if k or `shown` is below 1, LibraryDamaged.
    """
    if (k is not None and k < 1) or shown < 1:
        raise QueryError("there is at least 1 cluster, and 1 item to show of each")
    rows = np.flatnonzero(library.of_kinds([Kind.IMAGE, Kind.FRAME]))
    if not len(rows):
        return []
    sample = l2_normalize(library.vectors.take(np.random.default_rng(seed).permutation(rows)[:SAMPLE_ROWS]))
    centres = spherical_kmeans(sample, k or cluster_count(sample[:COUNT_ROWS], seed=seed), seed=seed)
    grouped = _grouped(library, rows, centres)
    offered = _offered(library, encoder, l2_normalize(centres - sample.mean(axis=0)), titles)
    return [
        _cluster(grouped, number, shown, offered[number])
        for number in np.argsort(-np.bincount(grouped.group, minlength=len(centres)), kind="stable").tolist()
        if (grouped.group == number).any()
    ]


def _grouped(library: Library, rows: NDArray[np.int64], centres: Embeddings) -> _Grouped:
    group, cosines = np.empty(len(rows), np.intp), np.empty(len(rows), np.float32)
    for low in range(0, len(rows), _BLOCK_ROWS):
        here = slice(low, low + _BLOCK_ROWS)
        scores = library.vectors.take(rows[here]) @ centres.T
        group[here], cosines[here] = scores.argmax(axis=1), scores.max(axis=1)
    return _Grouped(library, rows, group, cosines)


def _offered(library: Library, encoder: Encoder, directions: Embeddings, titles: Sequence[str]) -> list[Labels]:
    """Return the titles to choose from, for each of (k, dim) directions, from the middle of all pictures to a centre.

    What is near to every picture tells none of them from the others: it does not lie far in any of these directions.
    """
    generic, scale = read_bank(library.folder, encoder), encoder.spec.logit_scale
    labels = partial(Labels, generic=generic, logit_scale=scale, threshold=FITS)
    if titles:
        names = clean_labels(titles)
        return [labels(names, label_vectors(encoder.encode_texts, names))] * len(directions)
    are_texts = library.of_kinds([Kind.TEXT])
    if not are_texts.any():
        return [labels(VOCABULARY, encoder.encode_texts(VOCABULARY))] * len(directions)
    found = search_exact(library.vectors, directions, TITLES_TRIED, allowed=are_texts).rows
    near = [rows[rows >= 0] for rows in found]
    return [labels(tuple(item.text or "" for item in library.items(rows)), library.vectors.take(rows)) for rows in near]


def _cluster(grouped: _Grouped, number: int, shown: int, offered: Labels) -> Cluster:
    members = np.flatnonzero(grouped.group == number)
    central = members[np.argsort(-grouped.cosines[members], kind="stable")[:shown]]
    items = zip(grouped.library.items(grouped.rows[central]), grouped.cosines[central].tolist(), strict=True)
    read = partial(read_original, image_columns=grouped.library.manifest.image_columns)
    # A float16 row may be a little longer than 1, and no cosine is.
    hits = tuple(Hit(rank, min(1.0, score), item, read) for rank, (item, score) in enumerate(items, 1))
    inside = _expected_share(grouped, members, offered)
    outside = _expected_share(grouped, np.flatnonzero(grouped.group != number), offered)
    right, wrong = inside * len(members), outside * (len(grouped.rows) - len(members))
    f1 = 2 * right / (len(members) + right + wrong)
    best = int(np.lexsort((f1, inside >= FITS))[-1])
    return Cluster(len(members), offered.names[best], float(inside[best]), hits)


def _expected_share(grouped: _Grouped, members: NDArray[np.intp], offered: Labels) -> NDArray[np.float64]:
    """Return (titles,) how many of these pictures, from 0 to 1, probably show what each title says."""
    if not len(members):
        return np.zeros(len(offered.names))
    even = members[np.linspace(0, len(members) - 1, min(FITTING_ROWS, len(members))).astype(np.intp)]
    vectors = grouped.library.vectors.take(grouped.rows[even])
    shares: NDArray[np.float64] = offered.probabilities(vectors, alone=True).mean(axis=0, dtype=np.float64)
    return shares
