"""What is read of text that is drawn over photographs, by height of its letters; what --ocr costs an index run.

    python benchmarks/ocr.py [--photos DIR] [--rounds 3]

Four lines of generic texts are drawn over each photograph, 960 px wide, in the next of FONTS that this machine has.
`cer` is the edit distance between all that is read and all that was written, by characters written; without spaces in
`cer_letters`. A word is found where it is read whole; case does not count. `photos_with_lines` counts photographs in
which anything is read as they are, most of which hold no text.
"""

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from report import report

from xsearch.encoders import get_encoder
from xsearch.indexer import index
from xsearch.media.images import SUFFIXES, decode_image
from xsearch.media.ocr import DECODE_PX, Reader
from xsearch.probes import probe_texts
from xsearch.types import RGBImage

FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono-Bold.ttf", "LiberationSans-Regular.ttf", "arial.ttf")
WIDTH_PX = 960
LINES = 4
HEIGHTS_PX = (8, 12, 16, 24, 48)
PHOTOS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, default=Path("photos"), help="real photographs, as `make demo` gathers them"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        parser.error(f"there are no pictures in {options.photos}: run `make demo` first, or name some with --photos")
    reader = Reader()
    fonts = [name for name in FONTS if _is_here(name)]
    chosen = files[:: -(-len(files) // PHOTOS)]
    rows = [
        _legibility(reader, chosen, fonts, px, outlined=outlined, degrees=degrees)
        for outlined, degrees in ((True, 0), (False, 0), (True, 10))
        for px in HEIGHTS_PX
    ]
    with ThreadPoolExecutor(2) as pool:
        as_they_are = pool.map(lambda file: reader.read(decode_image(file.read_bytes(), DECODE_PX)[0]), files)
        with_lines = sum(map(bool, as_they_are))
    report(
        "ocr",
        rows,
        fonts=fonts or ["Pillow's own"],
        photos=len(files),
        photos_with_lines=with_lines,
        **_throughput(reader, options.photos, len(files), options.rounds),
    )


def _is_here(name: str) -> bool:
    try:
        ImageFont.truetype(name)
    except OSError:
        return False
    return True


def _legibility(
    reader: Reader, files: Sequence[Path], fonts: Sequence[str], px: int, *, outlined: bool, degrees: int
) -> dict[str, Any]:
    said = cycle(text for text in probe_texts(400) if 15 <= len(text) <= 30)
    lines = [[next(said) for _ in range(LINES)] for _ in files]
    names = cycle(fonts or [""])
    pages = [
        _written(file, of_file, next(names), px, outlined=outlined).rotate(degrees, expand=True, fillcolor="grey")
        for file, of_file in zip(files, lines, strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        read = [[line.text for line in found] for found in pool.map(reader.read, map(_pixels, pages))]
    edits = edits_of_letters = words_found = 0
    for wrote, got in zip(lines, read, strict=True):
        edits += _edit_distance(" ".join(wrote).casefold(), " ".join(got).casefold())
        edits_of_letters += _edit_distance("".join(_words(wrote)), "".join(_words(got)))
        words_found += sum((Counter(_words(wrote)) & Counter(_words(got))).values())
    return {
        "px": px,
        "outlined": outlined,
        "degrees": degrees,
        "pictures": len(files),
        "cer": edits / sum(len(" ".join(wrote)) for wrote in lines),
        "cer_letters": edits_of_letters / sum(len("".join(_words(wrote))) for wrote in lines),
        "words_found": words_found / sum(len(_words(wrote)) for wrote in lines),
    }


def _written(file: Path, lines: Sequence[str], font_name: str, px: int, *, outlined: bool) -> Image.Image:
    """Draw the lines, their capitals about `px` high, where there is room for them."""
    with Image.open(file) as photograph:
        shown = photograph.convert("RGB")
    shown = shown.resize((WIDTH_PX, max(5 * LINES * px // 2, round(WIDTH_PX * shown.height / shown.width))))
    size = px / 0.7  # a capital is seven tenths of a font's size
    pen = ImageDraw.Draw(shown)
    for number, line in enumerate(lines):
        font = ImageFont.truetype(font_name, size) if font_name else ImageFont.load_default(size)
        while font.getlength(line) > WIDTH_PX - 40:
            font = font.font_variant(size=font.size * 0.9)
        y = 10 + number * (shown.height - 20) // LINES
        edge = max(1, px // 12) if outlined else 0
        pen.text((20, y), line, "white", font, stroke_width=edge, stroke_fill="black")
    return shown


def _pixels(picture: Image.Image) -> RGBImage:
    return np.asarray(picture)


def _words(lines: Sequence[str]) -> list[str]:
    return re.findall(r"\w+", " ".join(lines).casefold())


def _edit_distance(a: str, b: str) -> int:
    """Return the least number of characters to insert, delete or replace (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def _throughput(reader: Reader, photos: Path, n: int, rounds: int) -> dict[str, float]:
    """Return pictures a second of whole index runs, into libraries that are new, the two kinds in turn."""
    encoder = get_encoder()
    took_s: dict[str, list[float]] = {"without_ocr_per_s": [], "with_ocr_per_s": []}
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(rounds):
            for name, used in (("without_ocr_per_s", None), ("with_ocr_per_s", reader)):
                start_s = time.perf_counter()
                index([photos], Path(folder, f"{name}{attempt}"), encoder, reader=used)
                took_s[name].append(time.perf_counter() - start_s)
    return {name: n / median(times) for name, times in took_s.items()}


if __name__ == "__main__":
    main()
