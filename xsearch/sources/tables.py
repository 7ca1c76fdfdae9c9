"""Tables of captions: CSV, TSV, JSON Lines or Parquet with a column of picture paths and a column of texts."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xsearch.errors import SourceError
from xsearch.types import Skipped

# The names that caption data sets in the wild give these columns, most telling first.
PATH_COLUMNS = ("path", "image_path", "file_path", "filepath", "file_name", "filename", "image", "img", "file")
TEXT_COLUMNS = ("caption", "captions", "text", "texts", "description", "title", "sentence", "sentences")


@dataclass(frozen=True, slots=True)
class Caption:
    """One text of one row. `picture` is as the table has it: absolute, or relative to the table's folder."""

    row: int
    picture: str
    text: str


def read_captions(table: Path) -> Iterator[Caption | Skipped]:
    """Yield the captions of a table in order; a cell may hold a list of texts. Rows are numbered from 1.

    A row without a path or without a text is a Skipped. Raises SourceError if the file is not what its suffix says,
    or lacks such columns: the message names those it has.
    """
    try:
        rows = _ROWS[table.suffix.lower()](table)
        for number, row in enumerate(rows, start=1):
            yield from _captions(table, number, row)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are OSError and ValueError
        raise SourceError(f"{table} cannot be read as a table ({str(error).splitlines()[0]})") from error


def _captions(table: Path, number: int, row: dict[str, Any]) -> Iterator[Caption | Skipped]:
    cell = row[_pick(table, TEXT_COLUMNS, "texts", list(row))]
    picture = row[_pick(table, PATH_COLUMNS, "picture paths", list(row))]
    texts = [text.strip() for text in (cell if isinstance(cell, list) else [cell]) if isinstance(text, str)]
    if not isinstance(picture, str) or not picture or not any(texts):
        yield Skipped(f"{table} row {number}", "incomplete row", "it lacks a path or a text")
        return
    for text in texts:
        if text:
            yield Caption(number, picture, text)


def _pick(table: Path, candidates: Sequence[str], meaning: str, names: Sequence[str]) -> str:
    by_lower = {str(name).lower(): name for name in names}
    for candidate in candidates:
        if candidate in by_lower:
            return by_lower[candidate]
    raise SourceError(f"{table} has no column of {meaning}; its columns: {', '.join(map(str, names)) or 'none'}")


def _csv_rows(table: Path) -> Iterator[dict[str, Any]]:
    with table.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")


def _json_rows(table: Path) -> Iterator[dict[str, Any]]:
    with table.open(encoding="utf-8-sig") as lines:
        for line in lines:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"{line.strip()[:40]!r} is not a JSON object")
                yield row


def _parquet_rows(table: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        names = file.schema_arrow.names
        wanted = [_pick(table, PATH_COLUMNS, "picture paths", names), _pick(table, TEXT_COLUMNS, "texts", names)]
        for batch in file.iter_batches(columns=wanted):
            yield from batch.to_pylist()


_ROWS = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".parquet": _parquet_rows,
}
SUFFIXES = frozenset(_ROWS)
