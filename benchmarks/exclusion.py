"""Exclusion and composition on pictures labelled by their captions: "X without Y", "X and Y".

    python benchmarks/exclusion.py --data-dir DIR [--model NAME]

DIR holds Parquet files with the columns image (encoded bytes) and captions (list of texts): `dev-*.parquet`, which the
built-in encoder has not seen, and `train-flickr8k.parquet`, a larger library that its heads were trained on. A picture
shows X if two of its captions say so, and Y if one does; where only one says X, it is not judged. Precision is the
share of "X and not Y" in the first 10, recall that in the first R, where R such pictures exist. The parameters are
chosen by precision on half of the pairs and told for the other half, with the mean difference to the default and its
standard error, pair by pair. In harmless pairs hardly any X shows Y.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from report import report

from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.media.images import decode_image
from xsearch.probes import probe_texts
from xsearch.ranking.exclusion import SLOPE, VETO, penalty, without
from xsearch.ranking.fusion import early, late, reciprocal_ranks, standings
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

LIBRARIES = {"dev": "dev-*.parquet", "flickr8k": "train-flickr8k.parquet"}
TOP = 10
AT_LEAST = 10  # pictures of each class in a pair
SEVERAL = 3
MOST_TASKS = 150  # of harmless and of several exclusions, drawn at random
PICTURE_QUERIES = 5  # drawn for each pair, where a picture is part of the query
BACKGROUND = 1_000
CHUNK = 64

# What people ask for, and the words that say so.
CONCEPTS = {
    "a dog": "dogs?|pupp(y|ies)",
    "people": "people|persons?|m[ae]n|wom[ae]n|boys?|girls?|child(ren)?|kids?|guys?|lad(y|ies)|toddlers?|bab(y|ies)|"
    "crowds?|couples?|adults?|players?|surfers?|skiers?|skateboarders?|bikers?|cyclists?|climbers?|snowboarders?|"
    "hikers?|family|friends|youths?|males?|females?|he|she|him|his|her|riders?|teens?|teenagers?|someone|infants?|"
    "father|mother|son|daughter|team|they|swimmers?|runners?|racers?|performers?",
    "a man": "m[ae]n|guys?|males?|gentlem[ae]n",
    "a woman": "wom[ae]n|lad(y|ies)|females?",
    "a child": "child(ren)?|kids?|boys?|girls?|toddlers?|bab(y|ies)|infants?",
    "a boy": "boys?",
    "a girl": "girls?",
    "a crowd": "crowds?|crowded|many people|audience|spectators",
    "grass": "grass|grassy|lawn",
    "snow": "snow|snowy|snowbank|snow-covered",
    "water": "water|lake|ocean|sea|river|pool|pond|waves?|stream|creek",
    "a beach": "beach|shore|sand|sandy|seashore|shoreline",
    "a swimming pool": "pools?",
    "a street": "streets?|road|sidewalk|city|crosswalk",
    "mountains": "mountains?|hills?|cliffs?|peak|hillside",
    "rocks": "rocks?|rocky|boulders?",
    "trees": "trees?|forest|woods|wooded",
    "a building": "buildings?|houses?|storefront|skyscrapers?",
    "a car": "cars?|trucks?|van|vehicles?|bus|buses|taxi",
    "a bicycle": "bikes?|bicycles?|bicyclists?|cyclists?|bikers?|biking|bmx",
    "a boat": "boats?|kayaks?|canoes?|ship|raft",
    "a horse": "horses?",
    "a ball": "balls?|baseball|football|basketball|soccer|tennis",
    "skateboard": "skateboard(s|er|ers|ing)?",
    "surfing": "surf(s|ing|er|ers|board|boards)?",
    "a hat": "hats?|caps?|helmets?",
    "a table": "tables?|desk",
    "food": "food|eat(s|ing)?|meal|cake|pizza|sandwich|fruit|vegetables",
    "running": "run(s|ning)?|racing|races?",
    "jumping": "jump(s|ing|ed)?|leap(s|ing)?|midair|mid-air|airborne",
    "sitting": "sit(s|ting)?|seated",
    "something red": "red",
    "something blue": "blue",
    "something yellow": "yellow",
    "something green": "green",
    "something orange": "orange",
}

VETOES = (1.0, 2.0, float("inf"))
SLOPES = (0.0, 0.25, 0.5, 1.0)
HYBRID_DEPTH = 200
DEFAULT = f"projection, slope {SLOPE}, veto {VETO}"

Scores = NDArray[np.float32]
Labels = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures as unit rows; for each concept which of them show it for sure, which perhaps; and its vector."""

    pictures: Embeddings
    shows: Labels
    mentions: Labels
    texts: Mapping[str, NDArray[np.float32]]

    @property
    def background(self) -> Embeddings:
        n = len(self.pictures)
        return self.pictures[np.random.default_rng(0).choice(n, min(n, BACKGROUND), replace=False)]


@dataclass(frozen=True, slots=True)
class Task:
    wanted: str
    excluded: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    files = {name: sorted(options.data_dir.glob(pattern)) for name, pattern in LIBRARIES.items()}
    if not all(files.values()):
        parser.error(f"{' and '.join(LIBRARIES.values())} must be in {options.data_dir}")
    encoder = get_encoder(options.model)
    libraries = {name: _labelled(paths, encoder) for name, paths in files.items()}
    generic = encoder.encode_texts(probe_texts(BACKGROUND)).mean(axis=0)

    excluding = [row for name, library in libraries.items() for row in _exclusion(name, library, encoder)]
    chosen = _best(excluding)
    counts = {f"pictures in {name}": len(library.pictures) for name, library in libraries.items()}
    report("exclusion", excluding, model=encoder.spec.name, best_on_the_first_half=chosen, default=DEFAULT, **counts)
    composing = [row for name, library in libraries.items() for row in _composition(name, library, generic)]
    report("composition", composing, model=encoder.spec.name, **counts)


def _labelled(paths: Sequence[Path], encoder: Encoder) -> Labelled:
    captions, vectors = [], []
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(CHUNK, columns=["image", "captions"]):
            rows = batch.to_pylist()
            captions += [row["captions"] for row in rows]
            pictures = [decode_image(row["image"], encoder.spec.image_px)[0] for row in rows]
            vectors.append(encoder.encode_images(pictures))
    counts = {}
    for concept, words in CONCEPTS.items():
        said = re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
        counts[concept] = np.array([sum(bool(said.search(text)) for text in texts) for texts in captions])
    return Labelled(
        np.concatenate(vectors),
        {concept: count >= 2 for concept, count in counts.items()},
        {concept: count >= 1 for concept, count in counts.items()},
        dict(zip(CONCEPTS, encoder.encode_texts(list(CONCEPTS)), strict=True)),
    )


def _exclusion(name: str, library: Labelled, encoder: Encoder) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    pairs = _drawn(_pairs(library), random)
    sets = {
        "first half": pairs[::2],
        "other half": pairs[1::2],
        "harmless": _drawn(_harmless(library), random)[:MOST_TASKS],
        f"{SEVERAL} left out": _drawn(_several(library), random)[:MOST_TASKS],
    }
    figures = {part: _measured(library, tasks, encoder) for part, tasks in sets.items()}
    means = {part: {method: rows.mean(axis=0) for method, rows in found.items()} for part, found in figures.items()}
    other = means["other half"]
    precisions = {method: rows[:, 0] for method, rows in figures["other half"].items()}
    gains = {method: of_pairs - precisions[DEFAULT] for method, of_pairs in precisions.items()}
    print(f"{name}: {', '.join(f'{len(tasks)} {part}' for part, tasks in sets.items())}")
    return [
        {"library": name, "method": method}
        | {part: means[part][method][0] for part in sets}
        | {"other - default": gains[method].mean(), "+-": gains[method].std() / len(gains[method]) ** 0.5}
        | {"Y in top": other[method][1], "X in top": other[method][2], "recall": other[method][3]}
        for method in other
    ]


def _drawn(tasks: Iterator[Task], random: np.random.Generator) -> list[Task]:
    everything = list(tasks)
    return [everything[i] for i in random.permutation(len(everything))]


def _pairs(library: Labelled) -> Iterator[Task]:
    """Yield the pairs in which both "X and Y" and "X without Y" are found often enough."""
    for x in CONCEPTS:
        for y in CONCEPTS:
            both, only = _sizes(library, x, (y,))
            if min(both, only) >= max(AT_LEAST, 0.1 * (both + only)):
                yield Task(x, (y,))


def _harmless(library: Labelled) -> Iterator[Task]:
    for x in CONCEPTS:
        for y in CONCEPTS:
            both, only = _sizes(library, x, (y,))
            if both <= 0.02 * (both + only) and only >= AT_LEAST and library.shows[y].sum() >= AT_LEAST:
                yield Task(x, (y,))


def _several(library: Labelled) -> Iterator[Task]:
    for x in CONCEPTS:
        often = [y for y in CONCEPTS if y != x and _sizes(library, x, (y,))[0] >= AT_LEAST / 2]
        for excluded in combinations(often, SEVERAL):
            if min(_sizes(library, x, excluded)) >= AT_LEAST:
                yield Task(x, excluded)


def _sizes(library: Labelled, x: str, excluded: Sequence[str]) -> tuple[int, int]:
    shown = np.any([library.mentions[y] for y in excluded], axis=0)
    return int((library.shows[x] & shown).sum()), int((library.shows[x] & ~shown).sum())


def _measured(library: Labelled, tasks: Sequence[Task], encoder: Encoder) -> dict[str, NDArray[np.float64]]:
    """Return for each method (tasks, 4) precision, share of Y and share of X in the first TOP, and recall."""
    sentences = encoder.encode_texts([f"{task.wanted} without {' or '.join(task.excluded)}" for task in tasks])
    background = library.background
    figures: dict[str, list[tuple[float, ...]]] = {}
    for task, sentence in zip(tasks, sentences, strict=True):
        judged = library.shows[task.wanted] | ~library.mentions[task.wanted]
        x = library.shows[task.wanted][judged]
        y = np.any([library.mentions[name] for name in task.excluded], axis=0)[judged]
        excluded = np.stack([library.texts[name] for name in task.excluded])
        pictures = library.pictures[judged]
        scored = _methods(library.texts[task.wanted], excluded, sentence, pictures, background)
        for method, scores in scored.items():
            figures.setdefault(method, []).append(_figures(scores, x, y))
    return {method: np.array(rows) for method, rows in figures.items()}


def _methods(
    wanted: NDArray[np.float32],
    excluded: Embeddings,
    sentence: NDArray[np.float32],
    pictures: Embeddings,
    some: Embeddings,
) -> dict[str, Scores]:
    """Return scores of (n, dim) pictures by method; `some` are random pictures, `sentence` says "X without Y"."""
    ones = [1.0] * len(excluded)

    def standing(vector: NDArray[np.float32]) -> Scores:
        return late([pictures @ vector], [some @ vector], [1.0])

    plain, projected = standing(wanted), standing(without(wanted[None], excluded, ones)[0])
    shown = standings(excluded @ pictures.T, excluded @ some.T)
    methods = {"nothing left out": plain, "said in words": standing(sentence)}
    for weight in (0.25, 0.5, 0.75, 1.0):
        signed = early(np.vstack([wanted, excluded]), [1.0, *[-weight] * len(excluded)])
        methods[f"subtraction, weight {weight}"] = standing(signed)
    for veto in VETOES[:-1]:
        methods[f"veto {veto}"] = plain - penalty(shown, ones, slope=0, veto=veto)
    for slope in SLOPES:
        for veto in VETOES:
            cost = penalty(shown, ones, slope=slope, veto=veto)
            methods[f"projection, slope {slope}, veto {veto}"] = projected - cost
    return methods


def _figures(scores: Scores, x: NDArray[np.bool_], y: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return precision, share of Y and share of X in the first TOP, and recall of "X without Y" at its own number."""
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    right = (x & ~y)[order]
    there = int((x & ~y).sum())
    return right[:TOP].sum() / TOP, y[order][:TOP].sum() / TOP, x[order][:TOP].sum() / TOP, right[:there].sum() / there


def _best(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the method with the greatest precision on the first halves, the libraries counting alike."""
    precisions: dict[str, float] = {}
    for row in rows:
        precisions[row["method"]] = precisions.get(row["method"], 0.0) + row["first half"]
    return max(precisions, key=lambda method: precisions[method])


def _composition(name: str, library: Labelled, generic: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Precision of "X and Y" in the first TOP for the text X with the text Y, and with a picture that shows Y only."""
    random = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {}
    for x, y in combinations(CONCEPTS, 2):
        wanted = library.shows[x] & library.shows[y]
        only_y = np.flatnonzero(library.shows[y] & ~library.mentions[x])
        if wanted.sum() < AT_LEAST or len(only_y) < PICTURE_QUERIES:
            continue
        asked = {"text + text": [(library.texts[y], generic)]}
        examples = library.pictures[random.choice(only_y, PICTURE_QUERIES, replace=False)]
        asked["text + picture"] = [(example, library.pictures.mean(axis=0)) for example in examples]
        for kind, seconds in asked.items():
            for second, mean in seconds:
                vectors = np.stack([library.texts[x], second])
                centred = l2_normalize(vectors - np.stack([generic, mean]))
                for method, scores in _fused(vectors, centred, library).items():
                    top = np.argsort(-scores, kind="stable")[:TOP]
                    found.setdefault(method, {}).setdefault(kind, []).append(wanted[top].mean())
    return [
        {"library": name, "method": method} | {kind: float(np.mean(values)) for kind, values in by_kind.items()}
        for method, by_kind in found.items()
    ]


def _fused(vectors: Embeddings, centred: Embeddings, library: Labelled) -> dict[str, Scores]:
    scores = {name: two @ library.pictures.T for name, two in (("", vectors), (", centred", centred))}
    equal = [1.0, 1.0]
    methods: dict[str, Scores] = {"the first term alone": scores[""][0]}
    for name, two in (("", vectors), (", centred", centred)):
        methods[f"early{name}"] = early(two, equal) @ library.pictures.T
        methods[f"late{name}"] = late(scores[name], two @ library.background.T, equal)
    methods["rrf"] = reciprocal_ranks(scores[""], equal).astype(np.float32)
    candidates = np.argsort(-methods["early"])[:HYBRID_DEPTH]
    methods[f"hybrid, depth {HYBRID_DEPTH}"] = np.full_like(methods["late"], -np.inf)
    methods[f"hybrid, depth {HYBRID_DEPTH}"][candidates] = methods["late"][candidates]
    return methods


if __name__ == "__main__":
    main()
