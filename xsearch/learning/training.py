"""What training heads and training whole towers have in common: batches, what is right in them, how it is measured."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import XSearchError
from xsearch.learning.metrics import bootstrap, rankings
from xsearch.learning.pairs import PairSet
from xsearch.types import Embeddings

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
KS = (1, 5, 10)


class Objective(StrEnum):
    """What is made small."""

    CONTRASTIVE = "contrastive"
    SIGMOID = "sigmoid"
    CAPTION = "caption"
    MULTITASK = "multitask"

    @property
    def contrasts(self) -> bool:
        return self is not Objective.CAPTION

    @property
    def captions(self) -> bool:
        return self in (Objective.CAPTION, Objective.MULTITASK)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the log: the mean loss of an epoch, and how good held-out pairs are then (`held_out`).

    That is the mean of recall at 1, 5 and 10, both ways; with the objective `caption` the mean log-probability of a
    token of their texts.
    """

    epoch: int
    loss: float
    held_out: float
    scale: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it. `base` and `result` are figures of the pairs held out, `share` how much of it all is kept."""

    folder: Path
    training: int
    held_out: int
    epochs: tuple[Epoch, ...]
    share: float
    base: dict[str, float]
    result: dict[str, float]
    skipped: dict[str, int] = field(default_factory=dict)


class Batches:
    """The pictures of a PairSet in batches, each with one of its texts, in an order by the seed and the epoch."""

    def __init__(self, pairs: PairSet, size: int, seed: int) -> None:
        self._pairs, self._size, self._seed = pairs, size, seed
        self._texts_of = np.split(np.argsort(pairs.owner, kind="stable"), np.cumsum(np.bincount(pairs.owner))[:-1])
        # Texts that say the same are positives of each other's pictures.
        self._said = np.unique([" ".join(text.lower().split()) for text in pairs.sentences], return_inverse=True)[1]

    def __len__(self) -> int:
        return max(1, round(len(self._texts_of) / self._size))

    def of(self, epoch: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (n,) pictures and (n,) texts, in parts of nearly equal size, so that none is too small to contrast."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._texts_of))
        for pictures in np.array_split(order, len(self)):
            yield pictures, np.array([rng.choice(self._texts_of[picture]) for picture in pictures])

    def positives(self, pictures: NDArray[np.int64], texts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n, n): other texts of the same picture, and the same text of other pictures, are right too."""
        same_text = self._said[texts][None] == self._said[texts][:, None]
        right: NDArray[np.bool_] = same_text | (pictures[:, None] == self._pairs.owner[texts][None])
        return right


def schedule(done: float, warm_up: float) -> float:
    """Return the share of the highest rate after `done`, 0 to 1, of all steps: linear up, then half a cosine down."""
    if done < warm_up:
        return (done + 1e-3) / (warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def check_finite(loss: float, epoch: int, out: Path) -> None:
    """Raise XSearchError for a loss that is not a number any more."""
    if not math.isfinite(loss):
        raise XSearchError(
            f"the loss is not a number any more in epoch {epoch}",
            remedy=f"what {out} held before stays; train with a lower --rate",
        )


def best_share(found: dict[float, NDArray[np.float64]]) -> float:
    """Return which share of what was learned is best for most, the least of equals; `found` maps it to (n,) pictures.

    It is 0 where the lower end of the 95 % interval of the gain is not above 0: of twenty pairs held out, one more that
    is found says nothing.
    """
    best = max(found, key=lambda share: (float(found[share].mean()), -share))
    low, _ = bootstrap(found[best] - found[0.0], np.arange(len(found[best])))
    return best if low > 0 else 0.0


class HeldOut:
    """How well images (n, dim) and texts (m, dim), unit rows, find each other; text j is of picture owner[j]."""

    def __init__(self, images: Embeddings, texts: Embeddings, owner: NDArray[np.int64]) -> None:
        self._owner, self._pictures = owner, len(images)
        self._to_image = rankings(texts, images, [np.array([picture]) for picture in owner])[2]
        self._to_text = rankings(images, texts, [np.flatnonzero(owner == picture) for picture in range(len(images))])[2]

    def recalls(self) -> dict[str, float]:
        ranks = {"text to image": self._to_image, "image to text": self._to_text}
        return {f"{direction} recall@{k}": float((of <= k).mean()) for direction, of in ranks.items() for k in KS}

    def mean(self) -> float:
        """Return the mean of recall at 1, 5 and 10, both ways."""
        return float(np.mean(list(self.recalls().values())))

    def found(self) -> NDArray[np.float64]:
        """Return (n,) for each picture how often it is found by its texts, and finds one of them, among the first."""
        by_texts = np.mean([self._to_image <= k for k in KS], axis=0)
        counts = np.bincount(self._owner, minlength=self._pictures)
        of_picture: NDArray[np.float64] = np.bincount(self._owner, by_texts, minlength=self._pictures) / counts
        finding: NDArray[np.float64] = np.mean([self._to_text <= k for k in KS], axis=0)
        return (of_picture + finding) / 2
