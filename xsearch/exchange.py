"""Use cases: take in embeddings that were made elsewhere, and hand on those of a library."""

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.errors import SourceError
from xsearch.library import Library, LibraryWriter
from xsearch.library.shards import ADDED_LATER, METADATA, VECTOR
from xsearch.library.words import keep_words
from xsearch.sources.embeddings import EmbeddingBlock, embedding_files, read_embeddings, write_export
from xsearch.sources.formats import ExportFormat
from xsearch.sources.tables import PATH_COLUMNS, TEXT_COLUMNS
from xsearch.types import Embeddings, Item, Kind, Skipped, item_id
from xsearch.vectors import l2_normalize

ROUNDING = 2e-3


def export_library(data: Path, path: Path, form: ExportFormat) -> int:
    """Write all living items of a library with their vectors, exact to float16, and return how many.

    Raises LibraryNotFound, LibraryDamaged, and SourceError if there is nothing to write or a package is missing.
    """
    library = Library.open(data)

    def blocks() -> Iterator[EmbeddingBlock]:
        start = 0
        for table in library.tables():
            rows = np.arange(start, start + len(table))
            living = rows[library.alive[rows]]
            start += len(table)
            if len(living):
                metadata = table.drop_columns([VECTOR]).take(living - rows[0])
                yield EmbeddingBlock(library.vectors.take(living), metadata.replace_schema_metadata())

    return write_export(path, form, blocks())


def import_embeddings(vectors: Path, metadata: Path | None, data: Path, encoder: Encoder) -> tuple[int, list[Skipped]]:
    """Take in vectors (n, dim) with a row of metadata each; return how many, and the rows that are none.

    `encoder` is the one that made them. Of metadata that a library exported every item comes back as it was; else a
    column of paths or addresses says what a vector is of, and one of captions becomes its text. An item that is known
    is replaced. Raises SourceError if files, columns or dimensions do not fit; LibraryLocked, EncoderMismatch.
    """
    files = embedding_files(vectors, metadata)
    skipped: list[Skipped] = []
    seen: set[str] = set()
    with LibraryWriter(data, encoder.spec) as writer:
        for pair in files:
            for block in read_embeddings(pair.vectors, pair.metadata):
                if isinstance(block, Skipped):
                    skipped.append(block)
                    continue
                dim = block.vectors.shape[1]
                if dim != encoder.spec.dim:
                    name = encoder.spec.name
                    raise SourceError(f"{pair.vectors} has {dim} dimensions, {name} has {encoder.spec.dim}")
                kept: dict[str, tuple[int, Item]] = {}
                for row, record in enumerate(block.metadata.to_pylist()):
                    item = _item(record, pair.metadata)
                    if item.id in seen:
                        skipped.append(Skipped(f"{pair.metadata} {item.path}", "duplicate key", "it came before"))
                    else:
                        seen.add(item.id)
                        kept[item.id] = row, item
                items = [item for _, item in kept.values()]
                vectors_kept = _unit_rows(block.vectors[[row for row, _ in kept.values()]])
                writer.add(items, vectors_kept, bury=_rows_of(Library.open(data), items))
        writer.merge()
        keep_words(writer)
    return len(seen), skipped


def _unit_rows(vectors: NDArray[np.floating[Any]]) -> Embeddings:
    """Return unit rows; those that are so but for the rounding of float16 are left as they are, to the last bit."""
    rows = np.asarray(vectors, np.float32)
    rounded = np.abs(np.linalg.norm(rows, axis=1, keepdims=True) - 1) < ROUNDING
    return np.where(rounded, rows, l2_normalize(rows)).astype(np.float32)


def _rows_of(library: Library, items: list[Item]) -> list[int]:
    """Return the living rows of items of these ids."""
    if not len(library):
        return []
    ids = library.column("id").to_numpy()
    return np.flatnonzero(np.isin(ids, [item.id for item in items]) & library.alive).tolist()


def _item(record: dict[str, Any], metadata: Path) -> Item:
    if record.keys() >= set(METADATA.names) - ADDED_LATER:
        own = {name: record[name] for name in METADATA.names if name in record}
        return Item(**own | {"kind": Kind(record["kind"])})
    path = _first(record, (*PATH_COLUMNS, "url"))
    if path is None:
        raise SourceError(f"{metadata} says in no column what a vector is of; its columns: {', '.join(record)}")
    # A relative path is meant from where the metadata lie; an address stays as it is.
    file = Path(path) if "://" in path else Path(os.path.normpath(metadata.absolute().parent / path))
    text = _first(record, TEXT_COLUMNS)
    digest = blake2b(f"{file}\0{text}".encode(), digest_size=16).hexdigest()
    return Item(
        id=item_id(file),
        kind=Kind.IMAGE,
        root=str(file.parent),
        path=file.name,
        bytes=0,
        mtime_ns=0,
        content_hash=digest,
        text=text,
    )


def _first(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    found = (record.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value), None)
