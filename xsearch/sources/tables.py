"""Tables of captions: CSV, TSV, JSON Lines or Parquet with a column of picture paths and a column of texts."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

from xsearch.errors import SourceError
from xsearch.types import Skipped

# The names that caption data sets in the wild give these columns, most telling first.
PATH_COLUMNS = ("path", "image_path", "file_path", "filepath", "file_name", "filename", "image", "img", "file")
TEXT_COLUMNS = ("caption", "captions", "text", "texts", "description", "title", "sentence", "sentences")

# Tables in the wild carry pictures as base64 beside the caption.
MAX_CELL_CHARS = 1 << 30


@dataclass(frozen=True, slots=True)
class Caption:
    """One text of one row. `picture` is as the table has it: absolute, or relative to the table's folder."""

    row: int
    picture: str
    text: str


def read_captions(
    table: Path, *, path_column: str | None = None, text_column: str | None = None
) -> Iterator[Caption | Skipped]:
    """Yield the captions of a table in order; a cell may hold a list of texts. Rows are numbered from 1.

    Columns that are not named are found by their names. A row without a path or without a text is a Skipped. Raises
    SourceError if the file is not what its suffix says, or lacks such columns: the message names those it has.
    """
    wanted = _Wanted(path_column, text_column)
    try:
        for number, (picture, cell) in enumerate(_CELLS[table.suffix.lower()](table, wanted), start=1):
            texts = [_clean(text) for text in (cell if isinstance(cell, list) else [cell]) if isinstance(text, str)]
            if _is_path(picture) and any(texts):
                yield from (Caption(number, picture, text) for text in texts if text)
            else:
                yield Skipped(f"{table} row {number}", "incomplete row", "it lacks a path or a text")
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{table} cannot be read as a table ({' '.join(str(error).split())})") from error


def _is_path(cell: object) -> TypeGuard[str]:
    # A path with a NUL, or with half a surrogate pair, which JSON can spell, is one that no file has.
    return isinstance(cell, str) and cell != "" and "\0" not in cell and cell == _without_surrogates(cell)


def _clean(text: str) -> str:
    return _without_surrogates(text).strip()


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The columns that a person named."""

    path: str | None
    text: str | None

    def columns(self, table: Path, names: Sequence[str]) -> tuple[str, str]:
        """Return the names of the columns of pictures and of texts."""
        paths = PATH_COLUMNS if self.path is None else (self.path.lower(),)
        texts = TEXT_COLUMNS if self.text is None else (self.text.lower(),)
        return (
            _pick(table, paths, f"picture paths{_called(self.path)}", names),
            _pick(table, texts, f"texts{_called(self.text)}", names),
        )


def _called(name: str | None) -> str:
    return "" if name is None else f" called {name!r}"


def _pick(table: Path, candidates: Sequence[str], meaning: str, names: Sequence[str]) -> str:
    by_lower = {name.strip().lower(): name for name in names}
    for candidate in candidates:
        if candidate in by_lower:
            return by_lower[candidate]
    raise SourceError(f"{table} has no column of {meaning}; its columns: {', '.join(names) or 'none'}")


def _csv_cells(table: Path, wanted: _Wanted) -> Iterator[tuple[Any, Any]]:
    csv.field_size_limit(MAX_CELL_CHARS)  # of the whole process; 128 Ki unless someone asks for more
    with table.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
        picture, text = wanted.columns(table, rows.fieldnames or [])
        yield from ((row[picture], row[text]) for row in rows)


def _json_cells(table: Path, wanted: _Wanted) -> Iterator[tuple[Any, Any]]:
    with table.open(encoding="utf-8-sig") as lines:
        rows = (_json_object(line) for line in lines if line.strip())
        first = next(rows, {})
        picture, text = wanted.columns(table, list(first))
        yield from ((row.get(picture), row.get(text)) for row in chain([first], rows))


def _json_object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {}  # an incomplete row: the rest of the table is read


def _parquet_cells(table: Path, wanted: _Wanted) -> Iterator[tuple[Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as file:
            picture, text = wanted.columns(table, file.schema_arrow.names)
            for batch in file.iter_batches(columns=[picture, text]):
                yield from zip(batch[picture].to_pylist(), batch[text].to_pylist(), strict=True)
    except (pa.ArrowException, KeyError) as error:  # KeyError: two columns of one name
        raise ValueError(str(error)) from error


_CELLS: dict[str, Callable[[Path, _Wanted], Iterator[tuple[Any, Any]]]] = {
    ".csv": _csv_cells,
    ".tsv": _csv_cells,
    ".jsonl": _json_cells,
    ".ndjson": _json_cells,
    ".parquet": _parquet_cells,
}
SUFFIXES = frozenset(_CELLS)
