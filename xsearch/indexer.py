"""Use case: bring a library up to date with its sources."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from xsearch.bank import keep_bank
from xsearch.encoders import Encoder
from xsearch.errors import LibraryDamaged
from xsearch.index.plan import IndexKind
from xsearch.index_file import Targets, keep_index
from xsearch.library import Library, LibraryWriter
from xsearch.library.blank import read_blank
from xsearch.library.tags import keep_tags
from xsearch.library.words import keep_words
from xsearch.pipeline import LibrarySink, Pipeline, Progress, Tally
from xsearch.reading import Reading, Sampling, TextReader
from xsearch.survey import Layout, RunPlan, made_rows, plan_reading, plan_run, survey
from xsearch.types import Skipped


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an index run did, counted in files, rows of tables and samples of data sets.

    seen = indexed + unchanged + moved + skipped. `removed` were known and are gone; `skipped` counts by reason; `items`
    is what the library holds now; `notes` are sentences for a person. `with_text` counts the pictures in which this run
    found text, None where it did not look for any.
    """

    seen: int
    indexed: int
    unchanged: int
    moved: int
    removed: int
    skipped: dict[str, int]
    items: int
    seconds: float
    notes: tuple[str, ...] = ()
    with_text: int | None = None


class TakeIn(Protocol):
    """Does what a plan says: reads, encodes and commits to the library that `writer` holds."""

    def __call__(
        self,
        plan: RunPlan,
        reading: Reading,
        *,
        writer: LibraryWriter,
        library: Library,
        encoder: Encoder,
        on_progress: Callable[[Progress], None],
    ) -> Tally: ...


def take_in_here(
    plan: RunPlan,
    reading: Reading,
    *,
    writer: LibraryWriter,
    library: Library,
    encoder: Encoder,
    on_progress: Callable[[Progress], None],
) -> Tally:
    """Do what a plan says on this machine, with a commit every few seconds."""
    return Pipeline(plan, reading, sink=LibrarySink(writer, library), encoder=encoder, on_progress=on_progress).run()


def index(
    sources: Sequence[str | Path],
    data: Path,
    encoder: Encoder,
    *,
    layout: Layout | None = None,
    sampling: Sampling | None = None,
    reader: TextReader | None = None,
    index_kind: IndexKind | None = None,
    targets: Targets | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_stage: Callable[[str], None] = lambda stage: None,
    take_in: TakeIn = take_in_here,
) -> IndexReport:
    """Index what is new or changed below `sources` into the library `data`, and remove what is gone.

    Whatever ends the run, all that was committed stays, and the next run goes on from there. `sampling` is for films
    that are read in this run. With a `reader` (`media.ocr.Reader`) text is looked for in those pictures at the sources
    in which no run has looked yet, and becomes items that belong to them. `on_stage` is told in words what the run is
    at; `take_in` does what was planned, elsewhere if need be. Raises SourceError, LibraryLocked, LibraryDamaged and
    EncoderMismatch.
    """
    start_s = time.monotonic()
    look = partial(survey, sources, leave_out=data, layout=layout)
    # Looked at first, so that no library is made for a source that is not there.
    found = None if data.exists() else look({})
    with LibraryWriter(data, encoder.spec) as writer:
        library = Library.open(data)
        known = library.files()
        on_stage("looking at the sources")
        found = found or look(known)
        plan = plan_run(found, known, writer.manifest.containers)
        on_stage("indexing")
        reading = Reading(
            (state for of_file in known.values() for state in of_file),
            image_px=encoder.spec.image_px,
            sampling=sampling or Sampling(),
            made=made_rows(library) if plan.containers else (),
        )
        tally = take_in(plan, reading, writer=writer, library=library, encoder=encoder, on_progress=on_progress)
        skipped = {entry.path: entry for entry in (*found.skipped, *tally.skipped)}
        named = layout.image_column if layout is not None else None
        columns = {source.name: named for source in found.containers.values()} if named is not None else {}
        writer.set_containers(
            {**writer.manifest.containers, **tally.read_whole}, {**writer.manifest.image_columns, **columns}
        )
        writer.set_skipped(_still_true(_skipped_before(library), found.settled, skipped.values()))
        notes, with_text = [*found.notes, *tally.notes], None
        if reader is not None:
            on_stage("reading text in pictures")
            committed = Library.open(data)
            unread = plan_reading(found, committed, read_blank(data))
            sink = LibrarySink(writer, committed)
            read = Pipeline(
                unread,
                reading,
                sink=sink,
                encoder=encoder,
                on_progress=on_progress,
                reader=reader,
                library=committed,
            ).run()
            with_text = read.with_text
            notes = [*notes, *_notes_on(read.not_read)]
        writer.merge()
        keep_bank(data, encoder)
        keep_index(writer, encoder, kind=index_kind, targets=targets, on_stage=on_stage)
        keep_words(writer, on_stage=on_stage)
        keep_tags(writer)
    return IndexReport(
        seen=plan.seen + tally.samples,
        indexed=tally.indexed,
        unchanged=tally.unchanged,
        moved=tally.moved,
        removed=tally.removed,
        skipped=dict(Counter(entry.reason for entry in skipped.values()).most_common()),
        items=sum(Library.open(data).counts().values()),
        seconds=time.monotonic() - start_s,
        notes=tuple(notes),
        with_text=with_text,
    )


def _notes_on(not_read: Sequence[Skipped]) -> Iterable[str]:
    if not_read:
        first = not_read[0]
        count = f"{len(not_read):,} of the pictures"
        yield f"text could not be looked for in {count}, {first.path} the first: {first.reason}"


def _skipped_before(library: Library) -> list[Skipped]:
    try:
        return library.skipped()
    except LibraryDamaged:  # it is made anew below
        return []


def _still_true(before: Iterable[Skipped], settled: Sequence[Path], now: Iterable[Skipped]) -> list[Skipped]:
    """Return what was skipped now, and what was skipped earlier in places that were not looked at now."""
    elsewhere = [entry for entry in before if not any(_is_of(entry, root) for root in settled)]
    return sorted({entry.path: entry for entry in (*elsewhere, *now)}.values(), key=lambda entry: entry.path)


def _is_of(entry: Skipped, source: Path) -> bool:
    # What is inside a table or an archive is told as `captions.csv row 3`.
    inside = entry.path.startswith(f"{source} ") and not source.is_dir()
    return inside or Path(entry.path).is_relative_to(source)
