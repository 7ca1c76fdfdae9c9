"""Use case: how well an encoder finds a person's own pictures by their texts, and texts by their pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.errors import SourceError
from xsearch.indexer import index
from xsearch.learning.captioning import CANDIDATES, consensus
from xsearch.learning.metrics import Measured, bootstrap, corpus_bleu, measure, rankings
from xsearch.learning.pairs import PairSet
from xsearch.library import Library
from xsearch.originals import read_original
from xsearch.searcher import Searcher
from xsearch.types import Embeddings, Hit, Kind, Modality
from xsearch.vectors import l2_normalize

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "{}")
"""For the names of classes; the mean of the vectors is the class (Radford et al. 2021, 3.1.4)."""


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """Queries of one modality that look for items of the other."""

    measured: Measured
    through_index: Measured | None
    best: NDArray[np.int64]
    """(q, depth) positions of what was found, best first."""

    def record(self) -> dict[str, Any]:
        """Return means, their intervals, and what the index of the library makes of them."""
        record: dict[str, Any] = dict(self.measured.means()) | {"confidence": self.measured.intervals()}
        if self.through_index is not None:
            record["through_index"] = self.through_index.means()
        return record


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What an encoder makes of pairs."""

    pairs: PairSet
    text_to_image: Direction
    image_to_text: Direction
    bleu: float

    def record(self) -> dict[str, Any]:
        return {
            "model": self.pairs.library.manifest.encoder,
            "pictures": len(self.pairs.images),
            "texts": len(self.pairs.texts),
            "skipped": self.pairs.skipped,
            "text_to_image": self.text_to_image.record(),
            "image_to_text": self.image_to_text.record(),
            "captions": {"bleu": self.bleu},
        }


def evaluate(pairs: PairSet, encoder: Encoder) -> Evaluation:
    """Measure both directions exactly, and through the index where the library has one; and captions chosen.

    Each picture is captioned with a text of another (`captioning.ChosenCaptions`) and compared with its own by BLEU.
    """
    pictures = np.arange(len(pairs.images))
    texts_of = [np.flatnonzero(pairs.owner == picture) for picture in pictures]
    searcher = Searcher(pairs.library.folder, encoder=encoder)
    to_image = _direction(
        pairs.text_vectors,
        pairs.image_vectors,
        [np.array([owner]) for owner in pairs.owner],
        pairs.owner,
        searcher if pairs.library.manifest.index is not None else None,
        pairs.images,
        Modality.TEXT,
    )
    to_text = _direction(
        pairs.image_vectors,
        pairs.text_vectors,
        texts_of,
        pictures,
        searcher if pairs.library.manifest.index is not None else None,
        pairs.texts,
        Modality.IMAGE,
    )
    sentences = pairs.sentences
    said = [sentences[text] for text in _captions(pairs)]
    bleu = corpus_bleu(said, [[sentences[text] for text in own] for own in texts_of])
    return Evaluation(pairs, to_image, to_text, bleu)


@dataclass(frozen=True, slots=True)
class Miss:
    """A text whose picture, `right`, did not come first: at which rank it came, and the hits before it."""

    text: str
    rank: int
    right: Hit
    hits: tuple[Hit, ...]


def misses(evaluation: Evaluation, n: int, shown: int = 3) -> list[Miss]:
    """Return the n texts whose pictures came last, worst first, each with the first hits it found instead."""
    pairs, found = evaluation.pairs, evaluation.text_to_image
    ranks = found.measured.ranks
    worst = [at for at in np.argsort(-ranks, kind="stable")[:n].tolist() if ranks[at] > 1]
    pictures, sentences = pairs.pictures(), pairs.sentences
    read = partial(read_original, image_columns=pairs.library.manifest.image_columns)

    def hit(rank: int, text: int, picture: int) -> Hit:
        score = float(pairs.text_vectors[text] @ pairs.image_vectors[picture])
        return Hit(rank, score, pictures[picture], read)

    told = []
    for text in worst:
        before = found.best[text, : min(shown, int(ranks[text]) - 1)].tolist()
        hits = tuple(hit(rank, text, picture) for rank, picture in enumerate(before, 1))
        right = hit(int(ranks[text]), text, int(pairs.owner[text]))
        told.append(Miss(sentences[text], int(ranks[text]), right, hits))
    return told


def difference(new: Evaluation, old: Evaluation) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return for each direction and measure how much better `new` is, with the 95 % interval of that.

    Paired: by the queries that both have.
    """
    told = {}
    for name in ("text_to_image", "image_to_text"):
        ours, theirs = _ids(new, name), _ids(old, name)
        common = sorted(ours.keys() & theirs.keys())
        a, b = np.array([ours[one] for one in common]), np.array([theirs[one] for one in common])
        mine, other = getattr(new, name).measured, getattr(old, name).measured
        told[name] = {
            measure: (float(gain.mean()), *bootstrap(gain, mine.groups[a]))
            for measure in mine.values
            for gain in [mine.values[measure][a] - other.values[measure][b]]
        }
    return told


def _ids(evaluation: Evaluation, direction: str) -> dict[str, int]:
    rows = evaluation.pairs.texts if direction == "text_to_image" else evaluation.pairs.images
    return {item.id: at for at, item in enumerate(evaluation.pairs.library.items(rows))}


def _direction(
    queries: Embeddings,
    documents: Embeddings,
    relevant: Sequence[NDArray[np.int64]],
    groups: NDArray[np.int64],
    searcher: Searcher | None,
    rows: NDArray[np.int64],
    modality: Modality,
) -> Direction:
    best, scores, ranks = rankings(queries, documents, relevant)
    exact = measure(best, scores, ranks, relevant, groups)
    if searcher is None:
        return Direction(exact, None, best)
    position = np.full(len(searcher.library), -1, np.int64)
    position[rows] = np.arange(len(rows))
    found = searcher.search(queries, modality, k=best.shape[1], allowed=position >= 0)
    through = np.where(found.rows >= 0, position[found.rows], -1)
    return Direction(exact, measure(through, found.scores, ranks, relevant, groups), best)


def _captions(pairs: PairSet) -> list[int]:
    """Return for each picture the text of another one that is chosen for it."""
    chosen = []
    for picture, vector in enumerate(pairs.image_vectors):
        scores = pairs.text_vectors @ vector
        scores[pairs.owner == picture] = -np.inf
        near = np.argsort(-scores)[: min(CANDIDATES, int(np.isfinite(scores).sum()))]
        chosen.append(int(near[consensus(scores[near], pairs.text_vectors[near])]))
    return chosen


@dataclass(frozen=True, slots=True)
class Classified:
    """How often a picture's class is the first, or among the first five, of all; `by_class` (top-1, pictures)."""

    model: str
    pictures: int
    top1: float
    top5: float
    confidence: tuple[float, float]
    by_class: Mapping[str, tuple[float, int]]
    skipped: Mapping[str, int]

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"top-1": self.top1, "top-5": self.top5}


def classify(
    sources: Sequence[str | Path],
    data: Path,
    encoder: Encoder,
    *,
    templates: Sequence[str] = TEMPLATES,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Classified:
    """Name each picture of a tree with a folder for each class, by the folders' names alone.

    Raises as `indexer.index`, and SourceError where there are fewer than two classes or a template has no place.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise SourceError(
                f"the template {template!r} has no place for a name", remedy='write {} once: "a photo of a {}"'
            )
    report = index(sources, data, encoder, on_stage=on_stage)
    library = Library.open(data)
    rows = np.flatnonzero(library.of_kinds([Kind.IMAGE]))
    folders = [item.file.parent.name for item in library.items(rows)]
    names, own = np.unique(folders, return_inverse=True)
    if len(names) < 2:
        raise SourceError(f"{len(names)} classes are too few", remedy="give a folder with one folder for each class")
    said = [template.format(_spoken(name)) for name in names for template in templates]
    classes = l2_normalize(encoder.encode_texts(said).reshape(len(names), len(templates), -1).mean(axis=1))
    scores = library.vectors.take(rows) @ classes.T
    right = scores[np.arange(len(rows)), own]
    ranks = 1 + np.count_nonzero(scores > right[:, None], axis=1)
    first = (ranks == 1).astype(np.float64)
    counts = np.bincount(own)
    by_class = {
        str(name): (float(share), int(n))
        for name, share, n in zip(names, np.bincount(own, first) / counts, counts, strict=True)
    }
    return Classified(
        library.manifest.encoder,
        len(rows),
        float(first.mean()),
        float((ranks <= 5).mean()),
        bootstrap(first, np.arange(len(rows))),
        by_class,
        report.skipped,
    )


def _spoken(folder: str) -> str:
    """Return the name of a class as one says it: `golden_retriever` as "golden retriever"."""
    return " ".join(folder.replace("_", " ").replace("-", " ").split())
