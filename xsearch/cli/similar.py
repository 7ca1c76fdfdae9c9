"""`xsearch similar`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsearch.cli.options import (
    DEFAULT_DATA,
    Data,
    Grouped,
    HowMany,
    Json,
    Model,
    Near,
    OfKind,
    Open,
    Sheet,
    Where,
)
from xsearch.cli.output import warn
from xsearch.cli.query import condition, show
from xsearch.errors import QueryError, Undecodable

if TYPE_CHECKING:
    from xsearch.library import Library
    from xsearch.query import Query

MOST_ITEMS = 10_000
"""A film of a day gives fewer frames; what holds more is a table of captions."""


def similar_command(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", show_default=False, help="A picture, a film or a text; FILE#KEY in archives."),
    ],
    k: HowMany = 10,
    kind: OfKind = "any",
    group: Grouped = "moment",
    where: Where = None,
    near: Near = None,
    data: Data = DEFAULT_DATA,
    model: Model = None,
    open_: Open = False,
    sheet: Sheet = None,
    json: Json = False,
) -> None:
    """Find the items most like a picture, a film or a text.

    A file of the library is asked for as it was indexed, and does not come back itself, nor does any frame of a film.
    Any other file is read now. Of a film or a long text the frame or passage counts that is most like an item. The
    nearest are listed however far they are; beside each stands how surely it stands out.
    """
    from xsearch.ranking.fusion import Fusion
    from xsearch.searcher import Searcher

    searcher = Searcher(data, model=model, on_warning=warn)
    known = _ids(searcher.library, path)
    hits = searcher.query(
        None if known else _read(path, searcher.encoder.spec.image_px),
        k=k,
        kind=kind,
        group=group,
        where=condition(where, near),
        fusion=Fusion.MAX,
        more_like=known,
    )
    told = {"path": path, "known": bool(known), "k": k, "kind": kind}
    show(hits, told, title=f"like {path}", all_=True, open_=open_, sheet=sheet, json=json)


def _ids(library: "Library", path: str) -> list[str]:
    """Return the ids of the items that a file is in the library: a picture, the frames of a film, passages of a text.

    Of a picture whose texts were read, the picture alone. Raises QueryError if they are more than MOST_ITEMS.
    """
    import numpy as np

    from xsearch.types import Kind

    # A file is known by the name under which it was found, a link too, or by where that leads.
    names = {path, os.path.abspath(path), os.path.realpath(path)}  # noqa: PTH100  # `absolute` leaves ".." in it
    ids, roots, paths, parts = (library.column(name).to_pylist() for name in ("id", "root", "path", "part"))
    is_picture, is_text = library.of_kinds([Kind.IMAGE]), library.of_kinds([Kind.TEXT])
    rows = []
    for row in np.flatnonzero(library.alive).tolist():
        file = os.path.join(roots[row], paths[row]) if paths[row] else roots[row]  # noqa: PTH118  # one of a million
        if (f"{file}#{parts[row]}" if is_picture[row] and parts[row] else file) in names:
            rows.append(row)
    shown = [row for row in rows if not is_text[row]] or rows
    if len(shown) > MOST_ITEMS:
        raise QueryError(f"{path} holds {len(shown):,} items", remedy=f"name a file of at most {MOST_ITEMS:,}")
    return [ids[row] for row in shown]


def _read(path: str, image_px: int) -> "Query":
    """Return what a file shows or says as terms: of a film MAX_TERMS frames at most, of a text the first passages."""
    from xsearch.media import texts, video
    from xsearch.query import MAX_TERMS, Picture, Query, Term

    file = Path(path).expanduser()
    if not file.is_file():
        raise QueryError(f"{path} is neither in the library nor a file", remedy="name a picture, a film or a text")
    try:
        if file.suffix.lower() in texts.SUFFIXES:
            return Query(Term(passage) for passage in texts.passages(file.read_bytes())[:MAX_TERMS])
        if video.is_film(file):
            return Query(Term(Picture(one.pixels)) for one in video.frames(file, image_px, max_frames=MAX_TERMS))
    except Undecodable as error:
        raise QueryError(f"{path}: {error}", remedy="name another file") from error
    return Query(image=file)
