"""Whether a library is what was written, and what can be saved of one that is not."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xsearch.errors import LibraryDamaged
from xsearch.library.files import file_sha256
from xsearch.library.library import SKIPPED, Library, read_skipped
from xsearch.library.manifest import MANIFEST, Manifest, ShardEntry
from xsearch.library.shards import Shard, shard_origin, shard_path
from xsearch.types import Fingerprint

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

    Raises LibraryNotFound.
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
    if not found:
        library = Library(folder, manifest)
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

    Of an item in several shards the youngest counts. Items that were removed come back; the next index run removes
    them again. Raises LibraryDamaged if no shard is whole.
    """
    origins = {path: shard_origin(path) for path in sorted((folder / "shards").glob("*.parquet"))}
    origin = next((origin for origin in reversed(origins.values()) if origin is not None), None)
    if origin is None:
        raise LibraryDamaged(f"no shard in {folder} can be read", remedy="delete the folder and index again")
    fingerprint = Fingerprint(**origin["fingerprint"])
    entries = [_entry(path) for path, its_origin in origins.items() if its_origin == origin]
    whole = [entry for entry in entries if _shard_fault(folder, entry, fingerprint.dim) is None]
    commit = max((int(entry.id.split("-")[0]) for entry in whole), default=0)
    manifest = Manifest(origin["encoder"], fingerprint, commit, tuple(whole))
    return replace(manifest, shards=tuple(_without_older_twins(Library(folder, manifest))))


def _without_older_twins(library: Library) -> Iterator[ShardEntry]:
    ids = library.column("id").to_numpy()
    # np.unique names the first of equal values: of the reversed ids that is the youngest.
    _, from_the_end = np.unique(ids[::-1], return_index=True)
    dead = np.setdiff1d(np.arange(len(ids)), len(ids) - 1 - from_the_end)
    start = 0
    for entry in library.manifest.shards:
        here = dead[(dead >= start) & (dead < start + entry.rows)] - start
        yield replace(entry, dead=tuple(here.tolist()))
        start += entry.rows


def _entry(path: Path) -> ShardEntry:
    return ShardEntry(path.stem, pq.read_metadata(path).num_rows, path.stat().st_size, file_sha256(path))


def _shard_fault(folder: Path, entry: ShardEntry, dim: int) -> str | None:
    """Return what is wrong with a shard in one line, None if nothing is."""
    path = shard_path(folder, entry.id)
    try:
        if file_sha256(path) != entry.sha256:
            return "it is not what was written (its checksum differs)"
        shard = Shard(folder, entry, dim)
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
