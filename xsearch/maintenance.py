"""Use cases: look after a library: what is in it, whether it is whole, and what to let go of."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xsearch.encoders import get_encoder
from xsearch.errors import LibraryDamaged, index_command
from xsearch.index.live import live_faiss
from xsearch.index.plan import IndexKind
from xsearch.index_file import keep_index, open_index
from xsearch.library import Fault, Library, LibraryWriter, Manifest, faults, recover
from xsearch.library.shards import SHARD_FILES
from xsearch.library.skipped import SKIPPED
from xsearch.library.tags import keep_tags
from xsearch.library.words import WORDS, keep_words, open_words
from xsearch.types import Modality


def stats(data: Path) -> dict[str, Any]:
    """Return what the library holds, as `xsearch stats --json` prints it. Sizes are bytes."""
    library = Library.open(data)
    manifest, entry = library.manifest, library.manifest.index
    index: dict[str, Any] = {
        "kind": IndexKind.EXACT.value,
        "rows": 0,
        "bytes": 0,
        "recall": dict.fromkeys(Modality, 1.0),
    }
    if entry is not None:
        recall = {modality: found["recall"] for modality, found in entry.details["settings"].items()}
        index = {**entry.details, "rows": entry.rows, "bytes": entry.bytes, "recall": recall}
    counts = library.counts()
    return {
        "data": str(data),
        "items": {kind.value: count for kind, count in counts.items()} | {"all": sum(counts.values())},
        "removed_rows": int(np.count_nonzero(~library.alive)),
        "shards": len(manifest.shards),
        "bytes": _bytes(data),
        "encoder": manifest.encoder,
        "dim": manifest.fingerprint.dim,
        "weights": manifest.fingerprint.weights,
        "index": index,
        "faiss": asdict(live_faiss()),
        "skipped": dict(Counter(skipped.reason for skipped in library.skipped()).most_common()),
        "commit": manifest.commit,
    }


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a writer has put another in its place meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def verify(data: Path) -> list[Fault]:
    """Read the whole library and return every fault: manifest, checksums of shards, vectors, index against shards.

    Raises LibraryNotFound.
    """
    found = faults(data)
    if all(fault.file == SKIPPED for fault in found):
        library = Library.open(data)
        found += _index_faults(library) + _words_faults(library)
    return found


def _index_faults(library: Library) -> list[Fault]:
    entry = library.manifest.index
    if entry is None:
        return []
    try:
        index = open_index(library, check=True)
    except LibraryDamaged as error:
        if Manifest.load(library.folder).index != entry:  # a writer has replaced it meanwhile
            return []
        return [Fault(f"index/{entry.file}", error.message)]
    if index is None or index.rows != entry.rows or entry.rows > len(library):
        return [Fault(f"index/{entry.file}", f"it does not cover the {entry.rows} rows that the manifest says")]
    return []


def _words_faults(library: Library) -> list[Fault]:
    try:
        open_words(library, check=True)
    except LibraryDamaged as error:
        if Manifest.load(library.folder).commit != library.manifest.commit:  # a writer is at work
            return []
        return [Fault(f"{WORDS}/", error.message)]
    return []


def repair(data: Path, on_stage: Callable[[str], None] = lambda stage: None) -> list[str]:
    """Make a damaged library whole again and return, in sentences, what was done.

    A lost manifest is made from the shards, an index is built anew. A damaged shard is let go of: its items are encoded
    again by the next index run. Raises LibraryNotFound, LibraryLocked, and LibraryDamaged if nothing can be saved.
    """
    done = []
    shards = len(list((data / "shards").glob(SHARD_FILES)))
    with LibraryWriter(data, recover=recover) as writer:
        if writer.recovered:
            done.append(f"manifest.json was made anew from {len(writer.manifest.shards)} of {shards} shards")
        found = faults(data)
        if lost := {fault.shard for fault in found if fault.shard is not None}:
            items = sum(shard.rows - len(shard.dead) for shard in writer.manifest.shards if shard.id in lost)
            writer.drop_shards(lost)
            done.append(f"damaged shards were let go of: {len(lost)}, with {items} items; run {index_command(data)}")
        if any(fault.file == SKIPPED for fault in found):
            writer.set_skipped([])
            done.append(f"{SKIPPED} was emptied: the next index run fills it")
        library = Library.open(data)
        if _words_faults(library):
            keep_words(writer, on_stage=on_stage)
            if not (lost or writer.recovered):  # else it only follows the shards
                done.append("the index of words was built anew")
        damaged = _index_faults(library)
        for fault in damaged:  # one that is missing is made anew, whatever its size
            (data / fault.file).unlink(missing_ok=True)
        if lost or writer.recovered or damaged:
            keep_index(writer, get_encoder(library.manifest.encoder), on_stage=on_stage)
            if writer.manifest.index is not None:
                done.append("the index was built anew")
    return done


def optimize(data: Path, on_stage: Callable[[str], None] = lambda stage: None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let go of removed rows, merge small shards, train the index anew on all that is there now.

    Returns `stats` before and after. Raises LibraryNotFound, LibraryLocked, LibraryDamaged.
    """
    before = stats(data)
    with LibraryWriter(data) as writer:
        on_stage("letting go of removed rows")
        writer.purge()
        writer.merge()
        keep_index(writer, get_encoder(writer.manifest.encoder), anew=True, on_stage=on_stage)
        keep_words(writer, on_stage=on_stage)
        keep_tags(writer)
    return before, stats(data)


def forget(data: Path, path: Path) -> int:
    """Remove a file, or all files below a folder, from the library; the files stay. Return how many were known.

    They come back with the next run that indexes their folder.
    """
    with LibraryWriter(data) as writer:
        known = Library.open(data).files()
        gone = [states for file, states in known.items() if file.is_relative_to(path)]
        writer.bury([row for states in gone for state in states for row in state.rows])
        writer.merge()
        keep_words(writer)
        keep_tags(writer)
    return len(gone)
