"""`xsearch index`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsearch.cli.options import DEFAULT_DATA, RAY_HERE, AnyData, Device, Json, Model, Ray
from xsearch.cli.output import account, clock, counted, print_json, say, shortened, warn
from xsearch.errors import LibraryNotFound, XSearchError
from xsearch.index.plan import IndexKind

if TYPE_CHECKING:
    from xsearch.indexer import IndexReport, TakeIn
    from xsearch.pipeline import Progress

Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help="Folders, files, tables, archives, coco:FILE, hf:NAME.")
]
PathColumn = Annotated[str | None, typer.Option("--path-column", metavar="NAME", help="The column of paths in tables.")]
ImageColumn = Annotated[
    str | None, typer.Option("--image-column", metavar="NAME", help="The column of pictures in data sets.")
]
TextColumn = Annotated[str | None, typer.Option("--text-column", metavar="NAME", help="The column of texts.")]
Fps = Annotated[
    float | None,
    typer.Option("--fps", metavar="X", min=1e-4, max=240, help="Take so many frames a second of films."),
]
MaxFrames = Annotated[
    int | None, typer.Option("--max-frames", metavar="N", min=1, help="Take at most so many frames of a film.")
]
Ocr = Annotated[bool, typer.Option("--ocr", help="Read the text in pictures, too.")]
Root = Annotated[Path | None, typer.Option("--root", metavar="FOLDER", help="What paths in a table are relative to.")]


def index_command(
    sources: Sources,
    data: AnyData = str(DEFAULT_DATA),
    model: Model = None,
    device: Device = None,
    index: Annotated[
        IndexKind | None,
        typer.Option("--index", metavar="KIND", help="exact, ivfpq, or auto: by size; holds until set anew."),
    ] = None,
    recall_text: Annotated[
        float | None, typer.Option(metavar="X", min=0.5, max=0.999, help="Target recall@10 of text queries.")
    ] = None,
    recall_image: Annotated[
        float | None, typer.Option(metavar="X", min=0.5, max=0.999, help="Target recall@10 of image queries.")
    ] = None,
    path_column: PathColumn = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    root: Root = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    ocr: Ocr = False,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Take in what is new or changed, and let go of what is gone.

    Pictures, films, plain texts (.txt, .md), caption files beside pictures, tables of captions (CSV, JSON Lines,
    Parquet), tars of samples, Parquet files that hold pictures, COCO captions (coco:FILE) and data sets (hf:NAME or a
    folder).
    Run it again at any time: what is known and unchanged is not read again. Files that cannot be taken are counted
    with their reasons; `xsearch stats --skipped` names them. With --ocr text is looked for in all pictures, those
    inside archives included, in which no run has looked yet; later runs without it keep what was found.
    With --ray the machines of a Ray cluster read and encode, where its ADDRESS is given; they see the sources, and the
    library unless it is at a URI, at the same place as this machine, and all that is new is committed at once.
    """
    from xsearch.encoders import get_encoder
    from xsearch.index_file import Targets
    from xsearch.indexer import index as run
    from xsearch.indexer import take_in_here
    from xsearch.media.ocr import Reader
    from xsearch.reading import Sampling
    from xsearch.survey import Layout

    reader = Reader() if ocr else None
    wanted = {"text": recall_text, "image": recall_image}
    targets = Targets(**{name: recall for name, recall in wanted.items() if recall is not None})
    with _opened(data) as folder, progress_bar() as (on_progress, on_stage):
        report = run(
            sources,
            folder,
            get_encoder(model or model_of(folder), device),
            layout=Layout(path_column, image_column, text_column, root),
            sampling=Sampling(fps, max_frames),
            reader=reader,
            index_kind=index,
            targets=targets if any(wanted.values()) else None,
            on_progress=on_progress,
            on_stage=on_stage,
            take_in=take_in_here if ray is None else _on_ray(None if ray == RAY_HERE else ray, data),
        )
    tell(report, json=json)


@contextmanager
def _opened(data: str) -> Iterator[Path]:
    """Yield the folder to write a library in; one at a URI is published from there at the end."""
    from xsearch.library.remote import Remote, is_remote, own_folder

    if is_remote(data):
        with Remote(data).writing() as folder:
            yield folder
    else:
        yield own_folder(data)


def _on_ray(address: str | None, data: str) -> "TakeIn":
    from xsearch.distributed.indexing import OnRay
    from xsearch.library.remote import Remote, is_remote

    return OnRay(address, Remote(data) if is_remote(data) else None)


def model_of(data: Path) -> str:
    """Return the encoder of the library in `data`; where there is none, the built-in one, and say so."""
    from xsearch.encoders import DEFAULT_MODEL
    from xsearch.library import Manifest

    try:
        return Manifest.load(data).encoder
    except LibraryNotFound:
        warn(
            "using the built-in encoder, small and for English; a stronger one: "
            "`pip install 'xsearch[clip]'`, then `--model best` (`xsearch models` lists more)"
        )
        return DEFAULT_MODEL
    except XSearchError:
        return DEFAULT_MODEL  # whoever opens the library next says what is wrong with it


def tell(report: "IndexReport", *, json: bool) -> None:
    """Print the account of a run, in one line."""
    for note in report.notes:
        warn(note)
    if json:
        told = asdict(report) | {"seconds": round(report.seconds, 3)}
        left_out = {"items", "notes"} if report.with_text is not None else {"items", "notes", "with_text"}
        print_json({name: value for name, value in told.items() if name not in left_out})
    else:
        say(_line(report))


def _line(report: "IndexReport") -> str:
    skipped = sum(report.skipped.values())
    reasons = f" ({account(report.skipped)})" if skipped else ""
    with_text = f" text read in {counted(report.with_text, 'picture')};" if report.with_text is not None else ""
    return (
        f"seen {report.seen:,} = indexed {report.indexed:,} + unchanged {report.unchanged:,} + moved {report.moved:,}"
        f" + skipped {skipped:,}{reasons}; removed {report.removed:,}; {report.items:,} items in the library;"
        f"{with_text} {report.seconds:.1f} s"
    )


@contextmanager
def progress_bar() -> Iterator[tuple[Callable[["Progress"], None], Callable[[str], None]]]:
    """Yield functions that move a bar on stderr; where stderr is no terminal they do nothing."""
    if not sys.stderr.isatty():
        yield lambda progress: None, lambda stage: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task("opening the library", total=None, note="")

        def on_progress(progress: "Progress") -> None:
            elapsed_s = bar.tasks[0].elapsed or 0
            rate = f"  {progress.done / elapsed_s:,.0f}/s" if elapsed_s > 1 else ""
            film = progress.frame
            at = f"  {shortened(film.path, 40)} {clock(film.t_start_s or 0.0)}" if film is not None else ""
            note = f"{progress.done:,}/{progress.total:,}{rate}{at}  bound by {progress.bound_by}"
            bar.update(bar.tasks[0].id, completed=progress.done, total=progress.total, note=note)

        def on_stage(stage: str) -> None:
            # A new task: the total of an old one cannot be made unknown.
            bar.remove_task(bar.tasks[0].id)
            bar.add_task(stage, total=None, note="")

        yield on_progress, on_stage
