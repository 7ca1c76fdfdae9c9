"""`manifest.json`: the one mutable file of a library. What it does not name does not exist."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xsearch.errors import LibraryDamaged, LibraryNotFound, LibraryTooNew
from xsearch.library.files import replacing
from xsearch.types import Fingerprint

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A live shard. `dead` are the rows in it that were removed (tombstones), ascending."""

    id: str
    rows: int
    bytes: int
    sha256: str
    dead: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The index file: it covers the first `rows` rows of the library. `details` is for whoever built it."""

    file: str
    rows: int
    bytes: int
    sha256: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One commit of a library. Rows are numbered through the shards in the order given here."""

    encoder: str
    fingerprint: Fingerprint
    commit: int = 0
    shards: tuple[ShardEntry, ...] = ()
    index: IndexEntry | None = None
    format: int = field(default=FORMAT)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def save(self, folder: Path) -> None:
        with replacing(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(asdict(self), separators=(",", ":")) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the last commit. Raises LibraryNotFound, LibraryDamaged or LibraryTooNew."""
        try:
            raw = json.loads((folder / MANIFEST).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LibraryNotFound(
                f"there is no library in {folder}", remedy="make one: `xsearch index SOURCE`"
            ) from error
        except (OSError, ValueError) as error:
            raise _unreadable(folder, error) from error
        if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise LibraryTooNew(f"{folder} was written by a newer xsearch", remedy="upgrade: `pip install -U xsearch`")
        try:
            return cls(
                **raw
                | {
                    "fingerprint": Fingerprint(**raw["fingerprint"]),
                    "shards": tuple(ShardEntry(**shard | {"dead": tuple(shard["dead"])}) for shard in raw["shards"]),
                    "index": IndexEntry(**raw["index"]) if raw["index"] else None,
                }
            )
        except (KeyError, TypeError) as error:
            raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> LibraryDamaged:
    return LibraryDamaged(f"{folder / MANIFEST} cannot be read ({error})", remedy="`xsearch verify --repair`")
