"""Use case: give a library the vectors of another encoder, while it goes on answering, and taking in what is new.

The next generation grows in `next/` of the library's folder, as a library of its own: whatever ends a run, what was
committed there stays, and the next run goes on. Items keep all that is known of them; pictures are read again from
their originals, frames of films at the times that they have. At last, under the lock of the library, the files of the
next generation get names among those of the present one, and the manifest is replaced: one step, before which all is as
it was, and after which the old vectors are swept.
"""

import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xsearch import bank
from xsearch.encoders import Encoder
from xsearch.errors import (
    EncoderMismatch,
    LibraryLocked,
    LibraryNotFound,
    SourceError,
    Undecodable,
    XSearchError,
    command,
)
from xsearch.index.plan import IndexKind, plan_index
from xsearch.index_file import keep_index
from xsearch.labels import Labels, label_vectors
from xsearch.library import Library, LibraryWriter, Manifest
from xsearch.library.files import replacing
from xsearch.library.shards import VECTOR, shard_path
from xsearch.library.tags import LABELS, TAGS, keep_tags, read_labels, write_labels
from xsearch.library.words import STATE, WORDS, keep_words
from xsearch.library.writer import FULL_SHARD_ROWS
from xsearch.media import video
from xsearch.media.decoders import Decoder
from xsearch.originals import read_original
from xsearch.pipeline import COMMIT_S, TEXT_BATCH, Progress, Stage, decoder_for
from xsearch.reading import DIGEST_BYTES
from xsearch.sources.containers import open_samples
from xsearch.sources.samples import Sample, read_picture
from xsearch.types import Embeddings, EncoderSpec, Item, Kind, RGBImage, Skipped

NEXT = Path("next", "library")
"""Where in a library's folder the next generation grows: deeper than its writer looks for what it has left behind."""

LOCKED_S = 1.0
"""Another writer is waited for, and the lock tried again this often."""

CHANGED = "changed meanwhile"

_T = TypeVar("_T")
_Content = RGBImage | str | Skipped


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a run did. `before` and `after` name the encoders; `items` is what the library holds now, of which this run
    embedded `embedded`, the rest by runs that were cut short before.

    `lost` items have no vector of the new encoder, as their originals cannot be read any more; `skipped` counts the
    files that they were of by reason.
    """

    before: str
    after: str
    items: int
    embedded: int
    lost: int
    skipped: dict[str, int]
    seconds: float


def migrate(
    data: Path,
    encoder: Encoder,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Migrated:
    """Embed all items of the library `data` with `encoder`, then put the new vectors in the place of the old ones.

    Of a file, caption or sample all items go over or none. Those of which the original is gone or has changed are left
    out and listed as skipped, and the next index run of their source takes them in again if they are there. Does
    nothing if the library's vectors are of this encoder. Raises LibraryNotFound, LibraryDamaged, LibraryLocked (another
    migration), EncoderMismatch (one to another encoder was begun), SourceError if not one picture of a source is there,
    XSearchError if the disk has no room.
    """
    start_s = time.monotonic()
    before = Manifest.load(data)
    _refuse_another(data, encoder.spec)
    run = _Run(data, encoder, on_progress, on_stage)
    if before.fingerprint != encoder.spec.fingerprint:
        run.go_over()
    _settle(data, encoder, on_stage)
    return Migrated(
        before=before.encoder,
        after=encoder.spec.name,
        items=sum(Library.open(data).counts().values()),
        embedded=run.embedded,
        lost=sum(unit.count for unit in run.refused.values()),
        skipped=dict(Counter(entry.reason for entry in run.skipped()).most_common()),
        seconds=time.monotonic() - start_s,
    )


@dataclass(slots=True, eq=False)
class _Unit:
    """Items of a file, caption or sample. They wait for their vectors, (count, dim), and go over together."""

    rows: NDArray[np.int64]
    items: list[Item] = field(default_factory=list)
    vectors: Embeddings | None = None
    awaited: int = 0
    refused: Skipped | None = None

    @property
    def count(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class _Place:
    """An item of a unit."""

    unit: _Unit
    at: int

    @property
    def item(self) -> Item:
        return self.unit.items[self.at]


class _Run:
    """Brings the next generation of a library after it, and at last into its place.

    `refused` are the units that cannot go over, by what tells them from others.
    """

    def __init__(
        self,
        data: Path,
        encoder: Encoder,
        on_progress: Callable[[Progress], None],
        on_stage: Callable[[str], None],
    ) -> None:
        self._data = data
        self._encoder = encoder
        self._on_progress = on_progress
        self._on_stage = on_stage
        self._pictures: list[tuple[_Place, RGBImage]] = []
        self._texts: list[tuple[_Place, str]] = []
        self._whole: list[_Unit] = []
        self._waited_s = dict.fromkeys((Stage.DECODING, Stage.ENCODING, Stage.WRITING), 0.0)
        self.refused: dict[int, _Unit] = {}
        self.embedded = 0

    def skipped(self) -> list[Skipped]:
        """Return why the refused could not go over, an entry for each file or sample."""
        return [unit.refused for unit in self.refused.values() if unit.refused is not None]

    def go_over(self) -> None:
        with LibraryWriter(self._data / NEXT, self._encoder.spec) as copy:
            _refuse_full_disk(Library.open(self._data), self._encoder.spec.dim, copy.manifest.rows)
            caught_up = self._catch_up(copy)
            with ExitStack() as held:
                writer = _locked(self._data, held, self._on_stage)
                if writer.manifest.commit != caught_up:
                    self._catch_up(copy)
                self._on_stage("putting the new vectors in the place of the old ones")
                self._swap(copy, writer)

    def _catch_up(self, copy: LibraryWriter) -> int:
        """Give the next generation what the library has, index and words included; return the commit that it has."""
        self._on_stage("comparing the library with its next generation")
        library = Library.open(self._data)
        todo, stale = self._difference(library, Library.open(copy.folder))
        _refuse_missing_sources(library, todo.values())
        copy.bury(stale)
        self._on_stage("embedding")
        self._embed(library, todo, copy)
        copy.merge()
        bank.keep_bank(copy.folder, self._encoder)
        self._keep_labels(library, copy)
        copy.want_index(library.manifest.index_wanted)
        keep_index(copy, self._encoder, on_stage=self._on_stage)
        keep_words(copy, on_stage=self._on_stage)
        return library.manifest.commit

    def _difference(self, library: Library, begun: Library) -> tuple[dict[int, _Unit], list[int]]:
        """Return the units of the library that are not, or not just so, in `begun`; and rows there that are to go."""
        items, units = _hashes(library)
        begun_items, _ = _hashes(begun)
        new = library.alive & ~np.isin(items, begun_items[begun.alive]) & ~np.isin(units, list(self.refused))
        is_todo = library.alive & np.isin(units, units[new])
        kept = items[library.alive & ~is_todo]
        stale = np.flatnonzero(begun.alive & ~np.isin(begun_items, kept))
        rows = np.flatnonzero(is_todo)
        order = np.argsort(units[rows], kind="stable")
        names, firsts = np.unique(units[rows][order], return_index=True)
        groups = np.split(rows[order], firsts[1:]) if len(rows) else []
        # In the order of the library: frames of a film lie side by side.
        by_row = sorted(zip(names.tolist(), groups, strict=True), key=lambda of_unit: int(of_unit[1][0]))
        return {name: _Unit(group) for name, group in by_row}, stale.tolist()

    def _embed(self, library: Library, todo: dict[int, _Unit], copy: LibraryWriter) -> None:
        total, done = sum(unit.count for unit in todo.values()), 0
        committed_at_s = time.monotonic()
        try:
            for place, content in self._read_ahead(library, todo.values()):
                if isinstance(content, Skipped):
                    self._take(place, content)
                elif isinstance(content, str):
                    self._texts.append((place, content))
                else:
                    self._pictures.append((place, content))
                if len(self._pictures) >= self._encoder.batch_size:
                    self._encode_pictures()
                if len(self._texts) >= TEXT_BATCH:
                    self._encode_texts()
                if time.monotonic() - committed_at_s > COMMIT_S:
                    self._encode_texts()
                    self._commit(copy)
                    committed_at_s = time.monotonic()
                done += 1
                self._on_progress(Progress(done, total, max(self._waited_s, key=lambda s: self._waited_s[s])))
            self._encode_pictures()
            self._encode_texts()
        finally:  # Ctrl-C, too
            self._commit(copy)
        self.refused |= {name: unit for name, unit in todo.items() if unit.refused is not None}

    def _read_ahead(self, library: Library, units: Iterable[_Unit]) -> Iterator[tuple[_Place, _Content]]:
        """Yield what is to be encoded, in order, read in a pool a bounded number ahead of the encoder."""
        decoder, image_px = decoder_for(self._encoder), self._encoder.spec.image_px
        ahead = 2 * self._encoder.batch_size + decoder.at_once
        waiting: deque[tuple[_Place, Future[_Content]]] = deque()
        with decoder, ThreadPoolExecutor(decoder.at_once, thread_name_prefix="decode") as pool:
            try:
                for place, image in self._places(library, units):
                    waiting.append((place, pool.submit(_read, place, image, decoder, image_px)))
                    if len(waiting) > ahead:
                        first, content = waiting.popleft()
                        yield first, self._timed(Stage.DECODING, content.result)
                while waiting:
                    first, content = waiting.popleft()
                    yield first, self._timed(Stage.DECODING, content.result)
            finally:
                pool.shutdown(cancel_futures=True)

    def _places(self, library: Library, units: Iterable[_Unit]) -> Iterator[tuple[_Place, bytes | Path | None]]:
        """Yield the items of units in the order of the library, those in archives and data sets last, as they come.

        Beside an item stands its picture where it came out of a stream. Raises SourceError if one cannot be read.
        """
        roots, paths, parts = (library.column(name).to_pylist() for name in ("root", "path", "part"))
        is_image = library.of_kinds([Kind.IMAGE])
        inside: dict[Path, dict[str, _Place]] = {}
        for unit in units:
            samples = [at for at, row in enumerate(unit.rows.tolist()) if is_image[row] and parts[row]]
            for at in samples:
                row = unit.rows[at]
                inside.setdefault(Path(roots[row], paths[row]), {})[parts[row]] = _Place(unit, at)
            if not samples:
                self._load(library, unit)
                yield from ((_Place(unit, at), None) for at in range(unit.count))
        for container, places in inside.items():
            for key, image in _samples(container, library.manifest.image_columns.get(str(container)), places.keys()):
                place = places[key]
                if not place.unit.items:
                    self._load(library, place.unit)
                    of_texts = (_Place(place.unit, at) for at in range(place.unit.count))
                    yield from ((one, None) for one in of_texts if one.item.kind is Kind.TEXT)
                yield place, image

    def _load(self, library: Library, unit: _Unit) -> None:
        unit.items = library.items(unit.rows)
        unit.vectors = np.empty((unit.count, self._encoder.spec.dim), np.float32)
        unit.awaited = unit.count

    def _encode_pictures(self) -> None:
        pictures, self._pictures = self._pictures, []
        self._encode(pictures, self._encoder.encode_images)

    def _encode_texts(self) -> None:
        texts, self._texts = self._texts, []
        self._encode(texts, self._encoder.encode_texts)

    def _encode(self, batch: list[tuple[_Place, _T]], encode: Callable[[list[_T]], Embeddings]) -> None:
        if not batch:
            return
        try:
            vectors = self._timed(Stage.ENCODING, partial(encode, [content for _, content in batch]))
        except ValueError as error:  # a vector that is not finite: find whose
            if len(batch) > 1:
                for one in batch:
                    self._encode([one], encode)
            else:
                self._take(batch[0][0], Skipped(_name(batch[0][0].item), "no vector", str(error)))
            return
        for (place, _), vector in zip(batch, vectors, strict=True):
            self._take(place, vector)

    def _take(self, place: _Place, found: NDArray[np.float32] | Skipped) -> None:
        """Note the vector of an item, or why it has none; a unit without one that waits is whole, or given up."""
        unit = place.unit
        unit.awaited -= 1
        if isinstance(found, Skipped):
            unit.refused = found
        elif unit.vectors is not None:
            unit.vectors[place.at] = found
        if unit.refused is not None:
            unit.vectors = None
        elif not unit.awaited:
            self._whole.append(unit)

    def _commit(self, copy: LibraryWriter) -> None:
        units, self._whole = self._whole, []
        items = [item for unit in units for item in unit.items]
        vectors = [unit.vectors for unit in units if unit.vectors is not None]
        if items:
            self._timed(Stage.WRITING, partial(copy.add, items, np.concatenate(vectors)))
            self.embedded += len(items)
        for unit in units:
            unit.items, unit.vectors = [], None

    def _keep_labels(self, library: Library, copy: LibraryWriter) -> None:
        """Encode the library's labels anew. A run that was killed while it swapped may have left them here alone."""
        labels = read_labels(library)
        if labels is not None:
            names = labels.names
            vectors = label_vectors(self._encoder.encode_texts, names)
            generic = bank.read_bank(copy.folder, self._encoder)
            write_labels(copy, Labels(names, vectors, generic, self._encoder.spec.logit_scale, labels.threshold))

    def _swap(self, copy: LibraryWriter, writer: LibraryWriter) -> None:
        """Make the next generation the present one. Ended at any moment, it leaves one or the other, whole."""
        data, begun, old, new = writer.folder, copy.folder, writer.manifest, copy.manifest
        commit = max(old.commit, new.commit) + 1
        index = None if new.index is None else replace(new.index, file=f"{commit:08d}.faiss")
        for shard in new.shards:
            _link(shard_path(begun, shard.id), shard_path(data, shard.id))
        if new.index is not None and index is not None:
            _link(begun / "index" / new.index.file, data / "index" / index.file)
        for segment in (begun / WORDS).iterdir():
            if segment.name != STATE:
                _link(segment, data / WORDS / segment.name)
        listed = {entry.path: entry for entry in (*Library.open(data).skipped(), *self.skipped())}
        writer.set_skipped(sorted(listed.values(), key=lambda entry: entry.path))
        # What is of the old encoder and does not say so: without it answers are right, and with it they would not be.
        (data / bank.FILE).unlink(missing_ok=True)
        (data / TAGS / LABELS).unlink(missing_ok=True)
        unread = {str(item.file) for unit in self.refused.values() for item in unit.items}
        containers = {name: signature for name, signature in old.containers.items() if name not in unread}
        replace(new, commit=commit, index=index, containers=containers, image_columns=old.image_columns).save(data)
        for name in (f"{WORDS}/{STATE}", bank.FILE):
            _link(begun / name, data / name)

    def _timed(self, stage: Stage, wait: Callable[[], _T]) -> _T:
        start_s = time.monotonic()
        try:
            return wait()
        finally:
            self._waited_s[stage] += time.monotonic() - start_s


def _locked(data: Path, held: ExitStack, on_stage: Callable[[str], None]) -> LibraryWriter:
    """Return a writer that `held` holds, when no other process writes."""
    while True:
        try:
            return held.enter_context(LibraryWriter(data))
        except LibraryLocked:
            on_stage(f"waiting for another xsearch that writes to {data}")
            time.sleep(LOCKED_S)


def _refuse_another(data: Path, spec: EncoderSpec) -> None:
    begun = data / NEXT
    try:
        manifest = Manifest.load(begun)
    except LibraryNotFound:
        return
    if manifest.fingerprint != spec.fingerprint:
        finish = command("xsearch", "migrate", "--data", data, "--model", manifest.encoder)
        raise EncoderMismatch(
            f"a migration to {manifest.encoder} was begun in {begun.parent}",
            remedy=f"finish it, {finish}, or delete that folder",
        )


def _refuse_missing_sources(library: Library, units: Iterable[_Unit]) -> None:
    """Raise SourceError if an archive is gone, or a folder holds none of its pictures, as where a drive is missing."""
    is_picture = library.of_kinds([Kind.IMAGE, Kind.FRAME])
    is_image = library.of_kinds([Kind.IMAGE])
    roots, paths, parts = (library.column(name).to_pylist() for name in ("root", "path", "part"))
    missing: Counter[str] = Counter()
    present: set[str] = set()
    for row in (row for unit in units for row in unit.rows.tolist() if is_picture[row]):
        file = Path(roots[row], paths[row])
        source = str(file) if is_image[row] and parts[row] else roots[row]
        if source in present or not file.is_absolute():  # data sets of a hub
            continue
        if file.exists():
            present.add(source)
        else:
            missing[source] += 1
    for source, count in missing.items():
        if source not in present:
            raise SourceError(
                f"{source} is missing or empty: its pictures ({count:,}) cannot be embedded anew",
                remedy=f"mount it and run this again, or let go of them: {command('xsearch', 'forget', source)}",
            )


def _refuse_full_disk(library: Library, dim: int, rows_done: int) -> None:
    """Raise XSearchError if the next generation has no room beside the present one, a shard being merged included."""
    rows = int(np.count_nonzero(library.alive))
    row_bytes = sum(entry.bytes for entry in library.manifest.shards) / max(1, len(library))
    row_bytes += 2 * (dim - library.vectors.dim)
    words_bytes = sum(path.stat().st_size for path in (library.folder / WORDS).glob("*"))
    index_bytes = 0 if library.manifest.index is None else plan_index(rows, dim, kind=IndexKind.IVFPQ).hot_bytes
    needed = row_bytes * (max(0, rows - rows_done) + min(rows, FULL_SHARD_ROWS)) + index_bytes + words_bytes
    free = shutil.disk_usage(library.folder).free
    if needed > free:
        raise XSearchError(
            f"the new vectors of {rows:,} items take {needed / 1e9:.1f} GB beside the old ones, "
            f"and {library.folder} has {free / 1e9:.1f} GB left",
            remedy="make room on that disk",
        )


def _hashes(library: Library) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (rows,) what tells an item, with all that is known of it, and (rows,) what it goes over together with.

    Of use within this process only.
    """
    items: list[int] = []
    units: list[int] = []
    for table in library.tables():
        known = table.drop_columns([VECTOR]).to_pydict()
        items += map(hash, zip(*known.values(), strict=True))
        units += map(hash, zip(*(known[name] for name in ("root", "path", "content_hash")), strict=True))
    return np.array(items, np.int64), np.array(units, np.int64)


def _samples(
    container: Path, image_column: str | None, wanted: Collection[str]
) -> Iterator[tuple[str, bytes | Path | None]]:
    """Yield the wanted samples by key with their pictures, None for those that are not there. Raises SourceError."""
    left = set(wanted)
    (source,) = open_samples(str(container), image_column=image_column)
    for sample in source.samples():
        if isinstance(sample, Sample) and sample.key in left:
            left.remove(sample.key)
            yield sample.key, sample.image
    yield from ((key, None) for key in sorted(left))


def _read(place: _Place, image: bytes | Path | None, decoder: Decoder, image_px: int) -> _Content:
    """Return a text, or the pixels of an original, or why it cannot be had. Runs in the pool."""
    item, unit = place.item, place.unit
    if item.kind is Kind.TEXT:
        return item.text or ""
    if unit.refused is not None:
        return unit.refused
    try:
        if item.kind is Kind.FRAME:
            if not _is_same_film(item):
                raise Undecodable(CHANGED)
            return video.frame_at(item.file, float(item.part), image_px)
        if item.part and image is None:
            raise Undecodable("unreadable file", "it holds no such sample any more")
        data = read_original(item) if image is None else read_picture(image)
        if not _is_same_picture(item, data, unit.items):
            raise Undecodable(CHANGED)
        pixels, _ = decoder.decode(data)
    except Undecodable as error:
        return Skipped(_name(item), error.reason, error.detail)
    except SourceError as error:
        return Skipped(_name(item), "unreadable file", error.message)
    except OSError as error:
        return Skipped(_name(item), "unreadable file", error.strerror or str(error))
    return pixels


def _is_same_picture(item: Item, data: bytes, unit: Sequence[Item]) -> bool:
    """Whether an original is what was indexed. Of embeddings that were made elsewhere that is not known."""
    digest = partial(blake2b, digest_size=DIGEST_BYTES)
    found = digest(data).hexdigest()
    if item.part:  # a sample's hash is of its texts, too
        texts = (_text_of_sample(item, other) for other in unit)
        captions = [text for _, text in sorted(pair for pair in texts if pair is not None)]
        found = digest("\0".join((found, *captions)).encode()).hexdigest()
    return found == item.content_hash or not (item.part or item.mtime_ns)


def _text_of_sample(picture: Item, item: Item) -> tuple[int, str] | None:
    """Return the number of a text that came with a picture in its sample, and the text; None if it is none of these."""
    found = re.fullmatch(rf"{re.escape(picture.part)} text (\d+)", item.part, re.DOTALL)
    return (int(found[1]), item.text or "") if found else None


def _is_same_film(item: Item) -> bool:
    status = item.file.stat()
    if (status.st_size, status.st_mtime_ns) == (item.bytes, item.mtime_ns):
        return True
    return _film_digest(item.file, status.st_mtime_ns) == item.content_hash


@lru_cache(maxsize=64)  # a film has many frames
def _film_digest(path: Path, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, partial(blake2b, digest_size=DIGEST_BYTES)).hexdigest()


def _name(item: Item) -> str:
    """Return how an item is listed where it is skipped."""
    return f"{item.file} {item.part}" if item.kind is Kind.IMAGE and item.part else str(item.file)


def _link(source: Path, path: Path) -> None:
    """Give a file a second name, durably, in place of what had it; where the file system has no links, copy it."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)


def _settle(data: Path, encoder: Encoder, on_stage: Callable[[str], None]) -> None:
    """Bring in step what goes with the vectors, sweep the old ones, and remove the folder of the next generation."""
    begun = data / NEXT
    if not begun.parent.exists():
        return
    with ExitStack() as held:
        writer = _locked(data, held, on_stage)  # it sweeps what the manifest does not name
        bank.keep_bank(data, encoder)
        if (begun / TAGS / LABELS).exists() and not (data / TAGS / LABELS).exists():
            _link(begun / TAGS / LABELS, data / TAGS / LABELS)
        keep_words(writer)
        keep_tags(writer)
        if begun.exists():
            begun.rename(begun.with_name("done"))  # what is half removed is no migration that was begun
        shutil.rmtree(begun.parent)
