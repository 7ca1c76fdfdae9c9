"""What `xsearch serve --ray` costs a search: one process against 1, 2 and 4 parts on this machine, in turn.

    python benchmarks/ray_serve.py [--items 100000] [--dim 384]

Made-up pictures around 1,000 subjects, behind an index; other vectors around the same subjects ask, one at a time and
32 in a batch, without a filter and with one that leaves every other picture. All parts run on the cores of this
machine, so nothing here gets faster by being shared out: it shows what a search pays for the way to the parts and back.
Every answer is compared with that of one process, bit for bit. Times are of the clock, but for `cpu_ms`, of the process
that asks.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from report import report

from xsearch.distributed.serving import Parts, serving
from xsearch.encoders import Patches, Words
from xsearch.index.exact import Found
from xsearch.index.plan import IndexKind
from xsearch.index_file import keep_index
from xsearch.library import LibraryWriter
from xsearch.searcher import Searcher
from xsearch.types import Embeddings, EncoderSpec, Fingerprint, Item, Kind, Modality, RGBImage, item_id
from xsearch.vectors import l2_normalize

PARTS = (1, 2, 4)
K, SUBJECTS, COMMIT_ROWS = 10, 1_000, 125_000
BATCHES, ROUNDS, ASKED = (1, 32), 5, 40


class MadeUp:
    """An encoder that draws a vector around the subject that a text is about, at random."""

    def __init__(self, dim: int) -> None:
        self.spec = EncoderSpec("made up", Fingerprint("made up", "0", "", "", "float", dim), 1, 1, 1.0)
        self._spectrum = np.arange(1, dim + 1) ** -0.5
        self._centres = l2_normalize(np.random.default_rng(0).standard_normal((SUBJECTS, dim)) * self._spectrum)

    def vectors(self, n: int, seed: int) -> Embeddings:
        rng = np.random.default_rng(seed)
        noise = l2_normalize(rng.standard_normal((n, self.spec.dim)) * self._spectrum)
        return l2_normalize(self._centres[rng.integers(SUBJECTS, size=n)] + 0.8 * noise)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return self.vectors(len(texts), seed=len(texts))

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        raise NotImplementedError

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches:
        raise NotImplementedError

    def encode_words(self, texts: Sequence[str]) -> list[Words]:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    encoder = MadeUp(options.dim)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        data = Path(name)
        _write(data, options.items, encoder)
        ray.init("local", num_cpus=sum(PARTS), include_dashboard=False, log_to_driver=False)
        stack.callback(ray.shutdown)
        shared: list[Parts | None] = [None]
        for parts in PARTS:
            served = serving(data, f"benchmark-{parts}", address=None, parts=parts, replicas=1)
            shared.append(stack.enter_context(served))
        searchers = [Searcher(data, encoder=encoder, searching=one and one.searching) for one in shared]
        entry = searchers[0].library.manifest.index
        assert entry is not None
        rows = [
            row
            for filtered in (False, True)
            for batch in BATCHES
            for row in _measured(dict(zip((0, *PARTS), searchers, strict=True)), encoder, batch, filtered)
        ]
        settings = entry.details["settings"][Modality.TEXT]
    report(
        f"ray_serve_{options.items}",
        rows,
        items=options.items,
        dim=options.dim,
        k=K,
        nlist=entry.details["nlist"],
        nprobe=settings["nprobe"],
        depth=settings["depth"],
        load=os.getloadavg()[0],
    )


def _write(data: Path, n: int, encoder: MadeUp) -> None:
    with LibraryWriter(data, encoder.spec) as writer:
        for first in range(0, n, COMMIT_ROWS):
            count = min(COMMIT_ROWS, n - first)
            items = [
                Item(item_id(Path(f"/photos/{row}")), Kind.IMAGE, "/photos", str(row), 1, 1, f"{row:032x}")
                for row in range(first, first + count)
            ]
            writer.add(items, encoder.vectors(count, seed=first))
        keep_index(writer, encoder, kind=IndexKind.IVFPQ)


def _measured(searchers: dict[int, Searcher], encoder: MadeUp, batch: int, filtered: bool) -> list[dict[str, Any]]:
    """Return a row for one process (0 parts) and for each number of parts, asked in turn, round by round."""
    library = searchers[0].library
    allowed = np.arange(len(library)) % 2 == 0 if filtered else None
    queries = np.split(encoder.vectors(batch * ASKED, seed=10**9 + batch), ASKED)
    expected = [_search(searchers[0], one, allowed)() for one in queries]
    took_ms: dict[int, list[float]] = {parts: [] for parts in searchers}
    cpu_ms: dict[int, list[float]] = {parts: [] for parts in searchers}
    for _ in range(ROUNDS):
        for parts, searcher in searchers.items():
            for query, right in zip(queries, expected, strict=True):
                ask = _search(searcher, query, allowed)
                start_s, start_cpu_s = time.perf_counter(), time.process_time()
                found = ask()
                took_ms[parts].append(1000 * (time.perf_counter() - start_s))
                cpu_ms[parts].append(1000 * (time.process_time() - start_cpu_s))
                np.testing.assert_array_equal(found.rows, right.rows)
                np.testing.assert_array_equal(found.scores, right.scores)
    return [
        {
            "filter": "every other" if filtered else "none",
            "batch": batch,
            "parts": parts or "one process",
            "p50_ms": median(times_ms),
            "p95_ms": float(np.quantile(times_ms, 0.95)),
            "cpu_ms": median(cpu_ms[parts]),
            "queries_per_s": 1000 * batch * len(times_ms) / sum(times_ms),
        }
        for parts, times_ms in took_ms.items()
    ]


def _search(searcher: Searcher, queries: Embeddings, allowed: NDArray[np.bool_] | None) -> Callable[[], Found]:
    return lambda: searcher.search(queries, Modality.TEXT, k=K, allowed=allowed)


if __name__ == "__main__":
    main()
