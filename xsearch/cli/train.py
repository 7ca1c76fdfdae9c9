"""`xsearch train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsearch.cli.index import ImageColumn, PathColumn, Root, TextColumn, progress_bar
from xsearch.cli.options import Json
from xsearch.cli.output import account, counted, listing, print_json, say, warn

if TYPE_CHECKING:
    from xsearch.learning.heads import Epoch


def train_command(
    pairs: Annotated[list[str], typer.Argument(metavar="PAIRS...", help="Pictures with texts, as for xsearch index.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the trained encoder goes.")],
    base: Annotated[
        str, typer.Option("--base", metavar="NAME", help="The encoder to improve; `xsearch models` lists them.")
    ] = "builtin",
    objective: Annotated[
        str, typer.Option("--objective", metavar="NAME", help="The loss: contrastive or sigmoid.")
    ] = "contrastive",
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="At most.")] = 40,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=2, help="Pictures that are contrasted.")] = 512,
    rate: Annotated[float, typer.Option("--rate", metavar="X", min=0.0, help="The highest learning rate.")] = 2e-4,
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", min=0.05, max=0.9, help="Of the pictures, to measure on.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0)] = 0,
    path_column: PathColumn = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Improve an encoder with your own pairs of pictures and texts.

    Small heads are trained on the encoder's vectors, in minutes and without a GPU. Some pictures are held out; what was
    learned is mixed with what the encoder knew, as far as these are surely found better, and not at all where they are
    not. Use the result with `xsearch index --model FOLDER`. A run that was ended goes on where it stood.
    """
    from xsearch.encoders import get_encoder
    from xsearch.encoders.heads import is_headed
    from xsearch.errors import XSearchError
    from xsearch.learning.heads import HeadOptions, Objective, train_heads
    from xsearch.learning.pairs import take_pairs
    from xsearch.learning.report import write_report
    from xsearch.survey import Layout

    if objective not in list(Objective):
        raise XSearchError(f"there is no objective {objective!r}", remedy=f"name one of {', '.join(Objective)}")
    if is_headed(Path(base)):
        raise XSearchError(f"{base} has heads already", remedy="name the encoder below them with --base")
    encoder = get_encoder(base)
    layout = Layout(path_column, image_column, text_column, root)
    with progress_bar() as (on_progress, on_stage):
        found = take_pairs(pairs, out / "pairs", encoder, layout=layout, on_progress=on_progress, on_stage=on_stage)
    options = HeadOptions(Objective(objective), epochs, batch, rate, held_out=held_out, seed=seed)
    trained = train_heads(found, encoder, out, options, on_epoch=lambda line: None if json else _tell(line))
    write_report(out / "report.html", base, trained)
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
        warn("the pictures held out are not surely found better: the result is as good as its base, no better")


def _tell(line: "Epoch") -> None:
    warn(f"epoch {line.epoch}: loss {line.loss:.4f}, held-out recall {line.recall:.4f}")
