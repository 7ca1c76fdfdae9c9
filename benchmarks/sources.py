"""Items a second from a folder, a tar, Parquet and Hugging Face data sets that hold the same 5,000 pictures.

    python benchmarks/sources.py [--photos DIR] [--pictures 5000] [--rounds 5] [--encoded 500]

Three things are measured: the source alone, read to its end and nothing made of it; an index run whose encoder does
nothing, so reading, hashing, decoding and writing; and one of the first 500 with the built-in encoder. Pictures
are crops of the demo's photographs at 320 px, without texts. Each round takes every source in turn; a ratio is to the
folder of the same round, and the median of the rounds counts. Files are read once before, so that all come from memory.
"""

import argparse
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
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


class NoEncoder:
    """Takes the place of the built-in encoder and gives every picture the same vector, at once."""

    def __init__(self, spec: EncoderSpec, batch_size: int) -> None:
        self.spec = spec
        self.batch_size = batch_size

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        return np.full((len(images), self.spec.dim), self.spec.dim**-0.5, np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        raise NotImplementedError

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
    parser.add_argument("--encoded", type=int, default=500, help="how many of them the built-in encoder gets")
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
        sources = written(pictures, folder / "all")
        fewer = written(pictures[: options.encoded], folder / "encoded")
        del pictures
        for source in sources.values():
            _read_alone(source)
        alone = _per_s(sources, options.pictures, options.rounds, _read_alone)
        no_encoder = _per_s(sources, options.pictures, options.rounds, lambda source: _index(source, nothing))
        builtin = _per_s(fewer, options.encoded, options.rounds, lambda source: _index(source, encoder))
    rows = [
        {
            "source": kind,
            "read_per_s": median(alone[kind]),
            "read_ratio": _ratio(alone, kind),
            "no_encoder_per_s": median(no_encoder[kind]),
            "no_encoder_ratio": _ratio(no_encoder, kind),
            "builtin_per_s": median(builtin[kind]),
            "builtin_ratio": _ratio(builtin, kind),
        }
        for kind in sources
    ]
    report(
        "sources",
        rows,
        pictures=options.pictures,
        rounds=options.rounds,
        encoded_by_builtin=options.encoded,
        mean_kb=n_bytes / options.pictures / 1e3,
    )


def _per_s(sources: dict[str, str], n: int, rounds: int, take: Callable[[str], int]) -> dict[str, list[float]]:
    """Return items a second of every round by kind of source; `take` returns how many there were."""
    rates: dict[str, list[float]] = {kind: [] for kind in sources}
    for _ in range(rounds):
        for kind, source in sources.items():
            start_s = time.perf_counter()
            taken = take(source)
            rates[kind].append(n / (time.perf_counter() - start_s))
            if taken != n:
                raise RuntimeError(f"{source} gave {taken} pictures, not {n}")
    return rates


def _ratio(rates: dict[str, list[float]], kind: str) -> float:
    return median(rate / folder for rate, folder in zip(rates[kind], rates["folder"], strict=True))


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
    files.mkdir(parents=True)
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
