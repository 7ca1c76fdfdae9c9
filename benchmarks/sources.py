"""Items a second from a folder, a tar, Parquet and Hugging Face data sets that hold the same 5,000 pictures.

    python benchmarks/sources.py [--photos DIR] [--pictures 5000] [--rounds 5]

Three things are measured: the source alone, read to its end and nothing made of it; an index run whose encoder does
nothing, so reading, hashing, decoding and writing; and, once, as it takes a while, an index run with the built-in
encoder. Pictures are crops of the demo's photographs at 320 px, without texts; their files are in memory. Each round
takes every source in turn. Items a second are of the quickest round; ratios are of CPU seconds of the process, the
folder's to the source's in the same round, and the median counts: above 1 a source costs less than the folder.
"""

import argparse
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from report import report

from xsearch.encoders import Encoder, Patches, Words, get_encoder
from xsearch.indexer import index
from xsearch.media.images import SUFFIXES
from xsearch.sources.containers import open_samples
from xsearch.sources.folder import FoundFile, scan
from xsearch.sources.samples import Sample, read_picture
from xsearch.types import Embeddings, EncoderSpec, RGBImage

SIDE_PX = 320
# As the hub writes data sets of pictures.
ROW_GROUP_ROWS = 100


@dataclass(frozen=True, slots=True)
class Cost:
    """Of taking a source once: time that passed, and CPU time of the process."""

    seconds: float
    cpu_s: float


class NoEncoder:
    """Takes the place of the built-in encoder and gives everything the same vector, at once."""

    def __init__(self, spec: EncoderSpec, batch_size: int) -> None:
        self.spec = spec
        self.batch_size = batch_size

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        return np.full((len(images), self.spec.dim), self.spec.dim**-0.5, np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return np.full((len(texts), self.spec.dim), self.spec.dim**-0.5, np.float32)

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches:
        raise NotImplementedError

    def encode_words(self, texts: Sequence[str]) -> list[Words]:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, default=Path("photos"), help="real photographs, as `make demo` gathers them"
    )
    parser.add_argument("--pictures", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not photos:
        parser.error(f"there are no pictures in {options.photos}: run `make demo` first, or name some with --photos")
    datasets.disable_progress_bars()
    encoder = get_encoder()
    nothing = NoEncoder(encoder.spec, encoder.batch_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = crops(photos, options.pictures)
        n_bytes = sum(map(len, pictures))
        sources = written(pictures, folder)
        del pictures
        for source in sources.values():
            _read_alone(source)
        measured = {
            "read": _rounds(sources, options.pictures, options.rounds, _read_alone),
            "no_encoder": _rounds(sources, options.pictures, options.rounds, lambda source: _index(source, nothing)),
            "builtin": _rounds(sources, options.pictures, 1, lambda source: _index(source, encoder)),
        }
    rows = []
    for kind in sources:
        row: dict[str, object] = {"source": kind}
        for what, costs in measured.items():
            row[f"{what}_per_s"] = options.pictures / min(cost.seconds for cost in costs[kind])
            row[f"{what}_ratio"] = median(
                folder.cpu_s / cost.cpu_s for folder, cost in zip(costs["folder"], costs[kind], strict=True)
            )
        rows.append(row)
    report(
        "sources",
        rows,
        pictures=options.pictures,
        rounds=options.rounds,
        mean_kb=n_bytes / options.pictures / 1e3,
    )


def _rounds(sources: dict[str, str], n: int, rounds: int, take: Callable[[str], int]) -> dict[str, list[Cost]]:
    """Return what every round cost, by kind of source; `take` returns how many pictures there were."""
    costs: dict[str, list[Cost]] = {kind: [] for kind in sources}
    for _ in range(rounds):
        for kind, source in sources.items():
            start_s, cpu_start_s = time.perf_counter(), time.process_time()
            taken = take(source)
            costs[kind].append(Cost(time.perf_counter() - start_s, time.process_time() - cpu_start_s))
            if taken != n:
                raise RuntimeError(f"{source} gave {taken} pictures, not {n}")
    return costs


def _read_alone(source: str) -> int:
    if Path(source).is_dir() and not (Path(source) / "state.json").exists():
        found = scan(Path(source), leave_out=Path(source, "no library"))
        return sum(len(file.file.read_bytes()) > 0 for file in found if isinstance(file, FoundFile))
    (samples,) = open_samples(source)
    return sum(len(read_picture(sample.image)) > 0 for sample in samples.samples() if isinstance(sample, Sample))


def _index(source: str, encoder: Encoder) -> int:
    with tempfile.TemporaryDirectory() as data:
        return index([source], Path(data, "library"), encoder).indexed


def crops(photos: Sequence[Path], n: int) -> list[bytes]:
    """Return n JPEG files, each another part of a photograph, the longer side SIDE_PX."""
    rng = random.Random(0)
    originals = []
    for path in photos:
        with Image.open(path) as photo:
            photo.thumbnail((3 * SIDE_PX, 3 * SIDE_PX))
            originals.append(photo.convert("RGB"))
    made = []
    for i in range(n):
        original = originals[i % len(originals)]
        width, height = (int(side * rng.uniform(0.5, 0.9)) for side in original.size)
        left, top = rng.randrange(original.width - width), rng.randrange(original.height - height)
        part = original.crop((left, top, left + width, top + height))
        part.thumbnail((SIDE_PX, SIDE_PX))
        out = BytesIO()
        part.save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


def written(pictures: Sequence[bytes], folder: Path) -> dict[str, str]:
    """Write the pictures in every way, and return what `xsearch index` is to be given, by kind of source."""
    names = [f"{i:05}.jpg" for i in range(len(pictures))]
    files, hub = folder / "files", folder / "hub"
    files.mkdir()
    hub.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, picture in zip(names, pictures, strict=True):
            (files / name).write_bytes(picture)
            header = tarfile.TarInfo(name)
            header.size = len(picture)
            tar.addfile(header, BytesIO(picture))
    cells = [{"bytes": picture, "path": name} for name, picture in zip(names, pictures, strict=True)]
    parquet = hub / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": cells}), parquet, row_group_size=ROW_GROUP_ROWS)
    saved = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image()}))
    saved.save_to_disk(folder / "saved")
    return {
        "folder": str(files),
        "tar": str(folder / "00000.tar"),
        "Parquet": str(parquet),
        "save_to_disk": str(folder / "saved"),
        "hf:, streamed": f"hf:{hub}",
    }


if __name__ == "__main__":
    main()
