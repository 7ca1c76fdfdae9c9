"""Answers from the last commit of a library: opened anew beside the old one when there is a newer, asked in batches."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar, cast

import numpy as np

from xsearch.encoders import Encoder
from xsearch.library import Manifest
from xsearch.library.manifest import MANIFEST
from xsearch.moments import Group
from xsearch.query import Query
from xsearch.ranking.fusion import Fusion
from xsearch.searcher import Hits, Rerank, Searcher, Searching
from xsearch.serve.facets import facets
from xsearch.serve.guard import Limits
from xsearch.serve.metrics import Metrics
from xsearch.serve.models import Facets, Refused
from xsearch.types import Item

LOOK_S = 0.25
"""The manifest is looked at this often."""

AGAIN_S = 10.0
"""What could not be opened is tried again so much later."""

MAX_BATCH = 64
THREADS = min(8, os.cpu_count() or 1)

_log = logging.getLogger("xsearch.serve")

_Waiting: TypeAlias = "tuple[Query | None, asyncio.Future[Hits]]"
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Options:
    """How queries are answered, as by `Searcher.query`. Those with equal options are answered together.

    `named` are the items among the terms of the query: none of them is found by the queries of one batch.
    """

    k: int
    kind: str = "any"
    group: Group = Group.MOMENT
    where: str | None = None
    fusion: Fusion = Fusion.LATE
    rerank: Rerank | None = None
    more_like: tuple[str, ...] = ()
    less_like: tuple[str, ...] = ()
    words: bool = True
    named: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether `Searcher.query_batch` takes them."""
        return not (self.rerank or self.more_like or self.less_like)

    def answers(self, searcher: Searcher, queries: Sequence[Query | None]) -> list[Hits]:
        """Return the answer to each query. Raises as `Searcher.query` does, then for all together."""
        asked = [query for query in queries if query is not None]
        if self.is_plain and len(asked) == len(queries):
            return searcher.query_batch(
                asked,
                k=self.k,
                kind=self.kind,
                group=self.group,
                where=self.where,
                fusion=self.fusion,
                words=self.words,
            )
        return [
            searcher.query(
                query,
                k=self.k,
                kind=self.kind,
                group=self.group,
                where=self.where,
                fusion=self.fusion,
                rerank=self.rerank,
                more_like=self.more_like,
                less_like=self.less_like,
                words=self.words,
            )
            for query in queries
        ]


class Opened:
    """One commit of the library, ready to answer."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.library = searcher.library
        self.commit = searcher.library.manifest.commit
        self.counts = searcher.library.counts()

    def item(self, item_id: str) -> Item:
        """Return a living item by its id. Raises Refused (404)."""
        row = self.library.row_of(item_id)
        if row is None:
            raise Refused(404, f"the library has no item {item_id}", remedy="take the item_id of a hit")
        return self.library.items(np.array([row]))[0]

    @cached_property
    def facets(self) -> Facets:
        return facets(self.library)


class Engine:
    """Holds the current commit; of a new one that cannot be opened, `problem` says why, and the old one goes on."""

    def __init__(
        self,
        data: Path,
        *,
        model: str | None,
        encoder: Encoder | None,
        limits: Limits,
        metrics: Metrics,
        searching: "Searching | None" = None,
    ) -> None:
        """Open the library. `searching` is as for `Searcher`, which says what is raised."""
        self.data = data
        self.problem: str | None = None
        self._model = model
        self._search_of = searching
        self._limits = limits
        self._metrics = metrics
        self._searching = ThreadPoolExecutor(THREADS, "search")
        self._others = ThreadPoolExecutor(THREADS, "original")
        self._waiting: dict[Options, list[_Waiting]] = {}
        self._answering: dict[Options, set[asyncio.Task[None]]] = {}
        self._signature = self._looked()
        self.current = self._opened(encoder)
        metrics.opened(self.current.commit, self.current.counts)

    async def search(self, query: Query | None, options: Options) -> Hits:
        """Return the answer to a query, found together with all others of the same options that wait by then.

        Raises as `Searcher.query` does, and Refused (503) if too many wait or it takes too long.
        """
        if sum(map(len, self._waiting.values())) >= self._limits.waiting:
            raise Refused(503, "too many queries wait for an answer", remedy="ask again in a second")
        answer: asyncio.Future[Hits] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(options, []).append((query, answer))
        at_work = self._answering.setdefault(options, set())
        if len(at_work) < THREADS:
            at_work.add(asyncio.create_task(self._answer(options)))
        return await self._in_time(answer)

    async def run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call a function in a thread. Raises what it raises, and Refused (503) if it takes too long."""
        call = partial(function, *args, **kwargs)
        return await self._in_time(asyncio.get_running_loop().run_in_executor(self._others, call))

    async def follow(self) -> None:
        """Warm up, then open each new commit as it comes, until cancelled."""
        with suppress(Exception):  # the first query will tell
            await self._in_thread(_warm, self.current)
        again_s = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            signature = await self._in_thread(self._looked)
            if signature == self._signature and not (self.problem and time.monotonic() > again_s):
                continue
            self._signature, again_s = signature, time.monotonic() + AGAIN_S
            try:
                opened = await self._in_thread(self._opened, self.current.searcher.encoder)
                await self._in_thread(_warm, opened)
            except Exception as error:  # whatever it is, the commit that is open goes on answering
                self.problem = str(error)
                self._metrics.failed_reloads.inc()
            else:
                self.current, self.problem = opened, None
                self._metrics.reloads.inc()
                self._metrics.opened(opened.commit, opened.counts)

    async def _answer(self, options: Options) -> None:
        """Answer queries of these options, as many at once as wait, until none does."""
        try:
            while waiting := self._waiting.pop(options, None):
                if later := waiting[MAX_BATCH:]:
                    self._waiting[options] = later
                # Who asked may have left, or waited too long.
                if batch := [one for one in waiting[:MAX_BATCH] if not one[1].done()]:
                    await self._answer_batch(options, batch)
        finally:
            # Here, not when the task is done: what comes between would wait for it in vain.
            at_work = self._answering[options]
            at_work.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            if not at_work:
                del self._answering[options]

    async def _answer_batch(self, options: Options, batch: Sequence[_Waiting]) -> None:
        queries = [query for query, _ in batch]
        found = await asyncio.get_running_loop().run_in_executor(
            self._searching, self._found, self.current.searcher, options, queries
        )
        for (_, answer), one in zip(batch, found, strict=True):
            if answer.done():
                continue
            if isinstance(one, Hits):
                answer.set_result(one)
            else:
                answer.set_exception(one)

    def _found(
        self, searcher: Searcher, options: Options, queries: Sequence[Query | None]
    ) -> Sequence[Hits | Exception]:
        if len(queries) != 1 and not options.is_plain:
            return [one for query in queries for one in self._found(searcher, options, [query])]
        try:
            found = options.answers(searcher, queries)
        except Exception as error:
            if len(queries) == 1:
                return [error]
            # One that cannot be answered shall not fail the others.
            return [one for query in queries for one in self._found(searcher, options, [query])]
        self._metrics.batch.observe(len(queries))
        for stage, took_ms in found[0].took_ms.items():
            if stage != "load":
                self._metrics.stage_s.labels(stage).inc(took_ms / 1000)
        return found

    async def _in_time(self, answer: "asyncio.Future[_R]") -> _R:
        try:
            return await asyncio.wait_for(answer, self._limits.time_s)
        except TimeoutError as error:
            raise Refused(
                503, f"that takes longer than {self._limits.time_s:.0f} s", remedy="ask for less at once"
            ) from error

    async def _in_thread(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._others, partial(function, *args, **kwargs))

    def _opened(self, encoder: Encoder | None) -> Opened:
        """Open the last commit, with an encoder that is open already if the library's vectors are of it."""
        if encoder is not None and encoder.spec.fingerprint != Manifest.load(self.data).fingerprint:
            encoder = None
        return Opened(
            Searcher(self.data, model=self._model, encoder=encoder, searching=self._search_of, on_warning=_log.warning)
        )

    def _looked(self) -> tuple[int, ...] | None:
        """Return what changes with every commit, None where there is no manifest."""
        try:
            found = (self.data / MANIFEST).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _warm(opened: Opened) -> None:
    """Load what the first query would wait for: the text tower, the generic texts, samples of the library."""
    opened.searcher.query("a photograph", k=1)
