"""`xsearch watch`."""

import sys
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from xsearch.cli.index import (
    Fps,
    ImageColumn,
    MaxFrames,
    Ocr,
    PathColumn,
    Root,
    Sources,
    TextColumn,
    model_of,
    progress_bar,
    tell,
)
from xsearch.cli.options import DEFAULT_DATA, Json, Model, OwnData
from xsearch.cli.output import warn


def watch_command(
    sources: Sources,
    data: OwnData = DEFAULT_DATA,
    model: Model = None,
    poll: Annotated[
        float | None, typer.Option("--poll", metavar="SECONDS", min=1, help="Look this often, for network drives.")
    ] = None,
    path_column: PathColumn = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    root: Root = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    ocr: Ocr = False,
    json: Json = False,
) -> None:
    """Keep a library up to date as files come and go.

    Does what `xsearch index` does, at once and after each change, and prints the same line when something came of it
    (with --json, one object a line). Ctrl-C ends it. Between two runs other commands may change the library too. What
    other machines change on a network drive the system does not tell: --poll looks at intervals.
    """
    from xsearch.encoders import get_encoder
    from xsearch.indexer import index
    from xsearch.media.ocr import Reader
    from xsearch.reading import Sampling
    from xsearch.survey import Layout
    from xsearch.watcher import watch

    run = partial(
        index,
        sources,
        data,
        get_encoder(model or model_of(data)),
        layout=Layout(path_column, image_column, text_column, root),
        sampling=Sampling(fps, max_frames),
        reader=Reader() if ocr else None,
    )
    trouble: tuple[dict[str, int], tuple[str, ...]] | None = None

    def update() -> None:
        nonlocal trouble
        with progress_bar() as (on_progress, on_stage):
            report = run(on_progress=on_progress, on_stage=on_stage)
        before, trouble = trouble, (report.skipped, report.notes)
        if report.indexed or report.moved or report.removed or trouble != before:
            tell(report, json=json)
            sys.stdout.flush()  # whoever reads a pipe shall not wait for it to fill

    with suppress(KeyboardInterrupt):
        watch(sources, data, update, root=root, poll_s=poll, on_trouble=lambda error: warn(str(error)))
