"""`xsearch tag`."""

from pathlib import Path
from typing import Annotated

import typer

from xsearch.cli.options import DEFAULT_DATA, Json, Model, OwnData
from xsearch.cli.output import counted, listing, print_json, say
from xsearch.errors import QueryError


def tag_command(
    labels: Annotated[Path, typer.Option("--labels", metavar="FILE", help="A text file with one label a line.")],
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="P", help="The least probability of a label that is given.")
    ] = 0.5,
    data: OwnData = DEFAULT_DATA,
    model: Model = None,
    json: Json = False,
) -> None:
    """Give pictures and frames labels by the names of things alone.

    Each gets the labels that are probably right, which may be several or none. They replace those of the last run, hold
    for pictures that come later too, and can be asked for: xsearch query --where "'dog' IN tags".
    """
    from xsearch.encoders import get_encoder
    from xsearch.library import Library
    from xsearch.tagging import tag

    names = read_lines(labels)
    found = tag(data, names, get_encoder(model or Library.open(data).manifest.encoder), threshold=threshold)
    by_label = sorted(found.labels.items(), key=lambda of_label: -of_label[1])
    if json:
        listed = [{"label": label, "items": count} for label, count in by_label]
        print_json({"items": found.items, "tagged": found.tagged, "labels": listed})
    else:
        listing([(label, f"{count:,}") for label, count in by_label])
        say(f"{found.tagged:,} of {counted(found.items, 'item')} with a label")


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file. Raises QueryError if it is no text in UTF-8, OSError if it cannot be read."""
    try:
        return file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise QueryError(f"{file} is not UTF-8", remedy="save it as UTF-8, one label a line") from error
