"""AdamW whose rates rise and fall again, and the mean of the weights over its steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_GRADIENT = 1.0


class Learner:
    """What learns, by name, in `groups` of rates that are those at their height; `average` is what is kept of it."""

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        groups: Sequence[dict[str, Any]],
        *,
        steps: int,
        warm_up_steps: int,
        weight_decay: float,
        average: float,
    ) -> None:
        self._named, self._steps, self._warm_up_steps, self._share = dict(named), steps, warm_up_steps, average
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        self.average = self.weights()

    def step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._named.values(), LARGEST_GRADIENT)
        self._optimizer.step()
        self._schedule.step()
        for name, one in self._named.items():
            self.average[name].lerp_(one.detach(), 1 - self._decay())

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of all that learns."""
        return {name: one.detach().clone() for name, one in self._named.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, one in self._named.items():
                one.copy_(weights[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Hold the averaged weights for a while."""
        now = self.weights()
        self.load(self.average)
        yield
        self.load(now)

    def _rate(self, step: int) -> float:
        """A linear rise, then half a cosine down to nothing."""
        rise = min(1.0, (step + 1) / self._warm_up_steps)
        return rise * 0.5 * (1 + math.cos(math.pi * step / self._steps))

    def _decay(self) -> float:
        """The average forgets the start quickly at first: after t steps it holds the last t/10 and more."""
        steps: int = self._schedule.last_epoch
        return min(self._share, steps / (steps + 10))
