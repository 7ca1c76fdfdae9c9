"""What a GPU makes of pictures and of queries: indexing against its encoder and its decoders alone, and exact search.

    python benchmarks/gpu.py [--device cuda] [--photos DIR] [--pictures 20000] [--tiny]

Models have random weights, as speed does not depend on them, and need no network. JPEGs are real photographs at two
sizes, each with other bytes at its end. `encoder` is handed pictures that are framed already, by two threads as in an
index run; `decoding` is what processes, and threads, frame a second without an encoder; `index` is the use case itself.
Of the search, rows are made up, `ms` are of one query a call with all that belongs to it, re-ranking on the stored rows
included; sizes that do not fit are left out. With 16 cores and an H100 it takes about ten minutes; `--tiny` proves in
one that all of it runs, on a CPU too: its numbers mean nothing.

To be beaten: clip-retrieval's 2,500 pictures a second with ViT-B/32 on one A100, 7,000 on eight (its
docs/distributed_clip_inference.md: from archives to embeddings, "resizing bottlenecked").
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import faiss
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from pipeline import copies
from report import RESULTS, report

from xsearch.encoders import Encoder, get_encoder
from xsearch.encoders.framing import Framing
from xsearch.encoders.openclip import OpenClipEncoder
from xsearch.errors import XSearchError
from xsearch.index.exact import Found, search_exact
from xsearch.index.gpu import gpu_count
from xsearch.index.ivfpq import IvfPq
from xsearch.index.plan import IndexKind, plan_index
from xsearch.index.resident import Resident
from xsearch.indexer import index
from xsearch.media.decoders import Decoder, ProcessDecoder, ThreadDecoder
from xsearch.media.images import SUFFIXES
from xsearch.types import RGBImage
from xsearch.vectors import VectorTable

CLIP_RETRIEVAL = "2500 pictures/s on one A100, 7000 on eight: clip-retrieval, docs/distributed_clip_inference.md"
ENCODED_S = 5.0
"""The encoder alone is asked for about so long."""

MAX_BATCHES = 100

BUILT_ROWS = 1_000_000
"""Of more, an index is built only where FAISS has a GPU."""

CHECKED_ROWS = 10_000_000
"""Up to here answers are compared with a scan on the CPU."""

MADE_ROWS = 1 << 18


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured: models on pictures of which longer side, how many vectors of which dimension.

    A model goes through torch.compile, which takes a minute, for its first size only.
    """

    models: dict[str, dict[str, Any]]
    sides_px: dict[str, tuple[int, ...]]
    rows: tuple[int, ...]
    dim: int
    queries: int


def full() -> Scale:
    names = ("ViT-B-32", "ViT-B-16-SigLIP2", "MobileCLIP2-S0")
    models = {name: open_clip.get_model_config(name) for name in names}
    for config in models.values():
        # Texts are not measured: with CLIP's vocabulary no tokenizer is fetched.
        for key in ("hf_tokenizer_name", "tokenizer_kwargs"):
            config["text_cfg"].pop(key, None)
        config["text_cfg"]["vocab_size"] = 49408
    # 256 px is what archives of img2dataset hold, on which clip-retrieval was measured.
    sides_px = dict.fromkeys(names, (640,)) | {"ViT-B-32": (640, 256)}
    return Scale(models, sides_px, (1_000_000, 10_000_000, 50_000_000, 100_000_000), 512, 200)


def tiny() -> Scale:
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    return Scale({"tiny": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}, {"tiny": (64,)}, (20_000,), 32, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="as of `xsearch index`; cuda is all GPUs")
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="as `make demo` gathers them")
    parser.add_argument("--pictures", type=int, help="how many are indexed; 20,000, or 60 of the tiny run")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for gpu_pictures and gpu_search.json")
    options = parser.parse_args()
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        parser.error(f"there are no pictures in {options.photos}: run `make demo` first, or name some with --photos")
    scale = tiny() if options.tiny else full()
    n_pictures = options.pictures or (60 if options.tiny else 20_000)
    facts = {"device": options.device, "gpus": _gpus(options.device), "torch": torch.__version__, "tiny": options.tiny}
    with tempfile.TemporaryDirectory() as name:
        rows = list(_pictures(scale, files, n_pictures, options.device, Path(name)))
    report("gpu_pictures", rows, folder=options.results, **facts, to_be_beaten=CLIP_RETRIEVAL)
    facts |= {"faiss": faiss.__version__, "faiss_gpus": gpu_count(), "dim": scale.dim, "queries": scale.queries}
    first = options.device.split(",")[0]
    report("gpu_search", list(_searches(scale, first)), folder=options.results, **facts)


def _gpus(device: str) -> list[str]:
    if not device.startswith("cuda"):
        return []
    numbers = range(torch.cuda.device_count()) if device == "cuda" else map(int, device.replace("cuda:", "").split(","))
    return [torch.cuda.get_device_name(number) for number in numbers]


def _pictures(scale: Scale, photos: Sequence[Path], n: int, device: str, folder: Path) -> Iterable[dict[str, object]]:
    sources: dict[int, list[Path]] = {}
    for name, config in scale.models.items():
        checkpoint = _random_weights(name, config, folder)
        encoder = get_encoder(checkpoint, device)
        one = OpenClipEncoder.open(checkpoint, device.partition(",")[0])
        framing, image_px = one._framing, encoder.spec.image_px
        for number, side_px in enumerate(scale.sides_px[name]):
            if side_px not in sources:
                sources[side_px] = copies(photos, folder / str(side_px), n, side_px)
            files = sources[side_px]
            processes = _decoded_per_s(ProcessDecoder(framing, image_px), files)
            threads = _decoded_per_s(_Framed(ThreadDecoder(image_px), framing), files[: max(60, n // 4)])
            pictures = _framed(framing, files[:512])
            alone, compiled = _encoded_per_s(encoder, pictures), None
            if one.device.type == "cuda" and not number:
                compiled = _encoded_per_s(OpenClipEncoder.open(checkpoint, "cuda", compiled=True), pictures)
            start_s = time.perf_counter()
            told = index([folder / str(side_px)], folder / f"{name} {side_px}", encoder)
            index_per_s = n / (time.perf_counter() - start_s)
            assert told.indexed == n, told
            yield {
                "model": name,
                "side_px": side_px,
                "n": n,
                "kb": sum(file.stat().st_size for file in files) / n / 1e3,
                "batch": encoder.batch_size,
                "encoder_per_s": alone,
                "one_gpu_compiled_per_s": compiled,
                "decoding_per_s": processes,
                "decoding_by_threads_per_s": threads,
                "index_per_s": index_per_s,
                "of_the_slower": index_per_s / min(alone, processes),
            }


def _random_weights(name: str, config: dict[str, Any], folder: Path) -> str:
    """Make a model and its checkpoint; return the name by which it opens."""
    own = f"random-{name}"
    (folder / f"{own}.json").write_text(json.dumps(config), "utf-8")
    open_clip.add_model_config(folder / f"{own}.json")
    file = folder / f"{own}.pt"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(own).state_dict(), file)
    return f"openclip:{own}/{file}"


class _Framed:
    """A decoder whose pictures are framed by the thread that asks, as those of processes are by theirs."""

    def __init__(self, decoder: Decoder, framing: Framing) -> None:
        self._decoder, self._framing, self.at_once = decoder, framing, decoder.at_once

    def decode(self, data: bytes) -> tuple[RGBImage, object]:
        pixels, meta = self._decoder.decode(data)
        return self._framing.pixels(pixels), meta

    def __enter__(self) -> "_Framed":
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def _decoded_per_s(decoder: Decoder | _Framed, files: Sequence[Path]) -> float:
    with decoder, ThreadPoolExecutor(decoder.at_once) as threads:

        def decode(file: Path) -> None:
            decoder.decode(file.read_bytes())

        # So that processes have started, and files are in the system's memory.
        list(threads.map(decode, files[: 2 * decoder.at_once]))
        start_s = time.perf_counter()
        list(threads.map(decode, files))
        return len(files) / (time.perf_counter() - start_s)


def _framed(framing: Framing, files: Sequence[Path]) -> list[RGBImage]:
    decoder = ThreadDecoder(max(framing.height, framing.width))
    return [framing.pixels(decoder.decode(file.read_bytes())[0]) for file in files]


def _encoded_per_s(encoder: Encoder, pictures: Sequence[RGBImage]) -> float:
    batch = [pictures[i % len(pictures)] for i in range(encoder.batch_size)]
    encoder.encode_images(batch)
    start_s = time.perf_counter()
    encoder.encode_images(batch)
    batches = min(MAX_BATCHES, max(4, round(ENCODED_S / (time.perf_counter() - start_s))))
    with ThreadPoolExecutor(2) as threads:
        start_s = time.perf_counter()
        list(threads.map(encoder.encode_images, [batch] * batches))
        return batches * len(batch) / (time.perf_counter() - start_s)


def _searches(scale: Scale, device: str) -> Iterable[dict[str, object]]:
    for n in scale.rows:
        if 2 * n * scale.dim > 0.8 * _available_bytes():
            print(f"{n:,} vectors do not fit the memory of this machine")
            return
        table, queries = _made_up(n, scale.dim, scale.queries, device)
        start_s = time.perf_counter()
        try:
            resident = Resident(table, device)
        except XSearchError as error:
            print(error)
            return
        copied_s = time.perf_counter() - start_s
        expected = resident(queries, 10)
        if n <= CHECKED_ROWS:
            scanned = search_exact(table, queries[:4], 10)
            assert (scanned.rows == expected.rows[:4]).all()
            assert (scanned.scores == expected.scores[:4]).all()
        yield {"n": n, "search": "exact", "made_s": copied_s} | _measured(partial(resident, k=10), queries, expected)
        del resident
        if n <= BUILT_ROWS or gpu_count():
            plan = plan_index(n, scale.dim, kind=IndexKind.IVFPQ)
            start_s = time.perf_counter()
            built = IvfPq.build(table, plan)
            built_s = time.perf_counter() - start_s
            search = partial(built.search, k=10, vectors=table, settings=plan.settings)
            yield {"n": n, "search": "ivfpq", "made_s": built_s} | _measured(search, queries, expected)


def _measured(
    search: Callable[[NDArray[np.float32]], Found], queries: NDArray[np.float32], expected: Found
) -> dict[str, float]:
    """Return what queries take, one a call and 64, and the share of the expected rows that is found."""
    together = queries[:64]
    search(together)
    times_ms = [_ms(search, query[None]) for query in queries]
    batched_ms = median(_ms(search, together) for _ in range(5))
    found = search(queries).rows
    return {
        "p50_ms": median(times_ms),
        "p95_ms": quantiles(times_ms, n=20)[-1],
        "batched_per_s": 1000 * len(together) / batched_ms,
        "recall": float(np.mean([np.isin(a, b).mean() for a, b in zip(expected.rows, found, strict=True)])),
    }


def _made_up(n: int, dim: int, n_queries: int, device: str) -> tuple[VectorTable, NDArray[np.float32]]:
    """Return n unit rows around 4,096 directions, and queries that lie among them."""
    random = torch.Generator(device).manual_seed(0)

    def units(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(rows, dim=1)

    def noise(count: int) -> torch.Tensor:
        return units(torch.randn(count, dim, device=device, generator=random))

    centres = noise(min(4096, n // 40))

    def near(count: int) -> torch.Tensor:
        chosen = torch.randint(len(centres), (count,), device=device, generator=random)
        return units(centres[chosen] + 1.2 * noise(count))

    segments = [near(min(MADE_ROWS, n - first)).half().cpu().numpy() for first in range(0, n, MADE_ROWS)]
    return VectorTable(segments, dim), near(n_queries).cpu().numpy()


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])


def _ms(search: Callable[[NDArray[np.float32]], Found], queries: NDArray[np.float32]) -> float:
    start_s = time.perf_counter()
    search(queries)
    return 1000 * (time.perf_counter() - start_s)


if __name__ == "__main__":
    main()
