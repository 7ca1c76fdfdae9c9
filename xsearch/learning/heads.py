"""Training of small heads on frozen towers, from vectors that were encoded once: minutes on two cores.

Each head is a matrix that starts as the identity. Few pairs can say little about dim * dim numbers, so the heads are
held near it, by weight decay and by mixing them back with it (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903): the
share is chosen on pairs held out, and is nothing where these are not surely found better.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.encoders.heads import CONFIG, WEIGHTS, config_of, headed
from xsearch.errors import EncoderUnavailable, XSearchError
from xsearch.learning.losses import contrastive, sigmoid
from xsearch.learning.pairs import PairSet
from xsearch.learning.training import (
    CHECKPOINT,
    LOG,
    Batches,
    Epoch,
    HeldOut,
    Objective,
    Trained,
    best_share,
    check_finite,
    schedule,
)
from xsearch.library.files import replacing

try:
    import torch
except ImportError as error:
    raise EncoderUnavailable("torch is missing here", remedy="pip install 'xsearch[clip]'") from error

SHARES = tuple(share / 10 for share in range(11))


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How heads are trained. `rate` is the highest of a cosine schedule after `warm_up` of all steps.

    Raises XSearchError for an objective with captions.
    """

    objective: Objective = Objective.CONTRASTIVE
    epochs: int = 40
    batch: int = 512
    rate: float = 2e-4
    decay: float = 0.5
    warm_up: float = 0.1
    held_out: float = 0.2
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective.captions:
            raise XSearchError("a head has no decoder that could learn to write", remedy="name --method lora or full")


def train_heads(
    pairs: PairSet,
    base: Encoder,
    out: Path,
    options: HeadOptions,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train heads on pairs and write them to the folder `out`, which `get_encoder` opens.

    A run that was ended goes on from its checkpoint when it is started again with the same pairs and options. Raises
    XSearchError where the loss is not a number any more, or a checkpoint is of another training; what was written
    before stays. Raises OSError for a full disk, likewise.
    """
    out.mkdir(parents=True, exist_ok=True)
    training, held_out = pairs.split(options.held_out, options.seed)
    state = _State.begin(training, base, options)
    state.resume(out / CHECKPOINT)
    for epoch in range(len(state.log) + 1, options.epochs + 1):
        if state.is_settled(options.patience):
            break
        loss = state.run_epoch(epoch)
        check_finite(loss, epoch, out)
        line = Epoch(epoch, loss, _measured(held_out, *state.heads()).mean(), state.scale)
        state.note(line)
        on_epoch(line)
        state.save(out / CHECKPOINT)
    image, text = state.best_heads()
    share, kept = _mixed(held_out, image, text)
    _write(out, base, kept, state.best_scale if share else base.spec.logit_scale)
    with replacing(out / LOG) as temporary:
        temporary.write_text("".join(f"{json.dumps(asdict(line))}\n" for line in state.log), "utf-8")
    (out / CHECKPOINT).unlink(missing_ok=True)
    return Trained(
        folder=out,
        training=len(training.images),
        held_out=len(held_out.images) if options.held_out else 0,
        epochs=tuple(state.log),
        share=share,
        base=_measured(held_out, *_identities(base.spec.dim)).recalls(),
        result=_measured(held_out, *kept).recalls(),
        skipped=pairs.skipped,
    )


class _State:
    """Heads under training, and all that a checkpoint keeps of them."""

    def __init__(self, pairs: PairSet, options: HeadOptions, scale: float, told: dict[str, Any]) -> None:
        dim = pairs.image_vectors.shape[1]
        self._options, self._told = options, told
        self._images = torch.from_numpy(pairs.image_vectors)
        self._texts = torch.from_numpy(pairs.text_vectors)
        self._batches = Batches(pairs, options.batch, options.seed)
        self._image = torch.zeros(dim, dim, requires_grad=True)  # what each head has over the identity
        self._text = torch.zeros(dim, dim, requires_grad=True)
        self._log_scale = torch.tensor(math.log(scale), requires_grad=True)
        self._bias = torch.tensor(-scale / 2, requires_grad=True)
        matrices = {"params": [self._image, self._text], "weight_decay": options.decay}
        scalars = {"params": [self._log_scale, self._bias], "weight_decay": 0.0}
        self._optimizer = torch.optim.AdamW([matrices, scalars], lr=options.rate)
        self.log: list[Epoch] = []
        self._best = [self._image.detach().clone(), self._text.detach().clone()]
        self.best_scale, self._best_recall, self._best_epoch = scale, -1.0, 0

    @classmethod
    def begin(cls, pairs: PairSet, base: Encoder, options: HeadOptions) -> "_State":
        told = {
            "options": asdict(options) | {"objective": options.objective.value, "epochs": None},
            "base": asdict(base.spec.fingerprint),
            "pairs": [len(pairs.images), len(pairs.texts), float(pairs.image_vectors.sum(dtype=np.float64))],
        }
        return cls(pairs, options, base.spec.logit_scale, told)

    @property
    def scale(self) -> float:
        return math.exp(self._log_scale.item())

    def run_epoch(self, epoch: int) -> float:
        """Show each picture once, with one of its texts; return the mean loss."""
        options = self._options
        losses = []
        for number, (pictures, texts) in enumerate(self._batches.of(epoch)):
            step = (epoch - 1 + number / len(self._batches)) / options.epochs
            for group in self._optimizer.param_groups:
                group["lr"] = options.rate * schedule(step, options.warm_up)
            positives = torch.from_numpy(self._batches.positives(pictures, texts))
            images = _through(self._images[pictures], self._image)
            similarity = images @ _through(self._texts[texts], self._text).T
            scale = self._log_scale.exp()
            if options.objective is Objective.SIGMOID:
                loss = sigmoid(similarity, positives, scale, self._bias)
            else:
                loss = contrastive(similarity, positives, scale)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def heads(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return _matrix(self._image), _matrix(self._text)

    def best_heads(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        image, text = self._best
        return _matrix(image), _matrix(text)

    def note(self, line: Epoch) -> None:
        self.log.append(line)
        if line.held_out > self._best_recall:
            self._best = [self._image.detach().clone(), self._text.detach().clone()]
            self.best_scale, self._best_recall, self._best_epoch = line.scale, line.held_out, line.epoch

    def is_settled(self, patience: int) -> bool:
        """Whether held-out pairs have not been found better for so many epochs."""
        return len(self.log) - self._best_epoch >= patience

    def save(self, path: Path) -> None:
        kept = {
            "told": self._told,
            "log": [asdict(line) for line in self.log],
            "parameters": [self._image, self._text, self._log_scale, self._bias],
            "optimizer": self._optimizer.state_dict(),
            "best": [*self._best, self.best_scale, self._best_recall, self._best_epoch],
        }
        stream = BytesIO()
        torch.save(kept, stream)
        with replacing(path) as temporary:
            temporary.write_bytes(stream.getvalue())

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        try:
            kept = torch.load(path, weights_only=True)
            told = kept["told"]
        except Exception as error:  # torch raises whatever a damaged pickle leads to
            raise XSearchError(f"{path} cannot be read", remedy="delete it to begin anew") from error
        if told != self._told:
            raise XSearchError(
                f"{path} is of a training with other pairs, options or base", remedy="delete it, or name another --out"
            )
        with torch.no_grad():
            for own, stored in zip(
                (self._image, self._text, self._log_scale, self._bias), kept["parameters"], strict=True
            ):
                own.copy_(stored)
        self._optimizer.load_state_dict(kept["optimizer"])
        self.log = [Epoch(**line) for line in kept["log"]]
        image, text, self.best_scale, self._best_recall, self._best_epoch = kept["best"]
        self._best = [image, text]


def _through(vectors: "torch.Tensor", change: "torch.Tensor") -> "torch.Tensor":
    return torch.nn.functional.normalize(vectors + vectors @ change.T, dim=-1)


def _matrix(change: "torch.Tensor") -> NDArray[np.float32]:
    change_of: NDArray[np.float32] = change.detach().numpy()
    return np.eye(len(change_of), dtype=np.float32) + change_of


def _identities(dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.eye(dim, dtype=np.float32), np.eye(dim, dtype=np.float32)


def _mixed(
    pairs: PairSet, image: NDArray[np.float32], text: NDArray[np.float32]
) -> tuple[float, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return which share of the heads, mixed with the identity, is best by `best_share`, and them."""
    none = np.eye(len(image), dtype=np.float32)
    mixed = {share: (none + share * (image - none), none + share * (text - none)) for share in SHARES}
    share = best_share({share: _measured(pairs, *mixed[share]).found() for share in SHARES})
    return share, mixed[share]


def _measured(pairs: PairSet, image: NDArray[np.float32], text: NDArray[np.float32]) -> HeldOut:
    return HeldOut(headed(pairs.image_vectors, image), headed(pairs.text_vectors, text), pairs.owner)


def _write(
    out: Path, base: Encoder, heads: tuple[NDArray[np.float32], NDArray[np.float32]], logit_scale: float
) -> None:
    image, text = heads
    with replacing(out / WEIGHTS) as temporary, temporary.open("wb") as file:
        np.savez(file, image=image, text=text)
    with replacing(out / CONFIG) as temporary:
        temporary.write_text(json.dumps(config_of(base, logit_scale), indent=1), "utf-8")
