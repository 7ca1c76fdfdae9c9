"""What one file or sample is, read once: a picture, passages, frames, something known, or what is wrong with it."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Protocol

from xsearch.errors import SourceError, Undecodable
from xsearch.library import FileState
from xsearch.media import images, ocr, texts, video
from xsearch.media.decoders import Decoder
from xsearch.sources.samples import Sample, read_picture
from xsearch.survey import ContainerWork, FileWork, Made, is_made, made_items
from xsearch.types import Item, Kind, RGBImage, Skipped, item_id

MAX_FILE_BYTES = 1 << 30
DIGEST_BYTES = 16


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


@dataclass(frozen=True, slots=True)
class Entry:
    """An item that waits to be encoded or committed, and the rows that it replaces in the same commit."""

    item: Item
    replaces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    entry: Entry
    pixels: RGBImage


@dataclass(frozen=True, slots=True)
class Twin:
    """A file whose content is known: its rows are copied under its own name."""

    work: FileWork
    content_hash: str
    state: FileState


@dataclass(frozen=True, slots=True)
class Refused:
    """A file or sample that gives no item, and the rows of what it was before, unless the trouble may pass."""

    skipped: Skipped
    bury: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sample of a container: nothing to encode if it is known."""

    content_hash: str
    picture: Picture | None = None
    texts: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """What was read in a picture of the library, which may be nothing."""

    content_hash: str
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class NotRead:
    """A picture that is kept as it is, and tried again by the next run."""

    skipped: Skipped


Read = Picture | list[Entry] | Twin | Refused | Sampled | Text | NotRead


class Reading:
    """How the files and samples of a run are read: once each, and what is known by its content is not decoded again.

    Safe to call from several threads.
    """

    def __init__(
        self, known: Iterable[FileState], *, image_px: int, sampling: Sampling, made: Container[int] = ()
    ) -> None:
        """`known` are the states of files in the library, to find files of equal content by.

        Frames are decoded for an encoder that sees `image_px`; `made` are the rows of texts that no person wrote.
        """
        self._known = {state.content_hash: state for state in known}
        self._image_px = image_px
        self._sampling = sampling
        self._made = made

    def file(self, work: FileWork, decoder: Decoder) -> Read:
        """Read a file once, and make of it what it is."""
        path = work.file.file
        try:
            if work.file.bytes > MAX_FILE_BYTES:
                raise Undecodable("too large", f"{work.file.bytes} bytes")
            data = path.read_bytes()
            content_hash = _digest(data)
            is_picture = path.suffix.lower() not in texts.SUFFIXES  # a table may name pictures without a suffix
            state = self._state_of(work, content_hash)
            if state is not None and (is_picture or state is work.known):
                return Twin(work, content_hash, state)
            if is_picture:
                pixels, meta = decoder.decode(data)
                return Picture(Entry(_with_meta(_item(work, Kind.IMAGE, content_hash), meta), rows_of(work)), pixels)
            pieces = texts.captions(data) if work.pair else texts.passages(data)
            return [
                Entry(replace(_item(work, Kind.TEXT, content_hash, str(part)), text=piece), rows_of(work))
                for part, piece in enumerate(pieces)
            ]
        except Undecodable as error:
            return Refused(Skipped(str(path), error.reason, error.detail), rows_of(work))
        except OSError as error:
            return Refused(Skipped(str(path), "unreadable file", error.strerror or str(error)))

    def _state_of(self, work: FileWork, content_hash: str) -> FileState | None:
        """Return the state of a known file of this content: this file itself, if its content is what it was."""
        if work.known is not None and work.known.content_hash == content_hash:
            return work.known
        return self._known.get(content_hash)

    def film(self, work: FileWork) -> Iterator[Read]:
        """Yield the frames of a film; or one thing that says it is known, or cannot be read."""
        path = work.file.file
        try:
            with path.open("rb") as file:
                content_hash = file_digest(file, partial(blake2b, digest_size=DIGEST_BYTES)).hexdigest()
            if (state := self._state_of(work, content_hash)) is not None:
                yield Twin(work, content_hash, state)
                return
            film = video.probe(path)
            fps, max_frames = self._sampling.fps, self._sampling.max_frames
            for frame in video.frames(path, self._image_px, fps=fps, max_frames=max_frames):
                yield Picture(Entry(_frame_item(work, content_hash, film, frame)), frame.pixels)
        except Undecodable as error:
            yield Refused(Skipped(str(path), error.reason, error.detail), rows_of(work))
        except OSError as error:
            yield Refused(Skipped(str(path), "unreadable file", error.strerror or str(error)))

    def sample(
        self, container: ContainerWork, known: Mapping[str, FileState], sample: Sample, decoder: Decoder
    ) -> Read:
        """Make a sample into a picture and its texts."""
        name = container.source.name
        try:
            data = read_picture(sample.image)
            content_hash = _sample_digest(data, sample.texts)
            state = known.get(content_hash)
            own = () if state is None else [row for row in state.rows if row not in self._made]
            if state is not None and len(own) == 1 + len(sample.texts):
                return Sampled(state.content_hash)
            pixels, meta = decoder.decode(data)
        except Undecodable as error:
            return Refused(Skipped(f"{name} {sample.key}", error.reason, error.detail))
        except SourceError as error:
            return Refused(Skipped(f"{name} {sample.key}", "unreadable file", error.message))
        item = _sample_item(container, sample.key, content_hash)
        # A sample of which a run that was killed committed a part is replaced whole.
        picture = Entry(_with_meta(item, meta), state.rows if state is not None else ())
        captions = [
            Entry(replace(item, id=item_id(item.file, part), kind=Kind.TEXT, part=part, pair=item.id, text=text))
            for number, text in enumerate(sample.texts)
            for part in [f"{sample.key} text {number}"]
        ]
        return Sampled(item.content_hash, Picture(picture, pixels), tuple(captions))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _sample_digest(data: bytes, captions: Sequence[str]) -> str:
    return _digest("\0".join((_digest(data), *captions)).encode())


def read_text(
    reader: TextReader, picture: Item, image: bytes | Path, captions: Sequence[str] | None = None
) -> Text | NotRead:
    """Read the text in a picture of the library; `captions` are those of a sample. Runs in the pool."""
    try:
        data = read_picture(image)
        if picture.content_hash != (_digest(data) if captions is None else _sample_digest(data, captions)):
            raise Undecodable("changed meanwhile")
        pixels, _ = images.decode_image(data, ocr.DECODE_PX)
        lines = reader.read(pixels)
    except Undecodable as error:
        return NotRead(Skipped(str(picture.file), error.reason, error.detail))
    except SourceError as error:
        return NotRead(Skipped(str(picture.file), "unreadable file", error.message))
    found = texts.passages("\n".join(line.text for line in lines).encode()) if lines else []
    return Text(picture.content_hash, tuple(map(Entry, made_items(picture, found, Made.OCR))))


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


def rows_of(work: FileWork) -> tuple[int, ...]:
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


def renamed(item: Item, work: FileWork) -> Item:
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
