"""A library opened for reading: one commit, whole, whatever a writer does meanwhile."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsearch.errors import LibraryDamaged, repair_command
from xsearch.library.ids import RowsById, id_numbers
from xsearch.library.manifest import Manifest
from xsearch.library.shards import KINDS, RecentTables, Shard, shard_path
from xsearch.library.skipped import read_skipped
from xsearch.types import Item, Kind, Skipped
from xsearch.vectors import VectorTable

METADATA_BYTES = 256 << 20
"""So much metadata of hits is kept: to read 20 hits among a million items out of their row groups takes 50 ms."""

_ID = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class FileState:
    """What the library knows of a file or a row of a table: enough to see a change, and the rows of its items."""

    bytes: int
    mtime_ns: int
    content_hash: str
    rows: tuple[int, ...]


class Library:
    """One commit of a library. Rows are numbered from 0 through all shards, the dead ones included."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        dim = manifest.fingerprint.dim
        recent = RecentTables(METADATA_BYTES)
        self._shards = [Shard(folder, entry, dim, recent) for entry in manifest.shards]
        self._of_kinds: dict[tuple[bool, ...], NDArray[np.bool_]] = {}
        self._starts = np.cumsum([0, *(entry.rows for entry in manifest.shards)])
        self.vectors = VectorTable([segment for shard in self._shards for segment in shard.segments], dim)

    @classmethod
    def open(cls, folder: Path) -> "Library":
        """Open the last commit. Raises LibraryNotFound, or LibraryDamaged if a shard is missing or altered."""
        manifest = Manifest.load(folder)
        while True:
            try:
                return cls(folder, manifest)
            except FileNotFoundError as error:
                # A writer may have merged shards away between our two looks; then there is a newer manifest.
                newer = Manifest.load(folder)
                if newer.commit == manifest.commit:
                    missing = [entry.id for entry in manifest.shards if not shard_path(folder, entry.id).exists()]
                    raise LibraryDamaged(
                        f"shard {', '.join(missing)} of {folder} is missing", remedy=repair_command(folder)
                    ) from error
                manifest = newer

    def __len__(self) -> int:
        """Rows, dead ones included."""
        return len(self.vectors)

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """(rows,) False where a row was removed."""
        alive = np.ones(len(self), np.bool_)
        for start, entry in zip(self._starts[:-1], self.manifest.shards, strict=True):
            alive[start + np.asarray(entry.dead, np.int64)] = False
        return alive

    def of_kinds(self, kinds: Sequence[Kind]) -> NDArray[np.bool_]:
        """(rows,) True where a row is alive and of one of these kinds; read-only."""
        wanted = tuple(kind in kinds for kind in KINDS)
        if wanted not in self._of_kinds:
            mask = self.ever_of_kinds(kinds) & self.alive
            mask.flags.writeable = False
            self._of_kinds[wanted] = mask
        return self._of_kinds[wanted]

    def ever_of_kinds(self, kinds: Sequence[Kind]) -> NDArray[np.bool_]:
        """(rows,) True where a row is of one of these kinds, alive or removed."""
        return np.array([kind in kinds for kind in KINDS])[self._kinds]

    def counts(self) -> dict[Kind, int]:
        """Living items by kind."""
        return {kind: int(np.count_nonzero(self.of_kinds([kind]))) for kind in KINDS}

    def items(self, rows: NDArray[np.int64]) -> list[Item]:
        """Return the items of these rows, in the order asked for."""
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        found: dict[int, Item] = {}
        for position in set(shard_of.tolist()):
            here = rows[shard_of == position]
            items = self._shards[position].items(here - self._starts[position])
            found |= dict(zip(here.tolist(), items, strict=True))
        return [found[row] for row in rows.tolist()]

    def row_of(self, item_id: str) -> int | None:
        """Return the row of a living item, None if there is none of this id."""
        if not _ID.fullmatch(item_id):
            return None
        (row,) = self.by_id.find(np.array([int(item_id, 16)], np.uint64)).tolist()
        return row if row >= 0 else None

    @cached_property
    def by_id(self) -> RowsById:
        """Of the living items."""
        rows, numbers = id_numbers(self.column("id"))
        living = self.alive[rows]  # a file that changed was buried under the same id
        return RowsById(rows[living], numbers[living])

    def column(self, name: str) -> pa.ChunkedArray:
        """(rows,) one column of metadata, dead rows included."""
        return pa.chunked_array([chunk for shard in self._shards for chunk in shard.column(name).chunks], pa.string())

    def files(self) -> dict[Path, list[FileState]]:
        """Return what is known of every living file; a table has a state for each of its rows, other files have one."""
        states: dict[Path, dict[str, FileState]] = {}
        for start, shard in zip(self._starts[:-1], self._shards, strict=True):
            names = ("root", "path", "bytes", "mtime_ns", "content_hash")
            columns = [shard.column(name).to_pylist() for name in names]
            for offset, (root, path, size, mtime_ns, content_hash) in enumerate(zip(*columns, strict=True)):
                row = int(start) + offset
                if self.alive[row]:
                    of_file = states.setdefault(Path(root, path), {})
                    earlier = of_file[content_hash].rows if content_hash in of_file else ()
                    of_file[content_hash] = FileState(size, mtime_ns, content_hash, (*earlier, row))
        return {file: list(of_file.values()) for file, of_file in states.items()}

    def skipped(self) -> list[Skipped]:
        """Every file that was seen and not indexed, by the last run that saw it."""
        return read_skipped(self.folder)

    def tables(self, *, living_only: bool = False) -> Iterator[pa.Table]:
        """Yield all rows in order, metadata and vectors, to be written again elsewhere."""
        row = 0
        for shard in self._shards:
            for table in shard.tables():
                yield table.filter(pa.array(self.alive[row : row + len(table)])) if living_only else table
                row += len(table)

    @cached_property
    def _kinds(self) -> NDArray[np.uint8]:
        return np.concatenate([np.empty(0, np.uint8), *(shard.kinds for shard in self._shards)])
