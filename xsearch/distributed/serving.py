"""Search of a library on the replicas of Ray Serve: each part scans its share of the rows, this process merges.

Importing this module loads Ray. A part scans the inverted lists l with l % parts == part of the same index file, or one
of as many ranges of the rows where there is no index, and any of its replicas can answer for it. Answers are those of
one process, bit for bit:

- what a query is compared with is decided here once: the lists that it leads to, how deep, which rows are allowed;
- a code has the same score wherever its list is scanned (`index.candidates.Routes.within`), and a row too (`Found`);
- which candidates are kept follows from their scores alone (`index.candidates.Candidates.kept`), and equal answers are
  in the order of their rows.

A part whose replica dies or hangs is asked again; an answer is of all parts and of the commit that was asked for, or an
error.
"""

import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from math import ceil
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from xsearch import __version__
from xsearch.distributed.cluster import joined
from xsearch.errors import ClusterError, CommitGone, LibraryDamaged, LibraryNotFound, PartUnavailable, XSearchError
from xsearch.index.candidates import Candidates, Routes, deepened, packed
from xsearch.index.exact import Found, best_of, exact_scores, search_exact
from xsearch.index.plan import SearchSettings
from xsearch.index.search import SELECTIVE_ROWS, RowSearch, search
from xsearch.index_file import open_index
from xsearch.library import Library, Manifest
from xsearch.vectors import VectorTable

if TYPE_CHECKING:
    from xsearch.index.ivfpq import IvfPq

WAIT_S = 20.0
"""A part has so long to answer; the replacement of a dead replica takes a few seconds of it."""

FIRST_SHARE = 0.25
"""Of this time the first replica has so much: one that hangs is given up, and another one asked."""

AGAIN_S = 0.05
START_S = 120.0
HEALTH_S = 1.0
"""Serve looks this often whether replicas live, and replaces one that does not say so in HEALTH_TIMEOUT_S thrice."""
HEALTH_TIMEOUT_S = 5.0

COMMITS = 2
"""A replica keeps so many open: the newest, and the one that is being left."""

MASKS = 8
SCORED_SHARE = 2
"""A part scores so many times its even share of the candidates; what more it turns out to have is scored here."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What every part is told: the commit, the rows that are `allowed` (a mask, `packed`), and who asks (`_build`)."""

    manifest: "ray.ObjectRef[Manifest]"
    allowed: "ray.ObjectRef[NDArray[np.uint8]] | None"
    with_index: bool
    asker: str


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The candidates of a part, and the exact `scores` (q, m) float32 of the first m; NaN where there is none."""

    candidates: Candidates
    scores: NDArray[np.float32]


class Part:
    """One part of a library as a replica holds it: vectors mapped, the index in memory."""

    def __init__(self, folder: Path, part: int, parts: int) -> None:
        self._folder = folder
        self._part = part
        self._parts = parts
        self._commits: dict[str, tuple[Library, IvfPq | None]] = {}
        self._opening = Lock()

    def scan(self, asked: Asked, routes: Routes, queries: NDArray[np.float32], depth: int, scored: int) -> Scored:
        """Return the best `depth` + 1 of its own lists by their codes, the first `scored` with exact scores."""
        library, index = self._opened(asked)
        assert index is not None
        allowed = None if asked.allowed is None else ray.get(asked.allowed)
        candidates = index.scan(routes.within(self._part, self._parts), depth + 1, allowed=allowed)
        scores = np.full((len(queries), scored), np.nan, np.float32)
        for query, rows, of_query in zip(queries, candidates.rows[:, :scored], scores, strict=True):
            known = np.flatnonzero(rows >= 0)
            known = known[np.argsort(rows[known])]  # in file order, for what is not in memory yet
            of_query[known] = exact_scores(query, library.vectors.take(rows[known]))
        return Scored(candidates, scores)

    def exact(self, asked: Asked, queries: NDArray[np.float32], k: int, start: int) -> Found:
        """Return the k best of its own range of the rows from `start` on."""
        library, _ = self._opened(asked)
        behind = len(library) - start
        first, end = (start + behind * at // self._parts for at in (self._part, self._part + 1))
        allowed = None
        if asked.allowed is not None:
            bits = ray.get(asked.allowed)
            allowed = np.unpackbits(bits, count=len(library), bitorder="little").view(np.bool_)
        return search_exact(library.vectors, queries, k, allowed=allowed, start=first, end=end)

    def _opened(self, asked: Asked) -> "tuple[Library, IvfPq | None]":
        """Return the commit that is asked for, of which only the manifest was sent. Raises CommitGone."""
        name = asked.manifest.hex()
        opened = self._commits.get(name)
        if opened is None:
            with self._opening:
                opened = self._commits.get(name)
                if opened is None:
                    opened = self._open(asked)
                    self._commits = dict([*self._commits.items(), (name, opened)][-COMMITS:])
        return opened

    def _open(self, asked: Asked) -> "tuple[Library, IvfPq | None]":
        here = _build(asked.with_index)
        if asked.asker != here:
            raise XSearchError(
                f"{socket.gethostname()} has {here}, and is asked by {asked.asker}",
                remedy="install the same on all machines, which have to be of one kind",
            )
        manifest: Manifest = ray.get(asked.manifest)
        same = [index for library, index in self._commits.values() if library.manifest.index == manifest.index]
        try:
            library = Library(self._folder, manifest)
            if not asked.with_index:
                return library, None
            return library, next((index for index in same if index is not None), None) or open_index(library)
        except (FileNotFoundError, LibraryDamaged) as error:
            raise self._why_not(manifest, error) from error

    def _why_not(self, manifest: Manifest, error: Exception) -> XSearchError:
        with suppress(LibraryNotFound, LibraryDamaged):
            last = Manifest.load(self._folder).commit
            if last != manifest.commit:
                return CommitGone(
                    f"commit {manifest.commit} of {self._folder} is gone, the last is {last}", remedy="ask again"
                )
        return LibraryDamaged(
            f"{socket.gethostname()} cannot open {self._folder}: {error}",
            remedy="mount it there under this path; `xsearch verify` tells what is wrong with it",
        )


class Parts:
    """All parts of a library, to be asked together. May be shared between threads."""

    def __init__(self, handles: Sequence[DeploymentHandle], wait_s: float = WAIT_S) -> None:
        self._handles = handles
        self._wait_s = wait_s
        self._masks: OrderedDict[bytes, ray.ObjectRef[NDArray[np.uint8]]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._handles)

    def searching(self, library: Library, index: "IvfPq | None") -> RowSearch:
        """Return the search of one commit; `index` is its index, of which here only the centroids are read."""
        commit = _Commit(self, library, index)
        lists = None if index is None else _SharedLists(commit, index)
        return partial(search, library.vectors, lists, exactly=commit.exactly)

    def ask(self, method: str, asked: Asked, *arguments: Any) -> list[Any]:
        """Return the answer of each part.

        Raises what a replica raises, and PartUnavailable if none of a part answers in time.
        """
        start_s = time.monotonic()
        send = [partial(getattr(handle, method).remote, asked, *arguments) for handle in self._handles]
        responses = [one() for one in send]  # all of them, before the first is waited for
        return [self._answer(part, responses[part], again, start_s) for part, again in enumerate(send)]

    def _answer(
        self, part: int, response: DeploymentResponse, again: Callable[[], DeploymentResponse], start_s: float
    ) -> Any:
        end_s = start_s + self._wait_s
        until_s = start_s + FIRST_SHARE * self._wait_s
        while True:
            try:
                return response.result(timeout_s=max(0.0, until_s - time.monotonic()))
            except RayTaskError as error:
                if not isinstance(error.cause, RayError):
                    raise error.cause from None
                failure: Exception = error
            except TimeoutError as error:
                failure, until_s = error, end_s
                response.cancel()
            except (RayError, RayServeException) as error:
                failure = error
            if time.monotonic() + AGAIN_S > end_s:
                raise PartUnavailable(
                    f"part {part + 1} of {len(self)} of the library does not answer",
                    remedy="ask again in a few seconds; `ray status` tells which machines are there",
                ) from failure
            time.sleep(AGAIN_S)
            response = again()

    def mask(self, allowed: NDArray[np.bool_]) -> "ray.ObjectRef[NDArray[np.uint8]]":
        """Return where replicas find a mask, which is sent once as long as it is among the last that were asked for."""
        bits = packed(allowed)
        name = blake2b(bits.data, digest_size=16).digest()
        with self._lock:
            ref = self._masks.pop(name, None)
            self._masks[name] = ray.put(bits) if ref is None else ref
            if len(self._masks) > MASKS:
                self._masks.popitem(last=False)
            return self._masks[name]


class _Commit:
    """One commit of a library, asked of all parts."""

    def __init__(self, parts: Parts, library: Library, index: "IvfPq | None") -> None:
        self.parts = parts
        self._with_index = index is not None
        self._manifest = ray.put(library.manifest)
        self._asker = _build(self._with_index)

    def ask(self, method: str, allowed: NDArray[np.bool_] | None, *arguments: Any) -> list[Any]:
        mask = None if allowed is None else self.parts.mask(allowed)
        return self.parts.ask(method, Asked(self._manifest, mask, self._with_index, self._asker), *arguments)

    def exactly(
        self,
        vectors: VectorTable,
        queries: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        start: int = 0,
    ) -> Found:
        """As `search_exact`, each part a range of the rows."""
        matches = len(vectors) - start if allowed is None else np.count_nonzero(allowed[start:])
        if matches <= SELECTIVE_ROWS:
            return search_exact(vectors, queries, k, allowed=allowed, start=start)
        return best_of(self.ask("exact", allowed, queries, k, start))


class _SharedLists:
    """The inverted lists of an index, scanned by the parts that own them: `index.candidates.Lists`."""

    def __init__(self, commit: _Commit, index: "IvfPq") -> None:
        self._commit = commit
        self._index = index

    @property
    def rows(self) -> int:
        return self._index.rows

    @property
    def nlist(self) -> int:
        return self._index.nlist

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        vectors: VectorTable,
        settings: SearchSettings,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        routes = self._index.routes(queries, settings.nprobe, allowed=allowed)

        def scanned(some: NDArray[np.intp], depth: int) -> tuple[Found, NDArray[np.bool_]]:
            scored = min(depth + 1, ceil(SCORED_SHARE * depth / len(self._commit.parts)))
            of_parts = self._commit.ask("scan", allowed, routes.of(some), queries[some], depth, scored)
            return _merged(of_parts, vectors, queries[some], k, depth)

        return deepened(scanned, len(queries), k, settings.depth, self.rows)


def _merged(
    of_parts: Sequence[Scored], vectors: VectorTable, queries: NDArray[np.float32], k: int, depth: int
) -> tuple[Found, NDArray[np.bool_]]:
    """Return the k best of the best `depth` candidates of all parts, and (q,) whether their number was cut."""
    rows, codes = (
        np.concatenate([getattr(one.candidates, name) for one in of_parts], axis=1) for name in ("rows", "scores")
    )
    scores = np.full(rows.shape, np.nan, np.float32)
    for part, one in enumerate(of_parts):
        first = part * (depth + 1)
        scores[:, first : first + one.scores.shape[1]] = one.scores
    best = np.argsort(-codes, axis=1, kind="stable")[:, : depth + 1]
    rows, codes, scores = (np.take_along_axis(of_all, best, axis=1) for of_all in (rows, codes, scores))
    candidates = Candidates(rows, codes)
    found, kept = Found.nothing(len(queries), k), candidates.kept(depth)
    for i, (query, n) in enumerate(zip(queries, kept.tolist(), strict=True)):
        unscored = np.flatnonzero(np.isnan(scores[i, :n]))
        scores[i, unscored] = exact_scores(query, vectors.take(rows[i, unscored]))
        order = np.lexsort((rows[i, :n], -scores[i, :n]))[:k]
        found.rows[i, : len(order)] = rows[i, order]
        found.scores[i, : len(order)] = scores[i, order]
    return found, candidates.is_cut(depth, kept, k)


def _build(with_index: bool) -> str:
    """Return what must be the same here and there for scores to be the same."""
    if not with_index:
        return f"xsearch {__version__}"
    from xsearch.index.live import faiss_build

    return f"xsearch {__version__} with FAISS {faiss_build()}"


@contextmanager
def serving(
    folder: Path, name: str, *, address: str | None, parts: int | None, replicas: int, wait_s: float = WAIT_S
) -> Iterator[Parts]:
    """Have a library searched by `parts` (None: one for each machine, two at least) on `replicas` each, until left.

    `address` is that of a cluster, to which this machine belongs and whose machines see the library under the same
    path; None starts Ray on this machine, unless RAY_ADDRESS says where it is. `name` is what Serve lists the parts by;
    what had it before is replaced. Raises ClusterError where there is no such cluster, or it is too small, and as
    `Manifest.load` does.
    """
    Manifest.load(folder)  # what is not there is told before Ray is started
    log = logging.getLogger("ray.serve")
    log.setLevel(logging.WARNING)
    log.addFilter(_is_for_a_person)
    with joined(address, cpus=(parts or 2) * replicas):
        parts = parts or max(2, sum(node["Alive"] for node in ray.nodes()))
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if parts * replicas > cpus:
            raise ClusterError(
                f"{parts} parts on {replicas} replicas each want {parts * replicas} CPUs, and the cluster has {cpus}",
                remedy="fewer with --parts and --replicas, or add machines: `ray start --address`",
            )
        names = [f"{name}-{part}" for part in range(parts)]
        serve.start(proxy_location="Disabled")
        try:
            _delete(name, but=names)  # of a process that was killed
            yield Parts(_deployed(folder.resolve(), names, replicas), wait_s)
        finally:
            _delete(name)


def _is_for_a_person(record: logging.LogRecord) -> bool:
    """Whether a line of Serve's log is of use: that a busy replica takes a tenth of a second to say so is not."""
    return not record.getMessage().startswith("Failed to get queue length")


def _delete(name: str, *, but: Sequence[str] = ()) -> None:
    """Let go of all parts of this name, but of some."""
    with suppress(RayError, RayServeException):
        for one in serve.status().applications:
            if one.rpartition("-")[0] == name and one not in but:
                serve.delete(one, _blocking=False)


def _deployed(folder: Path, names: Sequence[str], replicas: int) -> list[DeploymentHandle]:
    """Start the replicas of all parts and wait until they are there."""
    deployment = serve.deployment(
        Part,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=HEALTH_S,
        logging_config={"enable_access_log": False},
    )
    targets = [
        serve.RunTarget(deployment.bind(folder, part, len(names)), name, route_prefix=None)
        for part, name in enumerate(names)
    ]
    handles: list[DeploymentHandle] = serve.run_many(targets, wait_for_applications_running=False)
    end_s = time.monotonic() + START_S
    while True:
        of_names = [serve.status().applications[name] for name in names]
        if all(one.status == "RUNNING" for one in of_names):
            return handles
        failed = [one.message for one in of_names if one.status in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed or time.monotonic() > end_s:
            told = (failed or [f"they are not there after {START_S:.0f} s"])[0].strip().splitlines()[-1]
            raise ClusterError(f"the replicas cannot be started: {told}", remedy="see `ray status` and `serve status`")
        time.sleep(AGAIN_S)
