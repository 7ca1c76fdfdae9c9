"""Parquet files that hold the pictures themselves, as bytes or as the Hugging Face hub stores them, beside texts."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from xsearch.errors import SourceError
from xsearch.sources.folder import FoundFile
from xsearch.sources.rows import (
    READ_ROWS,
    Columns,
    choose_columns,
    is_picture,
    keys_of_rows,
    picture_in,
    row_of_key,
    row_samples,
    unique_keys,
)
from xsearch.sources.samples import REREAD, Sample, container_file, one_line, read_picture
from xsearch.types import Skipped

SUFFIX = ".parquet"
# Column chunks come in pieces of this size, not whole, where their pages are small: some row groups have gigabytes.
BUFFER_BYTES = 1 << 20

_DAMAGE = (pa.ArrowException, OSError)


def holds_pictures(path: Path) -> bool:
    """Whether a Parquet file has a column that may hold pictures; False also for a file that cannot be read."""
    try:
        return any(is_picture(field.type) for field in pq.read_schema(path))
    except _DAMAGE:
        return False


class ParquetSamples:
    """A Parquet file with a picture a row. Columns that are not named are found by name and type (`choose_columns`).

    The key of a sample is its value in a column of KEY_COLUMNS if no two rows share one there, else its row number,
    from 1. A picture that a cell names but does not hold is looked for in the folder of the file.
    """

    def __init__(self, path: Path, *, image_column: str | None = None, text_columns: Sequence[str] = ()) -> None:
        self._path = path
        self._image_column = image_column
        self._text_columns = tuple(text_columns)

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def files(self) -> Sequence[FoundFile]:
        return (container_file(self._path),)

    def samples(self) -> Iterator[Sample | Skipped]:
        keys = self._keys
        with self._open() as file:
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                try:
                    for batch in file.iter_batches(READ_ROWS, row_groups=[group], columns=self._columns.read):
                        here = keys_of_rows(keys, first, len(batch))
                        yield from row_samples(batch, self._columns, self.name, first + 1, here, self._find)
                        first += len(batch)
                except _DAMAGE as error:
                    yield Skipped(f"{self.name} rows {first + 1} to {end}", "damaged row group", one_line(error))
                first = end

    def read(self, key: str) -> bytes:
        """As SampleSource says; reads no row group but its own, and that to the row."""
        row = row_of_key(self._keys, key)
        with self._open() as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if 0 <= row < rows:
                    return self._read(file, group, row, key)
                row -= rows
        raise self._gone(key)

    def _read(self, file: pq.ParquetFile, group: int, row: int, key: str) -> bytes:
        try:
            for batch in file.iter_batches(READ_ROWS, row_groups=[group], columns=[self._columns.image]):
                if row < len(batch):
                    image = picture_in(batch.column(self._columns.image)[row].as_py(), self._find)
                    if image is not None:
                        return read_picture(image)
                    break
                row -= len(batch)
        except (*_DAMAGE, ValueError) as error:
            raise SourceError(f"row {key} of {self.name} cannot be read ({one_line(error)})") from error
        raise self._gone(key)

    def _gone(self, key: str) -> SourceError:
        return SourceError(f"{self.name} holds no picture {key}", remedy=REREAD)

    def _find(self, path: str) -> Path:
        file = self._path.parent / path
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there")
        return file

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        except _DAMAGE as error:
            raise SourceError(f"{self.name} cannot be read as Parquet ({one_line(error)})") from error

    @cached_property
    def _columns(self) -> Columns:
        with self._open() as file:
            return choose_columns(file.schema_arrow, self.name, self._image_column, self._text_columns)

    @cached_property
    def _keys(self) -> pa.ChunkedArray | None:
        """(rows,) the keys as strings, or None where row numbers serve."""
        if self._columns.key is None:
            return None
        with self._open() as file:
            try:
                return unique_keys(file.read([self._columns.key]).column(0))
            except _DAMAGE:
                return None
