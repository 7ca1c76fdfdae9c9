"""Labels: how probably a picture shows what a name says, without an example of it (zero-shot)."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import QueryError
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

TEMPLATES = (
    "{}",
    "a photo of {}",
    "a photo of a {}",
    "a picture of the {}",
    "a close-up photo of {}",
    "a photo with {} in the background",
    "there is {} in the picture",
)
"""A label is the mean of these. The average precision of 36 everyday labels on 650 pictures, with the built-in encoder,
is .478; with "{}" alone .450, with seven that CLIP's authors chose for ImageNet .483 (`benchmarks/tagging.py`)."""

SLOPE, OFFSET = 0.55, 0.71
"""Fitted with version 0 of the built-in encoder, half on everyday labels of which several hold at once, half on classes
that exclude one another. Of the labels that version 3 gives at .5, .83 to .92 are right on everyday photographs, and
seven in ten or more among classes; the mean error of the probabilities is .04 to .05 there and .01 to .14 here
(`benchmarks/tagging.py`). How far a label stands above generic texts, whatever the other labels, tells as well among
everyday ones, but gives one sea animal the names of all: average precision .80 instead of .99.
"""

_TINY = 1e-30


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Names with their `vectors` (n, dim), and `generic` texts (g, dim) that stand for none of them; all unit rows.

    `logit_scale` is the encoder's. A picture gets the labels of a probability of at least `threshold`.
    """

    names: tuple[str, ...]
    vectors: Embeddings
    generic: Embeddings
    logit_scale: float
    threshold: float

    def probabilities(self, pictures: Embeddings, *, alone: bool = False) -> NDArray[np.float32]:
        """Return (m, n) how probably each of n labels is right for each of m pictures, unit rows.

        The softmax over labels and generic texts, with the temperature of the encoder, says how probably a label would
        be right if only one of them were (Radford et al. 2021, CLIP). Several may be, or none: so its log-odds x become
        1 / (1 + exp(-(SLOPE x + OFFSET))) (Platt 1999). `alone` leaves out the other labels: each as if it were the
        only one.
        """
        logits = self.logit_scale * (pictures @ np.concatenate([self.vectors, self.generic]).T).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        own, none = np.split(powers, [len(self.names)], axis=1)
        others = none.sum(axis=1, keepdims=True) + (0 if alone else own.sum(axis=1, keepdims=True) - own)
        log_odds = np.log(np.maximum(own, _TINY)) - np.log(np.maximum(others, _TINY))
        sure: NDArray[np.float64] = (1 + np.tanh((SLOPE * log_odds + OFFSET) / 2)) / 2
        return sure.astype(np.float32)

    @property
    def digest(self) -> str:
        """What tells these from others: two that agree give the same labels to the same pictures."""
        said = json.dumps([self.names, self.logit_scale, self.threshold, SLOPE, OFFSET]).encode()
        return blake2b(said + self.vectors.tobytes() + self.generic.tobytes(), digest_size=16).hexdigest()


def clean_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels in order, each once, without empty ones. Raises QueryError if none is left."""
    names = tuple(dict.fromkeys(" ".join(label.split()) for label in labels if label.strip()))
    if not names:
        raise QueryError("there are no labels", remedy="write one a line: dog, sunset, birthday party")
    return names


def label_vectors(encode: Callable[[Sequence[str]], Embeddings], labels: Sequence[str]) -> Embeddings:
    """Return (n, dim) unit rows: the mean of each label in all TEMPLATES (Radford et al. 2021, CLIP, 3.1.4)."""
    texts = [template.format(label) for label in labels for template in TEMPLATES]
    return l2_normalize(encode(texts).reshape(len(labels), len(TEMPLATES), -1).mean(axis=1))
