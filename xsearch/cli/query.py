"""`xsearch query`."""

import os
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from xsearch.cli.output import clock, print_json, say, short, shortened, warn

if TYPE_CHECKING:
    from xsearch.searcher import Hits
    from xsearch.types import Hit

NOTHING_FOUND = 1


def query_command(
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", show_default=False, help="What to find: words, pictures, + and -."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="FILE", show_default=False, help="A picture to find the like of, or texts for."
        ),
    ] = None,
    k: HowMany = 10,
    kind: OfKind = "any",
    group: Grouped = "moment",
    where: Where = None,
    near: Near = None,
    words: Annotated[
        bool, typer.Option("--words/--no-words", help="Look also for the words: in names, captions and texts.")
    ] = True,
    fusion: Annotated[
        str, typer.Option("--fusion", metavar="MODE", help="Combine several terms: late, early, rrf, hybrid or max.")
    ] = "late",
    rerank: Annotated[
        str | None, typer.Option("--rerank", metavar="BY", help="Order the best pictures anew, by attention.")
    ] = None,
    more_like: Annotated[
        list[str] | None, typer.Option("--more-like", metavar="ITEM", help="More like this hit: its id or path.")
    ] = None,
    less_like: Annotated[
        list[str] | None, typer.Option("--less-like", metavar="ITEM", help="Less like this hit: its id or path.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="List the nearest also where there is no good match.")] = False,
    data: Data = DEFAULT_DATA,
    model: Model = None,
    open_: Open = False,
    sheet: Sheet = None,
    json: Json = False,
) -> None:
    """Find the items nearest to words, pictures, or both.

    "a beach + ./dog.jpg - people" is like the text and like the picture, and shows no people. Weights stand before
    their term, as in 2:"golden retriever" + ./pool.jpg - 0.5:fruit. Quotes make signs and paths plain text.

    Scores are cosines, higher is better; beside them stands how sure a hit is. Where nothing stands out from what the
    library has for anything at all, there is no good match. With --kind any, texts and pictures are ranked by how far
    each stands out among its own kind, as their cosines are not on one scale.
    """
    # One question does not repay the start of threads for linear algebra.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from xsearch.query import Query
    from xsearch.searcher import Searcher

    typed = " ".join(query) if query is not None else None
    asked = Query.parse(typed) if typed is not None else None
    searcher = Searcher(data, model=model, on_warning=warn)
    hits = searcher.query(
        asked,
        image=image,
        k=k,
        kind=kind,
        group=group,
        where=condition(where, near),
        fusion=fusion,
        words=words,
        rerank=rerank,
        more_like=more_like or (),
        less_like=less_like or (),
    )
    told = {"text": typed, "image": None if image is None else str(image), "k": k, "kind": kind}
    show(hits, told, title=typed or str(image), all_=all_, open_=open_, sheet=sheet, json=json)


def show(
    hits: "Hits", told: Mapping[str, Any], *, title: str, all_: bool, open_: bool, sheet: Path | None, json: bool
) -> None:
    """Print the answer to a query, as JSON beside what was asked, and write and open its contact sheet.

    Raises typer.Exit where there is nothing to show.
    """
    if sheet is not None or open_:
        from xsearch.cli.sheet import contact_sheet

        page = sheet or Path(tempfile.mkdtemp(prefix="xsearch-"), "hits.html")
        page.write_text(contact_sheet(title, hits), "utf-8", "xmlcharrefreplace")
        warn(f"the contact sheet is {page}")
        if open_ and not webbrowser.open(page.resolve().as_uri()):
            warn("no browser could be started; open the file yourself")
    if json:
        found = {"good_match": hits.good_match, "hits": [hit.to_dict() for hit in hits]}
        print_json({"query": told, "took_ms": dict(hits.took_ms)} | found)
    elif hits.good_match or all_ or not hits:
        print_hits(hits)
    else:
        say("no good match; --all lists the nearest")
    if not hits or not (hits.good_match or all_ or json):
        raise typer.Exit(NOTHING_FOUND)


def condition(where: str | None, near: str | None) -> str | None:
    """Return both conditions as one."""
    if near is None:
        return where
    from xsearch.library.where import Near

    # The bracket on a line of its own: a condition may end in a comment.
    return Near.parse(near).where if where is None else f"({where}\n) AND {Near.parse(near).where}"


def print_hits(hits: Sequence["Hit"]) -> None:
    """Print hits as a table."""
    if not hits:
        say("nothing found: the library holds no such item")
        return
    say("rank  score  sure  path")
    for hit in hits:
        sure = "" if hit.confidence is None else f"{hit.confidence:.0%}"
        say(f"{hit.rank:>4}  {hit.score:.3f}  {sure:>4}  {short(hit.path)}{_when(hit)}")
        if hit.text:
            say(f"{'':19}{shortened(hit.text)}")


def _when(hit: "Hit") -> str:
    if hit.t_start_s is None or hit.t_end_s is None:
        return ""
    return f"  {clock(hit.t_start_s)}-{clock(hit.t_end_s)}"
