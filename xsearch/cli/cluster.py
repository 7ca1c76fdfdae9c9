"""`xsearch cluster`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.options import DEFAULT_DATA, Data, Json, html_file
from xsearch.cli.output import clock, counted, print_json, say, short, shortened
from xsearch.cli.tag import read_lines
from xsearch.errors import QueryError

if TYPE_CHECKING:
    from xsearch.cluster import Cluster
    from xsearch.types import Hit

NOTHING_FOUND = 1
SHOWN = 3
SHOWN_ON_PAGE = 12


def cluster_command(
    k: Annotated[
        int | None,
        typer.Option("--k", metavar="N", min=1, max=256, show_default="chosen", help="How many clusters."),
    ] = None,
    shown: Annotated[
        int | None,
        typer.Option(
            "--show",
            metavar="N",
            min=1,
            max=100_000,
            show_default=f"{SHOWN}, on a page {SHOWN_ON_PAGE}",
            help="How many items of each, most central first.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", show_default=False, help="Titles to choose from, one a line."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            parser=html_file,
            show_default=False,
            help="Write a contact sheet to this HTML file.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Another one may part them otherwise.")] = 0,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Put pictures that are alike together, with titles.

    How many there are is chosen by how well they are apart (silhouette). Titles are texts of the library, or names of
    everyday things where it holds none. Beside each stands which share of the pictures probably shows what it says; one
    that does not hold for half of them has a question mark.
    """
    from xsearch.cluster import clusters
    from xsearch.encoders import get_encoder
    from xsearch.library import Library

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise QueryError(f"clusters cannot be written to {out}", remedy="its name ends in .html")
    titles = [] if labels is None else read_lines(labels)
    library = Library.open(data)
    shown = shown or (SHOWN if out is None else SHOWN_ON_PAGE)
    encoder = get_encoder(library.manifest.encoder)
    found = clusters(library, encoder, k=k, shown=shown, titles=titles, seed=seed)
    if out is not None:
        from xsearch.cli.sheet import cluster_sheet
        from xsearch.library.files import replacing

        with replacing(out) as temporary:
            heading = f"{counted(len(found), 'cluster')} of {short(str(data.absolute()))}"
            temporary.write_text(cluster_sheet(heading, found), "utf-8", "xmlcharrefreplace")
    if json:
        print_json({"clusters": [_record(cluster) for cluster in found]})
    elif out is not None:
        say(f"{counted(len(found), 'cluster')} of {counted(sum(one.size for one in found), 'item')} in {out}")
    else:
        _print_table(found)
    if not found:
        raise typer.Exit(NOTHING_FOUND)


def _record(cluster: "Cluster") -> dict[str, Any]:
    return {
        "size": cluster.size,
        "title": cluster.title,
        "share": round(cluster.share, 4),
        "fits": cluster.fits,
        "items": [hit.to_dict() for hit in cluster.hits],
    }


def _print_table(found: "list[Cluster]") -> None:
    if not found:
        say("nothing found: the library holds no pictures")
        return
    say("items  share  title")
    for cluster in found:
        say(f"{cluster.size:>5}  {cluster.share:>5.0%}  {shortened(cluster.title)}{'' if cluster.fits else '?'}")
        for hit in cluster.hits:
            say(f"{'':14}{hit.score:.3f}  {short(hit.path)}{_when(hit)}")


def _when(hit: "Hit") -> str:
    return "" if hit.t_start_s is None else f"  {clock(hit.t_start_s)}"
