"""The one writer of a library: adds shards, buries rows, merges small shards, and commits each step whole."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xsearch.errors import LibraryDamaged, LibraryLocked, LibraryNotFound
from xsearch.library.files import TEMPORARY, file_sha256, replacing
from xsearch.library.library import Library
from xsearch.library.manifest import MANIFEST, IndexEntry, Manifest, ShardEntry
from xsearch.library.shards import Origin, items_table, shard_entry, shard_path, write_shard
from xsearch.library.skipped import write_skipped
from xsearch.types import Embeddings, EncoderSpec, Item, Skipped

# Shards at least this long are left alone: merging rewrites them.
FULL_SHARD_ROWS = 262_144
# Dead rows are carried along until they are this share of a library; then the shards that hold them are written anew.
PURGE_SHARE = 0.25


class LibraryWriter:
    """Holds the lock of a library from `with` to the end of the block. Every method that changes it commits.

    Raises LibraryLocked if another process writes, EncoderMismatch if the library's vectors are of another encoder.
    A reader, and the next writer after a crash, see the last commit whole: files are written under a temporary name,
    made durable and renamed; the manifest comes last.
    """

    def __init__(
        self, folder: Path, spec: EncoderSpec | None = None, *, recover: Callable[[Path], Manifest] | None = None
    ) -> None:
        """Open or, given the `spec` of an encoder, make the library in `folder`; `recover` makes a lost manifest."""
        self.folder = folder
        self.recovered = False
        self._spec = spec
        self._recover = recover

    def __enter__(self) -> "LibraryWriter":
        from filelock import FileLock, Timeout  # not at the top: readers import this module too

        if self._spec is None and not any((self.folder / name).exists() for name in (MANIFEST, "shards")):
            Manifest.load(self.folder)  # raises: never make a folder for a library that is not there
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise LibraryLocked(
                f"another xsearch is writing to {self.folder}", remedy="wait for it, or name another folder with --data"
            ) from error
        try:
            self.manifest = self._open()
            self._clean()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def add(self, items: Sequence[Item], vectors: Embeddings, *, bury: Sequence[int] = ()) -> None:
        """Commit new items with their (n, dim) unit vectors and, in the same step, bury the rows they replace.

        Then keep the number of shards small: a reader holds each of them open.
        """
        self.adopt([], items, vectors, bury=bury)

    def adopt(
        self, shards: Sequence[ShardEntry], items: Sequence[Item], vectors: Embeddings, *, bury: Sequence[int] = ()
    ) -> None:
        """Commit, in one step, shards that others wrote into this folder, in this order, then new items as `add` does.

        The shards' commits come after that of this library. Raises LibraryDamaged, and commits nothing, if one of them
        is not here as it was written.
        """
        for shard in shards:
            path = shard_path(self.folder, shard.id)
            if not path.exists():
                raise LibraryDamaged(
                    f"the new shard {path} is not there", remedy="every node must see this folder, under this path"
                )
            if shard_entry(path, shard.commit) != shard:
                raise LibraryDamaged(f"the new shard {path} is not what was written", remedy="run it again")
        commit = max([self.manifest.commit, *(shard.commit for shard in shards)]) + 1
        found = (*self.manifest.with_dead(bury), *shards)
        if items:
            table = items_table(items, vectors, Origin(self.manifest.encoder, self.manifest.fingerprint))
            found = (*found, write_shard(self.folder, commit, [table]))
        if found != self.manifest.shards:
            self._commit(shards=found, commit=commit)
            self._merge_neighbours()

    def bury(self, rows: Sequence[int]) -> None:
        """Commit the removal of these rows."""
        self.add([], np.empty((0, self.manifest.fingerprint.dim), np.float32), bury=rows)

    def merge(self) -> None:
        """Keep dead rows few: write the shards that hold them anew, where they are many. That numbers rows anew."""
        if sum(len(shard.dead) for shard in self.manifest.shards) > PURGE_SHARE * self.manifest.rows:
            self.purge()
        self._merge_neighbours()

    def purge(self) -> None:
        """Write all shards that hold dead rows anew without them. That numbers rows anew."""
        if any(shard.dead for shard in self.manifest.shards):
            self._commit(shards=tuple(self._without_dead()), index=None)

    def set_index(self, rows: int, details: Mapping[str, Any], write: Callable[[Path], None]) -> None:
        """Commit an index over the first `rows` rows; `write(path)` writes its file."""
        path = self.folder / "index" / f"{self.manifest.commit + 1:08d}.faiss"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            write(temporary)
            size, sha256 = temporary.stat().st_size, file_sha256(temporary)
        self._commit(index=IndexEntry(path.name, rows, size, sha256, details))

    def want_index(self, wanted: Mapping[str, Any]) -> None:
        """Note what a person asked of the index."""
        if wanted != self.manifest.index_wanted:
            self._commit(index_wanted=wanted)

    def drop_index(self) -> None:
        if self.manifest.index is not None:
            self._commit(index=None)

    def drop_shards(self, ids: Collection[str]) -> None:
        """Let go of shards that are lost, so that the rest can be read."""
        self._commit(shards=tuple(shard for shard in self.manifest.shards if shard.id not in ids), index=None)

    def set_containers(self, signatures: Mapping[str, str], image_columns: Mapping[str, str]) -> None:
        """Note which archives and data sets have been read to their end, and the columns that were named for them."""
        noted = {"containers": signatures, "image_columns": image_columns}
        if noted != {name: getattr(self.manifest, name) for name in noted}:
            self._commit(**noted)

    def set_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Replace the list of files that were seen and not indexed."""
        write_skipped(self.folder, skipped)

    def _open(self) -> Manifest:
        try:
            manifest = Manifest.load(self.folder)
        except (LibraryNotFound, LibraryDamaged):
            if self._recover is not None:
                manifest = self._recover(self.folder)
                self.recovered = True
            elif self._spec is not None and not any((self.folder / "shards").glob("*.parquet")):
                manifest = Manifest(self._spec.name, self._spec.fingerprint)
            else:
                raise
            manifest.save(self.folder)
        if self._spec is not None and self._spec.fingerprint != manifest.fingerprint:
            remedy = "leave out --model, or name another folder with --data"
            raise manifest.mismatch(self.folder, self._spec, remedy=remedy)
        return manifest

    def _clean(self) -> None:
        """Remove what a writer that died left behind: files that no manifest names."""
        live = {shard_path(self.folder, shard.id) for shard in self.manifest.shards}
        if self.manifest.index is not None:
            live.add(self.folder / "index" / self.manifest.index.file)
        for pattern in ("shards/*.parquet", "index/*.faiss", f"*{TEMPORARY}", f"*/*{TEMPORARY}"):
            for path in set(self.folder.glob(pattern)) - live:
                path.unlink(missing_ok=True)

    def _commit(self, **changes: Any) -> None:
        manifest = replace(self.manifest, **{"commit": self.manifest.commit + 1} | changes)
        manifest.save(self.folder)
        self.manifest = manifest
        self._clean()

    def _without_dead(self) -> Iterator[ShardEntry]:
        for shard in self.manifest.shards:
            if not shard.dead:
                yield shard
            elif len(shard.dead) < shard.rows:
                part = Library(self.folder, replace(self.manifest, shards=(shard,)))
                yield write_shard(self.folder, shard.commit, part.tables(living_only=True))

    def _merge_neighbours(self) -> None:
        """Merge neighbours while the younger is at least half as long as the elder, as in a binary counter.

        Each row is rewritten a logarithmic number of times. The order of rows stays, so an index stays valid.
        """
        groups: list[tuple[ShardEntry, ...]] = []
        for shard in self.manifest.shards:
            groups.append((shard,))
            while (
                len(groups) > 1 and _rows(groups[-2]) < FULL_SHARD_ROWS and 2 * _rows(groups[-1]) >= _rows(groups[-2])
            ):
                groups[-2:] = [groups[-2] + groups[-1]]
        if len(groups) < len(self.manifest.shards):
            self._commit(shards=tuple(self._merged(group) for group in groups))

    def _merged(self, group: tuple[ShardEntry, ...]) -> ShardEntry:
        if len(group) == 1:
            return group[0]
        part = Library(self.folder, replace(self.manifest, shards=group))
        merged = write_shard(self.folder, group[-1].commit, part.tables())
        return replace(merged, dead=tuple(np.flatnonzero(~part.alive).tolist()))


def _rows(shards: Sequence[ShardEntry]) -> int:
    return sum(shard.rows for shard in shards)
