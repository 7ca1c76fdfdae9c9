"""Files to committed items: read and decode in a pool, encode in batches, write behind, all three at the same time.

Pictures that are decoded and wait for the encoder are bounded, so that memory does not grow with the number of files.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from xsearch.encoders import Encoder
from xsearch.errors import Undecodable
from xsearch.library import FileState, Library, LibraryWriter
from xsearch.media import images, texts
from xsearch.survey import FileWork, RunPlan
from xsearch.types import Embeddings, Item, Kind, RGBImage, Skipped, item_id

_T = TypeVar("_T")

COMMIT_S = 5.0
TEXT_BATCH = 256
MAX_FILE_BYTES = 1 << 30


class Stage(StrEnum):
    """What a run can wait for."""

    DECODING = "decoding"
    ENCODING = "encoding"
    WRITING = "writing"


@dataclass(frozen=True, slots=True)
class Progress:
    """`bound_by` is the stage that the run has waited for longest so far."""

    done: int
    total: int
    bound_by: Stage


@dataclass(slots=True)
class Tally:
    """What became of the files and captions of a run."""

    indexed: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    skipped: list[Skipped] = field(default_factory=list)


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
    """A file that gives no item. What it was before goes too, unless the trouble may pass."""

    work: FileWork
    skipped: Skipped
    may_pass: bool


_Read = _Picture | list[_Entry] | _Twin | _Refused


@dataclass(slots=True)
class _Outbox:
    """What waits for the next commit."""

    entries: list[_Entry] = field(default_factory=list)
    vectors: list[Embeddings] = field(default_factory=list)
    copies: list[_Twin] = field(default_factory=list)
    bury: list[int] = field(default_factory=list)


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
        on_progress: Callable[[Progress], None],
    ) -> None:
        """`known` are the states of all files in the library, to find files of equal content by."""
        self._plan = plan
        self._writer = writer
        self._library = library
        self._encoder = encoder
        self._on_progress = on_progress
        self._known = {state.content_hash: state for state in known}
        self._vanished = Counter(state.content_hash for state in plan.vanished)
        self._pictures: list[_Picture] = []
        self._texts: list[_Entry] = []
        self._outbox = _Outbox()
        self._write_behind = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None
        self._committed_at_s = time.monotonic()
        self._waited_s = dict.fromkeys(Stage, 0.0)
        self.tally = Tally(unchanged=plan.unchanged)

    def run(self) -> Tally:
        """Do what the plan says. What is committed stays, however this ends."""
        with self._write_behind:
            try:
                self._run()
            except KeyboardInterrupt:
                self._commit()
                raise
            for state in self._plan.vanished:
                self._outbox.bury += state.rows
            self._commit()
            self._await_write()
        self.tally.removed = self._vanished.total()
        return self.tally

    def _run(self) -> None:
        total = len(self._plan.files) + len(self._plan.captions)
        done = 0
        for read in self._read_ahead():
            self._take(read)
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        for caption in self._plan.captions:
            self._take([_Entry(caption)])
            done += 1
            self._on_progress(Progress(done, total, self._bound_by()))
        self._encode_pictures()
        self._encode_texts()

    def _read_ahead(self) -> Iterator[_Read]:
        """Yield the files of the plan as they were read, in order, a bounded number ahead of the encoder."""
        workers = os.cpu_count() or 1
        ahead = 2 * self._encoder.batch_size + workers
        waiting: deque[Future[_Read]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            try:
                for work in self._plan.files:
                    waiting.append(pool.submit(self._read, work))
                    if len(waiting) > ahead:
                        yield self._timed(Stage.DECODING, waiting.popleft().result)
                while waiting:
                    yield self._timed(Stage.DECODING, waiting.popleft().result)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, work: FileWork) -> _Read:
        """Read a file once, and make of it what it is. Runs in the pool."""
        path = work.file.file
        try:
            if work.file.bytes > MAX_FILE_BYTES:
                raise Undecodable("too large", f"{work.file.bytes} bytes")
            data = path.read_bytes()
            content_hash = blake2b(data, digest_size=16).hexdigest()
            is_picture = path.suffix.lower() not in texts.SUFFIXES  # a table may name pictures without a suffix
            state = self._known.get(content_hash)
            if work.known is not None and work.known.content_hash == content_hash:
                return _Twin(work, content_hash, work.known)
            if is_picture and state is not None:
                return _Twin(work, content_hash, state)
            if is_picture:
                pixels, meta = images.decode_image(data, self._encoder.spec.image_px)
                item = replace(
                    _item(work, Kind.IMAGE, content_hash),
                    width=meta.width,
                    height=meta.height,
                    taken_at=meta.taken_at,
                    camera=meta.camera,
                    gps_lat=meta.gps_lat,
                    gps_lon=meta.gps_lon,
                )
                return _Picture(_Entry(item, _rows(work)), pixels)
            pieces = texts.captions(data) if work.pair else texts.passages(data)
            return [
                _Entry(replace(_item(work, Kind.TEXT, content_hash, str(part)), text=piece), _rows(work))
                for part, piece in enumerate(pieces)
            ]
        except Undecodable as error:
            return _Refused(work, Skipped(str(path), error.reason, error.detail), may_pass=False)
        except OSError as error:
            return _Refused(work, Skipped(str(path), "unreadable file", error.strerror or str(error)), may_pass=True)

    def _take(self, read: _Read) -> None:
        match read:
            case _Picture():
                self._count(read.entry.item.content_hash, read.entry.replaces)
                self._pictures.append(read)
                if len(self._pictures) >= self._encoder.batch_size:
                    self._encode_pictures()
            case _Twin():
                self._count(read.content_hash, _rows(read.work), same=read.state is read.work.known)
                self._outbox.copies.append(read)
            case _Refused():
                self.tally.skipped.append(read.skipped)
                if not read.may_pass:
                    self._outbox.bury += _rows(read.work)
            case entries:
                self._count(entries[0].item.content_hash, entries[0].replaces)
                self._texts += entries
                if len(self._texts) >= TEXT_BATCH:
                    self._encode_texts()
        if time.monotonic() - self._committed_at_s > COMMIT_S:
            self._commit()

    def _count(self, content_hash: str, replaces: tuple[int, ...], *, same: bool = False) -> None:
        if same:
            self.tally.unchanged += 1
        elif not replaces and self._vanished[content_hash] > 0:
            self._vanished[content_hash] -= 1
            self.tally.moved += 1
        else:
            self.tally.indexed += 1

    def _encode_pictures(self) -> None:
        pictures, self._pictures = self._pictures, []
        self._encode([p.entry for p in pictures], [p.pixels for p in pictures], self._encoder.encode_images)

    def _encode_texts(self) -> None:
        entries, self._texts = self._texts, []
        self._encode(entries, [entry.item.text or "" for entry in entries], self._encoder.encode_texts)

    def _encode(self, entries: list[_Entry], inputs: list[_T], encode: Callable[[list[_T]], Embeddings]) -> None:
        if not entries:
            return
        try:
            vectors = self._timed(Stage.ENCODING, lambda: encode(inputs))
        except ValueError as error:  # a vector is not finite: find whose, and go on without it
            if len(entries) > 1:
                for entry, one in zip(entries, inputs, strict=True):
                    self._encode([entry], [one], encode)
                return
            self.tally.indexed -= 1
            self.tally.skipped.append(Skipped(str(entries[0].item.file), "no vector", str(error)))
            return
        self._outbox.entries += entries
        self._outbox.vectors.append(vectors)

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
        root=file.root,
        path=file.path,
        bytes=file.bytes,
        mtime_ns=file.mtime_ns,
    )
