"""What a pair of towers is worth: recall on captions, top-1 on classes that no training saw, and pointing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from names import other_class_texts
from numpy.typing import NDArray
from pictures import FrozenStages, Pictures, decoded, drawn, read_pictures
from PIL import Image

CUTS = (1, 5, 10)


def recalls(pictures: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]) -> dict[str, float]:
    """Return recall@k from text to picture (t2i@k) and from picture to text (i2t@k); `owner[i]` is text i's picture."""
    cosines = texts @ pictures.T
    own = cosines[np.arange(len(owner)), owner]
    place_of_picture = (cosines > own[:, None]).sum(axis=1)
    best_own = np.full(len(pictures), -np.inf, np.float32)
    np.maximum.at(best_own, owner, own)
    place_of_text = (cosines > best_own).sum(axis=0)
    return {f"t2i@{k}": float((place_of_picture < k).mean()) for k in CUTS} | {
        f"i2t@{k}": float((place_of_text < k).mean()) for k in CUTS
    }


def top1(pictures: NDArray[np.float32], texts: NDArray[np.float32], own: Sequence[int]) -> float:
    return float((np.argmax(pictures @ texts.T, axis=1) == np.asarray(own)).mean())


def auroc(higher: NDArray[np.float32], lower: NDArray[np.float32]) -> float:
    """Return in how many pairs of the first scores, (n,), with the second, (m,), the first is above."""
    return float((higher[:, None] > lower[None]).mean())


def pointing(patches: NDArray[np.float32], texts: NDArray[np.float32]) -> tuple[float, float]:
    """Return how often patches of two pictures side by side, (n, side * side, d), agree more with their half's caption.

    `texts` (n, 2, d) are the captions of the left and of the right half. First a caption by itself, second against
    the other one. Of a side that is odd the column in the middle is left out.
    """
    side = math.isqrt(patches.shape[1])
    columns = np.einsum("npd,nsd->nsp", patches, texts).reshape(len(patches), 2, side, side).mean(axis=2)
    lean = columns[:, :, -(side // 2) :].mean(axis=2) - columns[:, :, : side // 2].mean(axis=2)
    alone = np.concatenate([lean[:, 0] < 0, lean[:, 1] > 0])
    return float(alone.mean()), float((lean[:, 1] > lean[:, 0]).mean())


@dataclass(frozen=True, slots=True)
class CaptionedSet:
    """Pictures behind the frozen stages, their texts, and the picture `owner` of each text."""

    name: str
    maps: NDArray[np.float16]
    texts: list[str]
    owner: NDArray[np.int64]
    first: list[str]
    beside: NDArray[np.float16]  # picture i on the left, i + 1 on the right


@dataclass(frozen=True, slots=True)
class Development:
    """What runs are compared by.

    The held-out classes are told among all classes of their sets, and among these and all others of ImageNet.
    """

    captioned: list[CaptionedSet]
    held_out: NDArray[np.float16]
    outlines: NDArray[np.float16]
    classes: list[str]
    others: list[str]
    own: list[int]

    def measure(
        self,
        encode_maps: Callable[[NDArray[np.float16]], tuple[NDArray[np.float32], NDArray[np.float32]]],
        encode_texts: Callable[[list[str]], NDArray[np.float32]],
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        for one in self.captioned:
            pictures, texts = encode_maps(one.maps)[0], encode_texts(one.texts)
            found |= {f"{one.name} {k}": v for k, v in recalls(pictures, texts, one.owner).items()}
            first = encode_texts(one.first)
            patches = encode_maps(one.beside)[1]
            points = pointing(patches, np.stack([first, np.roll(first, -1, axis=0)], axis=1))
            found |= {f"{one.name} points": points[0], f"{one.name} points against": points[1]}
        classes = encode_texts(self.classes)
        held_out = encode_maps(self.held_out)[0]
        found["held-out classes"] = top1(held_out, classes, self.own)
        found["held-out of all"] = top1(held_out, np.concatenate([classes, encode_texts(self.others)]), self.own)
        found["their outlines"] = top1(encode_maps(self.outlines)[0], classes, self.own)
        return {name: round(value, 4) for name, value in found.items()}

    def recall(self, found: dict[str, float]) -> float:
        """Return the mean of text-to-picture recall@1 and recall@10 over the sets with captions."""
        return float(np.mean([found[f"{one.name} {k}"] for one in self.captioned for k in ("t2i@1", "t2i@10")]))


def read_development(data_dir: Path, held_out: Pictures, classes: list[str], stages: FrozenStages) -> Development:
    captioned = []
    for file in sorted(data_dir.glob("dev-*.parquet")):
        pictures = read_pictures(file)
        shown = [Image.fromarray(decoded(image)) for image in pictures.images]
        pairs = [_beside(left, right, stages.side_px) for left, right in zip(shown, shown[1:] + shown[:1], strict=True)]
        captioned.append(
            CaptionedSet(
                file.stem,
                stages.maps(shown),
                [text for texts in pictures.texts for text in texts],
                np.array([i for i, texts in enumerate(pictures.texts) for _ in texts]),
                [texts[0] for texts in pictures.texts],
                stages.maps(pairs),
            )
        )
    shown = [Image.fromarray(decoded(image)) for image in held_out.images]
    outlines = [Image.fromarray(drawn(np.asarray(one))) for one in shown]
    own = [classes.index(texts[0].lower()) for texts in held_out.texts]
    others = other_class_texts(classes)
    return Development(captioned, stages.maps(shown), stages.maps(outlines), classes, others, own)


def _beside(left: Image.Image, right: Image.Image, side_px: int) -> Image.Image:
    """Return a square picture of two, each squashed to its half."""
    both = Image.new("RGB", (side_px, side_px))
    for at, one in enumerate((left, right)):
        both.paste(one.resize((side_px // 2, side_px)), (at * side_px // 2, 0))
    return both
