"""Which texts of the pictures of a batch come into it, and whose they are."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def draw_texts(texts: Sequence[Sequence[str]], most: int, rng: random.Random) -> tuple[list[str], Tensor]:
    """Return a text of each of n pictures, then further ones up to `most` of each: m in all.

    And (n, m), 1 where a text is a picture's: those of one class share their texts, a few others a caption.
    """
    drawn = [rng.sample(own, min(most, len(own))) for own in texts]
    owned = [(at, own[place]) for place in range(most) for at, own in enumerate(drawn) if place < len(own)]
    owner = functional.one_hot(torch.tensor([at for at, _ in owned])).T.float()
    alike = _same([text.lower() for _, text in owned])
    return [text for _, text in owned], (owner @ alike > 0).float()


def _same(texts: Sequence[str]) -> Tensor:
    """Return (n, n), 1 where two texts are equal."""
    keys = np.array(texts)
    return torch.from_numpy((keys[:, None] == keys[None, :]).astype(np.float32))
