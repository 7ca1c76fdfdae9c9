"""Tars of samples as img2dataset and WebDataset write them, `key.jpg` beside `key.txt` and `key.json`; tars of photos.

Read in a stream, never unpacked: a name inside is a key and never becomes a path.
"""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from xsearch.errors import SourceError
from xsearch.sources.folder import FoundFile
from xsearch.sources.samples import REREAD, Sample, container_file, one_line, texts_of
from xsearch.sources.tables import TEXT_COLUMNS
from xsearch.types import Skipped

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PICTURES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".ppm"}
)
DAMAGED_ARCHIVE = "damaged archive"
TEXT = ".txt"
JSON = ".json"
OF_USE = PICTURES | {TEXT, JSON}

MAX_MEMBER_BYTES = 1 << 30
# `frame.0001.png` to `frame.9999.png` share what WebDataset takes for the key; they are not held all at once.
MAX_GROUP = 64

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


class _Header(tarfile.TarInfo):
    """A header that counts as the end of the archive only if it is the end mark; tarfile takes any damage for it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(f"{error} where the next file or the end mark should be") from error


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of the archive. `data` is empty unless it is of use, and was asked for."""

    name: str
    offset: int
    size_bytes: int
    data: bytes

    @property
    def group(self) -> str:
        """The key by WebDataset's rule: the name up to the first dot after its folder."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base.partition(".")[0]

    @property
    def suffix(self) -> str:
        _, dot, suffix = self.name.rpartition("/")[2].rpartition(".")
        return (dot + suffix).lower()

    @property
    def stem(self) -> str:
        return self.name[: len(self.name) - len(self.suffix)]


class TarSamples:
    """A tar, plain or compressed. Files whose names are equal up to the first dot stand together and are a group.

    Each picture of a group is a sample, its key the name without the suffix: so is `shot 12.30.45.png`. Its texts are
    those of the same name, else those of the group: the lines of a .txt, and what a .json has under the first of
    TEXT_COLUMNS that it has. `text_columns` names other fields; `txt` among them stands for the .txt.
    A second picture of the same key, or a text that does not stand beside its picture, is a Skipped. Of an archive that
    is cut off or damaged, what is whole before that place counts.
    """

    def __init__(self, path: Path, *, text_columns: Sequence[str] = ()) -> None:
        self._path = path
        self._text_columns = tuple(text_columns)

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def files(self) -> Sequence[FoundFile]:
        return (container_file(self._path),)

    def samples(self) -> Iterator[Sample | Skipped]:
        seen: set[str] = set()
        group: list[_Member] = []
        for member in self._members(with_data=True):
            if isinstance(member, Skipped):
                yield member
                continue
            if group and (member.group != group[0].group or len(group) == MAX_GROUP):
                yield from self._samples_of(group, seen)
                group = []
            group.append(member)
        yield from self._samples_of(group, seen)

    def read(self, key: str) -> bytes:
        """As SampleSource says; seeks in a plain tar, decompresses a compressed one up to the picture."""
        gone = SourceError(f"{self.name} holds no picture {key}", remedy=REREAD)
        if not self._is_plain:
            for member in self._members(with_data=True):
                if isinstance(member, _Member) and member.suffix in PICTURES and member.stem == key:
                    return member.data
            raise gone
        offset, size = self._pictures.get(key, (0, -1))
        try:
            with self._path.open("rb") as archive:
                archive.seek(offset)
                data = archive.read(size) if size >= 0 else None
        except OSError as error:
            raise gone from error
        if data is None or len(data) < size:
            raise gone
        return data

    def _samples_of(self, group: Sequence[_Member], seen: set[str]) -> Iterator[Sample | Skipped]:
        pictures: dict[str, bytes] = {}
        texts: dict[str, list[object]] = {}
        for member in group:
            if member.suffix in PICTURES:
                if member.stem in seen:
                    yield Skipped(f"{self.name} {member.name}", "duplicate key", f"{member.stem} came before")
                else:
                    seen.add(member.stem)
                    pictures[member.stem] = member.data
            else:
                try:
                    texts.setdefault(member.stem, []).extend(self._texts(member))
                except (ValueError, RecursionError) as error:
                    yield Skipped(f"{self.name} {member.name}", "damaged JSON", one_line(error))
        for key, picture in pictures.items():
            yield Sample(key, picture, texts_of(texts.get(key) or texts.get(group[0].group) or ()))
        if not any(member.suffix in PICTURES for member in group):
            for member in group:
                reason = "not beside its picture" if {member.stem, member.group} & seen else "no picture"
                yield Skipped(f"{self.name} {member.name}", reason)

    def _texts(self, member: _Member) -> list[object]:
        if member.suffix == TEXT and (not self._text_columns or "txt" in self._text_columns):
            return list(member.data.decode("utf-8-sig", "replace").splitlines())
        if member.suffix == JSON:
            fields = json.loads(member.data)
            if isinstance(fields, dict):
                present = [name for name in self._text_columns or TEXT_COLUMNS if fields.get(name)]
                return [fields[name] for name in (present if self._text_columns else present[:1])]
        return []

    def _members(self, *, with_data: bool) -> Iterator[_Member | Skipped]:
        """Yield the files of the archive in order, at last a Skipped if it is damaged. Raises SourceError."""
        last = "its beginning"
        with self._open() as archive:
            try:
                while (header := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers them all
                    if not header.isdir():
                        member = self._member(archive, header, with_data=with_data)
                        yield member
                        last = member.name if isinstance(member, _Member) else last
            except _DAMAGE as error:
                yield Skipped(f"{self.name} after {last}", DAMAGED_ARCHIVE, one_line(error))

    def _member(self, archive: tarfile.TarFile, header: tarfile.TarInfo, *, with_data: bool) -> _Member | Skipped:
        # The names of an archive are bytes; what is not UTF-8 among them came as surrogates.
        name = header.name.encode("utf-8", "backslashreplace").decode("utf-8").removeprefix("./")
        if name.rpartition("/")[2].startswith("."):
            return Skipped(f"{self.name} {name}", "hidden")
        if not header.isreg() or header.issparse():
            return Skipped(f"{self.name} {name}", "not a regular file")
        member = _Member(name, header.offset_data, header.size, b"")
        if member.suffix not in OF_USE:
            return member
        if header.size > MAX_MEMBER_BYTES:
            return Skipped(f"{self.name} {name}", "too large", f"{header.size} bytes")
        if not with_data:
            return member
        content = archive.extractfile(header)
        data = content.read() if content else b""
        if len(data) < header.size:
            raise tarfile.ReadError(f"unexpected end of data in {name}")
        return _Member(name, header.offset_data, header.size, data)

    def _open(self) -> tarfile.TarFile:
        try:
            if self._is_plain:
                return tarfile.open(self._path, "r:", tarinfo=_Header)
            return tarfile.open(self._path, "r|*", tarinfo=_Header)
        except _DAMAGE as error:
            raise SourceError(f"{self.name} cannot be read as a tar ({one_line(error)})") from error

    @cached_property
    def _is_plain(self) -> bool:
        try:
            tarfile.open(self._path, "r:").close()
        except tarfile.TarError:
            return False
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}", remedy="check the path, or mount the drive") from error
        return True

    @cached_property
    def _pictures(self) -> dict[str, tuple[int, int]]:
        """Where in a plain tar the picture of each key lies: offset and size in bytes."""
        found: dict[str, tuple[int, int]] = {}
        for member in self._members(with_data=False):
            if isinstance(member, _Member) and member.suffix in PICTURES:
                found.setdefault(member.stem, (member.offset, member.size_bytes))
        return found
