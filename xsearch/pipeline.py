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
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, partial
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from xsearch.ahead import Ahead
from xsearch.encoders import Encoder, framing_apart
from xsearch.errors import SourceError, Undecodable
from xsearch.library import FileState, Library, LibraryWriter
from xsearch.library.blank import add_blank
from xsearch.media import images, ocr, texts, video
from xsearch.media.decoders import Decoder, ProcessDecoder, ThreadDecoder
from xsearch.sources.samples import MORE_MAY_FOLLOW, Sample, read_picture
from xsearch.survey import ContainerWork, FileWork, Made, RunPlan, Unread, is_made, made_items, made_rows
from xsearch.types import Embeddings, Item, Kind, RGBImage, Skipped, item_id

_T = TypeVar("_T")

COMMIT_S = 5.0
TEXT_BATCH = 256
FILMS_AT_ONCE = 2
MAX_FILE_BYTES = 1 << 30
DIGEST_BYTES = 16
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How frames are taken from films: so many a second, else as many as each shot deserves; and how many at most."""

    fps: float | None = None
    max_frames: int | None = None


class TextReader(Protocol):
    """Reads the text in pictures. Safe to call from several threads."""

    def read(self, image: RGBImage) -> Sequence[ocr.Line]:
        """Return the lines of a picture, top to bottom. Raises Undecodable."""
        ...


@dataclass(slots=True)
class Tally:
    """What became of the files, captions and samples of a run; `read_whole` are containers with their signatures.

    `with_text` counts pictures in which text was found; in those of `not_read` it could not be looked for.
    """

    indexed: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    samples: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    read_whole: dict[str, str] = field(default_factory=dict)
    with_text: int = 0
    not_read: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item that waits to be encoded or committed, and the rows that it replaces in the same commit."""

    item: Item
    replaces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Picture:
    entry: _Entry
    pixels: RGBImage


@dataclass(frozen=True, slots=True)
class _Twin:
    """A file whose content is known: its rows are copied under its own name."""

    work: FileWork
    content_hash: str
    state: FileState


@dataclass(frozen=True, slots=True)
class _Refused:
    """A file or sample that gives no item, and the rows of what it was before, unless the trouble may pass."""

    skipped: Skipped
    bury: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A sample of a container: nothing to encode if it is known."""

    content_hash: str
    picture: _Picture | None = None
    texts: tuple[_Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class _Text:
    """What was read in a picture of the library, which may be nothing."""

    content_hash: str
    entries: tuple[_Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class _NotRead:
    """A picture that is kept as it is, and tried again by the next run."""

    skipped: Skipped


_Read = _Picture | list[_Entry] | _Twin | _Refused | _Sampled | _Text | _NotRead


_Encoded = tuple[list[_Entry], Embeddings | ValueError]


@dataclass(slots=True)
class _Outbox:
    """What waits for the next commit."""

    entries: list[_Entry] = field(default_factory=list)
    vectors: list[Embeddings] = field(default_factory=list)
    copies: list[_Twin] = field(default_factory=list)
    bury: list[int] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Film:
    """The frames of a film that have their vectors, while others are `awaited`: they are committed together."""

    work: FileWork
    entries: list[_Entry] = field(default_factory=list)
    vectors: list[Embeddings] = field(default_factory=list)
    awaited: int = 0
    is_read: bool = False


class Pipeline:
    """One index run on an open library. A commit is made every COMMIT_S seconds, at the end, and on Ctrl-C."""

    def __init__(
        self,
        plan: RunPlan,
        known: Sequence[FileState],
        *,
        writer: LibraryWriter,
        library: Library,
        encoder: Encoder,
        sampling: Sampling,
        on_progress: Callable[[Progress], None],
        reader: TextReader | None = None,
    ) -> None:
        """`known` are the states of all files in the library, to find files of equal content by.

        `reader` is for a plan with pictures to read.
        """
        self._plan = plan
        self._writer = writer
        self._library = library
        self._encoder = encoder
        self._decoder = decoder_for(encoder)
        self._sampling = sampling
        self._on_progress = on_progress
        self._reader = reader
        self._known = {state.content_hash: state for state in known}
        self._vanished = Counter(state.content_hash for state in plan.vanished)
        self._pictures: list[_Picture] = []
        self._texts: list[_Entry] = []
        self._films: dict[Path, _Film] = {}
        self._outbox = _Outbox()
        self._write_behind = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None
        self._encoders = ThreadPoolExecutor(2, thread_name_prefix="encode")
        self._encoding: deque[Future[list[_Encoded]]] = deque()
        self._committed_at_s = time.monotonic()
        self._waited_s = dict.fromkeys(Stage, 0.0)
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
        self.tally.removed += self._vanished.total()
        return self.tally

    def _run(self) -> None:
        total = len(self._plan.files) + len(self._plan.captions) + len(self._plan.unread)
        done = 0
        films: list[FileWork] = []
        files: list[FileWork] = []
        for work in self._plan.files:
            (films if video.is_film(work.file.file) else files).append(work)
        for read in self._ahead(partial(self._read, work) for work in files):
            self._take(read)
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        for work, reads in self._films_ahead(films):
            for frame in self._take_film(work, reads):
                self._on_progress(Progress(done, total, self._bound_by(), frame))
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        for caption in self._plan.captions:
            self._take([_Entry(caption)])
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        for container in self._plan.containers:
            for _ in self._read_container(container):
                done += 1
                self._on_progress(Progress(done, max(done, total), self._bound_by()))
        if self._reader is not None:
            for read in self._ahead(self._reading_jobs(self._plan.unread, self._reader), Stage.READING):
                self._take(read)
                done += 1
                self._on_progress(Progress(done, total, self._bound_by()))
        self._encode_pictures()
        self._encode_texts()
        self._collect_all()

    def _films_ahead(self, works: Sequence[FileWork]) -> Iterator[tuple[FileWork, Iterator[_Read]]]:
        """Yield films in order with what is read of each, while the next is being decoded as well."""
        coming = ((work, Ahead(self._read_film(work), self._encoder.batch_size)) for work in works)
        under_way = deque(islice(coming, FILMS_AT_ONCE))
        try:
            while under_way:
                yield under_way[0]
                under_way.popleft()[1].close()
                under_way.extend(islice(coming, 1))
        finally:
            for _, reads in under_way:
                reads.close()

    def _take_film(self, work: FileWork, reads: Iterator[_Read]) -> Iterator[Item]:
        """Take what is read of a film, and yield its frames."""
        path = work.file.file
        film = self._films[path] = _Film(work)
        while (read := self._timed(Stage.DECODING, partial(next, reads, None))) is not None and path in self._films:
            if isinstance(read, _Picture):
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
            self._count(film.entries[0].item.content_hash, _rows(film.work))
            self._outbox.entries += film.entries
            self._outbox.vectors += film.vectors
            self._outbox.bury += _rows(film.work)

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
                if isinstance(read, _Sampled):
                    seen.add(read.content_hash)
                elif isinstance(read, _Refused):
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

    def _sample_jobs(self, container: ContainerWork, known: Mapping[str, FileState]) -> Iterator[Callable[[], _Read]]:
        for sample in container.source.samples():
            if isinstance(sample, Skipped):
                yield partial(_Refused, sample)
            else:
                yield partial(self._read_sample, container, known, sample)

    def _read_sample(self, container: ContainerWork, known: Mapping[str, FileState], sample: Sample) -> _Read:
        """Make a sample into a picture and its texts. Runs in the pool."""
        name = container.source.name
        try:
            data = read_picture(sample.image)
            content_hash = _sample_digest(data, sample.texts)
            state = known.get(content_hash)
            own = () if state is None else [row for row in state.rows if row not in self._made_rows]
            if state is not None and len(own) == 1 + len(sample.texts):
                return _Sampled(state.content_hash)
            pixels, meta = self._decoder.decode(data)
        except Undecodable as error:
            return _Refused(Skipped(f"{name} {sample.key}", error.reason, error.detail))
        except SourceError as error:
            return _Refused(Skipped(f"{name} {sample.key}", "unreadable file", error.message))
        item = _sample_item(container, sample.key, content_hash)
        # A sample of which a run that was killed committed a part is replaced whole.
        picture = _Entry(_with_meta(item, meta), state.rows if state is not None else ())
        captions = [
            _Entry(replace(item, id=item_id(item.file, part), kind=Kind.TEXT, part=part, pair=item.id, text=text))
            for number, text in enumerate(sample.texts)
            for part in [f"{sample.key} text {number}"]
        ]
        return _Sampled(item.content_hash, _Picture(picture, pixels), tuple(captions))

    @cached_property
    def _made_rows(self) -> set[int]:
        return made_rows(self._library)

    def _reading_jobs(self, unread: Unread, reader: TextReader) -> Iterator[Callable[[], _Read]]:
        for item in self._items(unread.files):
            yield partial(_read_text, reader, item, item.file)
        for source, rows in unread.containers:
            items = {item.part: item for item in self._items(rows)}
            try:
                for sample in source.samples():
                    if isinstance(sample, Sample) and sample.key in items:
                        yield partial(_read_text, reader, items[sample.key], sample.image, sample.texts)
            except SourceError as error:
                yield partial(_NotRead, Skipped(source.name, "unreadable data set", str(error)))

    def _items(self, rows: Sequence[int]) -> Iterator[Item]:
        for low in range(0, len(rows), ITEMS_AT_ONCE):
            yield from self._library.items(np.array(rows[low : low + ITEMS_AT_ONCE], np.int64))

    def _ahead(self, jobs: Iterator[Callable[[], _Read]], stage: Stage = Stage.DECODING) -> Iterator[_Read]:
        """Yield what the jobs return, in order, done in a pool a bounded number ahead of the encoder."""
        workers = self._decoder.at_once
        ahead = 2 * self._encoder.batch_size + workers
        waiting: deque[Future[_Read]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            try:
                for job in jobs:
                    waiting.append(pool.submit(job))
                    if len(waiting) > ahead:
                        yield self._timed(stage, waiting.popleft().result)
                while waiting:
                    yield self._timed(stage, waiting.popleft().result)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, work: FileWork) -> _Read:
        """Read a file once, and make of it what it is. Runs in the pool."""
        path = work.file.file
        try:
            if work.file.bytes > MAX_FILE_BYTES:
                raise Undecodable("too large", f"{work.file.bytes} bytes")
            data = path.read_bytes()
            content_hash = _digest(data)
            is_picture = path.suffix.lower() not in texts.SUFFIXES  # a table may name pictures without a suffix
            state = self._state_of(work, content_hash)
            if state is not None and (is_picture or state is work.known):
                return _Twin(work, content_hash, state)
            if is_picture:
                pixels, meta = self._decoder.decode(data)
                return _Picture(_Entry(_with_meta(_item(work, Kind.IMAGE, content_hash), meta), _rows(work)), pixels)
            pieces = texts.captions(data) if work.pair else texts.passages(data)
            return [
                _Entry(replace(_item(work, Kind.TEXT, content_hash, str(part)), text=piece), _rows(work))
                for part, piece in enumerate(pieces)
            ]
        except Undecodable as error:
            return _Refused(Skipped(str(path), error.reason, error.detail), _rows(work))
        except OSError as error:
            return _Refused(Skipped(str(path), "unreadable file", error.strerror or str(error)))

    def _state_of(self, work: FileWork, content_hash: str) -> FileState | None:
        """Return the state of a known file of this content: this file itself, if its content is what it was."""
        if work.known is not None and work.known.content_hash == content_hash:
            return work.known
        return self._known.get(content_hash)

    def _read_film(self, work: FileWork) -> Iterator[_Read]:
        """Yield the frames of a film; or one thing that says it is known, or cannot be read. Runs in a thread."""
        path = work.file.file
        try:
            with path.open("rb") as file:
                content_hash = file_digest(file, partial(blake2b, digest_size=DIGEST_BYTES)).hexdigest()
            if (state := self._state_of(work, content_hash)) is not None:
                yield _Twin(work, content_hash, state)
                return
            film = video.probe(path)
            fps, max_frames = self._sampling.fps, self._sampling.max_frames
            for frame in video.frames(path, self._encoder.spec.image_px, fps=fps, max_frames=max_frames):
                yield _Picture(_Entry(_frame_item(work, content_hash, film, frame)), frame.pixels)
        except Undecodable as error:
            yield _Refused(Skipped(str(path), error.reason, error.detail), _rows(work))
        except OSError as error:
            yield _Refused(Skipped(str(path), "unreadable file", error.strerror or str(error)))

    def _take(self, read: _Read) -> None:
        match read:
            case _Picture():
                self._count(read.entry.item.content_hash, read.entry.replaces)
                self._pictures.append(read)
                self._encode_full_batches()
            case _Twin():
                self._count(read.content_hash, _rows(read.work), same=read.state is read.work.known)
                self._outbox.copies.append(read)
            case _Refused():
                self.tally.skipped.append(read.skipped)
                self._outbox.bury += read.bury
            case _Sampled():
                if read.picture is None:
                    self.tally.unchanged += 1
                else:
                    self.tally.indexed += 1
                    self._texts += read.texts
                    self._pictures.append(read.picture)
                    self._encode_full_batches()
            case _Text():
                self.tally.with_text += bool(read.entries)
                self._texts += read.entries
                self._outbox.blank += [] if read.entries else [read.content_hash]
            case _NotRead():
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
        elif not replaces and self._vanished[content_hash] > 0:
            self._vanished[content_hash] -= 1
            self.tally.moved += 1
        else:
            self.tally.indexed += 1

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

    def _encode(self, entries: list[_Entry], inputs: list[_T], encode: Callable[[list[_T]], Embeddings]) -> None:
        """Start to encode a batch. Two are under way, so that no core waits for the last picture of a batch."""
        if entries:
            self._encoding.append(self._encoders.submit(self._vectors, entries, inputs, encode))
        if len(self._encoding) > 1:
            self._collect()

    def _vectors(
        self, entries: list[_Entry], inputs: list[_T], encode: Callable[[list[_T]], Embeddings]
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

    def _refuse(self, entry: _Entry, error: ValueError) -> None:
        """Account for an item that has no vector; a film is given up whole."""
        bury = entry.replaces
        if is_made(entry.item):
            self.tally.not_read.append(Skipped(str(entry.item.file), "no vector", str(error)))
            return
        if entry.item.kind is not Kind.FRAME:
            self.tally.indexed -= 1
        elif film := self._films.pop(entry.item.file, None):
            bury = _rows(film.work)
        else:
            return
        self.tally.skipped.append(Skipped(str(entry.item.file), "no vector", str(error)))
        self._outbox.bury += bury

    def _commit(self) -> None:
        """Hand the outbox to the writer. One commit is under way at a time."""
        self._await_write()
        outbox, self._outbox = self._outbox, _Outbox()
        self._writing = self._write_behind.submit(self._write, outbox)
        self._committed_at_s = time.monotonic()

    def _write(self, outbox: _Outbox) -> None:
        items = [entry.item for entry in outbox.entries]
        bury = [*outbox.bury, *(row for entry in outbox.entries for row in entry.replaces)]
        vectors = outbox.vectors
        if outbox.copies:
            rows = np.array([row for twin in outbox.copies for row in twin.state.rows], np.int64)
            works = [twin.work for twin in outbox.copies for _ in twin.state.rows]
            items += [_renamed(item, work) for item, work in zip(self._library.items(rows), works, strict=True)]
            vectors = [*vectors, self._library.vectors.take(rows)]
            bury += [row for twin in outbox.copies for row in _rows(twin.work)]
        empty = np.empty((0, self._encoder.spec.dim), np.float32)
        self._writer.add(items, np.concatenate([empty, *vectors]), bury=bury)
        add_blank(self._writer.folder, outbox.blank)

    def _await_write(self) -> None:
        if self._writing is not None:
            self._timed(Stage.WRITING, self._writing.result)

    def _timed(self, stage: Stage, wait: Callable[[], _T]) -> _T:
        start_s = time.monotonic()
        try:
            return wait()
        finally:
            self._waited_s[stage] += time.monotonic() - start_s

    def _bound_by(self) -> Stage:
        return max(Stage, key=lambda stage: self._waited_s[stage])


def decoder_for(encoder: Encoder) -> Decoder:
    """Return who decodes the pictures that an encoder is handed."""
    framing = framing_apart(encoder)
    image_px = encoder.spec.image_px
    if framing is None or sys.platform == "win32":  # where a process is not handed open files
        return ThreadDecoder(image_px)
    return ProcessDecoder(framing, image_px)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _sample_digest(data: bytes, captions: Sequence[str]) -> str:
    return _digest("\0".join((_digest(data), *captions)).encode())


def _read_text(
    reader: TextReader, picture: Item, image: bytes | Path, captions: Sequence[str] | None = None
) -> _Text | _NotRead:
    """Read the text in a picture of the library; `captions` are those of a sample. Runs in the pool."""
    try:
        data = read_picture(image)
        if picture.content_hash != (_digest(data) if captions is None else _sample_digest(data, captions)):
            raise Undecodable("changed meanwhile")
        pixels, _ = images.decode_image(data, ocr.DECODE_PX)
        lines = reader.read(pixels)
    except Undecodable as error:
        return _NotRead(Skipped(str(picture.file), error.reason, error.detail))
    except SourceError as error:
        return _NotRead(Skipped(str(picture.file), "unreadable file", error.message))
    found = texts.passages("\n".join(line.text for line in lines).encode()) if lines else []
    return _Text(picture.content_hash, tuple(map(_Entry, made_items(picture, found, Made.OCR))))


def _with_meta(item: Item, meta: images.ImageMeta) -> Item:
    return replace(
        item,
        width=meta.width,
        height=meta.height,
        taken_at=meta.taken_at,
        camera=meta.camera,
        gps_lat=meta.gps_lat,
        gps_lon=meta.gps_lon,
    )


def _sample_item(container: ContainerWork, key: str, content_hash: str) -> Item:
    path = Path(container.source.name)
    root, name = (str(path.parent), path.name) if path.is_absolute() else (str(path), "")
    files = container.source.files
    return Item(
        id=item_id(path, key),
        kind=Kind.IMAGE,
        root=root,
        path=name,
        part=key,
        bytes=sum(file.bytes for file in files),
        mtime_ns=max((file.mtime_ns for file in files), default=0),
        content_hash=content_hash,
    )


def _frame_item(work: FileWork, content_hash: str, film: video.Film, frame: video.Frame) -> Item:
    item = _item(work, Kind.FRAME, content_hash, f"{frame.t_s:.3f}")
    return replace(
        item,
        t_start_s=frame.t_start_s,
        t_end_s=frame.t_end_s,
        shot=frame.shot,
        width=film.width,
        height=film.height,
    )


def _rows(work: FileWork) -> tuple[int, ...]:
    return work.known.rows if work.known is not None else ()


def _item(work: FileWork, kind: Kind, content_hash: str, part: str = "") -> Item:
    file = work.file
    return Item(
        id=item_id(file.file, part),
        kind=kind,
        root=file.root,
        path=file.path,
        part=part,
        pair=work.pair,
        bytes=file.bytes,
        mtime_ns=file.mtime_ns,
        content_hash=content_hash,
    )


def _renamed(item: Item, work: FileWork) -> Item:
    file = work.file
    return replace(
        item,
        id=item_id(file.file, item.part),
        pair=item_id(file.file) if is_made(item) else item.pair,
        root=file.root,
        path=file.path,
        bytes=file.bytes,
        mtime_ns=file.mtime_ns,
    )
