"""Zero-shot labels against captions and classes: which score, and whether probabilities are what they say.

    python benchmarks/tagging.py --data-dir DIR [--model NAME]

DIR holds the Parquet files of `exclusion.py` and `train-classes.parquet`, pictures named "a photo of a ...". There are
two kinds of labels. Of 36 everyday concepts several hold at once: one is right for a picture if two of its captions
name it, wrong if none does, and not judged where one does; captions do not name all that a picture shows. Classes
exclude one another, and 400 indoor pictures beside them show none. Half the weight of the fit is on the concepts of
`dev-*`, which the built-in encoder has not seen, half on the classes FITTED; the rest fitted nothing.

`ap` is the average precision over all pairs of a picture and a label, in one order; `error` the expected calibration
error in ten bins (Guo et al. 2017); `none` the share of the indoor pictures that get a label at .5.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from exclusion import CHUNK, CONCEPTS
from numpy.typing import NDArray
from report import report

from xsearch import labels as labels_module
from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.labels import TEMPLATES, Labels
from xsearch.media.images import decode_image
from xsearch.probes import probe_texts
from xsearch.ranking.confidence import BANK_SIZE
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

CONCEPT_SETS = {"dev": "dev-*.parquet", "flickr8k": "train-flickr8k.parquet"}
CLASSES = "train-classes.parquet"
INDOOR = "sunrgbd_indoor"
FITTED = ("sea_animals", "tf_flowers", "intel_scenes", "caltech101")
HELD_OUT = ("fruits_vegetables", "trashnet", "weather", "clothing_small")
OF_NONE = ("sea_animals", "tf_flowers", "fruits_vegetables")  # labels that no indoor picture shows
MOST_PICTURES = {"flickr8k": 2_000, INDOOR: 400}
OTHER_TEMPLATES = {
    "the label alone": ("{}",),
    "a photo of a {}.": ("a photo of a {}.",),
    "seven of CLIP for ImageNet": (
        *("itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}."),
        *("a {} in a video game.", "art of the {}.", "a photo of the small {}."),
    ),
}
BINS = 10

Values: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Pictures (n, dim), labels, which are right (n, labels), which are judged, and which pictures show none (n,)."""

    pictures: Embeddings
    names: tuple[str, ...]
    right: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    of_none: NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    files = {name: sorted(options.data_dir.glob(pattern)) for name, pattern in CONCEPT_SETS.items()}
    if not all(files.values()) or not (options.data_dir / CLASSES).exists():
        parser.error(f"{', '.join(CONCEPT_SETS.values())} and {CLASSES} must be in {options.data_dir}")
    encoder = get_encoder(options.model)
    sets = {name: _concepts(paths, encoder, MOST_PICTURES.get(name)) for name, paths in files.items()}
    sets |= _classes(options.data_dir / CLASSES, encoder)
    generic = encoder.encode_texts(probe_texts(BANK_SIZE))

    def labels(judged: Judged, templates: Sequence[str] = TEMPLATES) -> Labels:
        vectors = l2_normalize(
            np.mean([encoder.encode_texts([one.format(name) for name in judged.names]) for one in templates], axis=0)
        )
        return Labels(judged.names, vectors, generic, encoder.spec.logit_scale, 0.5)

    own = {name: labels(judged) for name, judged in sets.items()}
    standing = {name: _standing(judged.pictures, own[name]) for name, judged in sets.items()}
    odds = {name: _log_odds(own[name].probabilities(judged.pictures)) for name, judged in sets.items()}
    weights = {"dev": 1.0} | dict.fromkeys(FITTED, 1 / len(FITTED))
    of_standing, of_odds = (_fit(values, sets, weights) for values in (standing, odds))
    rows = []
    for name, judged in sets.items():
        for said, (slope, offset), values in (
            ("standing above generic texts, fitted", of_standing, standing[name]),
            ("softmax with generic texts", (1.0, 0.0), odds[name]),
            ("probability", (labels_module.SLOPE, labels_module.OFFSET), odds[name]),
        ):
            rows.append(_row(name, said, judged, 1 / (1 + np.exp(-(slope * values + offset)))))
        if name == "dev":
            for said, templates in OTHER_TEMPLATES.items():
                rows.append(_row(name, said, judged, labels(judged, templates).probabilities(judged.pictures)))
            alone = own[name].probabilities(judged.pictures, alone=True)
            rows.append(_row(name, "probability, each label alone", judged, alone))
    report("tagging", rows, model=encoder.spec.name, slope=of_odds[0], offset=of_odds[1])


def _concepts(paths: Sequence[Path], encoder: Encoder, most: int | None) -> Judged:
    pictures, captions = _read(paths, encoder, None, most)
    counts = np.array(
        [
            [sum(bool(re.search(rf"\b(?:{words})\b", text, re.IGNORECASE)) for text in texts) for texts in captions]
            for words in CONCEPTS.values()
        ]
    ).T
    names = tuple(re.sub("^(a|something) ", "", concept) for concept in CONCEPTS)
    return Judged(pictures, names, counts >= 2, counts != 1, np.zeros(len(pictures), bool))


def _classes(path: Path, encoder: Encoder) -> dict[str, Judged]:
    indoor = _read([path], encoder, INDOOR, MOST_PICTURES[INDOOR])[0]
    found = {}
    for name in (*FITTED, *HELD_OUT):
        pictures, captions = _read([path], encoder, name, None)
        of_pictures = [re.sub(r"^a photo of (an? |the )?", "", texts[0]) for texts in captions]
        names = tuple(sorted(set(of_pictures)))
        beside = indoor if name in OF_NONE else indoor[:0]
        right = np.array([[one == label for label in names] for one in of_pictures])
        right = np.concatenate([right, np.zeros((len(beside), len(names)), bool)])
        of_none = np.arange(len(right)) >= len(pictures)
        found[name] = Judged(np.concatenate([pictures, beside]), names, right, np.ones_like(right), of_none)
    return found


def _read(
    paths: Sequence[Path], encoder: Encoder, of_set: str | None, most: int | None
) -> tuple[Embeddings, list[list[str]]]:
    """Return the vectors and captions of the pictures of a set, of all where none is named."""
    tables = [pq.read_table(path, filters=None if of_set is None else [("set", "=", of_set)]) for path in paths]
    rows = [row for table in tables for row in table.select(["image", "captions"]).to_pylist()][:most]
    vectors = [
        encoder.encode_images([decode_image(row["image"], encoder.spec.image_px)[0] for row in rows[low : low + CHUNK]])
        for low in range(0, len(rows), CHUNK)
    ]
    return np.concatenate(vectors), [row["captions"] for row in rows]


def _log_odds(probabilities: Values) -> Values:
    """Return the log-odds of the softmax that became these probabilities."""
    sure = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return (np.log(sure / (1 - sure)) - labels_module.OFFSET) / labels_module.SLOPE


def _standing(pictures: Embeddings, labels: Labels) -> Values:
    """Return how many standard deviations each label lies above the generic texts, with the same picture."""
    others = pictures @ labels.generic.T
    return (pictures @ labels.vectors.T - others.mean(axis=1, keepdims=True)) / others.std(axis=1, keepdims=True)


def _fit(values: Mapping[str, Values], sets: Mapping[str, Judged], weights: Mapping[str, float]) -> tuple[float, float]:
    """Return the slope and offset of the logistic function that fits best, by Newton's method."""
    parts = []
    for name, weight in weights.items():
        judged = sets[name].judged
        x, y = values[name][judged].astype(np.float64), sets[name].right[judged]
        parts.append((np.stack([x, np.ones_like(x)], axis=1), y, weight / len(x)))
    found = np.zeros(2)
    for _ in range(50):
        gradient, curvature = np.zeros(2), np.zeros((2, 2))
        for x, y, weight in parts:
            sure = 1 / (1 + np.exp(-x @ found))
            gradient += weight * (x.T @ (y - sure))
            curvature += weight * (x.T @ (x * (sure * (1 - sure))[:, None]))
        found += np.linalg.solve(curvature, gradient)
    return float(found[0]), float(found[1])


def _row(name: str, score: str, judged: Judged, values: Values) -> dict[str, Any]:
    sure, right = values[judged.judged], judged.right[judged.judged]
    ordered = right[np.argsort(-sure, kind="stable")]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    bin_of = np.minimum((BINS * sure).astype(int), BINS - 1)
    bins = [bin_of == b for b in range(BINS)]
    given = sure >= 0.5
    return {
        "set": name,
        "labels": len(judged.names),
        "pictures": len(judged.pictures),
        "score": score,
        "ap": float(precision[ordered].mean()),
        "error": float(sum(abs(sure[b].mean() - right[b].mean()) * b.mean() for b in bins if b.any())),
        "precision at .5": float(right[given].mean()) if given.any() else None,
        "recall at .5": float(given[right].mean()),
        "none": float((values[judged.of_none] >= 0.5).any(axis=1).mean()) if judged.of_none.any() else None,
    }


if __name__ == "__main__":
    main()
