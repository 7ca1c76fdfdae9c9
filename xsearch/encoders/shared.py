"""One encoder on several devices: each computes its share of a batch, at the same time as the others."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

import numpy as np

from xsearch.encoders.base import Encoder, Patches, Words, framing_apart
from xsearch.encoders.framing import Framing
from xsearch.types import Embeddings, EncoderSpec, RGBImage

_T = TypeVar("_T")

BATCHES_AT_ONCE = 2
"""While one batch is computed the next one is prepared, as an index run has two under way."""


def shares(n: int, devices: int) -> list[slice]:
    """Return which of n inputs each device takes: in order, and none takes more than one more than another."""
    ends = [n * number // devices for number in range(devices + 1)]
    return [slice(first, end) for first, end in pairwise(ends)]


class SharedEncoder:
    """Several encoders of one model as one, a batch of which is shared out among them. Vectors keep their order.

    What is asked for one at a time, regions and words, the first answers alone.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self._encoders = encoders
        self._threads = ThreadPoolExecutor(BATCHES_AT_ONCE * len(encoders), thread_name_prefix="device")

    @property
    def spec(self) -> EncoderSpec:
        return self._encoders[0].spec

    @property
    def batch_size(self) -> int:
        """Pictures that fill every device: the one with the least memory decides."""
        return len(self._encoders) * min(encoder.batch_size for encoder in self._encoders)

    @property
    def framing_apart(self) -> Framing | None:
        return framing_apart(self._encoders[0])

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        return self._shared(lambda encoder, share: encoder.encode_images(share), images)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return self._shared(lambda encoder, share: encoder.encode_texts(share), texts)

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches:
        return self._encoders[0].encode_patches(images)

    def encode_words(self, texts: Sequence[str]) -> list[Words]:
        return self._encoders[0].encode_words(texts)

    def _shared(self, encode: Callable[[Encoder, Sequence[_T]], Embeddings], inputs: Sequence[_T]) -> Embeddings:
        """Return what all have encoded. Raises what the first in order that failed raised, when all have ended."""
        parts = zip(self._encoders, shares(len(inputs), len(self._encoders)), strict=True)
        running = [
            self._threads.submit(encode, encoder, inputs[share]) for encoder, share in parts if share.start < share.stop
        ]
        wait(running)
        return np.concatenate([np.empty((0, self.spec.dim), np.float32), *(part.result() for part in running)])
