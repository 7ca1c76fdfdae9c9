"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DATA = Path("index_data")

Data = Annotated[Path, typer.Option("--data", metavar="FOLDER", envvar="XSEARCH_DATA", help="The library folder.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        envvar="XSEARCH_MODEL",
        show_default="the library's own, else builtin",
        help="The encoder; `xsearch models` lists them.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
