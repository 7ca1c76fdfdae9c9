"""What is there, what is known, and so what is to be done: the plan of an index run."""

import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path

import numpy as np

from xsearch.errors import SourceError, command
from xsearch.library import FileState, Library
from xsearch.media import images, texts, video
from xsearch.sources import tables
from xsearch.sources.containers import COCO_PREFIX, HUB_PREFIX, holds_samples, open_samples
from xsearch.sources.folder import FoundFile, look, scan
from xsearch.sources.samples import SampleSource
from xsearch.types import Item, Kind, Skipped, item_id

# Reasons that say nothing about whether a file is still there: what is known of it, and of all below it, is kept.
MAY_PASS = frozenset({"unreadable folder", "unreadable file", "unreadable table", "broken link"})

_MADE_PART = re.compile(r"(?:.* )?(ocr|caption) \d+", re.DOTALL)


class Made(StrEnum):
    """How xsearch itself came to a text that belongs to a picture: read in it, or made up about it."""

    OCR = "ocr"
    CAPTION = "caption"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in tables and data sets, as far as a person says it; None is for the readers to find out.

    `root` is the folder that paths in a table or in COCO's JSON are relative to.
    """

    path_column: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    root: Path | None = None

    def open(self, name: str) -> list[SampleSource]:
        """Open a data set. Raises SourceError."""
        text_columns = () if self.text_column is None else (self.text_column,)
        return open_samples(name, image_column=self.image_column, text_columns=text_columns, root=self.root)


@dataclass(slots=True)
class Survey:
    """What was found at the sources: files to read, captions that tables give, containers, and what cannot be taken.

    `containers` are archives and data sets, by the path that their items carry. `settled` are the sources whose content
    is known in full, so that a file which is not found there is gone.
    """

    files: dict[Path, FoundFile] = field(default_factory=dict)
    captions: dict[str, Item] = field(default_factory=dict)
    containers: dict[Path, SampleSource] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    settled: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def holds_any_of(self, source: Path) -> bool:
        captions = (caption.file for caption in self.captions.values())
        return any(file.is_relative_to(source) for file in (*self.files, *captions, *self.containers))


@dataclass(frozen=True, slots=True)
class FileWork:
    """A file to read: new, or changed since `known`. `pair` is the id of the picture whose captions it holds."""

    file: FoundFile
    known: FileState | None
    pair: str | None


@dataclass(frozen=True, slots=True)
class ContainerWork:
    """An archive or data set to read: new, changed, or not read to its end before. `known` are its samples."""

    source: SampleSource
    signature: str
    known: tuple[FileState, ...]


@dataclass(frozen=True, slots=True)
class Unread:
    """Rows of pictures in which text is to be looked for: those that are files, and those inside each container."""

    files: tuple[int, ...] = ()
    containers: tuple[tuple[SampleSource, tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.files) + sum(len(rows) for _, rows in self.containers)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """`seen` counts what is to be accounted for, the samples of `containers` excepted, which are not counted yet.

    `vanished` are known files and rows of tables that are gone from where they were.
    """

    seen: int

    files: tuple[FileWork, ...]
    captions: tuple[Item, ...]
    containers: tuple[ContainerWork, ...]
    unchanged: int
    vanished: tuple[FileState, ...]
    unread: Unread = Unread()


def survey(
    sources: Sequence[str | Path],
    known: Mapping[Path, Sequence[FileState]],
    *,
    leave_out: Path,
    layout: Layout | None = None,
) -> Survey:
    """Look at every source: a path, or the name of a data set as `open_samples` takes it.

    A source that is missing, or holds nothing where files are known, is noted and not settled. Raises SourceError if
    a source is missing of which nothing is known.
    """
    found = Survey()
    layout = layout or Layout()
    for name in map(str, sources):
        source = Path(os.path.realpath(name))
        if name.startswith((COCO_PREFIX, HUB_PREFIX)) or (source.is_dir() and holds_samples(source)):
            _take_data_set(_absolute(name), found, layout)
            continue
        of_source = sum(1 for file in known if file.is_relative_to(source))
        try:
            for entry in scan(source, leave_out=leave_out):
                if isinstance(entry, Skipped):
                    found.skipped.append(entry)
                else:
                    _take(entry, found, layout)
        except SourceError:
            if not of_source:
                raise
            found.notes.append(f"{source} is missing: none of the {of_source} files known there was removed")
            continue
        if of_source and not found.holds_any_of(source):
            found.notes.append(
                f"{source} holds nothing to index: none of the {of_source} files known there was removed; "
                f"if they are gone for good: {command('xsearch', 'forget', source)}"
            )
        else:
            found.settled.append(source)
    return found


def plan_run(
    found: Survey, known: Mapping[Path, Sequence[FileState]], read_whole: Mapping[str, str] | None = None
) -> RunPlan:
    """Compare what was found with what is known. Reads no file.

    A file of the size and time that are known is taken as unchanged, and so is a container that was `read_whole` with
    the signature it has now. What could not be looked at is not vanished.
    """
    work: list[FileWork] = []
    unchanged = 0
    for path, file in found.files.items():
        state = known[path][0] if path in known else None
        if state is not None and (state.bytes, state.mtime_ns) == (file.bytes, file.mtime_ns):
            unchanged += 1
        else:
            work.append(FileWork(file, state, _picture_beside(path, found.files)))
    new_captions = []
    for caption in found.captions.values():
        if any(state.content_hash == caption.content_hash for state in known.get(caption.file, ())):
            unchanged += 1
        else:
            new_captions.append(caption)
    containers = []
    seen = len(found.files) + len(found.captions) + len({skipped.path for skipped in found.skipped})
    for path, source in found.containers.items():
        signature, states = _signature(source), tuple(known.get(path, ()))
        if signature and (read_whole or {}).get(source.name) == signature:
            unchanged += len(states)
            seen += len(states)
        else:
            containers.append(ContainerWork(source, signature, states))
    vanished = tuple(_vanished(found, known))
    return RunPlan(seen, tuple(work), tuple(new_captions), tuple(containers), unchanged, vanished)


def plan_reading(found: Survey, library: Library, blank: Container[str]) -> RunPlan:
    """Plan to look for text in those pictures of the library that are at the sources and were not read. Reads no file.

    `blank` are the content hashes of pictures that were read and hold no text.
    """
    names = ("root", "path", "id", "content_hash")
    roots, paths, ids, hashes = (library.column(name).to_pylist() for name in names)
    pairs = library.column("pair").to_pylist()
    known = {pairs[row] for row in made_rows(library, [Made.OCR])}
    files: list[int] = []
    inside: dict[Path, list[int]] = {}
    for row in np.flatnonzero(library.of_kinds([Kind.IMAGE])).tolist():
        if ids[row] in known or hashes[row] in blank:
            continue
        path = Path(roots[row], paths[row])
        if path in found.files:
            files.append(row)
        elif path in found.containers:
            inside.setdefault(path, []).append(row)
    unread = Unread(tuple(files), tuple((found.containers[path], tuple(rows)) for path, rows in inside.items()))
    return RunPlan(0, (), (), (), 0, (), unread)


def made_rows(library: Library, how: Container[Made] = tuple(Made)) -> set[int]:
    """Return the rows of texts that no person wrote, dead ones left out."""
    parts = library.column("part").to_pylist()
    rows = np.flatnonzero(library.of_kinds([Kind.TEXT])).tolist()
    return {row for row in rows if (found := _MADE_PART.fullmatch(parts[row])) and Made(found[1]) in how}


def made_items(picture: Item, passages: Sequence[str], how: Made) -> list[Item]:
    """Return texts as items that belong to a picture: they come, move and go with its file."""
    parts = [f"{picture.part} {how} {number}".lstrip() for number in range(len(passages))]
    return [
        replace(picture, id=item_id(picture.file, part), kind=Kind.TEXT, part=part, pair=picture.id, text=passage)
        for part, passage in zip(parts, passages, strict=True)
    ]


def is_made(item: Item) -> bool:
    """Whether an item is a text that no person wrote."""
    return item.kind is Kind.TEXT and _MADE_PART.fullmatch(item.part) is not None


def _signature(source: SampleSource) -> str:
    """Return what changes when a file of a container does; empty where it has no files here."""
    return " ".join(f"{file.bytes}:{file.mtime_ns}" for file in source.files)


def _vanished(found: Survey, known: Mapping[Path, Sequence[FileState]]) -> Iterable[FileState]:
    unseen = {Path(skipped.path) for skipped in found.skipped if skipped.reason in MAY_PASS}
    settled = set(found.settled)
    captions = {(caption.file, caption.content_hash) for caption in found.captions.values()}
    for path, states in known.items():
        above = {path, *path.parents}
        if path in found.files or path in found.containers:
            continue
        if settled & above and not unseen & above:
            yield from (state for state in states if (path, state.content_hash) not in captions)


def _take(file: FoundFile, found: Survey, layout: Layout) -> None:
    suffix = file.file.suffix.lower()
    if suffix in images.SUFFIXES | texts.SUFFIXES | video.SUFFIXES:
        found.files[file.file] = file
    elif holds_samples(file.file):
        (found.containers[file.file],) = layout.open(str(file.file))
    elif suffix in tables.SUFFIXES:
        _take_table(file, found, layout)
    else:
        found.skipped.append(Skipped(str(file.file), "unsupported type", suffix or "no suffix"))


def _take_table(table: FoundFile, found: Survey, layout: Layout) -> None:
    """Take a table's captions, and the pictures that it names wherever they lie."""
    folder = table.file.parent if layout.root is None else layout.root.absolute()
    columns = {"path_column": layout.path_column, "text_column": layout.text_column}
    try:
        for caption in tables.read_captions(table.file, **columns):
            if isinstance(caption, Skipped):
                found.skipped.append(caption)
            else:
                # As a scan names it, so without following links: one file found in both ways is one item.
                picture = Path(os.path.normpath(folder / caption.picture))
                _take_caption(table, picture, caption.text, f"row {caption.row}", found)
    except SourceError as error:
        found.skipped.append(Skipped(str(table.file), "unreadable table", error.message))


def _absolute(name: str) -> str:
    """Return the name of a data set that means the same in any working folder."""
    prefix = COCO_PREFIX if name.startswith(COCO_PREFIX) else ""
    path = Path(name.removeprefix(prefix))
    return f"{prefix}{os.path.realpath(path)}" if path.exists() else name


def _take_data_set(name: str, found: Survey, layout: Layout) -> None:
    """Take a data set as containers of samples; one of COCO names files, and so is a table of captions."""
    for source in layout.open(name):
        container = Path(source.name)
        found.settled.append(container)
        if not name.startswith(COCO_PREFIX):
            found.containers[container] = source
            continue
        (table,) = source.files
        for sample in source.samples():
            if isinstance(sample, Skipped):
                found.skipped.append(sample)
            elif isinstance(sample.image, Path):
                for text in sample.texts:
                    picture = Path(os.path.normpath(sample.image.absolute()))
                    _take_caption(table, picture, text, f"image {sample.key}", found)


def _take_caption(table: FoundFile, picture: Path, text: str, where: str, found: Survey) -> None:
    if picture not in found.files:
        looked = look(table.file.parent, picture)
        if isinstance(looked, Skipped):
            found.skipped.append(replace(looked, detail=f"named in {table.file} {where}"))
            return
        found.files[picture] = looked
    item = _caption_item(table, text, picture)
    found.captions[item.id] = item


def _caption_item(table: FoundFile, text: str, picture: Path) -> Item:
    # The row number is no part of it: rows may be sorted or inserted without any caption becoming another.
    content_hash = blake2b(f"{picture}\0{text}".encode(), digest_size=16).hexdigest()
    part = content_hash[:16]
    return Item(
        id=item_id(table.file, part),
        kind=Kind.TEXT,
        root=table.root,
        path=table.path,
        part=part,
        pair=item_id(picture),
        bytes=len(text.encode()),
        mtime_ns=table.mtime_ns,
        content_hash=content_hash,
        text=text,
    )


def _picture_beside(path: Path, files: Mapping[Path, FoundFile]) -> str | None:
    """Return the id of the picture that a text file is named after: `dog.txt` or `dog.jpg.txt` beside `dog.jpg`."""
    if path.suffix.lower() not in texts.SUFFIXES:
        return None
    if path.with_suffix("") in files:
        return item_id(path.with_suffix(""))
    for suffix in sorted(images.SUFFIXES):
        for spelling in (suffix, suffix.upper()):
            if (picture := path.with_suffix(spelling)) in files:
                return item_id(picture)
    return None
