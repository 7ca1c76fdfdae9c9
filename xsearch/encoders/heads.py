"""An encoder with learned heads: `xsearch train --method head` makes one; using it needs no torch.

A folder holds `config.json` and `heads.npz`: a matrix for each tower of the base encoder, near the identity. They are
linear, so they mean the same for whole pictures, regions, texts and words.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders.base import Encoder, Patches, Words, framing_apart
from xsearch.encoders.framing import Framing
from xsearch.errors import EncoderUnavailable
from xsearch.types import Embeddings, EncoderSpec, RGBImage
from xsearch.vectors import l2_normalize

KIND = "heads"
CONFIG, WEIGHTS = "config.json", "heads.npz"


class HeadedEncoder:
    """A base encoder, each tower followed by a matrix (dim, dim): v' = M v, made unit."""

    def __init__(self, base: Encoder, image: NDArray[np.float32], text: NDArray[np.float32], spec: EncoderSpec) -> None:
        self._base, self._image, self._text, self._spec = base, image, text, spec

    @property
    def spec(self) -> EncoderSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return self._base.batch_size

    @property
    def framing_apart(self) -> Framing | None:
        return framing_apart(self._base)

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        return headed(self._base.encode_images(images), self._image)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return headed(self._base.encode_texts(texts), self._text)

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches:
        patches = self._base.encode_patches(images)
        return replace(patches, vectors=headed(patches.vectors, self._image))

    def encode_words(self, texts: Sequence[str]) -> list[Words]:
        return [replace(words, vectors=headed(words.vectors, self._text)) for words in self._base.encode_words(texts)]


def headed(vectors: NDArray[np.float32], head: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (..., dim) unit vectors through a head (dim, dim)."""
    return l2_normalize(vectors @ head.T)


def is_headed(folder: Path) -> bool:
    """Whether a folder holds heads, whole or not."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("kind") == KIND


def config_of(base: Encoder, logit_scale: float) -> dict[str, Any]:
    """Return what `config.json` says of heads that were learned on a base encoder."""
    fingerprint = base.spec.fingerprint
    return {
        "kind": KIND,
        "base": base.spec.name,
        "base_model": fingerprint.model,
        "base_weights": fingerprint.weights,
        "dim": fingerprint.dim,
        "logit_scale": logit_scale,
    }


def open_heads(folder: Path, base: Encoder) -> HeadedEncoder:
    """Open the heads in a folder on their base encoder. Raises EncoderUnavailable if they are damaged or of another."""
    config = read_config(folder)
    fingerprint = base.spec.fingerprint
    if (config["base_model"], config["base_weights"]) != (fingerprint.model, fingerprint.weights):
        raise EncoderUnavailable(
            f"{folder} was trained on another version of {config['base']}", remedy="train it again: `xsearch train`"
        )
    try:
        stored = (folder / WEIGHTS).read_bytes()
        with np.load(folder / WEIGHTS) as arrays:
            image, text = (np.asarray(arrays[name], np.float32) for name in ("image", "text"))
    except (OSError, ValueError, KeyError) as error:
        raise EncoderUnavailable(f"{folder / WEIGHTS} cannot be read ({error})", remedy="train it again") from error
    square = (fingerprint.dim, fingerprint.dim)
    if image.shape != square or text.shape != square or not (np.isfinite(image).all() and np.isfinite(text).all()):
        raise EncoderUnavailable(
            f"{folder / WEIGHTS} holds no heads of {square[0]} dimensions", remedy="train it again"
        )
    own = hashlib.sha256(fingerprint.weights.encode() + stored).hexdigest()[:16]
    spec = replace(
        base.spec,
        name=str(folder),
        fingerprint=replace(fingerprint, model=f"{fingerprint.model}+heads", weights=own),
        logit_scale=float(config["logit_scale"]),
    )
    return HeadedEncoder(base, image, text, spec)


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json`. Raises EncoderUnavailable."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        missing = {"base", "base_model", "base_weights", "logit_scale"} - config.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise EncoderUnavailable(f"{folder} holds no heads ({error})", remedy="see `xsearch train`") from error
    if missing:
        raise EncoderUnavailable(f"{folder / CONFIG} lacks {', '.join(sorted(missing))}", remedy="train it again")
    if is_headed(Path(config["base"])):
        raise EncoderUnavailable(f"{folder} has heads on heads", remedy="train on the encoder below: --base")
    return config
