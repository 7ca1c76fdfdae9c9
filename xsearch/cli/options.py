"""Options that several commands share."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DATA = Path("index_data")


def to_read(data: str | Path) -> Path:
    """Return the folder to read a library in; one at a URI is mirrored first."""
    if "://" not in str(data):
        return Path(data)
    from xsearch.library.remote import local_folder

    return local_folder(data)


def to_write(data: str | Path) -> Path:
    """Return the folder of a library to change. Raises XSearchError for one at a URI."""
    if "://" not in str(data):
        return Path(data)
    from xsearch.errors import XSearchError
    from xsearch.library.remote import is_remote, own_folder

    if is_remote(data):
        raise XSearchError(
            "of all commands that change a library only `xsearch index` takes a URI", remedy="name a folder with --data"
        )
    return own_folder(data)


def html_file(name: str) -> Path:
    """Return the file. Raises XSearchError if its name is not that of a page."""
    file = Path(name)
    if file.suffix.lower() not in (".html", ".htm"):
        from xsearch.errors import XSearchError

        raise XSearchError(f"a contact sheet is a page, and {name} is no name of one", remedy="let it end in .html")
    return file


Data = Annotated[
    Path,
    typer.Option(
        "--data", metavar="FOLDER", parser=to_read, envvar="XSEARCH_DATA", help="The library: a folder or s3://..."
    ),
]
"""Of a command that reads."""
OwnData = Annotated[
    Path, typer.Option("--data", metavar="FOLDER", parser=to_write, envvar="XSEARCH_DATA", help="The library folder.")
]
"""Of a command that writes."""
AnyData = Annotated[
    str, typer.Option("--data", metavar="FOLDER", envvar="XSEARCH_DATA", help="The library: a folder or s3://...")
]
"""As it was typed."""
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
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        show_default="a GPU if there is one",
        help="Where a model of open_clip computes: cpu, cuda (all GPUs), cuda:1, or several, as cuda:0,cuda:1.",
    ),
]
HowMany = Annotated[int, typer.Option("-k", metavar="N", min=1, max=100_000, help="How many hits.")]
OfKind = Annotated[str, typer.Option("--kind", metavar="KIND", help="What to find: image, text, frame or any.")]
Grouped = Annotated[str, typer.Option("--group", metavar="GROUP", help="Show frames of films as moment, film or none.")]
Where = Annotated[
    str | None, typer.Option("--where", metavar="SQL", help='Only items that meet a condition, as "width > 2000".')
]
Near = Annotated[
    str | None, typer.Option("--near", metavar="LAT,LON,KM", help="Only pictures taken within so many km.")
]
Open = Annotated[bool, typer.Option("--open", help="Show the hits as a contact sheet in the browser.")]
Sheet = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="FILE",
        parser=html_file,
        show_default=False,
        help="Write the contact sheet to this HTML file.",
    ),
]
RAY_HERE = "here"
"""What stands for an address where `--ray` has none: Ray is started on this machine."""

Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="[ADDRESS]", help="Spread the work by Ray, here or over the cluster at ADDRESS."),
]
_RAY_ADDRESS = re.compile(r"auto|here|[^/\s]+:\d+")


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with an address behind each `--ray`: typer knows no options whose value may be missing."""
    given: list[str] = []
    for argument, following in pairwise([*arguments, ""]):
        given.append(argument)
        if argument == "--ray" and not _RAY_ADDRESS.fullmatch(following):
            given.append(RAY_HERE)
    return given


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
