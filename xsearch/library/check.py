"""Whether a library is what was written, and what can be saved of one that is not."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from xsearch.errors import LibraryDamaged
from xsearch.library.files import file_sha256
from xsearch.library.library import Library
from xsearch.library.manifest import MANIFEST, Manifest, ShardEntry
from xsearch.library.shards import RecentTables, Shard, shard_origin, shard_path, whole_shards
from xsearch.library.skipped import SKIPPED, read_skipped

# Unit vectors, rounded to float16.
NORM_TOLERANCE = 2e-3


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written; `shard` is the id of the shard it is in."""

    file: str
    what: str
    shard: str | None = None


def faults(folder: Path) -> list[Fault]:
    """Read a whole library and return what is wrong with its manifest, its shards and its list of skipped files.

    What a writer lets go of meanwhile is no fault. Raises LibraryNotFound.
    """
    try:
        manifest = Manifest.load(folder)
    except LibraryDamaged as error:
        return [Fault(MANIFEST, error.message)]
    found = [
        Fault(f"shards/{entry.id}.parquet", what, entry.id)
        for entry in manifest.shards
        if (what := _shard_fault(folder, entry, manifest.fingerprint.dim))
    ]
    if found:
        live = {entry.id for entry in Manifest.load(folder).shards}
        found = [fault for fault in found if fault.shard in live]
    else:
        library = Library.open(folder)
        ids = library.column("id").to_numpy()[library.alive]
        if twice := len(ids) - len(np.unique(ids)):
            found.append(Fault(MANIFEST, f"{twice} items are in it twice"))
    try:
        read_skipped(folder)
    except LibraryDamaged as error:
        found.append(Fault(SKIPPED, error.message))
    return found


def recover(folder: Path) -> Manifest:
    """Return a manifest of all shards in the folder that are whole, for one that is lost or cannot be read.

    Of a file in several states the youngest counts. Items that were removed come back; the next index run removes
    them again. Raises LibraryDamaged if no shard is whole.
    """
    whole = tuple(whole_shards(folder))
    if not whole:
        raise LibraryDamaged(f"no shard in {folder} is whole", remedy="delete the folder and index again")
    origin = shard_origin(shard_path(folder, whole[-1].id))
    manifest = Manifest(origin.encoder, origin.fingerprint, whole[-1].commit, whole)
    return replace(manifest, shards=manifest.with_dead(_outlived(Library(folder, manifest))))


def _outlived(library: Library) -> list[int]:
    """Return the rows of which a younger row holds the same item, and all others of that older state of its file."""
    ids = library.column("id").to_pylist()
    states = list(zip(*(library.column(name).to_pylist() for name in ("root", "path", "content_hash")), strict=True))
    youngest = {item: row for row, item in enumerate(ids)}
    older = {states[row] for row, item in enumerate(ids) if states[row] != states[youngest[item]]}
    return [row for row, item in enumerate(ids) if row != youngest[item] or states[row] in older]


def _shard_fault(folder: Path, entry: ShardEntry, dim: int) -> str | None:
    """Return what is wrong with a shard in one line, None if nothing is."""
    path = shard_path(folder, entry.id)
    try:
        if file_sha256(path) != entry.sha256:
            return "it is not what was written (its checksum differs)"
        shard = Shard(folder, entry, dim, RecentTables(0))
        for segment in shard.segments:
            norms = np.linalg.norm(segment.astype(np.float32), axis=1)
            if not np.allclose(norms, 1, atol=NORM_TOLERANCE):
                return "a vector in it is not of unit length"
        if entry.dead and entry.dead[-1] >= entry.rows:
            return "the manifest removes rows that it does not have"
    except FileNotFoundError:
        return "it is missing"
    except (LibraryDamaged, OSError, pa.ArrowException) as error:
        return str(error)
    return None
