"""`xsearch summarize`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.options import DEFAULT_DATA, Data, Json, Model
from xsearch.cli.output import clock, counted, print_json, say, shortened, warn
from xsearch.errors import LibraryNotFound, XSearchError

if TYPE_CHECKING:
    from xsearch.encoders import Encoder
    from xsearch.library import Library
    from xsearch.summarize import Board
    from xsearch.types import RGBImage

PICTURE_PX = 270
COLUMNS = 4


def summarize_command(
    film: Annotated[Path, typer.Argument(metavar="FILM", help="The film.")],
    length: Annotated[int, typer.Option("--length", metavar="N", min=1, max=200, help="How many frames.")] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", show_default=False, help="A contact sheet (.html, .png), .json, or a clip (.mp4)."
        ),
    ] = None,
    data: Data = DEFAULT_DATA,
    model: Model = None,
    json: Json = False,
) -> None:
    """Show what happens in a film in a few frames.

    Its shots are clustered by meaning, and each cluster is shown by its most central frame, with the share of the film
    that it stands for. Titles are the nearest texts of the library, if it has some. A clip shows the stretch of each
    frame, of long ones four seconds, without sound.
    """
    if out is not None:
        _refuse_unwritable(out, film)
    from xsearch.encoders import DEFAULT_MODEL, get_encoder
    from xsearch.library.files import replacing
    from xsearch.summarize import summarize

    library = _library(data)
    encoder = get_encoder(model or (DEFAULT_MODEL if library is None else library.manifest.encoder))
    with _progress_bar() as on_progress:
        board = summarize(film, encoder, length=length, texts=_comparable(library, encoder), on_progress=on_progress)
    if out is not None:
        with replacing(out) as temporary:
            _WRITERS[out.suffix.lower()](board, temporary)
    if json:
        print_json(_record(board))
    elif out is not None:
        say(f"{counted(len(board.frames), 'frame')} of {clock(board.duration_s)} in {out}")
    else:
        _print_table(board)


def _refuse_unwritable(out: Path, film: Path) -> None:
    """Say what is wrong with a name before the long work."""
    if out.suffix.lower() not in _WRITERS:
        raise XSearchError(f"a summary cannot be written to {out}", remedy=f"its name ends in {', '.join(_WRITERS)}")
    if not out.parent.is_dir():
        raise XSearchError(f"there is no folder {out.parent}", remedy="make it, or name another file with --out")
    if out.is_dir() or (out.exists() and film.exists() and out.samefile(film)):
        what = "a folder" if out.is_dir() else "the film itself"
        raise XSearchError(f"{out} is {what}", remedy="name another file with --out")


def _library(data: Path) -> "Library | None":
    from xsearch.library import Library

    try:
        return Library.open(data)
    except LibraryNotFound as error:
        if data != DEFAULT_DATA:  # one that was named
            warn(f"{error.message}: the frames have no titles")
        return None


def _comparable(library: "Library | None", encoder: "Encoder") -> "Library | None":
    """Return the library if the vectors of the encoder can be compared with it."""
    if library is None or library.manifest.fingerprint == encoder.spec.fingerprint:
        return library
    mismatch = library.manifest.mismatch(library.folder, encoder.spec, remedy="")
    warn(f"{mismatch.message}: the frames have no titles")
    return None


@contextmanager
def _progress_bar() -> Iterator[Callable[[float, float], None]]:
    """Yield a function that moves a bar on stderr; where stderr is no terminal it does nothing."""
    if not sys.stderr.isatty():
        yield lambda seen_s, duration_s: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("watching"), BarColumn(), TextColumn("{task.fields[seen]}  ETA"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, seen="")

        def on_progress(seen_s: float, duration_s: float) -> None:
            bar.update(task, completed=seen_s, total=duration_s, seen=f"{clock(seen_s)} of {clock(duration_s)}")

        yield on_progress


def _record(board: "Board") -> dict[str, Any]:
    return {
        "film": str(board.film),
        "duration_s": round(board.duration_s, 3),
        "frames": [
            {"t_s": round(frame.t_s, 3), "shot": frame.shot, "title": frame.title, "weight": round(frame.weight, 6)}
            for frame in board.frames
        ],
    }


def _print_table(board: "Board") -> None:
    width = max(len("time"), len(clock(board.duration_s)))
    say(f"{'time':<{width}}  shot  weight  title")
    for frame in board.frames:
        title = shortened(frame.title or "")
        say(f"{clock(frame.t_s):>{width}}  {frame.shot:>4}  {frame.weight:>6.3f}  {title}".rstrip())


def _pictures(board: "Board") -> "Iterator[RGBImage]":
    from xsearch.media.video import frame_at

    return (frame_at(board.film, frame.t_s, PICTURE_PX) for frame in board.frames)


def _write_html(board: "Board", out: Path) -> None:
    from xsearch.cli.sheet import film_sheet

    out.write_text(film_sheet(board, _pictures(board)), "utf-8", "xmlcharrefreplace")


def _write_png(board: "Board", out: Path) -> None:
    from xsearch.media.images import picture_grid

    captions = [
        (f"{clock(frame.t_s)} · shot {frame.shot} · {frame.weight:.0%}", shortened(frame.title or ""))
        for frame in board.frames
    ]
    out.write_bytes(picture_grid(list(_pictures(board)), captions, COLUMNS))


def _write_json(board: "Board", out: Path) -> None:
    out.write_text(dumps(_record(board), indent=2) + "\n")


def _write_clip(board: "Board", out: Path) -> None:
    from xsearch.media.video import cut

    cut(board.film, [frame.clip_s for frame in board.frames], out)


_WRITERS: dict[str, Callable[["Board", Path], None]] = {
    ".html": _write_html,
    ".png": _write_png,
    ".json": _write_json,
    ".mp4": _write_clip,
}
