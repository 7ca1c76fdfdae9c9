"""Small upright pictures of items, kept below DATA/thumbs: a cache that may be damaged, deleted or read-only."""

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from xsearch.media.images import jpeg, thumbnail
from xsearch.media.video import frame_at
from xsearch.originals import read_original
from xsearch.serve.files import indexed_file, is_sample
from xsearch.types import Item, Kind

FOLDER = "thumbs"
SIDES_PX = (160, 320, 640, 1280, 2560)
"""A thumbnail is made in the next larger of these, so that the cache holds few sizes of one picture."""

DIGEST_BYTES = 16
KEPT_SHARE = 0.8
"""Of the bound, this much is left when the cache is swept: else each new thumbnail would sweep it again."""

_FRESH_S = 24 * 3600


class Thumbnails:
    """Makes thumbnails and keeps them, at most `max_bytes`. Safe to call from several threads and processes.

    A file is a JPEG with the checksum of its bytes behind its end, where no viewer looks.
    """

    def __init__(self, data: Path, max_bytes: int) -> None:
        self._folder = data / FOLDER
        self._max_bytes = max_bytes
        self._bytes: int | None = None
        self._sweeping = Lock()

    def get(self, item: Item, px: int, image_columns: Mapping[str, str]) -> bytes:
        """Return a JPEG whose longer side is at most the first of SIDES_PX that reaches `px`, or the largest.

        `image_columns` are those of the manifest. Raises Undecodable, SourceError, OSError or Refused if the original
        is not there any more, or not what was indexed.
        """
        path = self._path(etag(item, px))
        stored = _read(path)
        if stored is None:
            if not is_sample(item):
                indexed_file(item)
            stored = _made(item, _side_px(px), image_columns)
            with suppress(OSError):  # a library may be read-only, and a disk full
                self._write(path, stored)
        return stored

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.jpg"

    def _write(self, path: Path, picture: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not fsynced: what a power cut leaves is told by its checksum. A name of its own, as others may write the same.
        descriptor, name = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(picture + _digest(picture))
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        self._account(len(picture) + DIGEST_BYTES)

    def _account(self, n_bytes: int) -> None:
        """Sweep the cache when it has grown over its bound: what was used longest ago goes first."""
        with self._sweeping:
            self._bytes = self._bytes + n_bytes if self._bytes is not None else sum(s for _, s, _ in self._files())
            if self._bytes <= self._max_bytes:
                return
            files = sorted(self._files())
            self._bytes = sum(size for _, size, _ in files)
            for _, size, path in files:
                if self._bytes <= KEPT_SHARE * self._max_bytes:
                    break
                path.unlink(missing_ok=True)
                self._bytes -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return when each file was last used, its size and itself."""
        found = []
        for path in self._folder.glob("*/*"):
            with suppress(FileNotFoundError):  # another process sweeps too
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found


def etag(item: Item, px: int) -> str:
    """Return what changes whenever a thumbnail does, 32 hex digits."""
    said = f"{item.id} {item.content_hash} {item.mtime_ns} {_side_px(px)}"
    return blake2b(said.encode(), digest_size=16).hexdigest()


def _side_px(px: int) -> int:
    return next((side for side in SIDES_PX if side >= px), SIDES_PX[-1])


def _made(item: Item, side_px: int, image_columns: Mapping[str, str]) -> bytes:
    if item.kind is not Kind.FRAME:
        return thumbnail(read_original(item, image_columns), side_px)
    width, height = item.width or 16, item.height or 9
    # Twice as large, then shrunk as any picture: to be packed as JPEG twice at one size would show.
    short_px = 2 * side_px * min(width, height) // max(width, height)
    return thumbnail(jpeg(frame_at(item.file, float(item.part), short_px)), side_px)


def _read(path: Path) -> bytes | None:
    """Return a stored thumbnail, None if there is none that is whole."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    picture, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
    if _digest(picture) != digest:
        return None
    with suppress(OSError):
        status = path.stat()
        # Once a day is enough to know what is used.
        if status.st_mtime < time.time() - _FRESH_S:
            os.utime(path)
    return picture


def _digest(picture: bytes) -> bytes:
    return blake2b(picture, digest_size=DIGEST_BYTES).digest()
