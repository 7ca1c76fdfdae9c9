"""The seam between what encodes and what is encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders.framing import Framing
from xsearch.types import Embeddings, EncoderSpec, RGBImage


@dataclass(frozen=True, slots=True)
class Patches:
    """Regions of n pictures in the joint space.

    `vectors` (n, rows*columns, dim) unit rows, row-major over `grid` = (rows, columns);
    `weights` (n, rows*columns), each row sums to 1: the share of each region in the whole.
    """

    vectors: NDArray[np.float32]
    weights: NDArray[np.float32]
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Words:
    """The tokens of one text in the joint space: `vectors` (len(tokens), dim) unit rows, special tokens left out."""

    tokens: tuple[str, ...]
    vectors: NDArray[np.float32]


class Encoder(Protocol):
    """Maps pictures and texts to unit vectors of one joint space. Safe to call from several threads."""

    @property
    def spec(self) -> EncoderSpec: ...

    @property
    def batch_size(self) -> int:
        """Pictures per call that keep this machine busy without waste."""
        ...

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        """Return (n, dim) float32, unit rows, in order."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Return (n, dim) float32, unit rows, in order. Longer texts are cut at `spec.max_tokens`."""
        ...

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches: ...

    def encode_words(self, texts: Sequence[str]) -> list[Words]: ...


def framing_apart(encoder: Encoder) -> Framing | None:
    """Return how other processes shall bring pictures to the size that an encoder sees, before it is handed them.

    None where it computes on the cores that decode, so that there is nothing to gain: only encoders that compute
    elsewhere have a property of this name.
    """
    framing: Framing | None = getattr(encoder, "framing_apart", None)
    return framing
