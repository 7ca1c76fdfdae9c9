"""What is there, what is known, and so what is to be done: the plan of an index run."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from xsearch.errors import SourceError
from xsearch.library import FileState
from xsearch.media import images, texts
from xsearch.sources import tables
from xsearch.sources.folder import FoundFile, look, scan
from xsearch.types import Item, Kind, Skipped, item_id

# Reasons that say nothing about whether a file is still there: what is known of it, and of all below it, is kept.
MAY_PASS = frozenset({"unreadable folder", "unreadable file", "unreadable table", "broken link"})


@dataclass(slots=True)
class Survey:
    """What was found at the sources: files to read, captions that tables give, and what cannot be taken.

    `settled` are the sources whose content is known in full, so that a file which is not found there is gone.
    """

    files: dict[Path, FoundFile] = field(default_factory=dict)
    captions: dict[str, Item] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    settled: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def holds_any_of(self, source: Path) -> bool:
        captions = (caption.file for caption in self.captions.values())
        return any(file.is_relative_to(source) for file in (*self.files, *captions))


@dataclass(frozen=True, slots=True)
class FileWork:
    """A file to read: new, or changed since `known`. `pair` is the id of the picture whose captions it holds."""

    file: FoundFile
    known: FileState | None
    pair: str | None


@dataclass(frozen=True, slots=True)
class RunPlan:
    """`vanished` are known files and rows of tables that are gone from where they were."""

    files: tuple[FileWork, ...]
    captions: tuple[Item, ...]
    unchanged: int
    vanished: tuple[FileState, ...]


def survey(sources: Sequence[Path], known: Mapping[Path, Sequence[FileState]], *, leave_out: Path) -> Survey:
    """Look at every source. One that is missing, or holds nothing where files are known, is noted and not settled.

    Raises SourceError if a source is missing of which nothing is known.
    """
    found = Survey()
    for source in sources:
        of_source = sum(1 for file in known if file.is_relative_to(source))
        try:
            for entry in scan(source, leave_out=leave_out):
                if isinstance(entry, Skipped):
                    found.skipped.append(entry)
                else:
                    _take(entry, found)
        except SourceError:
            if not of_source:
                raise
            found.notes.append(f"{source} is missing: none of the {of_source} files known there was removed")
            continue
        if of_source and not found.holds_any_of(source):
            found.notes.append(
                f"{source} holds nothing to index: none of the {of_source} files known there was removed; "
                f"if they are gone for good: `xsearch forget {source}`"
            )
        else:
            found.settled.append(source)
    return found


def plan_run(found: Survey, known: Mapping[Path, Sequence[FileState]]) -> RunPlan:
    """Compare what was found with what is known. Pure: reads no file.

    A file of the size and time that are known is taken as unchanged. What could not be looked at is not vanished.
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
    return RunPlan(tuple(work), tuple(new_captions), unchanged, tuple(_vanished(found, known)))


def _vanished(found: Survey, known: Mapping[Path, Sequence[FileState]]) -> Iterable[FileState]:
    unseen = {Path(skipped.path) for skipped in found.skipped if skipped.reason in MAY_PASS}
    settled = set(found.settled)
    captions = {(caption.file, caption.content_hash) for caption in found.captions.values()}
    for path, states in known.items():
        above = {path, *path.parents}
        if path not in found.files and settled & above and not unseen & above:
            yield from (state for state in states if (path, state.content_hash) not in captions)


def _take(file: FoundFile, found: Survey) -> None:
    suffix = file.file.suffix.lower()
    if suffix in images.SUFFIXES or suffix in texts.SUFFIXES:
        found.files[file.file] = file
    elif suffix in tables.SUFFIXES:
        _take_table(file, found)
    else:
        found.skipped.append(Skipped(str(file.file), "unsupported type", suffix or "no suffix"))


def _take_table(table: FoundFile, found: Survey) -> None:
    """Take a table's captions, and the pictures that it names wherever they lie."""
    try:
        for caption in tables.read_captions(table.file):
            if isinstance(caption, Skipped):
                found.skipped.append(caption)
                continue
            # As a scan names it, so without following links: one file found in both ways is one item.
            picture = Path(os.path.normpath(table.file.parent / caption.picture))
            if picture not in found.files:
                looked = look(table.file.parent, picture)
                if isinstance(looked, Skipped):
                    found.skipped.append(replace(looked, detail=f"named in {table.file} row {caption.row}"))
                    continue
                found.files[picture] = looked
            item = _caption_item(table, caption.text, picture)
            found.captions[item.id] = item
    except SourceError as error:
        found.skipped.append(Skipped(str(table.file), "unreadable table", error.message))


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
