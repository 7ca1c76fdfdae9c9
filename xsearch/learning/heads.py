"""Training of small heads on frozen towers, from vectors that were encoded once: minutes on two cores.

Each head is a matrix that starts as the identity. Few pairs can say little about dim * dim numbers, so the heads are
held near it, by weight decay and by mixing them back with it (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903): the
share is chosen on pairs held out, and is nothing where these are not surely found better.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.encoders.heads import CONFIG, WEIGHTS, config_of, headed
from xsearch.errors import EncoderUnavailable, XSearchError
from xsearch.learning.losses import contrastive, sigmoid
from xsearch.learning.metrics import bootstrap, rankings
from xsearch.learning.pairs import PairSet
from xsearch.library.files import replacing

try:
    import torch
except ImportError as error:
    raise EncoderUnavailable("torch is missing here", remedy="pip install 'xsearch[clip]'") from error

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
SHARES = tuple(share / 10 for share in range(11))
KS = (1, 5, 10)


class Objective(StrEnum):
    """What is made small."""

    CONTRASTIVE = "contrastive"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How heads are trained. `rate` is the highest of a cosine schedule after `warm_up` of all steps."""

    objective: Objective = Objective.CONTRASTIVE
    epochs: int = 40
    batch: int = 512
    rate: float = 2e-4
    decay: float = 0.5
    warm_up: float = 0.1
    held_out: float = 0.2
    patience: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the log: the mean loss of an epoch, and what held-out pairs find then (`recall`)."""

    epoch: int
    loss: float
    recall: float
    scale: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it. `base` and `result` are recalls on the pairs held out, `share` how much of the heads is kept."""

    folder: Path
    training: int
    held_out: int
    epochs: tuple[Epoch, ...]
    share: float
    base: dict[str, float]
    result: dict[str, float]
    skipped: dict[str, int] = field(default_factory=dict)


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
        if not math.isfinite(loss):
            raise XSearchError(
                f"the loss is not a number any more in epoch {epoch}",
                remedy=f"what {out} held before stays; train with a lower --rate",
            )
        line = Epoch(epoch, loss, _recall(held_out, *state.heads()), state.scale)
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
        held_out=len(held_out.images),
        epochs=tuple(state.log),
        share=share,
        base=_recalls(held_out, *_identities(base.spec.dim)),
        result=_recalls(held_out, *kept),
        skipped=pairs.skipped,
    )


class _State:
    """Heads under training, and all that a checkpoint keeps of them."""

    def __init__(self, pairs: PairSet, options: HeadOptions, scale: float, told: dict[str, Any]) -> None:
        dim = pairs.image_vectors.shape[1]
        self._options, self._told = options, told
        self._images = torch.from_numpy(pairs.image_vectors)
        self._texts = torch.from_numpy(pairs.text_vectors)
        self._owner = pairs.owner
        self._texts_of = [np.flatnonzero(pairs.owner == picture) for picture in range(len(pairs.images))]
        # Texts that say the same are positives of each other's pictures.
        self._said = np.unique([" ".join(text.lower().split()) for text in pairs.sentences], return_inverse=True)[1]
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
        rng = np.random.default_rng([options.seed, epoch])
        order = rng.permutation(len(self._texts_of))
        batches = list(_batches(order, options.batch))
        losses = []
        for number, pictures in enumerate(batches):
            step = (epoch - 1 + number / len(batches)) / options.epochs
            for group in self._optimizer.param_groups:
                group["lr"] = options.rate * _schedule(step, options.warm_up)
            texts = np.array([rng.choice(self._texts_of[picture]) for picture in pictures])
            # Other texts of the same picture, and the same text of other pictures, are right too.
            same_text = self._said[texts][None] == self._said[texts][:, None]
            positives = torch.from_numpy(same_text | (pictures[:, None] == self._owner[texts][None]))
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
        if line.recall > self._best_recall:
            self._best = [self._image.detach().clone(), self._text.detach().clone()]
            self.best_scale, self._best_recall, self._best_epoch = line.scale, line.recall, line.epoch

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


def _batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield parts of nearly equal size, so that none is too small to contrast."""
    yield from np.array_split(order, max(1, round(len(order) / size)))


def _schedule(done: float, warm_up: float) -> float:
    """Return the share of the highest rate after `done`, 0 to 1, of all steps: linear up, then half a cosine down."""
    if done < warm_up:
        return (done + 1e-3) / (warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _mixed(
    pairs: PairSet, image: NDArray[np.float32], text: NDArray[np.float32]
) -> tuple[float, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return which share of the heads, mixed with the identity, finds most of the pairs, the least of equals.

    It is 0 where the lower end of the 95 % interval of the gain is not above 0: of twenty pairs held out, one more that
    is found says nothing.
    """
    none = np.eye(len(image), dtype=np.float32)
    mixed = {share: (none + share * (image - none), none + share * (text - none)) for share in SHARES}
    found = {share: _found(pairs, *mixed[share]) for share in SHARES}
    best = max(SHARES, key=lambda share: (float(found[share].mean()), -share))
    low, _ = bootstrap(found[best] - found[0.0], np.arange(len(pairs.images)))
    share = best if low > 0 else 0.0
    return share, mixed[share]


def _found(pairs: PairSet, image: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n,) for each picture how often it is found by its texts, and finds one of them, among the first of KS."""
    to_image, to_text = _ranks(pairs, image, text)
    by_texts = np.mean([to_image <= k for k in KS], axis=0)
    counts = np.bincount(pairs.owner, minlength=len(pairs.images))
    of_picture: NDArray[np.float64] = np.bincount(pairs.owner, by_texts, minlength=len(counts)) / counts
    finding: NDArray[np.float64] = np.mean([to_text <= k for k in KS], axis=0)
    return (of_picture + finding) / 2


def _recall(pairs: PairSet, image: NDArray[np.float32], text: NDArray[np.float32]) -> float:
    """Return the mean of recall at 1, 5 and 10, both ways."""
    return float(np.mean(list(_recalls(pairs, image, text).values())))


def _recalls(pairs: PairSet, image: NDArray[np.float32], text: NDArray[np.float32]) -> dict[str, float]:
    ranks = zip(("text to image", "image to text"), _ranks(pairs, image, text), strict=True)
    return {f"{direction} recall@{k}": float((of <= k).mean()) for direction, of in ranks for k in KS}


def _ranks(
    pairs: PairSet, image: NDArray[np.float32], text: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ranks of the right pictures, by text, and of the first right texts, by picture."""
    images, texts = headed(pairs.image_vectors, image), headed(pairs.text_vectors, text)
    to_image = rankings(texts, images, [np.array([owner]) for owner in pairs.owner])[2]
    to_text = rankings(images, texts, [np.flatnonzero(pairs.owner == n) for n in range(len(pairs.images))])[2]
    return to_image, to_text


def _write(
    out: Path, base: Encoder, heads: tuple[NDArray[np.float32], NDArray[np.float32]], logit_scale: float
) -> None:
    image, text = heads
    with replacing(out / WEIGHTS) as temporary, temporary.open("wb") as file:
        np.savez(file, image=image, text=text)
    with replacing(out / CONFIG) as temporary:
        temporary.write_text(json.dumps(config_of(base, logit_scale), indent=1), "utf-8")
