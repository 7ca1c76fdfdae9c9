"""Shards: immutable Parquet files with one row an item, the vectors mapped in place.

A `vector` column of FixedSizeBinary, stored plainly in one page a row group, lies in the file as a numpy array does:
200k x 512 float16 are read in 39 ms, against 2.2 s for a list column with pyarrow's defaults.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xsearch.errors import LibraryDamaged, repair_command
from xsearch.library.files import TEMPORARY, file_sha256, passing, settle
from xsearch.library.manifest import ShardEntry
from xsearch.types import Embeddings, Fingerprint, Item, Kind

# A row group is read whole to show one hit of it, and is kept below the 20,000 rows at which writers start a new page.
ROW_GROUP_ROWS = 16_384

VECTOR = "vector"
ORIGIN = "xsearch"
ID_DIGITS = 16
SHARD_FILES = f"{'[0-9]' * 8}-{'[0-9a-f]' * ID_DIGITS}.parquet"
METADATA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("root", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("pair", pa.string()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("t_start_s", pa.float64()),
        pa.field("t_end_s", pa.float64()),
        pa.field("shot", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("taken_at", pa.string()),
        pa.field("camera", pa.string()),
        pa.field("gps_lat", pa.float64()),
        pa.field("gps_lon", pa.float64()),
    ]
)
ADDED_LATER = {"shot"}
"""Columns that shards of earlier versions lack; they are read as empty."""
REPEATING = ["kind", "root", "camera", "taken_at"]
KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Origin:
    """What made the vectors of a shard, written into it: from this a lost manifest is made again."""

    encoder: str
    fingerprint: Fingerprint


def shard_path(folder: Path, shard_id: str) -> Path:
    return folder / "shards" / f"{shard_id}.parquet"


def items_table(items: Sequence[Item], vectors: Embeddings, origin: Origin) -> pa.Table:
    """Return one row an item; (n, dim) unit rows become float16."""
    columns = [pa.array([getattr(item, name) for item in items], METADATA.field(name).type) for name in METADATA.names]
    half = np.ascontiguousarray(vectors, dtype=np.float16)
    width = 2 * half.shape[1]
    column = pa.Array.from_buffers(pa.binary(width), len(half), [None, pa.py_buffer(half)])
    schema = METADATA.append(pa.field(VECTOR, pa.binary(width), nullable=False))
    return pa.table([*columns, column], schema.with_metadata({ORIGIN: json.dumps(asdict(origin))}))


def shard_origin(path: Path) -> Origin:
    raw = json.loads(pq.read_metadata(path).metadata[ORIGIN.encode()])
    return Origin(raw["encoder"], Fingerprint(**raw["fingerprint"]))


def whole_shards(folder: Path) -> Iterator[ShardEntry]:
    """Yield the entries of all shards in the folder that are as their names say, eldest first."""
    for path in sorted((folder / "shards").glob(SHARD_FILES)):
        commit, _, digits = path.stem.partition("-")
        if file_sha256(path).startswith(digits):
            yield shard_entry(path, int(commit))


def shard_entry(path: Path, commit: int) -> ShardEntry:
    """Return the entry of a whole shard, in the file `path`, whose youngest row came with `commit`."""
    mapped = np.memmap(path, np.uint8, mode="r")
    sha256 = _sha256(mapped)
    rows = pq.read_metadata(path).num_rows
    return ShardEntry(f"{commit:08d}-{sha256[:ID_DIGITS]}", rows, len(mapped), sha256, _sha256(_footer(mapped)))


def write_shard(folder: Path, commit: int, tables: Iterable[pa.Table]) -> ShardEntry:
    """Write a shard durably, holding one row group in memory. Nothing refers to it until a manifest names it.

    `commit` is the one that its youngest row comes with. Several may be written to one folder at a time.
    """
    (folder / "shards").mkdir(exist_ok=True)
    with passing(folder / "shards" / f"{os.urandom(8).hex()}{TEMPORARY}") as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for group in _row_groups(tables):
                writer = writer or _parquet_writer(temporary, group.schema)
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        finally:
            if writer is not None:
                writer.close()
        entry = shard_entry(temporary, commit)
        settle(temporary, shard_path(folder, entry.id))
        return entry


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of ROW_GROUP_ROWS, the last one shorter."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(part.num_rows for part in held) >= ROW_GROUP_ROWS:
            whole = pa.concat_tables(held)
            full = whole.num_rows - whole.num_rows % ROW_GROUP_ROWS
            for start in range(0, full, ROW_GROUP_ROWS):
                yield whole.slice(start, ROW_GROUP_ROWS)
            held = [whole.slice(full)]
    rest = pa.concat_tables(held)
    if rest.num_rows:
        yield rest


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    metadata = METADATA.names
    writer = pq.ParquetWriter(
        path,
        schema,
        compression=dict.fromkeys(metadata, "zstd") | {VECTOR: "none"},
        use_dictionary=REPEATING,
        write_statistics=metadata,
        data_page_size=1 << 30,
        store_schema=False,  # the types of Parquet say enough
    )
    writer.add_key_value_metadata(schema.metadata)  # it would go with the schema that is not stored
    return writer


class RecentTables:
    """Tables by name, as many of those used last as `max_bytes` hold. Safe to call from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tables: OrderedDict[Hashable, pa.Table] = OrderedDict()
        self._lock = Lock()

    def get(self, name: Hashable, read: Callable[[], pa.Table]) -> pa.Table:
        """Return the table of this name, by `read` where it is not at hand."""
        with self._lock:
            if name in self._tables:
                self._tables.move_to_end(name)
                return self._tables[name]
        table = read()
        with self._lock:
            if name not in self._tables:
                self._tables[name] = table
                self._bytes += table.nbytes
            while self._bytes > self._max_bytes and len(self._tables) > 1:
                self._bytes -= self._tables.popitem(last=False)[1].nbytes
        return table


class Shard:
    """A shard opened for reading. Raises FileNotFoundError if it is gone, LibraryDamaged if it was altered."""

    def __init__(self, folder: Path, entry: ShardEntry, dim: int, recent: RecentTables) -> None:
        self.entry = entry
        self._recent = recent
        self._path = shard_path(folder, entry.id)
        self._dim = dim
        if self._path.stat().st_size != entry.bytes:
            raise self._damaged("it has not the size that was written")
        # One map for numpy and Parquet: one descriptor a shard, and all can be read when a writer has removed the file.
        self._mapped = np.memmap(self._path, np.uint8, mode="r")
        if _sha256(_footer(self._mapped)) != entry.footer_sha256:
            raise self._damaged("its footer is not what was written")
        with self._reading():
            self._file = self._parquet_file()
            schema = self._file.schema_arrow
        if self._file.metadata.num_rows != entry.rows:
            raise self._damaged(f"it has not the {entry.rows} rows that were written")
        types = dict(zip(schema.names, schema.types, strict=True))
        expected = dict(zip(METADATA.names, METADATA.types, strict=True)) | {VECTOR: pa.binary(2 * dim)}
        self._columns = [name for name in METADATA.names if name in types or name not in ADDED_LATER]
        if wrong := [name for name in (*self._columns, VECTOR) if types.get(name) != expected[name]]:
            raise self._damaged(f"it lacks the columns {', '.join(wrong)} as they should be")
        groups = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *groups])

    @cached_property
    def segments(self) -> list[NDArray[np.float16]]:
        """The vectors, (n_i, dim) a row group, mapped from the file where they lie in it plainly."""
        with self._reading():
            return [self._map(group) for group in range(self._file.num_row_groups)]

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """(rows,) positions in KINDS."""
        kinds = [np.empty(0, np.uint8)]
        with self._reading():
            for chunk in self._parquet_file(read_dictionary=["kind"]).read(["kind"], use_threads=False)["kind"].chunks:
                codes = np.array([KINDS.index(Kind(kind)) for kind in chunk.dictionary.to_pylist()], np.uint8)
                # Not `to_numpy()`, which imports pandas where that is installed: half the CPU time of a cold query.
                kinds.append(codes[np.frombuffer(chunk.indices.buffers()[1], np.int32, len(chunk), 4 * chunk.offset)])
        return np.concatenate(kinds)

    def column(self, name: str) -> pa.ChunkedArray:
        with self._reading():
            return self._file.read([name], use_threads=False)[name]

    def items(self, rows: NDArray[np.int64]) -> list[Item]:
        """Return the items of these rows, in the order asked for."""
        group_of = np.searchsorted(self._starts, rows, side="right") - 1
        found: dict[int, Item] = {}
        for group in set(group_of.tolist()):
            with self._reading():
                table = self._recent.get((self.entry.id, group), partial(self._read_group, group))
                for row in rows[group_of == group].tolist():
                    # A slice, as `take` would load pyarrow.compute: a fifth of the CPU time of a cold query.
                    (record,) = table.slice(row - int(self._starts[group]), 1).to_pylist()
                    found[row] = Item(**record | {"kind": Kind(record["kind"])})
        return [found[int(row)] for row in rows]

    def _read_group(self, group: int) -> pa.Table:
        # A reader of its own: threads share a shard, and one reader used by two of them crashes.
        reader = self._parquet_file(metadata=self._file.metadata, read_dictionary=REPEATING)
        return reader.read_row_group(group, self._columns, use_threads=False)

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows in order, to be written again elsewhere."""
        if _sha256(self._mapped) != self.entry.sha256:
            raise self._damaged("its checksum differs")  # a copy would have a checksum that agrees
        with self._reading():
            stored = self._file.schema_arrow
            schema = METADATA.append(stored.field(VECTOR)).with_metadata(stored.metadata)
            for batch in self._file.iter_batches(ROW_GROUP_ROWS, columns=[*self._columns, VECTOR], use_threads=False):
                empty = {name: pa.nulls(len(batch), METADATA.field(name).type) for name in ADDED_LATER}
                columns = {name: batch[name] if name in batch.schema.names else empty[name] for name in schema.names}
                yield pa.table(columns, schema)

    # Read with `use_threads=False` throughout: a thread of Arrow's pool that lets go of the map while Python shuts down
    # waits for an interpreter that is gone, and aborts the process (one query in ten).
    def _parquet_file(self, **options: Any) -> pq.ParquetFile:
        return pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._mapped)), **options)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Make whatever altered bytes lead to, here or in Parquet, a LibraryDamaged."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise self._damaged(str(error)) from error

    def _map(self, group: int) -> NDArray[np.float16]:
        row_group = self._file.metadata.row_group(group)
        rows, width = row_group.num_rows, 2 * self._dim
        chunk = row_group.column(self._file.schema.names.index(VECTOR))
        start = chunk.data_page_offset + chunk.total_compressed_size - rows * width
        header = self._mapped[chunk.data_page_offset : start].tobytes()
        if (
            chunk.compression == "UNCOMPRESSED"
            and set(chunk.encodings) <= {"PLAIN", "RLE"}
            and _page_bytes(header) == rows * width
        ):
            return self._mapped[start : start + rows * width].view(np.float16).reshape(rows, self._dim)
        # Laid out by another writer: correct, but a copy in memory.
        values = self._file.read_row_group(group, [VECTOR], use_threads=False)[VECTOR].to_pylist()
        return np.frombuffer(b"".join(values), np.float16).reshape(rows, self._dim)

    def _damaged(self, what: str) -> LibraryDamaged:
        return LibraryDamaged(
            f"shard {self._path.name} is damaged: {what}", remedy=repair_command(self._path.parents[1])
        )


def _footer(mapped: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the end of a Parquet file: the metadata, their length in 4 bytes, and 4 bytes of magic."""
    return mapped[-8 - int.from_bytes(mapped[-8:-4].tobytes(), "little") :]


def _sha256(mapped: NDArray[np.uint8]) -> str:
    return hashlib.sha256(mapped.data).hexdigest()


def _page_bytes(header: bytes) -> int | None:
    """Return the uncompressed size in a Parquet page header, None where it is not the header of a data page.

    The header is a Thrift struct in the compact protocol (https://parquet.apache.org/docs/file-format/): field 1 is the
    page type (0 is a data page) and field 2 the size, each a type byte 0x15 and a zigzag varint.
    """
    if header[:3] != b"\x15\x00\x15":
        return None
    value = 0
    for shift, byte in enumerate(header[3:8]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value >> 1
    return None
