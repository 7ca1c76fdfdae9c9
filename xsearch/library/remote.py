"""Libraries in object stores and other file systems, by URI: mirrored here to be read, published by one writer.

The owner of pyarrow.fs. What a manifest names is fetched once and checked against its checksums; then a mirror is a
library as any other, mapped from the local disk. A writer works on a mirror of its own and puts its manifest last.
"""

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from xsearch.errors import LibraryDamaged, LibraryLocked, LibraryNotFound, SourceError, index_command
from xsearch.library.files import TEMPORARY, file_sha256, replacing
from xsearch.library.manifest import MANIFEST, IndexEntry, Manifest, ShardEntry

if TYPE_CHECKING:
    import pyarrow as pa

CACHE = "XSEARCH_CACHE"
BESIDE = "beside.json"
"""Names, sizes and checksums of what lies beside shards and index: the words, the bank, tags, what was skipped."""
LOCKS = "locks"
CHECK = "check the URI and its keys"
LEASE_S = 60.0
"""A writer that has given no sign of life for so long is dead."""
REFRESH_S = 15.0
FOLLOW_S = 5.0
CHUNK_BYTES = 8 << 20
_LOOKS = 5

# One put makes an object there whole; elsewhere a file has its name from the start, and needs a temporary one.
_OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
_OWN = frozenset({"shards", "index", "thumbs", "next", LOCKS})


def is_remote(data: str | Path) -> bool:
    """Whether a library is named by a URI of another machine's: `s3://bucket/path`."""
    return "://" in str(data) and not str(data).startswith("file://")


def local_folder(data: str | Path) -> Path:
    """Return the folder to read a library in: itself, or a mirror of the last commit at a URI.

    Raises LibraryNotFound, LibraryDamaged, and SourceError if the place cannot be reached.
    """
    if not is_remote(data):
        return own_folder(data)
    remote = Remote(str(data))
    return remote.mirror(remote.cache / "read")


@contextmanager
def following(data: str | Path) -> Iterator[Path]:
    """Yield what `local_folder` returns, and until the end bring there each new commit of a URI."""
    folder = local_folder(data)
    if not is_remote(data):
        yield folder
        return
    over = Event()
    thread = Thread(target=_follow, args=(Remote(str(data)), folder, over), name="follow", daemon=True)
    thread.start()
    try:
        yield folder
    finally:
        over.set()
        thread.join()


def _follow(remote: "Remote", folder: Path, over: Event) -> None:
    while not over.wait(FOLLOW_S):
        with suppress(Exception):  # whatever it is, the commit that is here goes on being read
            remote.mirror(folder)


def without_keys(data: str | Path) -> str:
    """Return a library's place as it may be shown."""
    return str(Remote(str(data))) if is_remote(data) else str(data)


def own_folder(data: str | Path) -> Path:
    """Return the folder that a path or a `file://` URI names."""
    return Path(unquote(urlsplit(str(data)).path)) if str(data).startswith("file://") else Path(data)


@dataclass(frozen=True)
class Remote:
    """A library at a URI that `pyarrow.fs` understands."""

    uri: str

    def __str__(self) -> str:
        """The URI without keys and options."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def cache(self) -> Path:
        """The folder on this machine for mirrors of this library."""
        root = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "xsearch")
        return root / "libraries" / blake2b(self.uri.rstrip("/").encode(), digest_size=8).hexdigest()

    # Single shards, for machines that write or need no more than these

    def put(self, commit: int, tables: "Iterable[pa.Table]") -> ShardEntry:
        """Write a shard under the name that its content gives it. Raises OSError."""
        from xsearch.library.shards import shard_path, write_shard

        with TemporaryDirectory(prefix="xsearch-") as here:
            entry = write_shard(Path(here), commit, tables)
            self._upload(shard_path(Path(here), entry.id), _shard(entry))
        return entry

    def fetch(self, shard: ShardEntry, folder: Path) -> None:
        """Bring a shard into a library's folder. Raises LibraryDamaged if it is not there as it was written."""
        try:
            self._download(_shard(shard), folder, shard.bytes, shard.sha256)
        except FileNotFoundError as error:
            raise LibraryDamaged(f"{self}/{_shard(shard)} is missing", remedy="run it again") from error

    # Reading

    def mirror(self, folder: Path) -> Path:
        """Bring the last commit into `folder`, of whose files none is fetched twice, and return it.

        Raises LibraryNotFound, LibraryDamaged, and SourceError if the place cannot be reached.
        """
        from filelock import FileLock

        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            seen: bytes | None = None
            for _ in range(_LOOKS):
                raw = self._manifest()
                if raw is None:
                    raise LibraryNotFound(
                        f"there is no library at {self}", remedy=f"make one: {index_command(str(self))}"
                    )
                try:
                    self._bring(raw, folder)
                    return folder
                except FileNotFoundError as error:
                    if raw == seen:
                        raise LibraryDamaged(
                            f"{error} is missing at {self}", remedy="delete what is left and index again"
                        ) from error
                    seen = raw  # a writer may have put another commit in its place
        raise LibraryDamaged(f"{self} changes faster than it can be fetched", remedy="try again")

    def _bring(self, raw: bytes, folder: Path) -> None:
        manifest = Manifest.parse(raw, str(self))
        index = manifest.index
        for name in (*map(_shard, manifest.shards), *([f"index/{index.file}"] if index else [])):
            if not _is_inside(name):
                raise LibraryDamaged(f"the manifest of {self} names a file outside the library: {name!r}")
        for shard in manifest.shards:
            self._download(_shard(shard), folder, shard.bytes, shard.sha256)
        if index is not None:
            if index != _index_of(folder):  # a run that was never published may have made one of the same name
                (folder / "index" / index.file).unlink(missing_ok=True)
            self._download(f"index/{index.file}", folder, index.bytes, index.sha256)
        self._bring_beside(folder)
        if not (folder / MANIFEST).exists() or (folder / MANIFEST).read_bytes() != raw:
            with replacing(folder / MANIFEST) as temporary:
                temporary.write_bytes(raw)
        live = {*map(_shard, manifest.shards), *([f"index/{index.file}"] if index else [])}
        for path in [*folder.glob("shards/*"), *folder.glob("index/*")]:
            if path.relative_to(folder).as_posix() not in live:
                path.unlink(missing_ok=True)

    def _bring_beside(self, folder: Path) -> None:
        """Bring what lies beside the shards. One that is being replaced is left out: all can be made again."""
        raw = self._read(BESIDE)
        wanted = _parse_beside(raw)
        had = _parse_beside((folder / BESIDE).read_bytes() if (folder / BESIDE).exists() else None)
        brought = dict(wanted)
        for name, (size, sha256) in wanted.items():
            if had.get(name) == (size, sha256) and (folder / name).exists():
                continue
            (folder / name).unlink(missing_ok=True)
            try:
                self._download(name, folder, size, sha256)
            except (FileNotFoundError, LibraryDamaged):
                del brought[name]
        for name in _beside(folder) - set(brought):
            (folder / name).unlink(missing_ok=True)
        (folder / BESIDE).write_text(json.dumps(brought))

    # Writing

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Hold the library's lease and yield a mirror to write to, which is published at the end, also on Ctrl-C.

        After any other error the library is as it was. Raises LibraryLocked if another writer has the lease, or took it
        when this one was given up for dead.
        """
        folder = self.cache / "write"
        with _Lease(self) as lease:
            before = self._manifest()
            if before is None:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            else:
                self.mirror(folder)
            (folder / BESIDE).unlink(missing_ok=True)  # what it says of this folder holds again once all is published
            try:
                yield folder
            except KeyboardInterrupt:
                self._publish(folder, before, lease)
                raise
            self._publish(folder, before, lease)

    def _publish(self, folder: Path, before: bytes | None, lease: "_Lease") -> None:
        """Put what is new, the manifest last, then remove what it does not name."""
        after = (folder / MANIFEST).read_bytes()
        manifest = Manifest.parse(after, str(folder))
        there = self._sizes("shards")
        for shard in manifest.shards:
            if there.get(_shard(shard)) != shard.bytes:
                self._upload(folder / _shard(shard), _shard(shard))
        index = manifest.index
        if index is not None and (before is None or Manifest.parse(before, str(self)).index != index):
            self._upload(folder / "index" / index.file, f"index/{index.file}")
        had = _parse_beside(self._read(BESIDE))
        now = {name: ((folder / name).stat().st_size, file_sha256(folder / name)) for name in sorted(_beside(folder))}
        for name, described in now.items():
            if had.get(name) != described:
                self._upload(folder / name, name)
        if had != now:
            self._write(BESIDE, json.dumps(now).encode())
        (folder / BESIDE).write_text(json.dumps(now))
        if after != before:
            lease.check()
            if self._manifest() != before:
                raise LibraryLocked(f"another writer has committed to {self} meanwhile", remedy="run it again")
            self._write(MANIFEST, after)
        live = {*map(_shard, manifest.shards), *([f"index/{index.file}"] if index else []), *now}
        for name in (*self._sizes("shards"), *self._sizes("index"), *had):
            if name not in live:
                self._remove(name)

    # Files, by names relative to the library

    def _manifest(self) -> bytes | None:
        return self._read(MANIFEST)

    @cached_property
    def _opened(self) -> tuple[Any, PurePosixPath]:
        from pyarrow import fs, lib

        try:
            system, path = fs.FileSystem.from_uri(self.uri)
        except (OSError, ValueError, lib.ArrowException) as error:
            raise SourceError(f"{self} cannot be opened ({self._line(error)})", remedy=CHECK) from error
        return system, PurePosixPath(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}  # a file system that is open stays where it is

    def _read(self, name: str) -> bytes | None:
        system, root = self._opened
        try:
            with system.open_input_stream(str(root / name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(f"{self} cannot be read ({self._line(error)})", remedy=CHECK) from error

    def _download(self, name: str, folder: Path, size: int, sha256: str) -> None:
        """Bring a file, if it is not here. Raises FileNotFoundError; LibraryDamaged if it is not what was written."""
        system, root = self._opened
        path = folder / name
        if path.exists() and path.stat().st_size == size:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            try:
                with system.open_input_stream(str(root / name)) as source, temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)
            except FileNotFoundError as error:
                raise FileNotFoundError(name) from error
            if temporary.stat().st_size != size or file_sha256(temporary) != sha256:
                raise LibraryDamaged(f"{self}/{name} is not what was written (its checksum differs)")

    def _upload(self, path: Path, name: str) -> None:
        with path.open("rb") as source, self._replacing(name) as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)

    def _write(self, name: str, data: bytes) -> None:
        with self._replacing(name) as sink:
            sink.write(data)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Any]:
        system, root = self._opened
        path = root / name
        if system.type_name in _OBJECT_STORES:
            with system.open_output_stream(str(path)) as sink:
                yield sink
            return
        system.create_dir(str(path.parent), recursive=True)
        temporary = f"{path}.{os.urandom(8).hex()}{TEMPORARY}"
        with system.open_output_stream(temporary) as sink:
            yield sink
        system.move(temporary, str(path))

    def _line(self, error: BaseException) -> str:
        """Return what an error says, without the keys that a URI may hold."""
        return " ".join(str(error).replace(self.uri, str(self)).split())[:200]

    def _sizes(self, folder: str) -> dict[str, int]:
        return {f"{folder}/{info.base_name}": info.size for info in self._infos(folder)}

    def _infos(self, folder: str) -> list[Any]:
        from pyarrow import fs

        system, root = self._opened
        selector = fs.FileSelector(str(root / folder), allow_not_found=True)
        return [info for info in system.get_file_info(selector) if info.type == fs.FileType.File]

    def _remove(self, name: str) -> None:
        system, root = self._opened
        with suppress(FileNotFoundError):
            system.delete_file(str(root / name))


class _Lease:
    """The right to write: an object of one's own among LOCKS, written again every REFRESH_S.

    A writer puts its object first and then looks for others', so of two that come together at least one sees the other
    and steps back: that needs nothing but listings that show what was put, as S3 has had since 2020. Ages are compared
    by the store's own clock.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._name = f"{LOCKS}/{os.urandom(8).hex()}"
        self._body = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
        self._over = Event()
        self._thread = Thread(target=self._refresh, name="lease", daemon=True)
        self._refreshed_at_s = 0.0

    def __enter__(self) -> "_Lease":
        try:
            self._put()
        except OSError as error:
            raise SourceError(
                f"{self._remote} cannot be written to ({self._remote._line(error)})",
                remedy=CHECK,
            ) from error
        try:
            self._step_back_for_others()
        except BaseException:
            self._remote._remove(self._name)
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            self._remote._remove(self._name)

    def check(self) -> None:
        """Raise LibraryLocked if this writer may have been given up for dead."""
        is_there = self._remote._read(self._name) is not None
        if not is_there or time.monotonic() - self._refreshed_at_s > LEASE_S:
            raise LibraryLocked(
                f"the lock on {self._remote} was lost: this process gave no sign of life for {LEASE_S:.0f} s",
                remedy="run it again",
            )

    def _step_back_for_others(self) -> None:
        locks = {f"{LOCKS}/{info.base_name}": info for info in self._remote._infos(LOCKS)}
        if self._name not in locks:
            raise LibraryLocked(f"the lock on {self._remote} was taken away", remedy="run it again")
        now_ns = locks.pop(self._name).mtime_ns
        for name, info in locks.items():
            if now_ns - info.mtime_ns > LEASE_S * 1e9:
                self._remote._remove(name)
            else:
                owner = json.loads(self._remote._read(name) or b"{}")
                who = f"process {owner['process']} on {owner['host']}" if owner else "another xsearch"
                raise LibraryLocked(
                    f"{who} is writing to {self._remote}",
                    remedy=f"wait for it; if it is dead, its lock ends within {LEASE_S:.0f} s",
                )

    def _put(self) -> None:
        self._remote._write(self._name, self._body)
        self._refreshed_at_s = time.monotonic()

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH_S):
            with suppress(OSError):
                if self._remote._read(self._name) is not None:  # else it was taken away, and stays so
                    self._put()


def _shard(entry: ShardEntry) -> str:
    return f"shards/{entry.id}.parquet"


def _beside(folder: Path) -> set[str]:
    """Return the names of files beside the shards that go along with a library."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        name.as_posix()
        for name in names
        if name.parts[0] not in _OWN
        and name.as_posix() not in {MANIFEST, BESIDE, "lock"}
        and name.suffix not in {TEMPORARY, ".lock"}
    }


def _parse_beside(raw: bytes | None) -> Mapping[str, tuple[int, str]]:
    """Return sizes and checksums by name; nothing where it cannot be read, as all of it is made again when missed."""
    try:
        described = json.loads(raw or b"{}")
        found = {str(name): (int(size), str(sha256)) for name, (size, sha256) in described.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return {name: described for name, described in found.items() if _is_inside(name) and name.split("/")[0] not in _OWN}


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file below the library, whoever wrote it there."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name, re.ASCII) is not None and ".." not in name.split("/")


def _index_of(folder: Path) -> IndexEntry | None:
    try:
        return Manifest.load(folder).index
    except (LibraryNotFound, LibraryDamaged):
        return None
