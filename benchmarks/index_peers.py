"""How the index compares with other approximate indexes on the same vectors: recall, speed, memory, build time.

    pip install hnswlib usearch lancedb matplotlib
    python benchmarks/index_peers.py --data-dir DIR --work DIR [--items 1000000]

DIR holds Parquet files with the columns image (encoded bytes) and captions. The vectors of all `train-*` pictures are
enlarged to the number of items: to a picture is added a part of the difference of two others, and a little noise. The
captions and the pictures of `dev-*` ask. Each index is built in a process of its own on one thread, whose CPU seconds
and memory are told. Then all are asked in turn, one query a call, in one process and on one thread each, over several
rounds; so are two threads at once. Of each the cheapest settings that reach the target are in the table, and all that
were tried in the JSON and in the plot.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from report import report

from xsearch.types import Embeddings, Item, Kind, item_id
from xsearch.vectors import l2_normalize

K, TARGET, QUERIES, ROUNDS = 10, 0.95, 500, 3
COMMIT_ROWS = 100_000
PLOT = Path(__file__).parents[1] / "docs" / "images"
COLD = """
import sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from index_peers import ENGINES
from pathlib import Path
engine = ENGINES[sys.argv[2]]
query = np.load(sys.argv[4])[:1]
engine.load()
start_s = time.perf_counter()
engine(Path(sys.argv[3])).search(query, engine.ladder[0])
print(time.perf_counter() - start_s)
"""


class Engine(ABC):
    """An index on disk, opened: `settings` of the `ladder` go from fast to thorough."""

    ladder: tuple[Any, ...]
    files: tuple[str, ...]  # what belongs to the index, below its folder; the vectors themselves apart

    @staticmethod
    @abstractmethod
    def load() -> None:
        """Import what the engine needs, so that opening is timed without it."""

    @staticmethod
    @abstractmethod
    def build(vectors: Path, folder: Path) -> Callable[[], None]:
        """Prepare what does not belong to building, and return what does: `vectors` (n, dim) float32, in .npy."""

    @abstractmethod
    def __init__(self, folder: Path) -> None: ...

    @abstractmethod
    def search(self, query: Embeddings, settings: Any) -> NDArray[np.int64]:
        """Return the rows (k,) found for one query (1, dim)."""


class XSearch(Engine):
    ladder = ((8, 100), (16, 100), (32, 200), (64, 200), (64, 400), (128, 400), (128, 800), (256, 800), (512, 1600))
    files = ("own.faiss",)

    @staticmethod
    def load() -> None:
        import faiss

        import xsearch.index.ivfpq
        import xsearch.index.search  # noqa: F401

        faiss.omp_set_num_threads(1)

    @staticmethod
    def build(vectors: Path, folder: Path) -> Callable[[], None]:
        from xsearch.index.ivfpq import IvfPq
        from xsearch.index.plan import IndexKind, plan_index
        from xsearch.library import Library

        XSearch.load()
        _library(vectors, folder / "library")

        def run() -> None:
            table = Library.open(folder / "library").vectors
            IvfPq.build(table, plan_index(len(table), table.dim, kind=IndexKind.IVFPQ)).save(folder / "own.faiss")

        return run

    def __init__(self, folder: Path) -> None:
        from xsearch.index.ivfpq import IvfPq
        from xsearch.library import Library

        self._vectors = Library.open(folder / "library").vectors
        self._index = IvfPq.open(folder / "own.faiss")

    def search(self, query: Embeddings, settings: Any) -> NDArray[np.int64]:
        from xsearch.index.plan import SearchSettings
        from xsearch.index.search import search

        return search(self._vectors, self._index, query, K, settings=SearchSettings(*settings)).rows[0]


class Exact(XSearch):
    """The scan that xsearch does where there is no index."""

    ladder = ((),)
    files = ()

    @staticmethod
    def build(vectors: Path, folder: Path) -> Callable[[], None]:
        _library(vectors, folder / "library")
        return lambda: None

    def __init__(self, folder: Path) -> None:
        from xsearch.library import Library

        self._vectors = Library.open(folder / "library").vectors

    def search(self, query: Embeddings, settings: Any) -> NDArray[np.int64]:
        from xsearch.index.exact import search_exact

        return search_exact(self._vectors, query, K).rows[0]


class AutoFaiss(Engine):
    """The index that autofaiss 2.18 chooses within the memory that xsearch takes; its first choice, no re-ranking.

    `get_optimal_index_keys_v2(n, 384, memory)`, github.com/criteo/autofaiss, Apache-2.0.
    """

    ladder = (16, 32, 64, 128, 256, 512, 1024)
    files = ("auto.faiss",)
    keys = ((500_000, "OPQ64_448,IVF1024_HNSW32,PQ64x8"), (1 << 62, "OPQ48_336,IVF16384_HNSW32,PQ48x8"))

    @staticmethod
    def load() -> None:
        import faiss

        faiss.omp_set_num_threads(1)

    @staticmethod
    def build(vectors: Path, folder: Path) -> Callable[[], None]:
        import faiss

        AutoFaiss.load()

        def run() -> None:
            base = np.load(vectors, mmap_mode="r")
            key = next(key for most, key in AutoFaiss.keys if len(base) <= most)
            index = faiss.index_factory(base.shape[1], key, faiss.METRIC_INNER_PRODUCT)
            lists = faiss.extract_index_ivf(index).nlist
            rows = np.random.default_rng(0).choice(len(base), min(len(base), max(64 * lists, 16_384)), replace=False)
            index.train(np.asarray(base[np.sort(rows)]))
            for first in range(0, len(base), COMMIT_ROWS):
                index.add(np.asarray(base[first : first + COMMIT_ROWS]))
            faiss.write_index(index, str(folder / "auto.faiss"))

        return run

    def __init__(self, folder: Path) -> None:
        import faiss

        self._index = faiss.read_index(str(folder / "auto.faiss"))

    def search(self, query: Embeddings, settings: Any) -> NDArray[np.int64]:
        import faiss

        lists = faiss.SearchParametersIVF(
            nprobe=settings, quantizer_params=faiss.SearchParametersHNSW(efSearch=2 * settings)
        )
        rows = self._index.search(query, K, params=faiss.SearchParametersPreTransform(index_params=lists))[1]
        return np.asarray(rows[0])


class HnswLib(Engine):
    ladder = (16, 32, 64, 128, 256, 512, 1024)
    files = ("hnswlib.bin",)

    @staticmethod
    def load() -> None:
        import hnswlib  # noqa: F401

    @staticmethod
    def build(vectors: Path, folder: Path) -> Callable[[], None]:
        import hnswlib

        def run() -> None:
            base = np.load(vectors, mmap_mode="r")
            index = hnswlib.Index("ip", base.shape[1])
            index.init_index(len(base), M=16, ef_construction=200, random_seed=0)
            for first in range(0, len(base), COMMIT_ROWS):
                index.add_items(np.asarray(base[first : first + COMMIT_ROWS]), num_threads=1)
            index.save_index(str(folder / "hnswlib.bin"))

        return run

    def __init__(self, folder: Path) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", 384)
        self._index.load_index(str(folder / "hnswlib.bin"))

    def search(self, query: Embeddings, settings: Any) -> NDArray[np.int64]:
        self._index.set_ef(settings)
        return np.asarray(self._index.knn_query(query, K, num_threads=1)[0][0], np.int64)


class USearch(Engine):
    ladder = (16, 32, 64, 128, 256, 512, 1024)
    files = ("usearch.bin",)

    @staticmethod
    def load() -> None:
        import usearch.index  # noqa: F401

    @staticmethod
    def _new() -> Any:
        from usearch.index import Index

        return Index(ndim=384, metric="ip", dtype="f16", connectivity=16, expansion_add=128)

    @staticmethod
    def build(vectors: Path, folder: Path) -> Callable[[], None]:
        index = USearch._new()

        def run() -> None:
            base = np.load(vectors, mmap_mode="r")
            for first in range(0, len(base), COMMIT_ROWS):
                block = np.asarray(base[first : first + COMMIT_ROWS])
                index.add(np.arange(first, first + len(block)), block, threads=1)
            index.save(str(folder / "usearch.bin"))

        return run

    def __init__(self, folder: Path) -> None:
        self._index = USearch._new()
        self._index.load(str(folder / "usearch.bin"))

    def search(self, query: Embeddings, settings: Any) -> NDArray[np.int64]:
        self._index.expansion_search = settings
        return np.asarray(self._index.search(query[0], K, threads=1).keys, np.int64)


class LanceDb(Engine):
    """IVF-PQ with its own re-ranking ("refine") on the vectors that the table holds."""

    ladder = ((8, 10), (16, 10), (32, 20), (64, 20), (128, 40), (256, 40), (256, 80))
    files = ("lance/vectors.lance/_indices",)

    @staticmethod
    def load() -> None:
        os.environ["LANCE_CPU_THREADS"] = "1"
        import lancedb  # noqa: F401

    @staticmethod
    def build(vectors: Path, folder: Path) -> Callable[[], None]:
        import pyarrow as pa

        LanceDb.load()
        import lancedb

        def batches() -> Iterator[Any]:
            base = np.load(vectors, mmap_mode="r")
            for first in range(0, len(base), COMMIT_ROWS):
                block = np.asarray(base[first : first + COMMIT_ROWS])
                values = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
                yield pa.record_batch({"row": np.arange(first, first + len(block)), "vector": values})

        schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), 384))])
        table = lancedb.connect(str(folder / "lance")).create_table("vectors", batches(), schema=schema)
        how = lancedb.index.IvfPq(distance_type="dot", num_sub_vectors=48)
        return lambda: table.create_index("vector", config=how)

    def __init__(self, folder: Path) -> None:
        import lancedb

        self._table = lancedb.connect(str(folder / "lance")).open_table("vectors")

    def search(self, query: Embeddings, settings: Any) -> NDArray[np.int64]:
        nprobes, refine = settings
        asked = self._table.search(query[0]).distance_type("dot").nprobes(nprobes).refine_factor(refine)
        return np.asarray(asked.limit(K).select(["row", "_distance"]).to_arrow()["row"])


ENGINES: dict[str, type[Engine]] = {
    "xsearch": XSearch,
    "faiss as autofaiss": AutoFaiss,
    "hnswlib": HnswLib,
    "usearch": USearch,
    "lancedb": LanceDb,
    "exact scan": Exact,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--step", choices=("build", "measure"), help="one of the two; builds are kept in WORK")
    parser.add_argument("--build", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    place: Path = options.work / str(options.items)
    if options.build is not None:
        _build(options.build, place)
        return
    if not (place / "base.npy").exists():
        _write_vectors(options.data_dir, options.work, place, options.items)
    if options.step != "measure":
        for name in options.only:
            if not (_folder(place, name) / "built.json").exists():
                shutil.rmtree(_folder(place, name), ignore_errors=True)
                script = [sys.executable, __file__, "--work", options.work, "--items", str(options.items)]
                subprocess.run([*script, "--build", name], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if options.step != "build":
        _measure(place, options.only, options.items)


def _folder(place: Path, name: str) -> Path:
    return place / name.replace(" ", "-")


def real_vectors(data_dir: Path, work: Path) -> dict[str, Embeddings]:
    """Return the built-in encoder's vectors of all `train-*` pictures, and of those of `dev-*` with a caption of each.

    They are kept in WORK/real.npz.
    """
    real = work / "real.npz"
    if not real.exists():
        from xsearch.encoders import get_encoder

        encoder = get_encoder()
        captions = [
            texts[i % len(texts)]
            for path in sorted(data_dir.glob("dev-*.parquet"))
            for i, texts in enumerate(pq.read_table(path, columns=["captions"])["captions"].to_pylist())
        ]
        work.mkdir(parents=True, exist_ok=True)
        np.savez(
            real,
            pictures=np.concatenate([_pictures(path, encoder) for path in sorted(data_dir.glob("train-*.parquet"))]),
            image=np.concatenate([_pictures(path, encoder) for path in sorted(data_dir.glob("dev-*.parquet"))]),
            text=encoder.encode_texts(captions),
        )
    with np.load(real) as arrays:
        return dict(arrays)


def enlarged(pictures: Embeddings, n: int, rng: np.random.Generator) -> Iterator[Embeddings]:
    """Yield n vectors in blocks: pictures, then mixtures: one, part of the difference of two others, and noise."""
    for first in range(0, min(n, len(pictures)), COMMIT_ROWS):
        yield pictures[first : min(n, first + COMMIT_ROWS)]
    for first in range(len(pictures), n, COMMIT_ROWS):
        size = min(COMMIT_ROWS, n - first)
        one, two, three = (pictures[rng.integers(len(pictures), size=size)] for _ in range(3))
        share = rng.uniform(0.2, 0.6, (size, 1)).astype(np.float32)
        noise = rng.standard_normal((size, pictures.shape[1]), np.float32) * np.float32(0.2 / pictures.shape[1] ** 0.5)
        yield l2_normalize(one + share * (two - three) + noise)


def _write_vectors(data_dir: Path, work: Path, place: Path, n: int) -> None:
    """Write base.npy (n, 384), text.npy and image.npy (queries, 384), all float32 with unit rows."""
    vectors = real_vectors(data_dir, work)
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("text", "image"):
        np.save(place / f"{name}.npy", vectors[name][rng.permutation(len(vectors[name]))[:QUERIES]])
    pictures = vectors["pictures"]
    base = np.lib.format.open_memmap(place / "unfinished.npy", "w+", np.float32, (n, pictures.shape[1]))
    first = 0
    for block in enlarged(pictures, n, rng):
        base[first : first + len(block)] = block
        first += len(block)
    base.flush()
    (place / "unfinished.npy").rename(place / "base.npy")


def _pictures(path: Path, encoder: Any) -> Embeddings:
    with pq.ParquetFile(path) as file:
        return np.concatenate(
            [
                encoder.encode_images([np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in column])
                for column in (batch["image"].to_pylist() for batch in file.iter_batches(256, columns=["image"]))
            ]
        )


def _library(vectors: Path, folder: Path) -> None:
    from xsearch.library import LibraryWriter
    from xsearch.types import EncoderSpec, Fingerprint

    base = np.load(vectors, mmap_mode="r")
    spec = EncoderSpec("made up", Fingerprint("made up", "0", "", "", "float", base.shape[1]), 1, 1, 1.0)
    with LibraryWriter(folder, spec) as writer:
        for first in range(0, len(base), COMMIT_ROWS):
            block = np.asarray(base[first : first + COMMIT_ROWS])
            names = [str(first + i) for i in range(len(block))]
            writer.add([Item(item_id(Path(name)), Kind.IMAGE, "/", name, 0, 0, name) for name in names], block)


def _build(name: str, place: Path) -> None:
    folder = _folder(place, name)
    folder.mkdir(parents=True)
    build = ENGINES[name].build(place / "base.npy", folder)
    before_s = time.process_time()
    build()
    built = {
        "build_cpu_s": time.process_time() - before_s,
        "peak_mb": _peak_mb(),
        "file_mb": sum(_bytes(folder / file) for file in ENGINES[name].files) / 1e6,
    }
    print(name, built, flush=True)
    (folder / "built.json").write_text(json.dumps(built), "utf-8")


def _peak_mb() -> float:
    """Return the most memory that this process has held; `getrusage` would tell its parent's, if that is more."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file())


def _measure(place: Path, names: list[str], n: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    queries = {modality: np.load(place / f"{modality}.npy") for modality in ("text", "image")}
    true = _true_rows(place, queries)
    opened: dict[str, Engine] = {}
    for name in names:
        ENGINES[name].load()
        opened[name] = ENGINES[name](_folder(place, name))
    curve = [
        {"index": name, "queries": modality, "settings": settings, "times_s": [], "recall": 0.0}
        for name in names
        for modality in queries
        for settings in opened[name].ladder
    ]
    for _ in range(ROUNDS):
        for point in curve:
            asked = queries[point["queries"]][: _how_many(point["index"])]
            rows, times_s = _ask(opened[point["index"]], asked, point["settings"])
            point["times_s"].append(times_s)
            hits = [np.isin(one, wanted).mean() for one, wanted in zip(rows, true[point["queries"]], strict=False)]
            point["recall"] = float(np.mean(hits))
    for point in curve:
        rounds = point.pop("times_s")
        point["qps"] = median(len(times) / sum(times) for times in rounds)
        point["p50_ms"] = 1000 * median(float(np.median(times)) for times in rounds)
        point["p95_ms"] = 1000 * median(float(np.quantile(times, 0.95)) for times in rounds)
    rows = [_row(place, name, opened[name], curve, queries, n) for name in names]
    report(f"index_peers_{n}", rows, items=n, dim=int(queries["text"].shape[1]), target=TARGET, rounds=ROUNDS)
    results = Path(__file__).parent / "results" / f"index_peers_{n}.json"
    results.write_text(json.dumps(json.loads(results.read_text("utf-8")) | {"curve": curve}, indent=1) + "\n", "utf-8")
    _plot(curve, n)


def _true_rows(place: Path, queries: dict[str, Embeddings]) -> dict[str, NDArray[np.int64]]:
    base = np.load(place / "base.npy", mmap_mode="r")
    best: dict[str, tuple[Embeddings, NDArray[np.int64]]] = {}
    for first in range(0, len(base), COMMIT_ROWS):
        block = np.asarray(base[first : first + COMMIT_ROWS])
        for modality, asked in queries.items():
            scores = asked @ block.T
            rows = np.argpartition(-scores, K, axis=1)[:, :K]
            found = np.take_along_axis(scores, rows, axis=1), rows + first
            if modality in best:
                found = tuple(np.concatenate(pair, axis=1) for pair in zip(best[modality], found, strict=True))
                keep = np.argsort(-found[0], axis=1)[:, :K]
                found = tuple(np.take_along_axis(one, keep, axis=1) for one in found)
            best[modality] = found
    return {modality: rows for modality, (_, rows) in best.items()}


def _how_many(name: str) -> int:
    return 30 if name == "exact scan" else QUERIES


def _ask(engine: Engine, queries: Embeddings, settings: Any) -> tuple[list[NDArray[np.int64]], list[float]]:
    rows, times_s = [], []
    for i in range(len(queries)):
        start_s = time.perf_counter()
        rows.append(engine.search(queries[i : i + 1], settings))
        times_s.append(time.perf_counter() - start_s)
    return rows, times_s


def _two_threads(engine: Engine, queries: Embeddings, settings: Any) -> float:
    """Return the queries a second of two threads that each ask all of them."""
    with ThreadPoolExecutor(2) as pool:
        start_s = time.perf_counter()
        list(pool.map(lambda half: _ask(engine, half, settings), (queries, queries[::-1])))
        return 2 * len(queries) / (time.perf_counter() - start_s)


def _row(
    place: Path, name: str, engine: Engine, curve: list[dict[str, Any]], queries: dict[str, Embeddings], n: int
) -> dict[str, Any]:
    folder = _folder(place, name)
    built = json.loads((folder / "built.json").read_text("utf-8"))
    row: dict[str, Any] = {"index": name}
    for modality, asked in queries.items():
        points = [point for point in curve if (point["index"], point["queries"]) == (name, modality)]
        good = [point for point in points if point["recall"] >= TARGET]
        point = max(good, key=lambda one: one["qps"]) if good else max(points, key=lambda one: one["recall"])
        asked = asked[: _how_many(name)]
        both = median(_two_threads(engine, asked, point["settings"]) for _ in range(ROUNDS))
        row |= {f"{modality} {key}": point[key] for key in ("recall", "qps", "p50_ms", "p95_ms")}
        row |= {f"{modality} qps of 2": both, f"{modality} settings": str(point["settings"])}
    script = [sys.executable, "-c", COLD, str(Path(__file__).parent), name, str(folder), str(place / "text.npy")]
    cold = [float(subprocess.run(script, capture_output=True, text=True, check=True).stdout) for _ in range(ROUNDS)]
    return row | built | {"bytes_a_vector": 1e6 * built["file_mb"] / n, "cold_ms": 1000 * median(cold)}


def _plot(curve: list[dict[str, Any]], n: int) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, modality in zip(axes, ("text", "image"), strict=True):
        for name in dict.fromkeys(point["index"] for point in curve):
            points = [point for point in curve if (point["index"], point["queries"]) == (name, modality)]
            axis.plot([one["recall"] for one in points], [one["qps"] for one in points], "o-", ms=4, label=name)
        axis.axvline(TARGET, color="grey", lw=0.8, ls=":")
        axis.set(title=f"{modality} queries", xlabel="recall@10", yscale="log", xlim=(0.5, 1.01))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("queries a second, one thread")
    axes[0].legend()
    figure.suptitle(f"{n:,} vectors of 384 dimensions")
    figure.tight_layout()
    figure.savefig(PLOT / f"index_peers_{n}.png", dpi=110)


if __name__ == "__main__":
    main()
