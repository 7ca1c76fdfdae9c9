"""Training of a whole open_clip model, towers and decoder: all their weights, or changes of low rank.

What towers learn of few pairs costs them what they knew of everything else. So the result is mixed with its base weight
by weight (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903), by the share that is surely best on pairs held out.
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders.openclip import OpenClipEncoder
from xsearch.encoders.towers import CONFIG, WEIGHTS, config_of
from xsearch.errors import EncoderUnavailable, XSearchError
from xsearch.learning.losses import captioning, contrastive, sigmoid
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
from xsearch.media.images import open_image
from xsearch.originals import read_original

try:
    import torch
    from safetensors.torch import save_file
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.utils import parametrize
except ImportError as error:
    raise EncoderUnavailable("torch is missing here", remedy="pip install 'xsearch[clip]'") from error

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_SCALE = 100.0  # CLIP's, so that training stays stable (Radford et al. 2021, section 2.5)
MAX_GRADIENT = 1.0


class Method(StrEnum):
    """Which weights change."""

    LORA = "lora"
    FULL = "full"


RATES = {Method.LORA: 3e-4, Method.FULL: 1e-5}


@dataclass(frozen=True, slots=True)
class TowerOptions:
    """How towers are trained.

    `batch` pictures are contrasted, of which `micro_batch` pass the towers at once. `rate` is the highest of a cosine
    schedule after `warm_up` of all steps, by default that of RATES. `rank` is that of each change of `lora`. The
    objective multitask adds `caption_weight` times the loss of captions to the contrastive loss, as CoCa was trained.
    """

    method: Method = Method.LORA
    objective: Objective = Objective.CONTRASTIVE
    epochs: int = 10
    batch: int = 256
    micro_batch: int = 32
    rate: float | None = None
    decay: float = 0.1
    warm_up: float = 0.1
    rank: int = 8
    caption_weight: float = 2.0
    held_out: float = 0.2
    patience: int = 3
    seed: int = 0


def train_towers(
    pairs: PairSet,
    base: OpenClipEncoder,
    out: Path,
    options: TowerOptions,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train an open_clip model on pairs and write it to the folder `out`, which `get_encoder` opens.

    On a GPU it computes in bfloat16. A run that was ended goes on from its checkpoint when it is started again with the
    same pairs and options. Raises XSearchError for an objective that the model has no part for, where the loss is not
    a number any more, or where a checkpoint is of another training; Undecodable, SourceError or OSError where a picture
    is not there any more or a disk is full. What was written before stays.
    """
    check_objective(base, options.objective)
    out.mkdir(parents=True, exist_ok=True)
    training, held_out = pairs.split(options.held_out, options.seed)
    shown, measured = _Shown(training, base), _Shown(held_out, base)
    state = _State(shown, base, options)
    state.resume(out / CHECKPOINT)
    for epoch in range(len(state.log) + 1, options.epochs + 1):
        if state.is_settled(options.patience):
            break
        loss = state.run_epoch(epoch, out)
        line = Epoch(epoch, loss, state.measure(measured).mean, state.scale)
        state.note(line)
        on_epoch(line)
        state.save(out / CHECKPOINT)
    share, of_share = state.settle(measured)
    _write(out, base, state.mixed(share))
    with replacing(out / LOG) as temporary:
        temporary.write_text("".join(f"{json.dumps(asdict(line))}\n" for line in state.log), "utf-8")
    (out / CHECKPOINT).unlink(missing_ok=True)
    return Trained(
        folder=out,
        training=len(training.images),
        held_out=len(held_out.images) if options.held_out else 0,
        epochs=tuple(state.log),
        share=share,
        base=of_share[0.0].figures,
        result=of_share[share].figures,
        skipped=pairs.skipped,
    )


def check_objective(base: OpenClipEncoder, objective: Objective) -> None:
    """Raise XSearchError for an objective that a model has no part for."""
    if objective.captions and not base.writes_captions:
        raise XSearchError(
            f"{base.spec.name} has no decoder that could learn to write", remedy="name a CoCa with --base"
        )


class _Shown:
    """Pairs as the model takes them: pictures are read anew each time, as there may be more of them than memory."""

    def __init__(self, pairs: PairSet, base: OpenClipEncoder) -> None:
        self.pairs, self.device, self._base = pairs, base.device, base
        self._columns = pairs.library.manifest.image_columns
        self._tokens = base.tokens(pairs.sentences)

    def pixels(self, pictures: NDArray[np.int64]) -> torch.Tensor:
        """Return (n, 3, h, w) on the device."""
        items = self.pairs.library.items(self.pairs.images[pictures])
        side = self._base.spec.image_px
        return self._base.pixels([open_image(read_original(item, self._columns), side) for item in items])

    def tokens(self, texts: NDArray[np.int64]) -> torch.Tensor:
        """Return (n, context length) on the device."""
        return self._tokens[texts].to(self.device)


class _Measure(NamedTuple):
    """How good held-out pairs are, each picture's (n,) and all together, higher being better; and in figures."""

    found: NDArray[np.float64]
    mean: float
    figures: dict[str, float]


class _Passed(NamedTuple):
    """Unit vectors (n, dim) of pictures and of texts, and the loss (n,) of writing the texts."""

    image: torch.Tensor
    sentence: torch.Tensor
    said: torch.Tensor | None = None


class _LowRank(torch.nn.Module):  # type: ignore[misc]
    """A weight (rows, columns) that changes by a product of rank `rank` alone (Hu et al. 2022, arXiv 2106.09685)."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = torch.nn.Parameter(torch.randn(rank, columns, device=weight.device) / columns**0.5)
        self.up = torch.nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


class _State:
    """A model under training, and all that a checkpoint keeps of it."""

    def __init__(self, shown: _Shown, base: OpenClipEncoder, options: TowerOptions) -> None:
        pairs = shown.pairs
        self._shown, self._base, self._options = shown, base, options
        self._batches = Batches(pairs, options.batch, options.seed)
        self._rate = options.rate or RATES[options.method]
        self._told = {
            "options": {name: str(value) for name, value in asdict(options).items() if name != "epochs"},
            "base": asdict(base.spec.fingerprint),
            "pairs": [len(pairs.images), len(pairs.texts), float(pairs.image_vectors.sum(dtype=np.float64))],
        }
        torch.manual_seed(options.seed)
        self.model = copy.deepcopy(base.model)
        self.model.requires_grad_(options.method is Method.FULL)
        if options.method is Method.LORA:
            _change_by_low_rank(self.model, options.rank)
        self.model.logit_scale.requires_grad_(options.objective.contrasts)
        own_bias = getattr(self.model, "logit_bias", None)
        self._bias = torch.nn.Parameter(-self.model.logit_scale.detach().exp() / 2) if own_bias is None else own_bias
        self._bias.requires_grad_(options.objective is Objective.SIGMOID)
        every = [*self.model.parameters(), *([self._bias] if own_bias is None else [])]
        self._learned = [parameter for parameter in every if parameter.requires_grad]
        matrices = [parameter for parameter in self._learned if parameter.ndim >= 2]
        rest = [parameter for parameter in self._learned if parameter.ndim < 2]  # gains and biases are not drawn to 0
        groups = [{"params": matrices, "weight_decay": options.decay}, {"params": rest, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=self._rate)
        self.log: list[Epoch] = []
        self._before = self._best = _weights(base.model)
        self._best_found, self._best_epoch = -math.inf, 0

    @property
    def scale(self) -> float:
        return math.exp(self.model.logit_scale.item())

    def run_epoch(self, epoch: int, out: Path) -> float:
        """Show each picture once, with one of its texts; return the mean loss."""
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()  # its averages are of millions of pictures
        losses = []
        for number, (pictures, texts) in enumerate(self._batches.of(epoch)):
            step = (epoch - 1 + number / len(self._batches)) / self._options.epochs
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate * schedule(step, self._options.warm_up)
            self._optimizer.zero_grad()
            losses.append(self.add_gradients(pictures, texts))
            check_finite(losses[-1], epoch, out)
            torch.nn.utils.clip_grad_norm_(self._learned, MAX_GRADIENT)
            self._optimizer.step()
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, math.log(MAX_SCALE))
        return float(np.mean(losses))

    def add_gradients(self, pictures: NDArray[np.int64], texts: NDArray[np.int64]) -> float:
        """Add the gradients of a batch's loss to the weights', `micro_batch` pictures at a time; return the loss.

        First the vectors of the whole batch are computed and the loss's gradients for them, then each part passes again
        and hands these on to the weights: what the whole batch would give at once, in the memory of a part (GradCache,
        Gao et al. 2021, arXiv 2101.06983).
        """
        size, objective = self._options.micro_batch, self._options.objective
        parts = [slice(first, first + size) for first in range(0, len(pictures), size)]
        shown = [(self._shown.pixels(pictures[part]), self._shown.tokens(texts[part])) for part in parts]
        device, bfloat16, loss = self._base.device, self._base.bfloat16, 0.0
        before = _random_state(device)
        if objective.contrasts:
            with torch.no_grad():
                whole = [_pass(self.model, *part, bfloat16, captions=objective.captions) for part in shown]
            images = torch.cat([part.image for part in whole]).requires_grad_()
            sentences = torch.cat([part.sentence for part in whole]).requires_grad_()
            contrast = self._contrast(images, sentences, self._batches.positives(pictures, texts))
            contrast.backward()
            loss = contrast.item()
        _set_random_state(before, device)  # what was dropped by chance is dropped again
        weight = self._options.caption_weight if objective.contrasts else 1.0
        words = sum(int((tokens[:, 1:] != self.model.pad_id).sum()) for _, tokens in shown) if objective.captions else 0
        for part, (pixels, tokens) in zip(parts, shown, strict=True):
            passed = _pass(self.model, pixels, tokens, bfloat16, captions=objective.captions)
            handed_on = torch.zeros((), device=device)
            if objective.contrasts:
                handed_on = (passed.image * images.grad[part]).sum() + (passed.sentence * sentences.grad[part]).sum()
            if passed.said is not None:
                caption = weight * passed.said.sum() / words
                handed_on, loss = handed_on + caption, loss + caption.item()
            handed_on.backward()
        return loss

    def _contrast(self, images: torch.Tensor, sentences: torch.Tensor, positives: NDArray[np.bool_]) -> torch.Tensor:
        right, scale = torch.from_numpy(positives).to(images.device), self.model.logit_scale.exp()
        if self._options.objective is Objective.SIGMOID:
            return sigmoid(images @ sentences.T, right, scale, self._bias)
        return contrastive(images @ sentences.T, right, scale)

    def note(self, line: Epoch) -> None:
        self.log.append(line)
        if line.held_out > self._best_found:
            self._best, self._best_found, self._best_epoch = _weights(self.model), line.held_out, line.epoch

    def is_settled(self, patience: int) -> bool:
        """Whether held-out pairs have not been found better for so many epochs."""
        return len(self.log) - self._best_epoch >= patience

    def settle(self, held_out: _Shown) -> tuple[float, dict[float, _Measure]]:
        """Return how much of the best weights to keep, and what held-out pairs say of each share."""
        model, of_share = copy.deepcopy(self._base.model), {}
        for share in SHARES:
            model.load_state_dict(self.mixed(share))
            of_share[share] = _measure(model, held_out, self._options, self._base.bfloat16)
        return best_share({share: measured.found for share, measured in of_share.items()}), of_share

    def mixed(self, share: float) -> dict[str, torch.Tensor]:
        """Return the weights between those of the base, 0, and the best that were learned, 1."""
        pairs = ((name, before, self._best[name]) for name, before in self._before.items())
        return {
            name: before + share * (best - before) if before.is_floating_point() else before
            for name, before, best in pairs
        }

    def measure(self, held_out: _Shown) -> _Measure:
        return _measure(self.model, held_out, self._options, self._base.bfloat16)

    def save(self, path: Path) -> None:
        kept = {
            "told": self._told,
            "log": [asdict(line) for line in self.log],
            "learned": self._learned,
            "optimizer": self._optimizer.state_dict(),
            "best": [self._best, self._best_found, self._best_epoch],
        }
        with replacing(path) as temporary:
            torch.save(kept, temporary)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        try:
            kept = torch.load(path, map_location=self._base.device, weights_only=True)
            told = kept["told"]
        except Exception as error:  # torch raises whatever a damaged pickle leads to
            raise XSearchError(f"{path} cannot be read", remedy="delete it to begin anew") from error
        if told != self._told:
            raise XSearchError(
                f"{path} is of a training with other pairs, options or base", remedy="delete it, or name another --out"
            )
        with torch.no_grad():
            for own, stored in zip(self._learned, kept["learned"], strict=True):
                own.copy_(stored)
        self._optimizer.load_state_dict(kept["optimizer"])
        self.log = [Epoch(**line) for line in kept["log"]]
        self._best, self._best_found, self._best_epoch = kept["best"]


def _measure(model: Any, held_out: _Shown, options: TowerOptions, bfloat16: bool) -> _Measure:
    """Return how good pairs are for a model: how they find each other, or how likely it is to write their texts."""
    model.eval()
    pairs, size = held_out.pairs, options.micro_batch
    pictures, texts = (np.arange(len(of)) for of in (pairs.images, pairs.texts))
    with torch.inference_mode(), torch.autocast(held_out.device.type, torch.bfloat16, bfloat16):
        images = [model.encode_image(held_out.pixels(part), normalize=True) for part in _parts(pictures, size)]
        sentences = [model.encode_text(held_out.tokens(part), normalize=True) for part in _parts(texts, size)]
        image_vectors, text_vectors = (torch.cat(tower).float().cpu().numpy() for tower in (images, sentences))
    found = HeldOut(image_vectors, text_vectors, pairs.owner)
    figures = found.recalls()
    if not options.objective.captions:
        return _Measure(found.found(), found.mean(), figures)
    losses, counts = [], []
    for part in _parts(texts, size):
        tokens = held_out.tokens(part)
        with torch.inference_mode():
            losses.append(_pass(model, held_out.pixels(pairs.owner[part]), tokens, bfloat16, captions=True).said)
        counts.append((tokens[:, 1:] != model.pad_id).sum(dim=1))
    likely = -(torch.cat(losses) / torch.cat(counts)).cpu().numpy().astype(np.float64)
    figures["mean log-probability of a token"] = float(likely.mean())
    if options.objective.contrasts:
        return _Measure(found.found(), found.mean(), figures)
    of_picture = np.bincount(pairs.owner, likely) / np.bincount(pairs.owner)
    return _Measure(of_picture, float(likely.mean()), figures)


def _pass(model: Any, pixels: torch.Tensor, tokens: torch.Tensor, bfloat16: bool, *, captions: bool) -> _Passed:
    with torch.autocast(pixels.device.type, torch.bfloat16, bfloat16):
        if not captions:
            image, sentence = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
            return _Passed(image.float(), sentence.float())
        whole = model(pixels, tokens)
    said = captioning(whole["logits"], whole["labels"], model.pad_id)
    return _Passed(whole["image_features"].float(), whole["text_features"].float(), said)


def _parts(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _change_by_low_rank(model: torch.nn.Module, rank: int) -> None:
    """Let the matrices of a model change by products of low rank: those of linear layers and of attention."""
    for module in list(model.modules()):
        if isinstance(module, torch.nn.Linear):
            parametrize.register_parametrization(module, "weight", _LowRank(module.weight, rank))
        elif isinstance(module, torch.nn.MultiheadAttention) and module.in_proj_weight is not None:
            parametrize.register_parametrization(module, "in_proj_weight", _LowRank(module.in_proj_weight, rank))


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a model's weights as they act, changes of low rank added, on the CPU."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            weights |= {f"{name}.{which}": getattr(module, which).detach() for which in module.parametrizations}
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in weights.items()}


def _random_state(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def _write(out: Path, base: OpenClipEncoder, weights: dict[str, torch.Tensor]) -> None:
    with replacing(out / WEIGHTS) as temporary:
        save_file(weights, temporary)
    with replacing(out / CONFIG) as temporary:
        told = config_of(base.spec.fingerprint.model, base.tag, base.spec.name)
        temporary.write_text(json.dumps(told, indent=1), "utf-8")
