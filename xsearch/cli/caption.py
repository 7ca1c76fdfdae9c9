"""`xsearch caption`."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.options import DEFAULT_DATA, Json, OwnData
from xsearch.cli.output import counted, print_json, say, short, warn
from xsearch.errors import XSearchError

if TYPE_CHECKING:
    from xsearch.learning.captioning import Captioned, Captioner
    from xsearch.library import Library
    from xsearch.searcher import Searcher
    from xsearch.types import Item

NOTHING_SAID = 1


def caption_command(
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", show_default=False)] = None,
    library: Annotated[bool, typer.Option("--library", help="All pictures of the library without a caption.")] = False,
    store: Annotated[bool, typer.Option("--store", help="Keep the captions in the library, to be searched.")] = False,
    writer: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A model that writes captions: a CoCa of open_clip.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option("--beams", metavar="N", min=1, max=64, help="Write by so many beams.")
    ] = None,
    nucleus: Annotated[
        float | None,
        typer.Option("--nucleus", metavar="P", min=0.0, max=1.0, help="Draw from words of so much probability."),
    ] = None,
    data: OwnData = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Say what pictures show.

    With --model by a model that writes; without, by those texts of the library that were written about like pictures.
    Captions that are stored are texts of their pictures like any other, marked as made up: no evaluation and no
    training takes them for truth, and a new caption replaces an old one.
    """
    from xsearch.learning.captioning import Caption, caption_items, store_captions, without_captions
    from xsearch.searcher import Searcher

    if bool(images) == library:
        raise XSearchError("it is not said what to caption", remedy="name pictures, or --library")
    if (beams or nucleus) and (writer is None or (beams and nucleus)):
        raise XSearchError("--beams or --nucleus say how a model writes", remedy="give --model and one of them")
    searcher = Searcher(data, on_warning=warn) if library or store or writer is None else None
    captioner = _captioner(writer, beams, nucleus, searcher)
    if searcher is None or not (library or store):
        said = _of_files(captioner, images or ())
    else:
        items = without_captions(searcher.library) if library else _known(searcher.library, images or ())
        said = caption_items(captioner, searcher.library, items)
    told: list[Captioned] = []

    def telling() -> "Iterator[Captioned]":
        for one in said:
            told.append(one)
            if not json:
                say(_line(one))
            yield one

    if store and searcher is not None:
        stored = store_captions(data, searcher.encoder, telling())
    else:
        stored = sum(0 for _ in telling())
    if json:
        print_json({"how": captioner.how, "stored": stored, "captions": [_record(one) for one in told]})
    else:
        warn(captioner.how + (f"; {counted(stored, 'caption')} kept in {data}" if store else ""))
    if not any(isinstance(one.caption, Caption) for one in told):
        raise typer.Exit(NOTHING_SAID)


def _captioner(
    writer: str | None, beams: int | None, nucleus: float | None, searcher: "Searcher | None"
) -> "Captioner":
    from xsearch.encoders import get_encoder
    from xsearch.learning.captioning import ChosenCaptions, WrittenCaptions

    if writer is not None:
        return WrittenCaptions(get_encoder(writer), beams=beams, nucleus=nucleus)
    assert searcher is not None
    return ChosenCaptions(searcher)


def _of_files(captioner: "Captioner", images: Sequence[Path]) -> "Iterator[Captioned]":
    from xsearch.learning.captioning import Captioned
    from xsearch.media.images import open_image

    for image in images:
        (caption,) = captioner.caption([open_image(image, captioner.image_px)])
        yield Captioned(str(image), caption)


def _known(library: "Library", images: Sequence[Path]) -> "list[Item]":
    """Return the items of these files. Raises XSearchError for one that is not in the library."""
    import numpy as np

    from xsearch.types import item_id

    rows = []
    for image in images:
        row = library.row_of(item_id(Path(os.path.realpath(image))))
        if row is None:
            raise XSearchError(f"{image} is not in {library.folder}", remedy="index it, or leave out --store")
        rows.append(row)
    return library.items(np.array(rows, np.int64))


def _line(one: "Captioned") -> str:
    from xsearch.learning.captioning import Caption

    if not isinstance(one.caption, Caption):
        why = one.caption.reason if one.caption is not None else "nothing that is known fits"
        return f"{short(one.path)}: ({why})"
    sure = "" if one.caption.confidence is None else f"  ({one.caption.confidence:.0%} sure)"
    return f"{short(one.path)}: {' '.join(one.caption.text.split())}{sure}"


def _record(one: "Captioned") -> dict[str, Any]:
    from xsearch.learning.captioning import Caption

    if isinstance(one.caption, Caption):
        return {"path": one.path, "caption": one.caption.text, "confidence": one.caption.confidence}
    return {"path": one.path, "caption": None, "confidence": None} | (
        {} if one.caption is None else {"reason": one.caption.reason}
    )
