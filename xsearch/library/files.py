"""Files that are there whole or not at all: temporary name, fsync, rename."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it takes the place of `path` in one step and survives a power cut.

    On failure (a full disk, Ctrl-C) the temporary file is removed and `path` stays as it was.
    """
    with passing(path.with_name(path.name + TEMPORARY)) as temporary:
        yield temporary
        settle(temporary, path)


@contextmanager
def passing(path: Path) -> Iterator[Path]:
    """Yield `path`, and remove what is there in the end."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def settle(temporary: Path, path: Path) -> None:
    """Make a file durable and give it its name, in one step, in place of what had it."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
