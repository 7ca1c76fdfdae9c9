"""Stand-ins that are quick and exactly known: an encoder, items, unit rows, pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xsearch.encoders import Patches, Words
from xsearch.library import Library
from xsearch.types import Embeddings, EncoderSpec, Fingerprint, Item, Kind, RGBImage, item_id
from xsearch.vectors import l2_normalize

GRID = 4
DIM = 3 * GRID * GRID

SPEC = EncoderSpec(
    name="fake",
    fingerprint=Fingerprint("fake", "0", "mean colours", "seeded by the text", "float", DIM),
    image_px=16,
    max_tokens=64,
    logit_scale=10.0,
)


class FakeEncoder:
    """A picture's vector is the mean colours of its 4 x 4 fields; a text's is drawn at random, seeded by the text."""

    def __init__(self, batch_size: int = 8) -> None:
        self.spec = SPEC
        self.batch_size = batch_size
        self.pictures_encoded = 0
        self.texts_encoded: list[str] = []

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        self.pictures_encoded += len(images)
        return l2_normalize([mean_colours(image) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        self.texts_encoded += texts
        return l2_normalize([np.random.default_rng(list(text.encode())).standard_normal(DIM) for text in texts])

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches:
        raise NotImplementedError

    def encode_words(self, texts: Sequence[str]) -> list[Words]:
        raise NotImplementedError


def mean_colours(image: RGBImage) -> NDArray[np.float64]:
    """Return (DIM,) mean colours of the fields of a picture, from -1 to 1."""
    fields = [field for rows in np.array_split(image, GRID) for field in np.array_split(rows, GRID, axis=1)]
    return np.concatenate([field.mean(axis=(0, 1)) for field in fields]) / 127.5 - 1.001


def picture(file: Path, seed: int, **options: Any) -> Path:
    """Save a picture of 4 x 4 fields in random colours, another for every seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (GRID, GRID, 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours.repeat(8, axis=0).repeat(8, axis=1)).save(file, **options)
    return file


def unit_rows(n: int, seed: int = 0, dim: int = DIM) -> Embeddings:
    return l2_normalize(np.random.default_rng(seed).standard_normal((n, dim)))


def an_item(name: str, root: str = "/photos", kind: Kind = Kind.IMAGE, part: str = "", **fields: Any) -> Item:
    known = {"bytes": 1, "mtime_ns": 2, "content_hash": f"hash of {name}"} | fields
    return Item(item_id(Path(root, name), part), kind, root, name, part=part, **known)


def living(library: Library) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of all living items by `path`, or `path#part`."""
    rows = np.flatnonzero(library.alive)
    names = [f"{item.path}#{item.part}" if item.part else item.path for item in library.items(rows)]
    assert len(set(names)) == len(names)
    return dict(zip(names, library.vectors.take(rows), strict=True))
