"""Texts learn on, behind pictures that stay as they are: what is said of how a picture is made.

Of each picture the encoder's vectors of several views are kept (`see`), so that a step costs no more than its texts.
Captions and photographs are matched by the symmetric InfoNCE, as in `train.py`; texts choose among more photographs
than are in the batch, of which there are vectors in plenty. Some pictures are shown in every style: in colour, without
colours, drawn. A text that tells one chooses its style among those of its picture, and its picture among those in its
style; one that tells nothing else chooses among the styles of each. Names of things stay where they were: their
vectors, and the probabilities by which pictures tell them.
"""

import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from draws import draw_texts
from learner import Learner
from losses import LOGIT_SCALE, choice_loss, divergence, symmetric_loss
from measures import auroc, recalls, top1
from names import class_texts, other_class_texts, prompted
from numpy.typing import NDArray
from pictures import OF_NAMED, VIEWS, Pictures, is_name, read_pictures, wait_while
from PIL import Image
from styles import STYLES, Style, styled
from torch import Tensor, nn
from torch.nn import functional
from towers import TextTower, in_bfloat16

from xsearch.encoders import Encoder

SEEN = tuple(view for style in STYLES for view in style.views)
PICTURES_AT_ONCE = 64

Seen = Mapping[str, NDArray[np.float32]]
"""Of each view unit vectors (n, 384), n being fewer for views that are not of named pictures, which come last."""


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """What a run is made of; learning rates are those of AdamW at their height."""

    epochs: int = 2
    batch: int = 256
    class_share: float = 0.5  # of the class-named pictures, in each epoch
    captions: int = 3  # of a picture in each batch, where it has as many
    styled: int = 64  # pictures of a batch that are shown in every style
    alone: int = 4  # texts of each style that tell nothing else
    tell_styles: float = 1.0  # weight of the losses by which these are told
    others: int = 2048  # photographs that are not in the batch, among which texts choose, too
    dropout: float = 0.1
    tuned_layers: int = 4
    rate_text: float = 1e-4
    rate_head: float = 2e-4
    weight_decay: float = 0.05
    names: int = 192  # drawn for each batch
    keep_names: float = 1.0  # weight of the divergence from the probabilities of names before
    keep_vectors: float = 10.0  # weight of how far names move
    average: float = 0.99
    warm_up_steps: int = 15
    hold_out: bool = True  # one class in five: they show what becomes of names that are not learned
    seed: int = 0


def see(views: Sequence[str], pictures: Pictures, encoder: Encoder, folder: Path, pause: Path | None = None) -> Seen:
    """Return the vectors of these views of the pictures; kept as `<view>.npy`, those that are there are not made."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for view in views:
        done = folder / f"{view}.npy"
        if not done.exists():
            rng = random.Random(view)
            images = pictures.images[: len(pictures) if view in OF_NAMED else pictures.captioned]
            vectors = []
            for at in range(0, len(images), PICTURES_AT_ONCE):
                wait_while(pause)
                opened = [Image.open(io.BytesIO(one)).convert("RGB") for one in images[at : at + PICTURES_AT_ONCE]]
                vectors.append(encoder.encode_images([np.asarray(VIEWS[view](one, rng)) for one in opened]))
            np.save(done, np.concatenate(vectors))
        found[view] = np.load(done)
    return found


@dataclass(frozen=True, slots=True)
class TextDevelopment:
    """What runs are compared by: captioned sets, and classes of which a run has not had the names."""

    sets: list[tuple[str, Pictures, Seen]]
    held_out: NDArray[np.float32]
    classes: list[str]
    own: list[int]

    @classmethod
    def read(cls, data_dir: Path, held_out: Pictures, classes: list[str], encoder: Encoder) -> "TextDevelopment":
        """Read the development sets; `held_out` are pictures that are each told by one of the class texts."""
        with TemporaryDirectory() as folder:
            views = [style.views[0] for style in STYLES]
            sets = []
            for file in sorted(data_dir.glob("dev-*.parquet")):
                pictures = read_pictures(file)
                sets.append((file.stem, pictures, see(views, pictures, encoder, Path(folder, file.stem))))
            shown = see(["plain"], held_out, encoder, Path(folder, "held-out"))["plain"]
        return cls(sets, shown, classes, [classes.index(texts[0].lower()) for texts in held_out.texts])

    def measure(self, encode: Callable[[Sequence[str]], NDArray[np.float32]]) -> dict[str, float]:
        """Return recall, how well texts tell styles, and top-1 of the classes among all others of ImageNet.

        "told" is the AUROC of texts that training has not, for development pictures of a style against all others: as
        they are, without their colours, their outlines. "own" is how many captions that tell a style find their own
        picture in this style first among all of these.
        """
        found: dict[str, float] = {}
        for name, pictures, seen in self.sets:
            texts = [text for texts in pictures.texts for text in texts]
            owner = np.array([i for i, texts in enumerate(pictures.texts) for _ in texts])
            found |= {f"{name} {k}": v for k, v in recalls(seen["plain"], encode(texts), owner).items()}
            every = np.concatenate([seen[style.views[0]] for style in STYLES])
            style_of = np.repeat(np.arange(len(STYLES)), len(pictures))
            for at, style in enumerate(STYLES):
                is_of_it, view = style_of == at, style.views[0]
                pairs = [auroc(every[is_of_it] @ one, every[~is_of_it] @ one) for one in encode(style.unseen)]
                found[f"{name} told, {view}"] = float(np.mean(pairs))
                asked = encode([styled(texts[0], style, random.Random(0)) for texts in pictures.texts])
                found[f"{name} own, {view}"] = top1(asked, every, np.flatnonzero(is_of_it).tolist())
        among = [*self.classes, *other_class_texts(self.classes)]
        found["held-out of all"] = top1(self.held_out, encode(among), self.own)
        return {name: round(value, 4) for name, value in found.items()}


class TextRun:
    """A text tower, the vectors of pictures that it learns from, and the optimiser."""

    def __init__(
        self,
        recipe: TextRecipe,
        pictures: Pictures,
        shown: Sequence[int],
        seen: Seen,
        tower: TextTower,
        scale: float,
        pause: Path | None = None,
    ) -> None:
        """`shown` are the rows of the pictures that are learned from."""
        self._recipe, self._pictures, self._shown, self._seen, self.tower = recipe, pictures, shown, seen, tower
        self._pause, self._rng = pause, random.Random(recipe.seed)
        self._captioned = [i for i in shown if not is_name(pictures.texts[i])]
        self._photographs = torch.from_numpy(seen["plain"])
        self.scale = nn.Parameter(torch.tensor(scale).log())
        for one in tower.modules():
            if isinstance(one, nn.Dropout):
                one.p = recipe.dropout
        self._names = sorted({pictures.texts[i][0] for i in shown if is_name(pictures.texts[i])} | class_texts().keys())
        self._known_names = self._encoded(self._names)
        learning = {name: one for name, one in tower.named_parameters() if one.requires_grad}
        in_bert = {name for name in learning if name.startswith("bert.")}
        groups: list[dict[str, Any]] = [
            {"params": [one for name, one in learning.items() if name in in_bert], "lr": recipe.rate_text},
            {"params": [one for name, one in learning.items() if name not in in_bert], "lr": recipe.rate_head},
            {"params": [self.scale], "lr": recipe.rate_head, "weight_decay": 0.0},
        ]
        self.learner = Learner(
            {**learning, "scale": self.scale},
            groups,
            steps=recipe.epochs * (len(self._order()) // recipe.batch),
            warm_up_steps=recipe.warm_up_steps,
            weight_decay=recipe.weight_decay,
            average=recipe.average,
        )

    def train(self, development: TextDevelopment, checkpoint: Path, note: Callable[..., None]) -> None:
        """Keep in `checkpoint`, after every epoch, the averaged weights."""
        note(recipe=asdict(self._recipe), pictures=len(self._shown), held_out=len(self._pictures) - len(self._shown))
        note(step=0, **self.measure(development))
        for epoch in range(self._recipe.epochs):
            order, size = self._order(), self._recipe.batch
            self.tower.train()
            losses = [self._step(order[at : at + size]) for at in range(0, len(order) - size + 1, size)]
            with self.learner.averaged():
                note(epoch=epoch + 1, loss=float(np.mean(losses)), **self.measure(development))
            torch.save(self.learner.average, checkpoint)

    def measure(self, development: TextDevelopment) -> dict[str, float]:
        """Return what the development pictures tell, and the mean cosine of names with what they were."""
        kept = (self._encoded(self._names) * self._known_names).sum(dim=1).mean().item()
        return {**development.measure(lambda texts: self._encoded(texts).numpy()), "names as before": round(kept, 4)}

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        self.tower.eval()
        with torch.no_grad(), in_bfloat16():
            return self.tower.encode(texts)

    def _order(self) -> list[int]:
        """Return the pictures of one epoch in random order: all with captions, some of those with class names."""
        texts, share = self._pictures.texts, self._recipe.class_share
        kept = [i for i in self._shown if not is_name(texts[i]) or self._rng.random() < share]
        self._rng.shuffle(kept)
        return kept

    def _step(self, rows: list[int]) -> float:
        wait_while(self._pause)
        recipe, rng, texts_of = self._recipe, self._rng, self._pictures.texts
        texts, same = draw_texts([texts_of[row] for row in rows], recipe.captions, rng)
        some, names = rows[: recipe.styled], rng.sample(range(len(self._names)), recipe.names)
        asked = (
            [prompted(text, rng) for text in texts],
            [self._names[i] for i in names],
            [styled(rng.choice(texts_of[row]), style, rng) for style in STYLES for row in some],
            [text for style in STYLES for text in rng.sample(style.alone, recipe.alone)],
        )
        with in_bfloat16():
            said, named, told, alone = (self.tower.encode(one) for one in asked)
        scale = self.scale.exp()
        photographs = self._seen_of(rows, STYLES[0])
        others = sorted({*rng.sample(self._captioned, recipe.others)} - set(rows))
        scores = scale * torch.cat([photographs, self._photographs[others]]) @ said.T
        own = functional.pad(same, (0, 0, 0, len(others)))
        matching = (choice_loss(scores[: len(rows)], same) + choice_loss(scores.T, own.T)) / 2
        made = torch.stack([self._seen_of(some, style) for style in STYLES])
        telling = style_loss(made, told.view_as(made), alone.view(len(STYLES), recipe.alone, -1), scale)
        known = self._known_names[names]
        forgetting = recipe.keep_names * divergence(
            LOGIT_SCALE * photographs @ named.T, LOGIT_SCALE * photographs @ known.T
        )
        forgetting += recipe.keep_vectors * (1 - (named * known).sum(dim=1).mean())
        self.learner.step(matching + recipe.tell_styles * telling + forgetting)
        return float(matching.detach())

    def _seen_of(self, rows: Sequence[int], style: Style) -> Tensor:
        """Return (n, 384), each in a random view of that style."""
        views = [[self._seen[view] for view in style.views if row < len(self._seen[view])] for row in rows]
        return torch.from_numpy(np.stack([self._rng.choice(own)[row] for own, row in zip(views, rows, strict=True)]))


def style_loss(pictures: Tensor, told: Tensor, alone: Tensor, scale: Tensor) -> Tensor:
    """Return how badly texts tell styles.

    `pictures` (styles, n, d) are the same n in each, `told` (styles, n, d) texts of these that tell their style, each
    of which chooses among the styles of its picture, and among the pictures in its style, as these among them; `alone`
    (styles, m, d) tell nothing else, and choose among the styles of every picture.
    """
    count, n, _ = pictures.shape
    style = torch.arange(count)
    of_told = scale * torch.einsum("tnd,snd->tns", told, pictures)
    of_alone = scale * torch.einsum("tmd,snd->tmns", alone, pictures)
    within = [symmetric_loss(scale * texts @ own.T, torch.eye(n)) for texts, own in zip(told, pictures, strict=True)]
    return (
        functional.cross_entropy(of_told.flatten(end_dim=-2), style.repeat_interleave(n))
        + functional.cross_entropy(of_alone.flatten(end_dim=-2), style.repeat_interleave(alone.shape[1] * n))
        + torch.stack(within).mean()
    )
