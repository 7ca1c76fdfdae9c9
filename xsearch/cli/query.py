"""`xsearch query`."""

import os
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.options import DEFAULT_DATA, Data, Json, Model
from xsearch.cli.output import clock, print_json, say, short, shortened, warn

if TYPE_CHECKING:
    from xsearch.types import Hit

NOTHING_FOUND = 1


def query_command(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", show_default=False, help="What to find, in words.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="FILE", show_default=False, help="A picture to find the like of, or texts for."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=100_000, help="How many hits.")] = 10,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="What to find: image, text, frame or any.")
    ] = "any",
    group: Annotated[
        str, typer.Option("--group", metavar="GROUP", help="Show frames of films as moment, film or none.")
    ] = "moment",
    data: Data = DEFAULT_DATA,
    model: Model = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the hits as a contact sheet in the browser.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", show_default=False, help="Write the contact sheet to this HTML file."),
    ] = None,
    json: Json = False,
) -> None:
    """Find the items nearest to a text or a picture.

    Scores are cosines, higher is better. With --kind any, texts and pictures are ranked by how far each stands out
    among its own kind, as their cosines are not on one scale.
    """
    # One question does not repay the start of threads for linear algebra.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from xsearch.searcher import Searcher

    searcher = Searcher(data, model=model, on_warning=warn)
    hits = searcher.query(text, image=image, k=k, kind=kind, group=group)
    if sheet is not None or open_:
        from xsearch.cli.sheet import contact_sheet

        page = sheet or Path(tempfile.mkdtemp(prefix="xsearch-"), "hits.html")
        page.write_text(contact_sheet(text or str(image), hits), "utf-8", "xmlcharrefreplace")
        warn(f"the contact sheet is {page}")
        if open_ and not webbrowser.open(page.resolve().as_uri()):
            warn("no browser could be started; open the file yourself")
    if json:
        query = {"text": text, "image": None if image is None else str(image), "k": k, "kind": kind}
        print_json({"query": query, "took_ms": dict(hits.took_ms), "hits": [_record(hit) for hit in hits]})
    else:
        _print_table(list(hits))
    if not hits:
        raise typer.Exit(NOTHING_FOUND)


def _record(hit: "Hit") -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "kind": hit.kind.value,
        "path": hit.path,
        "item_id": hit.item_id,
        "t_start_s": hit.t_start_s,
        "t_end_s": hit.t_end_s,
        "text": hit.text,
    }


def _print_table(hits: list["Hit"]) -> None:
    if not hits:
        say("nothing found: the library holds no such item")
        return
    say("rank  score  path")
    for hit in hits:
        say(f"{hit.rank:>4}  {hit.score:.3f}  {short(hit.path)}{_when(hit)}")
        if hit.text:
            say(f"{'':13}{shortened(hit.text)}")


def _when(hit: "Hit") -> str:
    if hit.t_start_s is None or hit.t_end_s is None:
        return ""
    return f"  {clock(hit.t_start_s)}-{clock(hit.t_end_s)}"
