"""`xsearch export` and `xsearch import`."""

from pathlib import Path
from typing import Annotated

import typer

from xsearch.cli.options import DEFAULT_DATA, Data, Json, Model, OwnData
from xsearch.cli.output import counted, print_json, say, warn
from xsearch.sources.formats import ExportFormat


def export_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, or the folder for npy and lance.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", metavar="FORMAT", help="parquet, npy, csv or lance.")
    ] = ExportFormat.PARQUET,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Hand on all items with their vectors, exact to float16."""
    from xsearch.exchange import export_library

    rows = export_library(data, out, form)
    if json:
        print_json({"exported": rows, "path": str(out), "format": form.value})
    else:
        say(f"exported {counted(rows, 'item')} to {out}")


def import_command(
    vectors: Annotated[Path, typer.Argument(metavar="VECTORS", help="An .npy file, or a folder of img_emb_*.npy.")],
    meta: Annotated[
        Path | None, typer.Option("--meta", metavar="FILE", help="The Parquet file or folder of what they are of.")
    ] = None,
    data: OwnData = DEFAULT_DATA,
    model: Model = None,
    json: Json = False,
) -> None:
    """Take in embeddings that were made elsewhere.

    They are those of --model, in the layout of clip-retrieval or of `xsearch export`.
    """
    from xsearch.encoders import DEFAULT_MODEL, get_encoder
    from xsearch.exchange import import_embeddings

    taken, skipped = import_embeddings(vectors, meta, data, get_encoder(model or DEFAULT_MODEL))
    for entry in skipped:
        warn(f"{entry.path}: {entry.reason}, {entry.detail}")
    if json:
        print_json({"imported": taken, "skipped": len(skipped)})
    else:
        say(f"imported {counted(taken, 'item')}, skipped {len(skipped):,}")
