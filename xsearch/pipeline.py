"""Files to committed items: read and decode in a pool, encode in batches, write behind, all three at the same time.

Pictures that are decoded and wait for the encoder are bounded, so that memory does not grow with the number of files,
nor with the length of a film. A film is committed whole: of one that a killed run was at, nothing is in the library.
Text in pictures is read after all that, of pictures that are in the library.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from xsearch.ahead import Ahead
from xsearch.encoders import Encoder, framing_apart
from xsearch.errors import SourceError
from xsearch.library import FileState, Library, LibraryWriter
from xsearch.library.blank import add_blank
from xsearch.media import video
from xsearch.media.decoders import Decoder, ProcessDecoder, ThreadDecoder
from xsearch.reading import (
    Entry,
    NotRead,
    Picture,
    Read,
    Reading,
    Refused,
    Sampled,
    Text,
    TextReader,
    Twin,
    read_text,
    renamed,
    rows_of,
)
from xsearch.sources.samples import MORE_MAY_FOLLOW, Sample
from xsearch.survey import ContainerWork, FileWork, RunPlan, Unread, is_made
from xsearch.types import Embeddings, Item, Kind, Skipped

_T = TypeVar("_T")

COMMIT_S = 5.0
TEXT_BATCH = 256
FILMS_AT_ONCE = 2
ITEMS_AT_ONCE = 1024


class Stage(StrEnum):
    """What a run can wait for."""

    DECODING = "decoding"
    READING = "reading"
    ENCODING = "encoding"
    WRITING = "writing"


@dataclass(frozen=True, slots=True)
class Progress:
    """`bound_by` is the stage that the run has waited for longest so far; `frame` the last one taken of a film."""

    done: int
    total: int
    bound_by: Stage
    frame: Item | None = None


@dataclass(slots=True)
class Tally:
    """What became of the files, captions and samples of a run; `read_whole` are containers with their signatures.

    `with_text` counts pictures in which text was found; in those of `not_read` it could not be looked for. `arrived`
    counts files and captions that were not known under their names, by content hash: some of them may have moved.
    `notes` are sentences for a person.
    """

    indexed: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    samples: int = 0
    arrived: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    read_whole: dict[str, str] = field(default_factory=dict)
    with_text: int = 0
    not_read: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count what another part of the same run did, in which no text in pictures was looked for."""
        self.indexed += other.indexed
        self.unchanged += other.unchanged
        self.removed += other.removed
        self.samples += other.samples
        self.arrived += other.arrived
        self.skipped += other.skipped
        self.read_whole |= other.read_whole

    def let_go(self, vanished: Sequence[FileState]) -> None:
        """Account for what is gone from where it was: moved, where as much of the same content arrived, or removed."""
        gone = Counter(state.content_hash for state in vanished)
        moved = (gone & self.arrived).total()
        self.moved += moved
        self.indexed -= moved
        self.removed += gone.total() - moved


_Encoded = tuple[list[Entry], Embeddings | ValueError]


@dataclass(slots=True)
class Outbox:
    """What waits for the next commit."""

    entries: list[Entry] = field(default_factory=list)
    vectors: list[Embeddings] = field(default_factory=list)
    copies: list[Twin] = field(default_factory=list)
    bury: list[int] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)

    @property
    def buried(self) -> list[int]:
        """The rows to bury, of what the entries replace as well."""
        return [*self.bury, *(row for entry in self.entries for row in entry.replaces)]

    def stacked(self, dim: int) -> Embeddings:
        """Return (n, dim) the vectors of the entries."""
        return np.concatenate([np.empty((0, dim), np.float32), *self.vectors])


class Sink(Protocol):
    """Where what is encoded goes. Called by one thread at a time."""

    def take(self, outbox: Outbox) -> None:
        """Keep all of an outbox in one step."""
        ...


class LibrarySink:
    """Commits to a library, in which all that is known lies."""

    def __init__(self, writer: LibraryWriter, library: Library) -> None:
        self._writer = writer
        self._library = library

    def take(self, outbox: Outbox) -> None:
        items, vectors, buried = copied(self._library, outbox.copies)
        self._writer.add(
            [*(entry.item for entry in outbox.entries), *items],
            np.concatenate([outbox.stacked(self._library.vectors.dim), vectors]),
            bury=[*outbox.buried, *buried],
        )
        add_blank(self._writer.folder, outbox.blank)


def copied(library: Library, twins: Sequence[Twin]) -> tuple[list[Item], Embeddings, list[int]]:
    """Return the items of twins under their own names with (n, dim) their vectors, and the rows that they replace."""
    rows = np.array([row for twin in twins for row in twin.state.rows], np.int64)
    works = [twin.work for twin in twins for _ in twin.state.rows]
    items = [renamed(item, work) for item, work in zip(library.items(rows), works, strict=True)]
    return items, library.vectors.take(rows), [row for twin in twins for row in rows_of(twin.work)]


@dataclass(slots=True)
class _Film:
    """The frames of a film that have their vectors, while others are `awaited`: they are committed together."""

    work: FileWork
    entries: list[Entry] = field(default_factory=list)
    vectors: list[Embeddings] = field(default_factory=list)
    awaited: int = 0
    is_read: bool = False


class Pipeline:
    """One run over a plan. What is done goes to the sink every COMMIT_S seconds, at the end, and on Ctrl-C."""

    def __init__(
        self,
        plan: RunPlan,
        reading: Reading,
        *,
        sink: Sink,
        encoder: Encoder,
        on_progress: Callable[[Progress], None],
        threads: int | None = None,
        reader: TextReader | None = None,
        library: Library | None = None,
    ) -> None:
        """So many `threads`, or processes, decode: one a core, unless said.

        `reader` and `library` are for a plan with pictures to look for text in.
        """
        self._plan = plan
        self._reading = reading
        self._sink = sink
        self._encoder = encoder
        self._on_progress = on_progress
        self._decoder = decoder_for(encoder, threads)
        self._reader = reader
        self._library = library
        self._pictures: list[Picture] = []
        self._texts: list[Entry] = []
        self._films: dict[Path, _Film] = {}
        self._outbox = Outbox()
        self._write_behind = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None
        self._encoders = ThreadPoolExecutor(2, thread_name_prefix="encode")
        self._encoding: deque[Future[list[_Encoded]]] = deque()
        self._committed_at_s = time.monotonic()
        self.waited_s = dict.fromkeys(Stage, 0.0)
        self.tally = Tally(unchanged=plan.unchanged)

    def run(self) -> Tally:
        """Do what the plan says. What is committed stays, however this ends."""
        with self._decoder, self._write_behind, self._encoders:
            try:
                self._run()
            except KeyboardInterrupt:
                self._collect_all()
                self._commit()
                raise
            for state in self._plan.vanished:
                self._outbox.bury += state.rows
            self._commit()
            self._await_write()
        self.tally.let_go(self._plan.vanished)
        return self.tally

    def _run(self) -> None:
        total = len(self._plan.files) + len(self._plan.captions) + len(self._plan.unread)
        done = 0
        films: list[FileWork] = []
        files: list[FileWork] = []
        for work in self._plan.files:
            (films if video.is_film(work.file.file) else files).append(work)
        for read in self._ahead(partial(self._reading.file, work, self._decoder) for work in files):
            self._take(read)
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        for work, reads in self._films_ahead(films):
            for frame in self._take_film(work, reads):
                self._on_progress(Progress(done, total, self._bound_by(), frame))
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        for caption in self._plan.captions:
            self._take([Entry(caption)])
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        for container in self._plan.containers:
            for _ in self._read_container(container):
                done += 1
                self._on_progress(Progress(done, max(done, total), self._bound_by()))
        if self._reader is not None and self._library is not None:
            jobs = _reading_jobs(self._plan.unread, self._reader, self._library)
            for read in self._ahead(jobs, Stage.READING):
                self._take(read)
                done += 1
                self._on_progress(Progress(done, total, self._bound_by()))
        self._encode_pictures()
        self._encode_texts()
        self._collect_all()

    def _films_ahead(self, works: Sequence[FileWork]) -> Iterator[tuple[FileWork, Iterator[Read]]]:
        """Yield films in order with what is read of each, while the next is being decoded as well."""
        coming = ((work, Ahead(self._reading.film(work), self._encoder.batch_size)) for work in works)
        under_way = deque(islice(coming, FILMS_AT_ONCE))
        try:
            while under_way:
                yield under_way[0]
                under_way.popleft()[1].close()
                under_way.extend(islice(coming, 1))
        finally:
            for _, reads in under_way:
                reads.close()

    def _take_film(self, work: FileWork, reads: Iterator[Read]) -> Iterator[Item]:
        """Take what is read of a film, and yield its frames."""
        path = work.file.file
        film = self._films[path] = _Film(work)
        while (read := self._timed(Stage.DECODING, partial(next, reads, None))) is not None and path in self._films:
            if isinstance(read, Picture):
                film.awaited += 1
                self._pictures.append(read)
                self._encode_full_batches()
                self._commit_if_due()
                yield read.entry.item
            else:  # known, or unreadable from here on
                del self._films[path]
                self._take(read)
        film.is_read = True
        self._settle(film)

    def _settle(self, film: _Film) -> None:
        """Let a film be committed when it is whole."""
        if film.is_read and not film.awaited and self._films.pop(film.work.file.file, None) is film:
            self._count(film.entries[0].item.content_hash, rows_of(film.work))
            self._outbox.entries += film.entries
            self._outbox.vectors += film.vectors
            self._outbox.bury += rows_of(film.work)

    def _read_container(self, container: ContainerWork) -> Iterator[None]:
        """Take the samples of a container, one a step; at its end let go of those that are not in it any more."""
        name = container.source.name
        known = {state.content_hash: state for state in container.known}
        seen: set[str] = set()
        refused: list[Skipped] = []
        try:
            for read in self._ahead(self._sample_jobs(container, known)):
                self._take(read)
                self.tally.samples += 1
                if isinstance(read, Sampled):
                    seen.add(read.content_hash)
                elif isinstance(read, Refused):
                    refused.append(read.skipped)
                yield
        except SourceError as error:
            self.tally.samples += 1
            self.tally.skipped.append(Skipped(name, "unreadable data set", str(error)))
            return
        if any(skipped.reason in MORE_MAY_FOLLOW for skipped in refused):
            return  # what was not seen may still be there
        gone = [state for content_hash, state in known.items() if content_hash not in seen]
        self._outbox.bury += [row for state in gone for row in state.rows]
        self.tally.removed += len(gone)
        if not refused:
            # One with anything refused is read again, so that the list of what was skipped stays true.
            self.tally.read_whole[name] = container.signature

    def _sample_jobs(self, container: ContainerWork, known: Mapping[str, FileState]) -> Iterator[Callable[[], Read]]:
        for sample in container.source.samples():
            if isinstance(sample, Skipped):
                yield partial(Refused, sample)
            else:
                yield partial(self._reading.sample, container, known, sample, self._decoder)

    def _ahead(self, jobs: Iterator[Callable[[], Read]], stage: Stage = Stage.DECODING) -> Iterator[Read]:
        """Yield what the jobs return, in order, done in a pool a bounded number ahead of the encoder."""
        ahead = 2 * self._encoder.batch_size + self._decoder.at_once
        waiting: deque[Future[Read]] = deque()
        with ThreadPoolExecutor(self._decoder.at_once, thread_name_prefix="decode") as pool:
            try:
                for job in jobs:
                    waiting.append(pool.submit(job))
                    if len(waiting) > ahead:
                        yield self._timed(stage, waiting.popleft().result)
                while waiting:
                    yield self._timed(stage, waiting.popleft().result)
            finally:
                pool.shutdown(cancel_futures=True)

    def _take(self, read: Read) -> None:
        match read:
            case Picture():
                self._count(read.entry.item.content_hash, read.entry.replaces)
                self._pictures.append(read)
                self._encode_full_batches()
            case Twin():
                self._count(read.content_hash, rows_of(read.work), same=read.state is read.work.known)
                self._outbox.copies.append(read)
            case Refused():
                self.tally.skipped.append(read.skipped)
                self._outbox.bury += read.bury
            case Sampled():
                if read.picture is None:
                    self.tally.unchanged += 1
                else:
                    self.tally.indexed += 1
                    self._texts += read.texts
                    self._pictures.append(read.picture)
                    self._encode_full_batches()
            case Text():
                self.tally.with_text += bool(read.entries)
                self._texts += read.entries
                self._outbox.blank += [] if read.entries else [read.content_hash]
            case NotRead():
                self.tally.not_read.append(read.skipped)
            case entries:
                self._count(entries[0].item.content_hash, entries[0].replaces)
                self._texts += entries
                self._encode_full_batches()
        self._commit_if_due()

    def _commit_if_due(self) -> None:
        if time.monotonic() - self._committed_at_s > COMMIT_S:
            self._encode_texts()  # where they come slowly, a full batch of them is minutes of work
            self._commit()

    def _count(self, content_hash: str, replaces: tuple[int, ...], *, same: bool = False) -> None:
        if same:
            self.tally.unchanged += 1
            return
        self.tally.indexed += 1
        self.tally.arrived[content_hash] += not replaces

    def _encode_full_batches(self) -> None:
        if len(self._pictures) >= self._encoder.batch_size:
            self._encode_pictures()
        if len(self._texts) >= TEXT_BATCH:
            self._encode_texts()

    def _encode_pictures(self) -> None:
        pictures, self._pictures = self._pictures, []
        self._encode([p.entry for p in pictures], [p.pixels for p in pictures], self._encoder.encode_images)

    def _encode_texts(self) -> None:
        entries, self._texts = self._texts, []
        self._encode(entries, [entry.item.text or "" for entry in entries], self._encoder.encode_texts)

    def _encode(self, entries: list[Entry], inputs: list[_T], encode: Callable[[list[_T]], Embeddings]) -> None:
        """Start to encode a batch. Two are under way, so that no core waits for the last picture of a batch."""
        if entries:
            self._encoding.append(self._encoders.submit(self._vectors, entries, inputs, encode))
        if len(self._encoding) > 1:
            self._collect()

    def _vectors(
        self, entries: list[Entry], inputs: list[_T], encode: Callable[[list[_T]], Embeddings]
    ) -> list[_Encoded]:
        """Encode a batch. Where a vector is not finite, find whose, and go on without it. Runs beside."""
        try:
            return [(entries, encode(inputs))]
        except ValueError as error:
            if len(entries) == 1:
                return [(entries, error)]
            singly = zip(entries, inputs, strict=True)
            return [found for entry, one in singly for found in self._vectors([entry], [one], encode)]

    def _collect_all(self) -> None:
        while self._encoding:
            self._collect()

    def _collect(self) -> None:
        """Take the oldest batch under way into the outbox."""
        for entries, vectors in self._timed(Stage.ENCODING, self._encoding.popleft().result):
            if isinstance(vectors, ValueError):
                self._refuse(entries[0], vectors)
                continue
            for entry, vector in zip(entries, vectors, strict=True):
                box = self._films.get(entry.item.file) if entry.item.kind is Kind.FRAME else self._outbox
                if box is None:
                    continue  # a frame of a film that was given up
                box.entries.append(entry)
                box.vectors.append(vector[None])
                if isinstance(box, _Film):
                    box.awaited -= 1
                    self._settle(box)

    def _refuse(self, entry: Entry, error: ValueError) -> None:
        """Account for an item that has no vector; a film is given up whole."""
        bury = entry.replaces
        if is_made(entry.item):
            self.tally.not_read.append(Skipped(str(entry.item.file), "no vector", str(error)))
            return
        if entry.item.kind is not Kind.FRAME:
            self.tally.indexed -= 1
        elif film := self._films.pop(entry.item.file, None):
            bury = rows_of(film.work)
        else:
            return
        self.tally.skipped.append(Skipped(str(entry.item.file), "no vector", str(error)))
        self._outbox.bury += bury

    def _commit(self) -> None:
        """Hand the outbox to the writer. One commit is under way at a time."""
        self._await_write()
        outbox, self._outbox = self._outbox, Outbox()
        self._writing = self._write_behind.submit(self._sink.take, outbox)
        self._committed_at_s = time.monotonic()

    def _await_write(self) -> None:
        if self._writing is not None:
            self._timed(Stage.WRITING, self._writing.result)

    def _timed(self, stage: Stage, wait: Callable[[], _T]) -> _T:
        start_s = time.monotonic()
        try:
            return wait()
        finally:
            self.waited_s[stage] += time.monotonic() - start_s

    def _bound_by(self) -> Stage:
        return max(Stage, key=lambda stage: self.waited_s[stage])


def decoder_for(encoder: Encoder, at_once: int | None = None) -> Decoder:
    """Return who decodes the pictures that an encoder is handed, so many at once, or one a core."""
    framing = framing_apart(encoder)
    image_px = encoder.spec.image_px
    if framing is None or sys.platform == "win32":  # where a process is not handed open files
        return ThreadDecoder(image_px, threads=at_once)
    return ProcessDecoder(framing, image_px, processes=at_once)


def _reading_jobs(unread: Unread, reader: TextReader, library: Library) -> Iterator[Callable[[], Read]]:
    for item in _items(library, unread.files):
        yield partial(read_text, reader, item, item.file)
    for source, rows in unread.containers:
        items = {item.part: item for item in _items(library, rows)}
        try:
            for sample in source.samples():
                if isinstance(sample, Sample) and sample.key in items:
                    yield partial(read_text, reader, items[sample.key], sample.image, sample.texts)
        except SourceError as error:
            yield partial(NotRead, Skipped(source.name, "unreadable data set", str(error)))


def _items(library: Library, rows: Sequence[int]) -> Iterator[Item]:
    for low in range(0, len(rows), ITEMS_AT_ONCE):
        yield from library.items(np.array(rows[low : low + ITEMS_AT_ONCE], np.int64))
