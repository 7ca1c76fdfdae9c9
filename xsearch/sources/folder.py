"""Folders and single files as a source: everything in them is seen, and what cannot be taken is told."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from xsearch.errors import SourceError
from xsearch.types import Skipped

# What tells a library. Its shards are Parquet files with a column of paths and one of texts, like a table of captions.
LIBRARY_FILES = frozenset({"manifest.json", "shards", "lock"})

_Identity: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file. `path` is relative to `root`, with forward slashes."""

    root: str
    path: str
    bytes: int
    mtime_ns: int

    @property
    def file(self) -> Path:
        return Path(self.root, self.path)


def scan(source: Path, *, leave_out: Path) -> Iterator[FoundFile | Skipped]:
    """Yield every file below `source`, or `source` itself, in the order of names, without entering any library.

    `leave_out` is the library that is written to. Links to folders are followed after all real folders, and a folder
    is entered once: a loop of links ends, and which of two names a file has does not depend on where its link stands.
    A folder or file that cannot be looked at is a Skipped. Raises SourceError if `source` itself cannot be, or its name
    is not UTF-8.
    """
    if not _is_utf8(str(source)):
        raise SourceError(f"the name {_printable(str(source))} is not UTF-8", remedy="rename the folder")
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
    except OSError as error:
        raise SourceError(f"{source}: {error.strerror}", remedy="check the path, or mount the drive") from error
    if not is_folder:
        yield look(source.parent, source)
        return
    library = _identity(leave_out) if leave_out.exists() else None
    entered: set[_Identity] = set()
    links = [source]
    while links:
        yield from _walk(source, links.pop(0), library, entered, links)


def _walk(
    root: Path, top: Path, library: _Identity | None, entered: set[_Identity], links: list[Path]
) -> Iterator[FoundFile | Skipped]:
    """Yield what is below `top`, itself a folder or a link to one, and add the links to folders in it to `links`."""
    # Not by recursion: a tree may be deeper than Python's stack.
    waiting = [*_enter(top, library, entered)]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, Skipped):
            yield entry
        elif not _is_utf8(entry.name):
            yield Skipped(_printable(entry.path), "name is not UTF-8")
        elif entry.name.startswith("."):
            yield Skipped(entry.path, "hidden")
        elif _is_folder(entry, follow_symlinks=False):
            waiting += _enter(Path(entry.path), library, entered)
        elif _is_folder(entry, follow_symlinks=True):
            links.append(Path(entry.path))
        else:
            yield look(root, Path(entry.path))


def _enter(folder: Path, library: _Identity | None, entered: set[_Identity]) -> Sequence[os.DirEntry[str] | Skipped]:
    """Return what is in a folder, the last name first, or why that is not to be had."""
    try:
        identity = _identity(folder)
        if identity == library:
            return [Skipped(str(folder), "the library itself")]
        if identity in entered:
            return [Skipped(str(folder), "folder already seen")]
        entered.add(identity)
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        return [Skipped(str(folder), "unreadable folder", error.strerror or "")]
    if {entry.name for entry in entries} >= LIBRARY_FILES:
        return [Skipped(str(folder), "another library")]
    return entries


def look(root: Path, path: Path) -> FoundFile | Skipped:
    """Return what is at `path`, named relative to `root` where it lies below it and to its own folder otherwise."""
    try:
        status = path.stat()
    except OSError as error:
        missing = "missing file" if isinstance(error, FileNotFoundError) else "unreadable file"
        return Skipped(str(path), "broken link" if _is_link(path) else missing, error.strerror or "")
    if not stat.S_ISREG(status.st_mode):
        # A pipe or a device would block whoever opens it.
        return Skipped(str(path), "not a regular file")
    root = root if path.is_relative_to(root) else path.parent
    return FoundFile(str(root), path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)


def _identity(folder: Path) -> _Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


# The methods of pathlib and os raise where a folder above forbids a look; here that is for `look` to say.
def _is_folder(entry: os.DirEntry[str], *, follow_symlinks: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_symlinks)
    except OSError:
        return False


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except OSError:
        return False


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # the system hands over undecodable bytes as lone surrogates
        return False
    return True


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
