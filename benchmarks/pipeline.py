"""Index throughput against the encoder alone, and peak memory against the number of files.

    python benchmarks/pipeline.py [--photos DIR] [--rounds 5]

The encoder alone gets the same pictures already decoded. Rounds alternate, as machines are noisy; ratios are of
neighbours, the median counts. Memory is the peak resident set of a process that indexes 1,000, then 10,000 files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import median

from PIL import Image
from report import report

from xsearch.encoders import Encoder, get_encoder
from xsearch.indexer import index
from xsearch.media.images import SUFFIXES, decode_image
from xsearch.types import RGBImage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, default=Path("photos"), help="real photographs, as `make demo` gathers them"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of is not None:
        print(json.dumps(_peak_mb(options.peak_of)))
        return
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        parser.error(f"there are no pictures in {options.photos}: run `make demo` first, or name some with --photos")
    encoder = get_encoder()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            _throughput("as they are", encoder, copies(files, folder / "full", 3 * len(files)), folder, options.rounds),
            _throughput(
                "at 640 px", encoder, copies(files, folder / "small", 600, side_px=640), folder, options.rounds
            ),
        ]
        peaks = {}
        for n in (1_000, 10_000):
            source = folder / f"peak{n}"
            copies(files, source, n, side_px=320)
            measured = subprocess.run(
                [sys.executable, __file__, "--peak-of", str(source)], capture_output=True, text=True, check=True
            )
            peaks[str(n)] = json.loads(measured.stdout)
    report("pipeline", rows, peak_mb_by_files=peaks)


def _throughput(what: str, encoder: Encoder, files: Sequence[Path], folder: Path, rounds: int) -> dict[str, object]:
    pictures = [decode_image(path.read_bytes(), encoder.spec.image_px)[0] for path in files]
    ratios, alone, whole = [], [], []
    for attempt in range(rounds):
        alone.append(len(files) / _seconds_alone(encoder, pictures))
        whole.append(len(files) / _seconds_indexing(encoder, files[0].parent, folder / f"{what}-{attempt}"))
        ratios.append(whole[-1] / alone[-1])
    decode_s = _seconds_decoding(files, encoder.spec.image_px)
    return {
        "pictures": what,
        "n": len(files),
        "mean_mp": sum(_megapixels(path) for path in files) / len(files),
        "encoder_per_s": median(alone),
        "index_per_s": median(whole),
        "ratio": median(ratios),
        "decode_share_of_encode": decode_s * median(alone) / len(files),
    }


def _seconds_alone(encoder: Encoder, pictures: Sequence[RGBImage]) -> float:
    start_s = time.perf_counter()
    for low in range(0, len(pictures), encoder.batch_size):
        encoder.encode_images(pictures[low : low + encoder.batch_size])
    return time.perf_counter() - start_s


def _seconds_indexing(encoder: Encoder, source: Path, data: Path) -> float:
    start_s = time.perf_counter()
    index([source], data, encoder)
    return time.perf_counter() - start_s


def _seconds_decoding(files: Sequence[Path], min_px: int) -> float:
    """One core, one after the other."""
    start_s = time.perf_counter()
    for path in files:
        decode_image(path.read_bytes(), min_px)
    return time.perf_counter() - start_s


def copies(files: Sequence[Path], folder: Path, n: int, side_px: int | None = None) -> list[Path]:
    """Write n files of distinct content: bytes after the end of a picture change its hash, not the picture."""
    folder.mkdir()
    contents = [path.read_bytes() if side_px is None else _small(path, side_px) for path in files]
    made = []
    for i in range(n):
        suffix = ".jpg" if side_px else files[i % len(files)].suffix
        made.append(folder / f"{i:05}{suffix}")
        made[-1].write_bytes(contents[i % len(files)] + i.to_bytes(8, "little"))
    return made


def _small(path: Path, side_px: int) -> bytes:
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((side_px, side_px))
    out = BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


def _megapixels(path: Path) -> float:
    with Image.open(path) as picture:
        return picture.width * picture.height / 1e6


def _peak_mb(source: Path) -> float:
    with tempfile.TemporaryDirectory() as data:
        index([source], Path(data, "library"), get_encoder())
    # Not getrusage: its maximum is inherited from the process that forked this one.
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3


if __name__ == "__main__":
    main()
