"""Folders and single files as a source: everything in them is seen, and what cannot be taken is told."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xsearch.errors import SourceError
from xsearch.types import Skipped


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
    """Yield every file below `source`, or `source` itself, in the order of names, without entering `leave_out`.

    Links to folders are followed after all real folders, and a folder is entered once: a loop of links ends, and
    which of two names a file has does not depend on where its link stands. A folder or file that cannot be looked at
    is a Skipped. Raises SourceError if `source` does not exist or its name is not UTF-8.
    """
    if not source.exists():
        raise SourceError(f"{_printable(str(source))} does not exist", remedy="check the path, or mount the drive")
    if not _is_utf8(str(source)):
        raise SourceError(f"the name {_printable(str(source))} is not UTF-8", remedy="rename the folder")
    if not source.is_dir():
        yield look(source.parent, source)
        return
    entered: set[tuple[int, int]] = set()
    links: list[Path] = []
    yield from _walk(source, source, leave_out.resolve(), entered, links)
    while links:
        link = links.pop(0)
        if _identity(link) in entered:
            yield Skipped(str(link), "link to a folder already seen", str(link.resolve()))
        else:
            yield from _walk(source, link, leave_out.resolve(), entered, links)


def _walk(
    root: Path, folder: Path, leave_out: Path, entered: set[tuple[int, int]], links: list[Path]
) -> Iterator[FoundFile | Skipped]:
    if folder.resolve() == leave_out:
        yield Skipped(str(folder), "the library itself")
        return
    try:
        entered.add(_identity(folder))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Skipped(str(folder), "unreadable folder", error.strerror or "")
        return
    for entry in entries:
        path = Path(entry.path)
        if not _is_utf8(entry.name):
            yield Skipped(_printable(entry.path), "name is not UTF-8")
        elif entry.name.startswith("."):
            yield Skipped(entry.path, "hidden")
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(root, path, leave_out, entered, links)
        elif entry.is_symlink() and path.is_dir():
            links.append(path)
        else:
            yield look(root, path)


def look(root: Path, path: Path) -> FoundFile | Skipped:
    """Return what is at `path`, named relative to `root` where it lies below it and to its own folder otherwise."""
    try:
        status = path.stat()
    except OSError as error:
        missing = "missing file" if isinstance(error, FileNotFoundError) else "unreadable file"
        return Skipped(str(path), "broken link" if path.is_symlink() else missing, error.strerror or "")
    if not stat.S_ISREG(status.st_mode):
        # A pipe or a device would block whoever opens it.
        return Skipped(str(path), "not a regular file")
    root = root if path.is_relative_to(root) else path.parent
    return FoundFile(str(root), path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # the system hands over undecodable bytes as lone surrogates
        return False
    return True


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
