"""An index run by many machines: pieces go to workers, shards come back, one commit makes them the library.

A piece is done until one worker has reported it, and then never again: what a lost worker left behind is named by no
report, so by no manifest, and the next writer sweeps it. Rows come in the order of the pieces, whoever did them when.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from xsearch.distributed.cluster import Workers, joined, room_for_workers
from xsearch.distributed.pieces import cut
from xsearch.distributed.worker import Job, Report, ShardStore, SharedFolder, Worker
from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import ClusterError, XSearchError
from xsearch.library import Library, LibraryWriter
from xsearch.pipeline import Progress, Stage, Tally, copied
from xsearch.reading import Reading
from xsearch.survey import RunPlan

MAX_ATTEMPTS = 3
"""A piece whose workers were lost so often is the reason for it."""
WORKER_STARTS = 3
"""A worker that cannot even be started so often in a row never will be."""


@dataclass(frozen=True, slots=True)
class OnRay:
    """Does what a plan says on the Ray cluster at `address`, or one started here, as `indexer.TakeIn` asks.

    `store` is where the workers put their shards, the library's own folder unless another is named; `open_encoder` is
    how they open the encoder, by its name unless otherwise said.
    """

    address: str | None = None
    store: ShardStore | None = None
    open_encoder: Callable[[], Encoder] | None = None

    def __call__(
        self,
        plan: RunPlan,
        reading: Reading,
        *,
        writer: LibraryWriter,
        library: Library,
        encoder: Encoder,
        on_progress: Callable[[Progress], None],
    ) -> Tally:
        """Do it, and commit once; on Ctrl-C commit what is done. Raises ClusterError and EncoderMismatch."""
        store = self.store or SharedFolder(writer.folder.absolute())
        reports: dict[int, Report] = {}
        again = 0
        try:
            if plan.files or plan.captions or plan.containers:  # else there is nothing to start machines for
                with joined(self.address) as ray:
                    workers = room_for_workers(ray)
                    pieces = cut(plan, workers.count)
                    job = Job(
                        spec=encoder.spec,
                        open_encoder=self.open_encoder or partial(get_encoder, encoder.spec.name),
                        reading=reading,
                        store=store,
                        first_commit=writer.manifest.commit + 1,
                        threads=workers.cpus,
                    )
                    run = _Run(ray, workers, job, pieces)
                    for number, report in run.reports():
                        reports[number] = report
                        on_progress(_progress(plan, pieces, reports))
                    again = run.done_again
        except KeyboardInterrupt:
            _commit(reports, (), store, writer, library)
            raise
        _commit(reports, [row for state in plan.vanished for row in state.rows], store, writer, library)
        tally = Tally(unchanged=plan.unchanged)
        for _, report in sorted(reports.items()):
            tally.add(report.tally)
        tally.let_go(plan.vanished)
        if again:
            tally.notes.append(f"workers were lost on the way: {again} of {len(reports)} pieces were done again")
        return tally


def _commit(
    reports: dict[int, Report], bury: Sequence[int], store: ShardStore, writer: LibraryWriter, library: Library
) -> None:
    in_order = [report for _, report in sorted(reports.items())]
    shards = [shard for report in in_order for shard in report.shards]
    for shard in shards:
        store.fetch(shard, writer.folder)
    items, vectors, replaced = copied(library, [twin for report in in_order for twin in report.copies])
    buried = [row for report in in_order for row in report.bury]
    writer.adopt(shards, items, vectors, bury=[*buried, *replaced, *bury])


def _progress(plan: RunPlan, pieces: Sequence[RunPlan], reports: dict[int, Report]) -> Progress:
    done = sum(len(pieces[number].files) + len(pieces[number].captions) for number in reports)
    done += sum(report.tally.samples for report in reports.values())
    waited_s = {stage: sum(report.waited_s[stage] for report in reports.values()) for stage in Stage}
    bound_by = max(Stage, key=lambda stage: waited_s[stage])
    return Progress(done, max(done, len(plan.files) + len(plan.captions)), bound_by)


@dataclass(slots=True)
class _Run:
    """Hands pieces to workers. Where one is lost, its piece goes to another, and it is replaced."""

    ray: ModuleType
    workers: Workers
    job: Job
    pieces: Sequence[RunPlan]
    _make: Callable[[], Any] = field(init=False)
    _waiting: deque[int] = field(default_factory=deque)
    _attempts: dict[int, int] = field(default_factory=dict)
    _idle: list[Any] = field(default_factory=list)
    _opening: dict[Any, Any] = field(default_factory=dict)
    _busy: dict[Any, tuple[Any, int]] = field(default_factory=dict)
    _failed_starts: int = 0

    @property
    def done_again(self) -> int:
        """Pieces that more than one worker was given."""
        return sum(1 for attempts in self._attempts.values() if attempts > 1)

    def reports(self) -> Iterator[tuple[int, Report]]:
        """Yield the report of each piece once, as they come, with the number of the piece."""
        self._waiting.extend(range(len(self.pieces)))
        remote = self.ray.remote(num_cpus=self.workers.cpus, num_gpus=self.workers.gpus, max_restarts=0)(Worker)
        self._make = partial(remote.remote, self.ray.put(self.job))
        try:
            for _ in range(min(self.workers.count, len(self.pieces))):
                self._start()
            while self._waiting or self._busy:
                while self._waiting and self._idle:
                    self._hand_out()
                (done,), _ = self.ray.wait([*self._opening, *self._busy], num_returns=1)
                if done in self._opening:
                    self._opened(done)
                elif (report := self._reported(done)) is not None:
                    yield report
        finally:
            for worker in (*self._idle, *self._opening.values(), *(worker for worker, _ in self._busy.values())):
                self.ray.kill(worker)

    def _start(self) -> None:
        # It gets no piece before its encoder is open: where no node has room for it, none waits for it.
        worker = self._make()
        self._opening[worker.open.remote()] = worker

    def _opened(self, done: Any) -> None:
        worker = self._opening.pop(done)
        try:
            self.ray.get(done)
        except self.ray.exceptions.RayActorError as error:
            self._failed_starts += 1
            if self._failed_starts > WORKER_STARTS * self.workers.count:
                raise ClusterError(f"the workers of the cluster die as they start ({_line(error)})") from error
            self._start()
        except self.ray.exceptions.RayTaskError as error:
            raise _said(error) from error
        else:
            self._failed_starts = 0
            self._idle.append(worker)

    def _hand_out(self) -> None:
        worker, number = self._idle.pop(), self._waiting.popleft()
        self._attempts[number] = self._attempts.get(number, 0) + 1
        self._busy[worker.do.remote(number, self.pieces[number])] = worker, number

    def _reported(self, done: Any) -> tuple[int, Report] | None:
        worker, number = self._busy.pop(done)
        try:
            report = self.ray.get(done)
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.ObjectLostError) as error:
            if self._attempts[number] == MAX_ATTEMPTS:
                raise ClusterError(
                    f"{_named(self.pieces[number])} cost {MAX_ATTEMPTS} workers their lives ({_line(error)})",
                    remedy="leave it out, or look at the logs of Ray on the nodes",
                ) from error
            self.ray.kill(worker)  # of a report that was lost on its way it may be alive
            self._waiting.appendleft(number)
            self._start()
            return None
        except self.ray.exceptions.RayTaskError as error:
            raise _said(error) from error
        self._idle.append(worker)
        return number, report


def _said(error: Any) -> XSearchError:
    """Return what a worker raised as an error of ours."""
    cause = error.cause
    return cause if isinstance(cause, XSearchError) else ClusterError(f"a worker failed: {_line(cause)}")


def _line(error: BaseException) -> str:
    """Return what an error says in its last line: Ray puts a traceback before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__


def _named(piece: RunPlan) -> str:
    names: list[Path | str] = [work.file.file for work in piece.files]
    names += [caption.file for caption in piece.captions] + [container.source.name for container in piece.containers]
    return str(names[0]) if len(names) == 1 else f"one of {len(names):,} files from {names[0]} to {names[-1]}"
