"""What an index of ten million vectors costs to build, in time and memory, and how fast and well it answers then.

    python benchmarks/index_scale.py --data-dir DIR --work DIR [--items 10000000] [--dim 512]

DIR holds Parquet files with the columns image (encoded bytes) and captions. The vectors are those of `index_peers.py`,
turned by one isometry into DIM dimensions and given a little noise there, so that all dimensions are used. They are
written as a library, which gets its index as `xsearch index` makes it: trained, filled, calibrated, in a process of
its own whose memory is told. Then captions and pictures that no vector was made of ask, one a call. At last a tenth
is added to the library, and to the index.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from index_peers import QUERIES, enlarged, real_vectors
from report import report

from xsearch.encoders import get_encoder
from xsearch.index.exact import search_exact
from xsearch.index.plan import SearchSettings
from xsearch.index.search import search
from xsearch.index_file import keep_index, open_index
from xsearch.library import Library, LibraryWriter
from xsearch.types import Embeddings, EncoderSpec, Fingerprint, Item, Kind, Modality, item_id
from xsearch.vectors import l2_normalize

K, GROWTH = 10, 0.1
NOISE = 0.1


class Turned:
    """The built-in encoder's texts in another number of dimensions: all that building an index asks of an encoder."""

    batch_size = 1

    def __init__(self, dim: int) -> None:
        self._builtin = get_encoder()
        self.spec = EncoderSpec("made up", Fingerprint("made up", "0", "", "", "float", dim), 1, 1, 1.0)
        gaussian = np.random.default_rng(1).standard_normal((dim, self._builtin.spec.dim))
        self._isometry = np.linalg.qr(gaussian)[0].T.astype(np.float32)

    def turn(self, vectors: Embeddings) -> Embeddings:
        return l2_normalize(vectors @ self._isometry)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return self.turn(self._builtin.encode_texts(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="takes two bytes a dimension of each item, and more")
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder: Path = options.work / f"{options.items}x{options.dim}"
    if options.step is not None:
        print(json.dumps(STEPS[options.step](options, folder, Turned(options.dim))))
        return
    real_vectors(options.data_dir, options.work)
    found = {}
    for step in STEPS:
        done = options.work / f"{folder.name}.{step}.json"
        if not done.exists():
            script = [sys.executable, __file__, *sys.argv[1:], "--step", step]
            done.write_text(subprocess.run(script, stdout=subprocess.PIPE, check=True, text=True).stdout, "utf-8")
        found[step] = json.loads(done.read_text("utf-8"))
    answers = found["ask"].pop("rows")
    report("index_scale", answers, items=options.items, dim=options.dim, **found)


def write(options: argparse.Namespace, folder: Path, encoder: Turned) -> dict[str, Any]:
    spent = Spent()
    _add(options, folder, encoder, options.items, seed=0)
    return {"library_gb": _bytes(folder) / 1e9} | spent.told()


def build(options: argparse.Namespace, folder: Path, encoder: Turned) -> dict[str, Any]:
    """Train, fill and calibrate the index as an index run does."""
    spent = Spent()
    stages = []
    with LibraryWriter(folder) as writer:
        keep_index(writer, encoder, on_stage=stages.append)
        entry = writer.manifest.index
    details = dict(entry.details) | {"file_bytes": entry.bytes, "stages": stages}
    return {"index": details, "bytes_a_vector": entry.bytes / entry.rows} | spent.told()


def ask(options: argparse.Namespace, folder: Path, encoder: Turned) -> dict[str, Any]:
    """Ask one query a call on one thread; the first of a fresh process is told apart."""
    import faiss

    faiss.omp_set_num_threads(1)
    vectors = real_vectors(options.data_dir, options.work)
    start_s = time.perf_counter()
    library = Library.open(folder)
    index = open_index(library)
    opened_s = time.perf_counter() - start_s
    rows, first_ms = [], None
    for modality in Modality:
        said = library.manifest.index.details["settings"][modality.value]
        settings = SearchSettings(said["nprobe"], said["depth"])
        queries = encoder.turn(vectors[modality.value][:QUERIES])
        times_s, found = [], []
        for _ in range(2):  # the first time lists and rows come from the disk
            times_s, found = [], []
            for query in queries:
                start_s = time.perf_counter()
                found.append(search(library.vectors, index, query[None], K, settings=settings).rows[0])
                times_s.append(time.perf_counter() - start_s)
            first_ms = first_ms or 1000 * times_s[0]
        true = search_exact(library.vectors, queries, K).rows
        recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))
        rows.append(
            {
                "queries": modality.value,
                "recall": recall,
                "said at least": said["recall_low"],
                "nprobe": said["nprobe"],
                "depth": said["depth"],
                "p50_ms": 1000 * float(np.median(times_s)),
                "p95_ms": 1000 * float(np.quantile(times_s, 0.95)),
                "qps": len(times_s) / sum(times_s),
            }
        )
    return {"rows": rows, "open_ms": 1000 * opened_s, "first_query_ms": first_ms}


def grow(options: argparse.Namespace, folder: Path, encoder: Turned) -> dict[str, Any]:
    """Add a tenth to the library, and to a copy of the index in memory: what an index run does once that pays."""
    _add(options, folder, encoder, int(GROWTH * options.items), seed=1)
    spent = Spent()
    library = Library.open(folder)
    index = open_index(library, writable=True)
    start_s = time.perf_counter()
    index.add(library.vectors, allowed=library.alive)
    added = len(library) - library.manifest.index.rows
    return {"added": added, "rows_a_second": added / (time.perf_counter() - start_s)} | spent.told()


STEPS = {"write": write, "build": build, "ask": ask, "grow": grow}


def _add(options: argparse.Namespace, folder: Path, encoder: Turned, n: int, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = real_vectors(options.data_dir, options.work)["pictures"]
    scale = np.float32(NOISE / options.dim**0.5)
    with LibraryWriter(folder, encoder.spec) as writer:
        first = writer.manifest.rows
        for block in enlarged(pictures, n, rng):
            noise = scale * rng.standard_normal((len(block), options.dim), np.float32)
            writer.add(made_up_items(first, len(block)), l2_normalize(encoder.turn(block) + noise))
            first += len(block)


def made_up_items(first: int, n: int) -> list[Item]:
    """Return n pictures of no file, told apart by numbers from `first` on."""
    names = [str(first + i) for i in range(n)]
    return [Item(item_id(Path(name)), Kind.IMAGE, "/", name, 0, 0, name) for name in names]


class Spent(Thread):
    """Time, CPU time and memory of this process from now on. Pages of mapped files are told apart: they can be let go
    of at any moment, so they fill what memory there is.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._start_s, self._most_kb = time.perf_counter(), 0
        self.start()

    def run(self) -> None:
        while True:
            self._look()
            time.sleep(0.1)

    def _look(self) -> None:
        self._most_kb = max(self._most_kb, status_kb("RssAnon"))

    def told(self) -> dict[str, float]:
        self._look()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "wall_s": time.perf_counter() - self._start_s,
            "cpu_s": used.ru_utime + used.ru_stime,
            "peak_mb": self._most_kb / 1024,
            "peak_with_mapped_mb": status_kb("VmHWM") / 1024,
        }


def status_kb(name: str) -> int:
    return int(Path("/proc/self/status").read_text("ascii").partition(f"{name}:")[2].split()[0])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
