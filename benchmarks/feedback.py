"""Relevance feedback on pictures labelled by their captions: what marking a few of the first ten hits brings.

    python benchmarks/feedback.py --data-dir DIR [--model NAME]

DIR holds the Parquet files of `exclusion.py`, whose concepts are asked for as texts. Of the first ten hits, some that
are right are liked, and some that are wrong disliked, drawn five times; then all ten are left out, as a person has seen
them, and precision is that of the ten that come next (residual collection: Chang et al. 1971). A picture is right if
two captions name the concept, wrong if none does; where one does, it is not judged. `near disliked` is the share of the
20 pictures most like the disliked ones that come among the next 50: less is better.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from exclusion import CHUNK, CONCEPTS, LIBRARIES
from numpy.typing import NDArray
from report import report

from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.media.images import decode_image
from xsearch.ranking.feedback import LESS, MAX_TURN_DEG, MORE, moved
from xsearch.types import Embeddings

TOP, NEXT, NEAR = 10, 50, 20
AT_LEAST = 2 * TOP  # pictures that show a concept
DRAWS = 5
MARKED = ((1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 2))
DEFAULT = f"moved, more {MORE}, less {LESS}, at most {MAX_TURN_DEG:g} degrees"

Method: TypeAlias = Callable[[NDArray[np.float32], Embeddings, Embeddings], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Judged:
    """Pictures as unit rows; how many of its captions name each concept; and the concepts' vectors."""

    pictures: Embeddings
    counts: dict[str, NDArray[np.int64]]
    texts: dict[str, NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    files = {name: sorted(options.data_dir.glob(pattern)) for name, pattern in LIBRARIES.items()}
    if not all(files.values()):
        parser.error(f"{' and '.join(LIBRARIES.values())} must be in {options.data_dir}")
    encoder = get_encoder(options.model)
    libraries = {name: judge(paths, encoder) for name, paths in files.items()}
    rows = [row for name, library in libraries.items() for marked in MARKED for row in _rows(name, library, *marked)]
    counts = {f"pictures in {name}": len(library.pictures) for name, library in libraries.items()}
    report("feedback", rows, model=encoder.spec.name, default=DEFAULT, **counts)


def judge(paths: Sequence[Path], encoder: Encoder) -> Judged:
    """Encode the pictures of Parquet files, and count in how many of its captions each is said to show a concept."""
    captions: list[list[str]] = []
    vectors = []
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(CHUNK, columns=["image", "captions"]):
            rows = batch.to_pylist()
            captions += [row["captions"] for row in rows]
            vectors.append(
                encoder.encode_images([decode_image(row["image"], encoder.spec.image_px)[0] for row in rows])
            )
    said = {concept: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for concept, words in CONCEPTS.items()}
    counts = {
        concept: np.array([sum(bool(words.search(text)) for text in texts) for texts in captions])
        for concept, words in said.items()
    }
    texts = dict(zip(CONCEPTS, encoder.encode_texts(list(CONCEPTS)), strict=True))
    return Judged(np.concatenate(vectors), counts, texts)


def _methods() -> dict[str, Method]:
    methods: dict[str, Method] = {
        "the query alone": lambda query, liked, disliked: query,
        "the liked alone": lambda query, liked, disliked: moved(None if len(liked) else query, liked, disliked),
        "classic, .75 and .15": _classic,
        DEFAULT: moved,
    }
    for more in (0.35, 1.4):
        methods[f"more {more}"] = partial(moved, more=more)
    for less in (0.0, 0.6):
        methods[f"less {less}"] = partial(moved, less=less)
    methods["no guard"] = partial(moved, max_turn_deg=180.0)
    return methods


def _classic(query: NDArray[np.float32], liked: Embeddings, disliked: Embeddings) -> NDArray[np.float32]:
    """Return Rocchio's query with the weights that Manning et al. (2008) call reasonable."""
    parts = [weight * examples.mean(axis=0) for weight, examples in ((0.75, liked), (-0.15, disliked)) if len(examples)]
    return np.asarray(query + np.sum(parts, axis=0), np.float32)


def _rows(name: str, library: Judged, n_liked: int, n_disliked: int) -> list[dict[str, Any]]:
    methods = _methods()
    precisions: dict[str, list[float]] = {method: [] for method in methods}
    nears: dict[str, list[float]] = {method: [] for method in methods}
    concepts = 0
    for number, (concept, query) in enumerate(library.texts.items()):
        right, wrong = library.counts[concept] >= 2, library.counts[concept] == 0
        seen = np.argsort(-(library.pictures @ query), kind="stable")[:TOP]
        hits, misses = seen[right[seen]], seen[wrong[seen]]
        if right.sum() < AT_LEAST or len(hits) < n_liked or len(misses) < n_disliked:
            continue
        concepts += 1
        for draw in range(DRAWS):
            random = np.random.default_rng([draw, number])
            liked = library.pictures[random.permutation(hits)[:n_liked]]
            disliked = library.pictures[random.permutation(misses)[:n_disliked]]
            for method, move in methods.items():
                scores = library.pictures @ move(query, liked, disliked)
                scores[seen] = -np.inf
                order = np.argsort(-scores, kind="stable")
                known = order[(right | wrong)[order]][:TOP]
                precisions[method].append(float(right[known].mean()))
                if n_disliked:
                    alike = library.pictures @ disliked.mean(axis=0)
                    alike[seen] = -np.inf
                    nears[method].append(float(np.isin(np.argsort(-alike)[:NEAR], order[:NEXT]).mean()))
    alone = np.array(precisions["the query alone"]).reshape(concepts, DRAWS)
    return [
        {"library": name, "liked": n_liked, "disliked": n_disliked, "concepts": concepts, "method": method}
        | {"precision@10": float(gains.mean() + alone.mean()), "gain": float(gains.mean())}
        | {"+-": float(gains.mean(axis=1).std() / concepts**0.5)}
        | {"near disliked": float(np.mean(nears[method])) if n_disliked else None}
        for method, of_method in precisions.items()
        for gains in [np.array(of_method).reshape(concepts, DRAWS) - alone]
    ]


if __name__ == "__main__":
    main()
