"""Pictures with texts: what is trained on, what is held out, and what the frozen stages make of each picture, once.

The stages that stay as they are run in ONNX Runtime, over several views of every picture; training starts behind them.
"""

import io
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
from names import NAMED
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from xsearch.encoders import crops
from xsearch.types import RGBImage

# The output of the last frozen stage, (n, 208, side, side), and where stages are rounded; the logits of the 1,000
# ImageNet classes, and the vector.
FROZEN_OUTPUT = "/_blocks.15/_project_conv/Conv_output_0"
FROZEN_OUTPUT_ROUNDED = f"{FROZEN_OUTPUT}_DequantizeLinear_Output"
LATER_OUTPUTS = ["/_fc/Gemm_output_0", "embedding"]

MEAN, STD = 127 / 255, 128 / 255
STRIDE_PX = 32  # of a patch
CHUNK_PICTURES = 8
SKETCHED_PX = (128, 512)
# Of the classes of the ImageNet-like set, one in five is seen by no training, under no set.
HELD_OUT_OF = "nips2017_imagenet_like"
HELD_OUT_SHARE = 0.2
DRAWN_FROM = (HELD_OUT_OF, "imagenet_synsets_ajs", "caltech101")

T = TypeVar("T")
View = Callable[[Image.Image, random.Random], Image.Image]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Encoded pictures, the texts of each, and the set that each came from."""

    images: list[bytes]
    texts: list[list[str]]
    sets: list[str]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def captioned(self) -> int:
        """How many there are before the first that is only named."""
        return next((i for i, texts in enumerate(self.texts) if is_name(texts)), len(self))

    def where(self, keep: Sequence[bool]) -> "Pictures":
        at = [i for i, kept in enumerate(keep) if kept]
        return Pictures([self.images[i] for i in at], [self.texts[i] for i in at], [self.sets[i] for i in at])


def is_name(texts: Sequence[str]) -> bool:
    return len(texts) == 1 and texts[0].startswith(NAMED)


def read_pictures(*files: Path) -> Pictures:
    """Return the pictures of all files, those with captions before those that are only named."""
    rows = [row for file in files for row in pq.read_table(file, columns=["image", "captions", "set"]).to_pylist()]
    rows.sort(key=lambda row: is_name(row["captions"]))
    return Pictures([row["image"] for row in rows], [row["captions"] for row in rows], [row["set"] for row in rows])


def split(data_dir: Path) -> tuple[Pictures, list[bool], Pictures, list[str]]:
    """Return all pictures to train on, which of them are of the one class in five that may be held out, those of them
    that are told by class, and the class texts among which these are told."""
    pictures = read_pictures(*sorted(data_dir.glob("train-*.parquet")))
    first = [texts[0].lower() for texts in pictures.texts]
    candidates = sorted({text for text, name in zip(first, pictures.sets, strict=True) if name == HELD_OUT_OF})
    held = set(random.Random(0).sample(candidates, round(HELD_OUT_SHARE * len(candidates))))
    told = [text in held and name in DRAWN_FROM for text, name in zip(first, pictures.sets, strict=True)]
    classes = {text for text, name in zip(first, pictures.sets, strict=True) if name in DRAWN_FROM}
    return pictures, [text in held for text in first], pictures.where(told), sorted(classes)


def drawn(picture: RGBImage) -> RGBImage:
    """Return the outlines of a picture, as a stand-in for drawings."""
    grey = Image.fromarray(picture).convert("L").filter(ImageFilter.SMOOTH_MORE).filter(ImageFilter.CONTOUR)
    return np.asarray(grey.convert("RGB"))


def decoded(image: bytes) -> RGBImage:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def as_it_is(picture: Image.Image, _: random.Random) -> Image.Image:
    return picture


def mirrored(picture: Image.Image, _: random.Random) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def cropped(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Return a part of half the area or more, of another aspect ratio, colour and light, mirrored or not."""
    return _changed(picture, rng, least_area=0.5, aspect=1.25, colours=0.25)


def varied(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Return as little as a third of the picture, changed more, one in ten without its colours."""
    part = _changed(picture, rng, least_area=0.35, aspect=1.4, colours=0.4)
    return grey(part, rng) if rng.random() < 0.1 else part


def _changed(
    picture: Image.Image, rng: random.Random, *, least_area: float, aspect: float, colours: float
) -> Image.Image:
    """Return a part of the picture, its ratio of sides up to `aspect` times another, light and colour changed."""
    area, ratio = rng.uniform(least_area, 1), rng.uniform(1 / aspect, aspect)
    width = min(round((area * ratio) ** 0.5 * picture.width), picture.width)
    height = min(round((area / ratio) ** 0.5 * picture.height), picture.height)
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    part = picture.crop((left, top, left + width, top + height))
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        part = change(part).enhance(rng.uniform(1 - colours, 1 + colours))
    return mirrored(part, rng) if rng.random() < 0.5 else part


def sketched(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Return a drawing of the picture: outlines or the shades of a pencil, one in three with flat colours between."""
    side = rng.randint(*SKETCHED_PX)
    shown = ImageOps.contain(picture, (side, side))
    for _ in range(rng.randint(0, 2)):
        shown = shown.filter(ImageFilter.SMOOTH_MORE)
    grey = shown.convert("L")
    if rng.random() < 0.5:
        lines = grey.filter(ImageFilter.CONTOUR)
    else:
        around = np.asarray(grey.filter(ImageFilter.GaussianBlur(rng.uniform(1, 5))), np.float32)
        lines = Image.fromarray(np.minimum(np.asarray(grey) * (255 / np.maximum(around, 1)), 255).astype(np.uint8))
    drawing = lines.convert("RGB")
    if rng.random() < 1 / 3:
        drawing = ImageChops.multiply(drawing, ImageOps.posterize(shown, 3))
    return mirrored(drawing, rng) if rng.random() < 0.5 else drawing


def grey(picture: Image.Image, _: random.Random) -> Image.Image:
    """Return the picture without its colours."""
    return picture.convert("L").convert("RGB")


def outlined(picture: Image.Image, _: random.Random) -> Image.Image:
    return Image.fromarray(drawn(np.asarray(picture)))


def corner(at: int) -> View:
    """Return the view that is one of a picture's corners, as an encoder sees them that looks at corners, too."""
    return lambda picture, _: Image.fromarray(crops.views_of(np.asarray(picture))[1 + at])


PHOTOGRAPHS: dict[str, View] = {
    "plain": as_it_is,
    "mirrored": mirrored,
    "cropped": cropped,
    "varied": varied,
    "cropped-2": cropped,
    "varied-2": varied,
    "varied-3": varied,
}
FEW_VIEWS = tuple(PHOTOGRAPHS)[:4]
CORNERS: dict[str, View] = {f"corner-{at}": corner(at) for at in range(crops.VIEWS - 1)}
VIEWS = PHOTOGRAPHS | CORNERS | {"sketched": sketched, "grey": grey, "outlined": outlined}
# Pictures that are only named come in half of the epochs, and have to do without the other views.
OF_NAMED = {"plain", "mirrored", "sketched", "grey", *CORNERS}


@dataclass(frozen=True, slots=True)
class Said:
    """What an image tower said of n pictures: `logits` (n, 1000) of the classes, unit `vectors` (n, 384)."""

    logits: NDArray[np.float16]
    vectors: NDArray[np.float16]


class FrozenStages:
    """The part of an image tower that training leaves as it is, run on one thread."""

    def __init__(self, image_onnx: Path, folder: Path) -> None:
        """Put the part's file into `folder`."""
        part = folder / f"frozen-{image_onnx.name}"
        graph = onnx.load(image_onnx).graph
        is_rounded = any(FROZEN_OUTPUT_ROUNDED in node.output for node in graph.node)
        self._outputs = [FROZEN_OUTPUT_ROUNDED if is_rounded else FROZEN_OUTPUT, *LATER_OUTPUTS]
        onnx.utils.extract_model(str(image_onnx), str(part), ["pixels"], self._outputs, check_model=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(part), options, providers=["CPUExecutionProvider"])
        self.side_px: int = self._session.get_inputs()[0].shape[2]

    def run(self, pictures: Sequence[Image.Image]) -> list[NDArray[np.float32]]:
        """Return maps (n, 208, side, side), logits (n, 1000), vectors (n, 384), of not too many pictures."""
        found: list[NDArray[np.float32]] = self._session.run(self._outputs, {"pixels": pixels(pictures, self.side_px)})
        return found

    def maps(self, pictures: Sequence[Image.Image]) -> NDArray[np.float16]:
        """Return (n, 208, side, side), the output of the last frozen stage."""
        return np.concatenate([self.run(chunk)[0] for chunk in chunks(pictures)]).astype(np.float16)


def pixels(pictures: Sequence[Image.Image], side_px: int) -> NDArray[np.float32]:
    """Return (n, 3, side_px, side_px) float32, as the encoder takes them."""
    squares = [np.asarray(one.resize((side_px, side_px), Image.Resampling.BICUBIC)) for one in pictures]
    return ((np.stack(squares).transpose(0, 3, 1, 2) / 255 - MEAN) / STD).astype(np.float32)


def cache_views(
    views: Sequence[str], pictures: Pictures, stages: FrozenStages, folder: Path, pause: Path | None
) -> list[Path]:
    """Write of each view <view>.maps.npy (n, 208, side, side), <view>.logits.npy (n, 1000) and <view>.vectors.npy.

    The last are (n, 384). All are float16, logits and vectors those before training. Return the files of maps. Of views
    that are not of named pictures, n is the number of pictures with captions.

    A view that is there is not made again. Each core makes a view of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [
            pool.submit(_cache_view, view, pictures.images[:n], stages, folder, pause)
            for view in views
            for n in (len(pictures) if view in OF_NAMED else pictures.captioned,)
        ]
        return [one.result() for one in made]


def said_of(maps: Path) -> Said:
    """Return what lies beside the maps of a view."""
    logits, vectors = (np.load(str(maps).replace(".maps.", f".{kind}.")) for kind in ("logits", "vectors"))
    return Said(logits, vectors)


def mean_of(views: Sequence[Said]) -> Said:
    """Return the mean logits of several views of the same pictures, and the directions of their mean vectors."""
    logits = np.mean([one.logits for one in views], axis=0, dtype=np.float32)
    vectors = np.sum([one.vectors for one in views], axis=0, dtype=np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Said(logits.astype(np.float16), unit.astype(np.float16))


def _cache_view(view: str, images: list[bytes], stages: FrozenStages, folder: Path, pause: Path | None) -> Path:
    done = folder / f"{view}.maps.npy"
    if done.exists():
        return done
    n = len(images)
    unfinished = done.with_suffix(".part")
    side = stages.side_px // STRIDE_PX
    maps = np.lib.format.open_memmap(unfinished, "w+", np.float16, (n, 208, side, side))
    logits, vectors = np.empty((n, 1000), np.float16), np.empty((n, 384), np.float16)
    rng = random.Random(view)
    for chunk in chunks(range(n)):
        wait_while(pause)
        opened = [Image.open(io.BytesIO(images[i])).convert("RGB") for i in chunk]
        seen = [VIEWS[view](one, rng) for one in opened]
        at = slice(chunk[0], chunk[-1] + 1)
        maps[at], logits[at], vectors[at] = stages.run(seen)
    maps.flush()
    np.save(folder / f"{view}.logits.npy", logits)
    np.save(folder / f"{view}.vectors.npy", vectors)
    unfinished.rename(done)
    return done


def chunks(of: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return what a run of the stages takes at once, one after the other; of a range, ranges."""
    return (of[at : at + CHUNK_PICTURES] for at in range(0, len(of), CHUNK_PICTURES))


def wait_while(pause: Path | None) -> None:
    """Sleep while a file is there, by which somebody who measures on this machine asks for quiet."""
    while pause is not None and pause.exists():
        time.sleep(5)
