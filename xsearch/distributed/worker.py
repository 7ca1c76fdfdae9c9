"""What a machine of a cluster does with a piece: the whole pipeline, into a shard of its own."""

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from xsearch.encoders import Encoder
from xsearch.errors import ClusterError, EncoderMismatch, XSearchError
from xsearch.library.manifest import ShardEntry
from xsearch.library.shards import Origin, items_table, write_shard
from xsearch.library.writer import FULL_SHARD_ROWS
from xsearch.pipeline import Outbox, Pipeline, Stage, Tally
from xsearch.reading import Reading, Twin
from xsearch.survey import RunPlan
from xsearch.types import EncoderSpec

if TYPE_CHECKING:
    import pyarrow as pa


class ShardStore(Protocol):
    """Where shards go: a folder that all machines see, or an object store."""

    def put(self, commit: int, tables: "Iterable[pa.Table]") -> ShardEntry:
        """Write a shard durably, under a name that its content gives it. Raises OSError."""
        ...

    def fetch(self, shard: ShardEntry, folder: Path) -> None:
        """Bring a shard that was put here into a library's folder. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A library's folder that all machines see under one path."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def put(self, commit: int, tables: "Iterable[pa.Table]") -> ShardEntry:
        return write_shard(self.folder, commit, tables)

    def fetch(self, shard: ShardEntry, folder: Path) -> None:
        """There is nothing to do: it is where it was written."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all pieces of a run have in common. Shards of piece i come with commit `first_commit` + i."""

    spec: EncoderSpec
    open_encoder: Callable[[], Encoder]
    reading: Reading
    store: ShardStore
    first_commit: int
    threads: int


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a piece: its shards, what is to be copied and buried in the same commit, and how it went."""

    shards: tuple[ShardEntry, ...]
    copies: tuple[Twin, ...]
    bury: tuple[int, ...]
    tally: Tally
    waited_s: dict[Stage, float]


class Worker:
    """Does pieces one after another, with one encoder. Every error names the node."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._node = socket.gethostname()
        self._encoder: Encoder | None = None

    def open(self) -> None:
        """Open the encoder.

        Raises ClusterError if it cannot be opened here, EncoderMismatch if it is not the library's.
        """
        try:
            self._encoder = self._job.open_encoder()
        except XSearchError as error:
            raise ClusterError(f"node {self._node}: {error.message}", remedy=error.remedy) from error
        ours, asked = self._encoder.spec, self._job.spec
        if ours.fingerprint != asked.fingerprint:
            raise EncoderMismatch(
                f"node {self._node} has another version of {asked.name}: its vectors cannot be compared",
                remedy="install the same xsearch, and the same weights, on every node",
            )

    def do(self, number: int, piece: RunPlan) -> Report:
        """Read, encode and write a piece. Raises ClusterError if this node lacks the sources or space for the shard."""
        assert self._encoder is not None
        for path in sorted(_must_be_seen(piece)):
            if not path.exists():
                raise ClusterError(
                    f"node {self._node} does not see {path}", remedy="mount it there under the same path"
                )
        sink = PieceSink(self._job, number)
        pipeline = Pipeline(
            piece,
            self._job.reading,
            sink=sink,
            encoder=self._encoder,
            on_progress=lambda progress: None,
            threads=self._job.threads,
        )
        try:
            tally = pipeline.run()
            shards = sink.close()
        except OSError as error:
            raise ClusterError(
                f"node {self._node} cannot write to {self._job.store} ({error.strerror or error})",
                remedy="make room or mend it there, and run again; the library is as it was",
            ) from error
        return Report(shards, tuple(sink.copies), tuple(sink.bury), tally, pipeline.waited_s)


def _must_be_seen(piece: RunPlan) -> set[Path]:
    roots = {Path(work.file.root) for work in piece.files}
    return roots | {file.file for container in piece.containers for file in container.source.files}


@dataclass(slots=True)
class PieceSink:
    """Gathers what a pipeline hands on into shards as long as those that are never merged, most often one."""

    job: Job
    number: int
    copies: list[Twin] = field(default_factory=list)
    bury: list[int] = field(default_factory=list)
    _tables: "list[pa.Table]" = field(default_factory=list)
    _shards: list[ShardEntry] = field(default_factory=list)

    def take(self, outbox: Outbox) -> None:
        self.copies += outbox.copies
        self.bury += outbox.buried
        if outbox.entries:
            spec = self.job.spec
            vectors = outbox.stacked(spec.dim)
            items = [entry.item for entry in outbox.entries]
            self._tables.append(items_table(items, vectors, Origin(spec.name, spec.fingerprint)))
        if sum(table.num_rows for table in self._tables) >= FULL_SHARD_ROWS:
            self._write()

    def close(self) -> tuple[ShardEntry, ...]:
        """Write what is left, and return all shards in order."""
        if self._tables:
            self._write()
        return tuple(self._shards)

    def _write(self) -> None:
        tables, self._tables = self._tables, []
        self._shards.append(self.job.store.put(self.job.first_commit + self.number, tables))
