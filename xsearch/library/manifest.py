"""`manifest.json`: the one mutable file of a library. What it does not name does not exist."""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from xsearch.errors import (
    EncoderMismatch,
    LibraryDamaged,
    LibraryNotFound,
    LibraryTooNew,
    command,
    index_command,
    repair_command,
)
from xsearch.library.files import replacing
from xsearch.types import EncoderSpec, Fingerprint

FORMAT = 1
MANIFEST = "manifest.json"
# The last field is a checksum of all before it: one flipped bit of a tombstone would else remove another item.
_SEAL = ',"sha256":"'


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A live shard. `dead` are the rows in it that were removed (tombstones), ascending.

    Its id is the commit that brought its youngest row, so that ids sort as the rows of a library do, and the beginning
    of `sha256`, so that a file can be checked without this entry. `sha256` is of the whole file; `footer_sha256` of its
    end, which says where all else lies and is checked whenever it is opened.
    """

    id: str
    rows: int
    bytes: int
    sha256: str
    footer_sha256: str
    dead: tuple[int, ...] = ()

    @property
    def commit(self) -> int:
        return int(self.id.partition("-")[0])


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
    """One commit of a library. Rows are numbered through the shards in the order given here.

    `index_wanted` is what a person asked of the index, which outlives each index that is built. `containers` are the
    archives and data sets that were read to their end, by name, each with the signature that it had (its files' sizes
    and times): as long as that is the same, none of its samples is read again. `image_columns` are those that a person
    had to name, by container: without them its pictures could not be shown.
    """

    encoder: str
    fingerprint: Fingerprint
    commit: int = 0
    shards: tuple[ShardEntry, ...] = ()
    index: IndexEntry | None = None
    index_wanted: Mapping[str, Any] = field(default_factory=dict)
    containers: Mapping[str, str] = field(default_factory=dict)
    image_columns: Mapping[str, str] = field(default_factory=dict)
    format: int = field(default=FORMAT)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def with_dead(self, rows: Iterable[int]) -> tuple[ShardEntry, ...]:
        """Return the shards with these rows among their dead."""
        buried = sorted({int(row) for row in rows})
        shards, start = [], 0
        for shard in self.shards:
            here = buried[bisect_left(buried, start) : bisect_left(buried, start + shard.rows)]
            shards.append(replace(shard, dead=tuple(sorted({*shard.dead, *(row - start for row in here)}))))
            start += shard.rows
        return tuple(shards)

    def save(self, folder: Path) -> None:
        with replacing(folder / MANIFEST) as temporary:
            body = json.dumps(asdict(self), separators=(",", ":")).removesuffix("}")
            temporary.write_bytes(f"{body}{_SEAL}{_sealed(body)}".encode())

    def mismatch(self, where: Path | str, spec: EncoderSpec, *, remedy: str) -> EncoderMismatch:
        """Return the error for a library in `where` whose vectors are not of this encoder.

        To another version of the same one there is a way; `remedy` is for an encoder of another name.
        """
        from xsearch.library.remote import is_remote

        if spec.name != self.encoder:
            return EncoderMismatch(f"{where} holds vectors of {self.encoder}, not of {spec.name}", remedy=remedy)
        if is_remote(where):
            remedy = "make it anew with `xsearch index`, at another URI: `xsearch migrate` works in a folder"
        else:
            remedy = f"{command('xsearch', 'migrate', '--data', where, '--model', spec.name)} brings them to this one"
        return EncoderMismatch(f"{where} holds vectors of another version of {spec.name}", remedy=remedy)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the last commit. Raises LibraryNotFound, LibraryDamaged or LibraryTooNew."""
        try:
            written = (folder / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if any((folder / "shards").glob("*.parquet")):
                raise _unreadable(folder, error) from error
            raise LibraryNotFound(
                f"there is no library in {folder}", remedy=f"make one: {index_command(folder)}"
            ) from error
        except OSError as error:
            raise _unreadable(folder, error) from error
        return cls.parse(written, folder)

    @classmethod
    def parse(cls, written: bytes, where: Path | str) -> "Manifest":
        """Return what the bytes of a manifest say. Raises LibraryDamaged or LibraryTooNew, which name the library."""
        try:
            text = written.decode()
            raw = json.loads(text)
            body, seal, checksum = text.rpartition(_SEAL)
            if seal and checksum != _sealed(body):
                raise ValueError("its checksum differs")
        except ValueError as error:
            raise _unreadable(where, error) from error
        if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise LibraryTooNew(f"{where} was written by a newer xsearch", remedy="upgrade: `pip install -U xsearch`")
        try:
            del raw["sha256"]
            return cls(
                **raw
                | {
                    "fingerprint": Fingerprint(**raw["fingerprint"]),
                    "shards": tuple(ShardEntry(**shard | {"dead": tuple(shard["dead"])}) for shard in raw["shards"]),
                    "index": IndexEntry(**raw["index"]) if raw["index"] else None,
                }
            )
        except (KeyError, TypeError) as error:
            raise _unreadable(where, error) from error


def _sealed(body: str) -> str:
    """Return what follows the seal of a manifest that begins with `body`."""
    return f'{hashlib.sha256(body.encode()).hexdigest()}"}}\n'


def _unreadable(where: Path | str, error: Exception) -> LibraryDamaged:
    return LibraryDamaged(f"{where}/{MANIFEST} cannot be read ({error})", remedy=repair_command(where))
