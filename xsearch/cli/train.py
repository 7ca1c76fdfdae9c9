"""`xsearch train`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.index import ImageColumn, PathColumn, Root, TextColumn, progress_bar
from xsearch.cli.options import Json
from xsearch.cli.output import account, counted, listing, print_json, say, warn

if TYPE_CHECKING:
    from xsearch.encoders import Encoder
    from xsearch.learning.pairs import PairSet
    from xsearch.learning.training import Epoch, Trained


def train_command(
    pairs: Annotated[list[str], typer.Argument(metavar="PAIRS...", help="Pictures with texts, as for xsearch index.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the trained encoder goes.")],
    base: Annotated[
        str, typer.Option("--base", metavar="NAME", help="The encoder to improve; `xsearch models` lists them.")
    ] = "builtin",
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="What is trained: head, lora or full.")
    ] = "head",
    objective: Annotated[
        str, typer.Option("--objective", metavar="NAME", help="The loss: contrastive, sigmoid, caption or multitask.")
    ] = "contrastive",
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", min=1, help="At most. [40 of heads, else 10]")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", min=2, help="Pictures that are contrasted. [512 of heads, else 256]"),
    ] = None,
    micro_batch: Annotated[
        int, typer.Option("--micro-batch", metavar="N", min=1, help="Pictures in memory at once, not of heads.")
    ] = 32,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="X", min=0.0, help="Highest learning rate. [head 2e-4, lora 3e-4, full 1e-5]"),
    ] = None,
    rank: Annotated[int, typer.Option("--rank", metavar="N", min=1, help="Of the changes of lora.")] = 8,
    caption_weight: Annotated[
        float, typer.Option("--caption-weight", metavar="X", min=0.0, help="Of captions in multitask.")
    ] = 2.0,
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", min=0.0, max=0.9, help="Of the pictures, to measure on.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0)] = 0,
    path_column: PathColumn = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Improve an encoder with your own pairs of pictures and texts.

    By default small heads are trained on the encoder's vectors, in minutes and without a GPU; --method lora and full
    train an open_clip model itself, best on a GPU. Some pictures are held out; what was learned is mixed with what the
    encoder knew, as far as these are surely found better, and not at all where they are not. Use the result with
    `xsearch index --model FOLDER`. A run that was ended goes on where it stood.
    """
    from xsearch.encoders import get_encoder
    from xsearch.encoders.heads import is_headed
    from xsearch.errors import XSearchError
    from xsearch.learning.pairs import take_pairs
    from xsearch.learning.report import write_report
    from xsearch.learning.training import Objective
    from xsearch.survey import Layout

    if objective not in list(Objective):
        raise XSearchError(f"there is no objective {objective!r}", remedy=f"name one of {', '.join(Objective)}")
    if is_headed(Path(base)):
        raise XSearchError(f"{base} has heads already", remedy="name the encoder below them with --base")
    encoder = get_encoder(base)
    given = {"epochs": epochs, "batch": batch, "rate": rate}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    chosen |= {"objective": Objective(objective), "held_out": held_out, "seed": seed}
    if method != "head":
        chosen |= {"micro_batch": micro_batch, "rank": rank, "caption_weight": caption_weight}
    train = _trainer(method, encoder, chosen)
    layout = Layout(path_column, image_column, text_column, root)
    with progress_bar() as (on_progress, on_stage):
        found = take_pairs(pairs, out / "pairs", encoder, layout=layout, on_progress=on_progress, on_stage=on_stage)
    trained = train(found, out, lambda line: None if json else _tell(line))
    write_report(out / "report.html", base, trained)
    if not held_out:
        warn("no pictures were held out: what is measured is what was learned, not what is found of new ones")
    if trained.skipped:
        warn(f"skipped {account(trained.skipped)}")
    if json:
        print_json(
            {
                "model": str(out),
                "pictures": {"training": trained.training, "held_out": trained.held_out},
                "epochs": len(trained.epochs),
                "share": trained.share,
                "held_out": {"base": trained.base, "result": trained.result},
                "skipped": trained.skipped,
            }
        )
        return
    learned = f"{counted(trained.training, 'picture')} learned from, {trained.held_out:,} held out"
    say(f"{learned}; {trained.share:.0%} of what was learned is kept")
    listing([(name, f"{was:.3f} -> {trained.result[name]:.3f}") for name, was in trained.base.items()])
    if not trained.share:
        warn("the pictures held out are not surely better off: the result is as good as its base, no better")


def _trainer(
    method: str, encoder: "Encoder", chosen: dict[str, Any]
) -> "Callable[[PairSet, Path, Callable[[Epoch], None]], Trained]":
    """Return what trains an encoder by a method. Raises XSearchError where there is nothing of the kind to train."""
    from xsearch.errors import XSearchError

    if method == "head":
        from xsearch.learning.heads import HeadOptions, train_heads

        options = HeadOptions(**chosen)
        return lambda pairs, out, on_epoch: train_heads(pairs, encoder, out, options, on_epoch)
    if not encoder.spec.name.startswith("openclip:"):
        raise XSearchError(
            f"the towers of {encoder.spec.name} cannot be trained", remedy="name an openclip: model, or --method head"
        )
    from xsearch.encoders.openclip import OpenClipEncoder
    from xsearch.learning.towers import Method, TowerOptions, check_objective, train_towers

    if method not in list(Method):
        raise XSearchError(f"there is no method {method!r}", remedy=f"name one of head, {', '.join(Method)}")
    assert isinstance(encoder, OpenClipEncoder)
    towers = TowerOptions(Method(method), **chosen)
    check_objective(encoder, towers.objective)
    return lambda pairs, out, on_epoch: train_towers(pairs, encoder, out, towers, on_epoch)


def _tell(line: "Epoch") -> None:
    warn(f"epoch {line.epoch}: loss {line.loss:.4f}, held-out pictures {line.held_out:.4f}")
