"""`xsearch eval`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.index import ImageColumn, PathColumn, Root, TextColumn
from xsearch.cli.options import Json, Model
from xsearch.cli.output import account, counted, listing, print_json, say, warn
from xsearch.cli.tag import read_lines
from xsearch.errors import XSearchError

if TYPE_CHECKING:
    from xsearch.index.plan import IndexKind
    from xsearch.learning.evaluate import Classified, Evaluation
    from xsearch.survey import Layout

MISSES = 50
DIRECTIONS = {"text_to_image": "text to image", "image_to_text": "image to text"}


def eval_command(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Pictures with texts, as for xsearch index.")
    ] = None,
    model: Model = None,
    against: Annotated[str | None, typer.Option("--against", metavar="NAME", help="Compare with this encoder.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Keep the vectors here, or measure on the pairs of this library."
        ),
    ] = None,
    classes: Annotated[
        bool, typer.Option("--classes", help="The sources hold a folder for each class: name it by its pictures.")
    ] = False,
    templates: Annotated[
        Path | None, typer.Option("--templates", metavar="FILE", help='Lines like "a photo of a {}", for --classes.')
    ] = None,
    misses: Annotated[
        Path | None, typer.Option("--misses", metavar="FILE", help="Write the worst misses to this HTML file.")
    ] = None,
    index: Annotated[str | None, typer.Option("--index", metavar="KIND", help="Measure an index too: ivfpq.")] = None,
    path_column: PathColumn = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Measure how well pictures and texts find one another.

    Recall@k is the share of queries with a right answer among the first k; after each figure stands its 95 % interval.
    Captions are chosen from the texts of other pictures and compared with a picture's own (BLEU). With --classes it is
    measured how often a picture is named right among the names of all folders.
    """
    from xsearch.encoders import DEFAULT_MODEL
    from xsearch.index.plan import IndexKind
    from xsearch.library import Manifest
    from xsearch.survey import Layout

    if not sources and data is None:
        raise XSearchError("nothing to measure on", remedy="name pictures with texts, or a library with --data")
    if classes and (against or misses or not sources):
        raise XSearchError("--classes takes sources, and neither --against nor --misses", remedy="leave these out")
    layout = Layout(path_column, image_column, text_column, root)
    kind = None if index is None else IndexKind(index)
    if model is None and data is not None and (data / "manifest.json").exists():
        model = Manifest.load(data).encoder
    with _folder(data) as folder:
        if classes:
            _tell_classes(_classified(sources or [], model or DEFAULT_MODEL, folder, templates), json=json)
            return
        measured = _measured(sources or [], model or DEFAULT_MODEL, folder, layout, kind)
        if against is None:
            _tell(measured, None, json=json)
        else:
            with _folder(None) as other:
                if not sources:
                    raise XSearchError("--against encodes the pictures anew", remedy="name their sources")
                _tell(measured, _measured(sources, against, other, layout, kind), json=json)
        if misses is not None:
            _write_misses(measured, misses)


@contextmanager
def _folder(named: Path | None) -> Iterator[Path]:
    if named is not None:
        yield named
    else:
        with TemporaryDirectory(prefix="xsearch-eval-") as name:
            yield Path(name, "data")


def _measured(sources: list[str], model: str, data: Path, layout: "Layout", kind: "IndexKind | None") -> "Evaluation":
    from xsearch.cli.index import progress_bar
    from xsearch.encoders import get_encoder
    from xsearch.learning.evaluate import evaluate
    from xsearch.learning.pairs import pairs_of, take_pairs
    from xsearch.library import Library

    encoder = get_encoder(model)
    if not sources:
        return evaluate(pairs_of(Library.open(data)), encoder)
    with progress_bar() as (on_progress, on_stage):
        pairs = take_pairs(
            sources, data, encoder, layout=layout, index_kind=kind, on_progress=on_progress, on_stage=on_stage
        )
    return evaluate(pairs, encoder)


def _classified(sources: list[str], model: str, data: Path, templates: Path | None) -> "Classified":
    from xsearch.encoders import get_encoder
    from xsearch.learning.evaluate import TEMPLATES, classify

    lines = TEMPLATES if templates is None else [line for line in read_lines(templates) if line.strip()]
    return classify(sources, data, get_encoder(model), templates=lines)


def _tell(new: "Evaluation", old: "Evaluation | None", *, json: bool) -> None:
    from xsearch.learning.evaluate import difference

    record = new.record()
    gains = {} if old is None else difference(new, old)
    if json:
        against = {} if old is None else {"against": old.record(), "difference": gains}
        print_json(record | against)
        return
    say(f"{record['model']}: {counted(record['pictures'], 'picture')} with {counted(record['texts'], 'text')}")
    if record["skipped"]:
        warn(f"skipped {account(record['skipped'])}")
    for direction, name in DIRECTIONS.items():
        say("")
        of = record[direction]
        other = None if old is None else old.record()[direction]
        rows = [("median rank", f"{of['median_rank']:,.0f}{'' if other is None else _than(other['median_rank'])}")]
        for measure, (low, high) in of["confidence"].items():
            line = f"{_share(of[measure])}  {_share(low)} to {_share(high)}"
            if "through_index" in of:
                line += f"  through the index {_share(of['through_index'][measure])}"
            if other is not None:
                gain, least, most = gains[direction][measure]
                line += f"  against {_share(other[measure])}: {gain:+.3f}  {least:+.3f} to {most:+.3f}"
            rows.append((measure, line))
        say(name)
        listing([(f"  {measure}", line) for measure, line in rows])
    say("")
    bleu = f"{record['captions']['bleu']:.1f}"
    say(f"captions chosen from other pictures: BLEU {bleu}" + ("" if old is None else f", against {old.bleu:.1f}"))


def _than(rank: float) -> str:
    return f"  against {rank:,.0f}"


def _share(share: float) -> str:
    return f"{share:.3f}".removeprefix("0")


def _tell_classes(found: "Classified", *, json: bool) -> None:
    if json:
        print_json(found.record())
        return
    by_class: Mapping[str, tuple[float, int]] = found.by_class
    low, high = found.confidence
    say(f"{found.model}: {counted(found.pictures, 'picture')} of {len(by_class):,} classes")
    if found.skipped:
        warn(f"skipped {account(found.skipped)}")
    listing([("top-1", f"{_share(found.top1)}  {_share(low)} to {_share(high)}"), ("top-5", _share(found.top5))])
    worst = sorted(by_class.items(), key=lambda one: one[1][0])[:10]
    say("")
    say("seldom named right")
    listing([(f"  {name}", f"{_share(share)} of {n:,}") for name, (share, n) in worst])


def _write_misses(measured: "Evaluation", file: Path) -> None:
    from xsearch.cli.sheet import misses_sheet
    from xsearch.learning.evaluate import misses

    worst: Any = misses(measured, MISSES)
    title = f"{len(worst)} texts whose picture came last"
    file.write_text(misses_sheet(title, worst), "utf-8")
    warn(f"wrote {file}")
