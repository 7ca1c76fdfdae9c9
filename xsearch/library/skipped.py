"""`skipped.parquet`: every file that was seen and not indexed, with its reason."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xsearch.errors import LibraryDamaged, repair_command
from xsearch.library.files import replacing
from xsearch.types import Skipped

SKIPPED = "skipped.parquet"

_SCHEMA = pa.schema([("path", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
_SEAL = b"xsearch.sha256"


def write_skipped(folder: Path, skipped: Sequence[Skipped]) -> None:
    """Replace the list. It changes without the manifest, and so carries a checksum of itself."""
    rows = [asdict(entry) for entry in skipped]
    with replacing(folder / SKIPPED) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA.with_metadata({_SEAL: _checksum(rows)})), temporary)


def read_skipped(folder: Path) -> list[Skipped]:
    """Return the list, empty where there is none yet. Raises LibraryDamaged if it is not what was written."""
    path = folder / SKIPPED
    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
        if (table.schema.metadata or {}).get(_SEAL) != _checksum(rows):
            raise ValueError("its checksum differs")
        return [Skipped(**row) for row in rows]
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise LibraryDamaged(f"{path} cannot be read ({error})", remedy=repair_command(folder)) from error


def _checksum(rows: Sequence[dict[str, Any]]) -> bytes:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest().encode()
