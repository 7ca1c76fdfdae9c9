"""`xsearch export-onnx`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsearch.cli.index import progress_bar
from xsearch.cli.options import DEFAULT_DATA, Data, Json
from xsearch.cli.output import counted, listing, print_json, say, size, warn

if TYPE_CHECKING:
    from xsearch.learning.export import Agreement


def export_onnx_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The encoder; `xsearch models` lists them.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write, which is new.")],
    int8: Annotated[bool, typer.Option("--int8", help="Round to 8 bits: smaller, faster, less exact.")] = False,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Write a model as ONNX files, for use without torch.

    --model onnx:DIR then opens it, also for a library that the model itself made: the vectors agree, which is measured
    on pictures of the library in --data, or on made-up ones where there is none, before anything is kept. With --int8
    they agree less; by how much is printed, and such a model makes libraries of its own.
    """
    from xsearch.encoders import get_encoder
    from xsearch.learning.export import export_onnx, pictures_to_compare

    encoder = get_encoder(model)
    pictures, are_real = pictures_to_compare(data, encoder.spec.image_px)
    if not are_real:
        warn(f"there are no pictures in {data} to compare on: made-up ones are used; --data names a library")
    with progress_bar() as (_, on_stage):
        done = export_onnx(encoder, folder, pictures, int8=int8, on_stage=on_stage)
    if json:
        print_json(asdict(done) | {"folder": str(folder), "pictures": len(pictures), "are_real": are_real})
        return
    say(f"wrote {model} to {folder} ({size(done.bytes)}); it opens as --model onnx:{folder}")
    compared = [("float32", done.float32), *([("int8", done.int8)] if done.int8 is not None else [])]
    listing([(name, _line(found, counted(len(pictures), "picture"))) for name, found in compared])


def _line(found: "Agreement", pictures: str) -> str:
    return (
        f"least cosine to the model {found.image:.4f} of {pictures}, {found.text:.4f} of texts; "
        f"{found.nearest:.1%} of the ten nearest to a text are the same"
    )
