"""Rows of an Arrow table as samples: which columns hold the picture, the texts and the key, and what is in a cell."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from xsearch.errors import SourceError
from xsearch.sources import tables
from xsearch.sources.samples import Sample, one_line, texts_of
from xsearch.types import Skipped

# The names that data sets in the wild give these columns, most telling first.
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "image_bytes", "jpg", "jpeg", "png", "webp", "bytes")
TEXT_COLUMNS = (*tables.TEXT_COLUMNS, "txt", "alt_text", "prompt")
KEY_COLUMNS = ("key", "__key__", "id", "image_id", "img_id", "sample_id", "uid", "uuid")

# So many pictures are in memory at once.
READ_ROWS = 16

PictureFinder: TypeAlias = Callable[[str], bytes | Path]
"""Return the picture that a cell names in place of holding it. Raises OSError or ValueError if there is none."""


@dataclass(frozen=True, slots=True)
class Columns:
    """`key` is a column that may identify the rows; whether it does is for `unique_keys` to say."""

    image: str
    texts: tuple[str, ...]
    key: str | None

    @property
    def read(self) -> list[str]:
        """The columns to read for samples."""
        return list(dict.fromkeys((self.image, *self.texts)))


def choose_columns(schema: pa.Schema, name: str, image_column: str | None, text_columns: Sequence[str]) -> Columns:
    """Return the columns as named by a person, or else as their names and types suggest.

    A picture is in a column of bytes, or of structs {bytes, path} as Hugging Face writes them; texts are in columns of
    strings or lists of strings. A data set may have no texts. Raises SourceError, with the columns that there are, if
    there is no such column, or if it holds something else, or if several may be meant.
    """
    twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
    if twice:
        raise SourceError(f"{name} has more than one column {', '.join(twice)}")
    image = image_column or _guess_image(schema, name)
    texts = tuple(text_columns) or _guess_texts(schema)
    for column, fits, wanted in (
        (image, is_picture, "pictures (bytes, or a struct of bytes and path)"),
        *((text, _is_text, "texts (strings, or lists of strings)") for text in texts),
    ):
        if column not in schema.names:
            raise SourceError(f"{name} has no column {column}; its columns: {', '.join(schema.names) or 'none'}")
        if not fits(schema.field(column).type):
            raise SourceError(f"column {column} of {name} holds no {wanted}, but {schema.field(column).type}")
    key = next(
        (column for column in KEY_COLUMNS if column in schema.names and _is_key(schema.field(column).type)), None
    )
    return Columns(image, texts, key)


def is_picture(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold encoded pictures."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_bytes(kind.field(at).type)
    return _is_bytes(kind)


def unique_keys(keys: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return a column as strings if each row has a value of its own, else None."""
    keys = keys.cast(pa.string())
    return keys if keys.null_count == 0 and len(keys.unique()) == len(keys) else None


def keys_of_rows(keys: pa.ChunkedArray | None, first: int, rows: int) -> list[str]:
    """Return the keys of some rows: what `unique_keys` returned has, else the row numbers, from 1."""
    if keys is None:
        return [str(row + 1) for row in range(first, first + rows)]
    found: list[str] = keys.slice(first, rows).to_pylist()
    return found


def row_of_key(keys: pa.ChunkedArray | None, key: str) -> int:
    """Return the number, from 0, of the row that has this key by `keys_of_rows`; -1 if there is none."""
    if keys is None:
        return int(key) - 1 if key.isdecimal() else -1
    return int(keys.index(key).as_py())


def row_samples(
    rows: pa.RecordBatch | pa.Table,
    columns: Columns,
    name: str,
    first_row: int,
    keys: Sequence[str],
    find: PictureFinder,
) -> Iterator[Sample | Skipped]:
    """Yield a sample a row, or a Skipped if it has no picture. `first_row` is the number of the first, from 1."""
    cells = (rows.column(column).to_pylist() for column in columns.read)
    by_column = dict(zip(columns.read, cells, strict=True))
    texts = zip(*(by_column[column] for column in columns.texts), strict=True) if columns.texts else [()] * len(keys)
    for number, (key, cell, row_texts) in enumerate(zip(keys, by_column[columns.image], texts, strict=True), first_row):
        try:
            image = picture_in(cell, find)
        except (OSError, ValueError) as error:
            yield Skipped(f"{name} row {number}", "missing file", one_line(error))
            continue
        if image is None:
            yield Skipped(f"{name} row {number}", "no picture", f"column {columns.image} is empty")
        else:
            yield Sample(key, image, texts_of(row_texts))


def picture_in(cell: object, find: PictureFinder) -> bytes | Path | None:
    """Return the picture that a cell holds or names, None if it does neither. Raises what `find` does."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, bytes) and data:
        return data
    return find(path) if isinstance(path, str) and path else None


def _guess_image(schema: pa.Schema, name: str) -> str:
    able = [field.name for field in schema if is_picture(field.type)]
    by_lower = {column.lower(): column for column in able}
    named = [by_lower[candidate] for candidate in IMAGE_COLUMNS if candidate in by_lower]
    if not named and len(able) != 1:
        several = f"several columns that may hold pictures: {', '.join(able)}"
        none = f"no column of pictures; its columns: {', '.join(schema.names) or 'none'}"
        raise SourceError(f"{name} has {several if able else none}", remedy="name one with --image-column")
    guess: str = (named or able)[0]
    return guess


def _guess_texts(schema: pa.Schema) -> tuple[str, ...]:
    able = [field.name for field in schema if _is_text(field.type)]
    for candidate in TEXT_COLUMNS:
        # caption, or caption_0 to caption_4
        found = [column for column in able if re.fullmatch(rf"{candidate}(_?\d+)?", column.lower())]
        if found:
            return tuple(found)
    return ()


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_key(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))
