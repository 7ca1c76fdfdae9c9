"""Requests a second of `xsearch serve` and how long they take, batched and one by one; memory; reloads under load.

    python benchmarks/serve.py [--items 10000 1000000] [--seconds 10] [--memory-requests 50000]

Text queries, all different, come over HTTP from 1, 8 and 32 clients, each of which waits for its answer before it asks
again. The encoder is the built-in one; the libraries are of made-up pictures that lie around the vectors of real texts.
"one by one" is the same server with batches of one. The clients are a process of their own on the same machine, so they
take from the cores what a request costs them. Then, on the first library: memory of the server over many requests, and
32 clients who ask on while a writer commits.
"""

import argparse
import asyncio
import itertools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
from report import report

from xsearch.encoders import Encoder, get_encoder
from xsearch.index_file import keep_index
from xsearch.library import LibraryWriter
from xsearch.probes import probe_texts
from xsearch.types import Embeddings, Item, Kind, item_id
from xsearch.vectors import l2_normalize

K = 20
CLIENTS = (1, 8, 32)
SUBJECTS = 1_000
SHIFT, JITTER = 0.8, 0.9
"""Of pictures from the texts that they show, all in one direction, and each in its own."""

COMMITS, COMMIT_ITEMS, COMMIT_ROWS = 10, 100, 125_000
WARM_UP_S = 2.0

SERVER = """
import os; os.environ["OPENBLAS_NUM_THREADS"] = "1"
import xsearch.serve.engine as engine; engine.MAX_BATCH = {batch}
from xsearch.cli import main; main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--memory-requests", type=int, default=50_000)
    options = parser.parse_args()
    encoder = get_encoder()
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for n in options.items:
            data = Path(name, str(n))
            _write(data, n, encoder)
            for mode, batch, clients in [("batched", 64, CLIENTS), ("one by one", 1, CLIENTS[-1:])]:
                with _serving(data, batch) as port:
                    asyncio.run(_ask(port, CLIENTS[-1], seconds=WARM_UP_S))
                    measured = [_measured(port, n_clients, options.seconds) for n_clients in clients]
                rows += [{"items": n, "mode": mode} | one for one in measured]
        data = Path(name, str(options.items[0]))
        with _serving(data, 64) as port:
            facts["memory_mb"] = dict(_memory(port, options.memory_requests))
            facts["reload"] = _reloaded(port, data, encoder)
    report("serve", rows, k=K, seconds=options.seconds, **facts)


def _write(data: Path, n: int, encoder: Encoder) -> None:
    with LibraryWriter(data, encoder.spec) as writer:
        for first in range(0, n, COMMIT_ROWS):
            _add(writer, first, min(COMMIT_ROWS, n - first), encoder)
        keep_index(writer, encoder)


def _add(writer: LibraryWriter, first: int, n: int, encoder: Encoder) -> None:
    rng = np.random.default_rng(first)
    items = [
        Item(
            id=item_id(Path("/photos", f"{number // 1000}/IMG_{number:07d}.jpg")),
            kind=Kind.IMAGE,
            root="/photos",
            path=f"{number // 1000}/IMG_{number:07d}.jpg",
            bytes=4_000_000,
            mtime_ns=10**18 + number,
            content_hash=f"{number:032x}",
            width=4000,
            height=3000,
        )
        for number in range(first, first + n)
    ]
    subjects = _subjects(encoder)
    noise = l2_normalize(rng.standard_normal((n, encoder.spec.dim), np.float32))
    shift = l2_normalize(np.random.default_rng(0).standard_normal((1, encoder.spec.dim)))
    writer.add(items, l2_normalize(subjects[rng.integers(SUBJECTS, size=n)] + SHIFT * shift + JITTER * noise))


def _subjects(encoder: Encoder) -> Embeddings:
    if encoder not in _encoded:
        _encoded[encoder] = encoder.encode_texts(probe_texts(SUBJECTS))
    return _encoded[encoder]


_encoded: dict[Encoder, Embeddings] = {}


@contextmanager
def _serving(data: Path, batch: int) -> Iterator[int]:
    """Run a server of its own and yield its port."""
    command = [sys.executable, "-u", "-c", SERVER.format(batch=batch), "serve", "--data", str(data), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)/", process.stdout.readline())
            if found is None:
                raise RuntimeError("the server did not start")
            yield int(found[1])
        finally:
            process.terminate()


def _measured(port: int, n_clients: int, seconds: float) -> dict[str, Any]:
    before = _counters(port)
    start_s = time.perf_counter()
    took_s, failed = asyncio.run(_ask(port, n_clients, seconds=seconds))
    elapsed_s = time.perf_counter() - start_s
    after = _counters(port)

    def spent(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    p50, p95, p99 = (1000 * float(np.quantile(took_s, q)) for q in (0.5, 0.95, 0.99))
    return {
        "clients": n_clients,
        "requests_per_s": len(took_s) / elapsed_s,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "failed": failed,
        "queries_a_batch": spent("xsearch_batch_queries_sum") / spent("xsearch_batch_queries_count"),
        "encode_share": spent('xsearch_stage_seconds_total{stage="encode"}') / elapsed_s,
        "search_share": spent('xsearch_stage_seconds_total{stage="search"}') / elapsed_s,
    }


async def _ask(
    port: int, n_clients: int, *, seconds: float | None = None, requests: int | None = None
) -> tuple[list[float], int]:
    """Ask for so long, or so often; return how long each answer took, and how many were none."""
    queries = _queries()
    took_s: list[float] = []
    failed = 0
    end_s = time.perf_counter() + (seconds if seconds is not None else 3600)

    async def client() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end_s and (requests is None or len(took_s) + failed < requests):
            start_s = time.perf_counter()
            writer.write(
                f"GET /api/v1/search?k={K}&q={quote(next(queries))} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            if head.startswith(b"HTTP/1.1 200 "):
                took_s.append(time.perf_counter() - start_s)
            else:
                failed += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(n_clients)))
    return took_s, failed


def _queries() -> Iterator[str]:
    texts = probe_texts(SUBJECTS)
    return (f"{text} number {number}" for number in itertools.count() for text in texts)


def _counters(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if not name.startswith("#")
    }


def _memory(port: int, requests: int) -> Iterator[tuple[int, float]]:
    """Yield the memory of the server, in MB, after so many requests."""
    parts = 5
    for part in range(parts + 1):
        yield part * requests // parts, _counters(port)["process_resident_memory_bytes"] / 1e6
        if part < parts:
            asyncio.run(_ask(port, CLIENTS[-1], requests=requests // parts))


def _reloaded(port: int, data: Path, encoder: Encoder) -> dict[str, Any]:
    """Commit while clients ask; return how often the server reloaded, and what became of the requests."""

    def commit() -> None:
        for number in range(COMMITS):
            with LibraryWriter(data, encoder.spec) as writer:
                _add(writer, 10**8 + number * COMMIT_ITEMS, COMMIT_ITEMS, encoder)
            time.sleep(1)

    async def both() -> tuple[list[float], int]:
        asking = asyncio.create_task(_ask(port, CLIENTS[-1], seconds=2.0 * COMMITS))
        await asyncio.to_thread(commit)
        return await asking

    before = _counters(port)
    took_s, failed = asyncio.run(both())
    after = _counters(port)
    return {
        "commits": COMMITS,
        "reloads": int(after["xsearch_reloads_total"] - before["xsearch_reloads_total"]),
        "requests": len(took_s) + failed,
        "failed": failed,
        "p99_ms": 1000 * float(np.quantile(took_s, 0.99)),
    }


if __name__ == "__main__":
    main()
