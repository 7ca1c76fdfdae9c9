"""Values that cross rooms: items, hits, skips, and what makes two vectors comparable."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

RGBImage: TypeAlias = NDArray[np.uint8]
"""(h, w, 3) uint8, upright, sRGB."""

Embeddings: TypeAlias = NDArray[np.float32]
"""(n, dim) float32, unit rows, in input order."""


class Kind(StrEnum):
    """What an item is."""

    IMAGE = "image"
    FRAME = "frame"
    TEXT = "text"


class Modality(StrEnum):
    """What a query is made of: text and image vectors live in different cones of the joint space."""

    TEXT = "text"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must agree for two vectors to be comparable."""

    model: str
    weights: str
    preprocessing: str
    tokenizer: str
    precision: str
    dim: int


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What a caller must know of an encoder without running it.

    `name` opens the same encoder again through `get_encoder`. `image_px` is the side of the square
    that the image tower sees: decoders may shrink a picture as long as both sides stay at least as
    long. `logit_scale` is the model's learned inverse temperature, for scores as probabilities.
    """

    name: str
    fingerprint: Fingerprint
    image_px: int
    max_tokens: int
    logit_scale: float

    @property
    def dim(self) -> int:
        return self.fingerprint.dim


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be found. `root / path` is the file it lives in.

    `part` tells several items of one file apart (a passage of a text, a row of a table, the time of
    a frame) and is empty where the file is the item. `pair` is the id of the item that this one
    belongs to: the picture of a caption. Times are seconds from the start of a film, of the stretch
    that a frame stands for; shots count from 0. `taken_at` is the camera's local time, ISO 8601;
    `content_hash` is of the whole file.
    """

    id: str
    kind: Kind
    root: str
    path: str
    bytes: int
    mtime_ns: int
    content_hash: str
    part: str = ""
    pair: str | None = None
    t_start_s: float | None = None
    t_end_s: float | None = None
    shot: int | None = None
    text: str | None = None
    width: int | None = None
    height: int | None = None
    taken_at: str | None = None
    camera: str | None = None
    gps_lat: float | None = None
    gps_lon: float | None = None

    @property
    def file(self) -> Path:
        return Path(self.root, self.path)


def item_id(file: Path, part: str = "") -> str:
    """Return the id of an item, 16 hex digits: the same in every run and library for the same part of the same path."""
    return blake2b(f"{file}\0{part}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was seen and not indexed, and why: `reason` is short, to count by; `detail` is for a person."""

    path: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that answers a query. `score` is a cosine, higher is better; `rank` starts at 1.

    `confidence`, 0 to 1, is how probably the item shows what was asked; None where nothing was, as by exclusions alone.
    Where a hit is a moment of a film, `item` is its best frame and `stretch` the moment, from and to, in seconds.
    `said` is the one of a picture's texts that speaks for it, where one does.
    """

    rank: int
    score: float
    item: Item = field(repr=False)
    reader: Callable[[Item], bytes] = field(repr=False, compare=False)
    stretch: tuple[float, float] | None = None
    confidence: float | None = None
    said: str | None = None

    @property
    def kind(self) -> Kind:
        return self.item.kind

    @property
    def item_id(self) -> str:
        return self.item.id

    @property
    def path(self) -> str:
        """The file, and for a picture inside an archive or data set `#` and its key there."""
        inside = f"#{self.item.part}" if self.kind is Kind.IMAGE and self.item.part else ""
        return f"{self.item.file}{inside}"

    def open(self) -> bytes:
        """Return the original as it is stored: the bytes of the file, or of the picture inside its archive.

        Of a frame of a film they are a JPEG of it. Raises OSError, SourceError or Undecodable if it is not there any
        more.
        """
        return self.reader(self.item)

    @property
    def t_start_s(self) -> float | None:
        return self.stretch[0] if self.stretch is not None else self.item.t_start_s

    @property
    def t_end_s(self) -> float | None:
        return self.stretch[1] if self.stretch is not None else self.item.t_end_s

    @property
    def text(self) -> str | None:
        """What is said: the text itself, or of a picture what `said` is."""
        return self.said if self.item.text is None else self.item.text

    def to_dict(self) -> dict[str, Any]:
        """Return the hit as JSON tells it: in `xsearch query --json`, over HTTP and to agents."""
        return {
            "rank": self.rank,
            "score": round(self.score, 6),
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "kind": self.kind.value,
            "path": self.path,
            "item_id": self.item_id,
            "t_start_s": self.t_start_s,
            "t_end_s": self.t_end_s,
            "text": self.text,
            "width": self.item.width,
            "height": self.item.height,
        }
