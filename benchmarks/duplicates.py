"""Near duplicates: which copies of a photograph are found, and which different photographs are taken for copies.

    python benchmarks/duplicates.py --data-dir DIR --photos DIR --films DIR

Originals are the photographs of the demo (--photos, most of 500 px and more) and 200 of `dev-flickr8k.parquet` (256 px)
in --data-dir. A library of them, of a copy of each by every change, and, as other pictures, of `train-flickr8k.parquet`
and of frames of films is asked for near duplicates. Told of each change are the share of copies in one group with their
original, as `xsearch duplicates` reports them; the share that pass each of its two tests; and the distance of hashes.

`different`: pairs of different photographs by their cosine, and how many the hash takes for one; many are of one scene,
some of one moment. `frames`: the same by the time between two frames of a film. `looks_alike`: for a threshold on the
cosine, the share of the copies above it, of all promised changes, and of pictures with another above it, which have to
be read. `same_photograph`: for a threshold on the distance, the share of those copies below it, and different pairs.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from report import report

from xsearch.duplicates import LOOKS_ALIKE, Likeness, duplicates
from xsearch.encoders import DEFAULT_MODEL, get_encoder
from xsearch.indexer import index
from xsearch.library import Library
from xsearch.media.images import brightness
from xsearch.media.phash import SAME_PHOTOGRAPH, SIDE_PX, distances, hashes
from xsearch.media.video import frames

OF_FLICKR = 200
DEMO = "demo "
FRAMES_A_SECOND = 2
COSINES = (0.5, 0.6, 0.7, 0.8, 0.9)
DISTANCES = (0.1, 0.12, 0.14, 0.16, 0.18, 0.2)

Picture: TypeAlias = Image.Image
Pairs: TypeAlias = NDArray[np.int64]
Change: TypeAlias = Callable[[Picture], Picture]


def cut(left: float, top: float, right: float, bottom: float) -> Change:
    """Leave out shares of the width and height at the edges."""
    return lambda picture: picture.crop(
        (
            round(left * picture.width),
            round(top * picture.height),
            round((1 - right) * picture.width),
            round((1 - bottom) * picture.height),
        )
    )


def smaller(factor: float) -> Change:
    return lambda picture: picture.resize((round(picture.width * factor), round(picture.height * factor)))


def to_px(side_px: int) -> Change:
    return lambda picture: ImageOps.contain(picture, (side_px, side_px))


def levels(curve: Callable[[float], float]) -> Change:
    """Change each level, 0 to 1."""
    table = [round(255 * min(1.0, max(0.0, curve(level / 255)))) for level in range(256)]
    return lambda picture: picture.point(table * 3)


# Name, change, and quality of the JPEG.
CHANGES: Sequence[tuple[str, Change, int]] = (
    ("JPEG 80", smaller(1), 80),
    ("JPEG 30", smaller(1), 30),
    ("JPEG 10", smaller(1), 10),
    ("2/3 size", smaller(2 / 3), 85),
    ("1/3 size", smaller(1 / 3), 85),
    ("100 px", to_px(100), 85),
    ("1/3 brighter", levels(lambda level: level * 4 / 3), 85),
    ("1/3 darker", levels(lambda level: level * 2 / 3), 85),
    ("gamma .7", levels(lambda level: level**0.7), 85),
    ("contrast 1.3", lambda picture: ImageEnhance.Contrast(picture).enhance(1.3), 85),
    ("2 % off all sides", cut(0.02, 0.02, 0.02, 0.02), 85),
    ("5 % off all sides", cut(0.05, 0.05, 0.05, 0.05), 85),
    ("10 % off one side", cut(0.1, 0, 0, 0), 85),
    ("10 % off a corner", cut(0, 0, 0.1, 0.1), 85),
    ("2/3 size, 3 % off all sides, JPEG 50", lambda picture: smaller(2 / 3)(cut(0.03, 0.03, 0.03, 0.03)(picture)), 50),
    ("grey", lambda picture: picture.convert("L").convert("RGB"), 85),
    ("15 % off a corner", cut(0.15, 0.15, 0, 0), 85),
    ("25 % off a corner", cut(0.25, 0.25, 0, 0), 85),
    ("turned by 1.5 degrees", lambda picture: picture.rotate(1.5, Image.Resampling.BICUBIC), 85),
    ("mirrored", ImageOps.mirror, 85),
    ("turned by 90 degrees", lambda picture: picture.transpose(Image.Transpose.ROTATE_90), 85),
)
PROMISED = [name for name, _, _ in CHANGES].index("grey")
"""The changes before this one are those of which `xsearch duplicates` promises to find the copies."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--films", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        pictures = Path(home, "pictures")
        _write(pictures, options.data_dir, options.photos, options.films)
        index([pictures], Path(home, "library"), get_encoder(DEFAULT_MODEL))
        _measure(Library.open(Path(home, "library")))


def _write(folder: Path, data_dir: Path, photos: Path, films: Path) -> None:
    """Write `original/NAME`, `CHANGE number/NAME`, `other/NAME`, `FILM/TIME`."""
    originals = [(f"{DEMO}{n}", file.read_bytes()) for n, file in enumerate(sorted(photos.rglob("*.*")))]
    originals += list(_stored(data_dir / "dev-flickr8k.parquet"))[:OF_FLICKR]
    changed = [folder / f"{number}" for number in range(len(CHANGES))]
    for sub in (*changed, folder / "original", folder / "other", folder / "film"):
        sub.mkdir(parents=True)
    for name, data in originals:
        with Image.open(BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        picture.save(folder / "original" / f"{name}.png", compress_level=1)
        for place, (_, change, quality) in zip(changed, CHANGES, strict=True):
            change(picture).save(place / f"{name}.jpg", quality=quality)
    for name, data in _stored(data_dir / "train-flickr8k.parquet"):
        (folder / "other" / f"{name}.webp").write_bytes(data)
    for film in sorted(films.rglob("*.mp4")):
        for number, frame in enumerate(frames(film, 480, fps=FRAMES_A_SECOND)):
            Image.fromarray(frame.pixels).save(folder / "film" / f"{film.stem} {number:04}.png")


def _stored(file: Path) -> Iterator[tuple[str, bytes]]:
    for batch in pq.ParquetFile(file).iter_batches(64, columns=["key", "image"]):
        yield from ((Path(row["key"]).stem, row["image"]) for row in batch.to_pylist())


class Pictures:
    """The pictures of the library by folder and name."""

    def __init__(self, library: Library) -> None:
        everything = np.arange(len(library))
        self.files = [item.file for item in library.items(everything)]
        self.vectors = library.vectors.take(everything)
        self.row_of = {(file.parent.name, file.stem): row for row, file in enumerate(self.files)}
        self._hashes = cache(self._hashes_of)

    def rows(self, *folders: str) -> NDArray[np.int64]:
        return np.array([row for (folder, _), row in self.row_of.items() if folder in folders])

    def cosines(self, pairs: Pairs) -> NDArray[np.float32]:
        return np.asarray(np.einsum("nd,nd->n", self.vectors[pairs[:, 0]], self.vectors[pairs[:, 1]]), np.float32)

    def distances(self, pairs: Pairs) -> NDArray[np.float64]:
        return np.array([self._apart(a, b) for a, b in pairs.tolist()])

    def _apart(self, a: int, b: int) -> float:
        of_a, of_b = self._hashes(a), self._hashes(b)
        return float(min(distances(of_a, of_b[:1])[0], distances(of_b, of_a[:1])[0]))

    def _hashes_of(self, row: int) -> NDArray[np.uint8]:
        return hashes(brightness(self.files[row].read_bytes(), SIDE_PX))


def _measure(library: Library) -> None:
    pictures = Pictures(library)
    groups = duplicates(library, [Likeness.NEAR]).groups
    kept = {hit.item.file: group.hits[0].item.file for group in groups for hit in group.hits}
    rows: list[dict[str, Any]] = []
    promised: list[Pairs] = []
    for number, (change, _, _) in enumerate(CHANGES):
        names = [name for folder, name in pictures.row_of if folder == "original"]
        pairs = np.array([(pictures.row_of["original", name], pictures.row_of[f"{number}", name]) for name in names])
        is_demo = np.array([name.startswith(DEMO) for name in names])
        found = np.array([_together(pictures.files[a], pictures.files[b], kept) for a, b in pairs])
        apart = pictures.distances(pairs)
        if number < PROMISED:
            promised.append(pairs)
        rows.append(
            {
                "copy": change,
                "found, demo": float(found[is_demo].mean()),
                "found, 256 px": float(found[~is_demo].mean()),
                "by vector": float((pictures.cosines(pairs) >= LOOKS_ALIKE).mean()),
                "by pixels": float((apart <= SAME_PHOTOGRAPH).mean()),
                "distance": float(np.median(apart)),
                "of 95 %": float(np.quantile(apart, 0.95)),
                "most": float(apart.max()),
            }
        )
    copies = np.concatenate(promised)
    single = pictures.rows("original", "other")
    cosines = np.triu(pictures.vectors[single] @ pictures.vectors[single].T, 1)
    different = single[np.argwhere(cosines >= COSINES[1])]
    photographs = [(a, b) for b, a in kept.items() if a != b and b.parent.name != "film"]
    report(
        "duplicates",
        rows,
        originals=len(pictures.rows("original")),
        pictures=len(library),
        reported=len(photographs),
        wrong=[f"{a.stem}, {b.stem}" for a, b in photographs if a.stem != b.stem],
        different=_bands(pictures, different),
        frames=_frames(pictures),
        looks_alike=_by_cosine(pictures, copies, cosines),
        same_photograph=_by_distance(pictures.distances(copies), pictures.distances(different)),
    )


def _together(a: Path, b: Path, kept: Mapping[Path, Path]) -> bool:
    return a in kept and kept[a] == kept.get(b)


def _bands(pictures: Pictures, pairs: Pairs) -> list[dict[str, float]]:
    cosines, apart = pictures.cosines(pairs), pictures.distances(pairs)
    return [
        {
            "cosine": low,
            "pairs": len(here),
            "taken for one": int((here <= SAME_PHOTOGRAPH).sum()),
            "least": float(here.min()),
        }
        for low, high in pairwise((*COSINES[1:], 2))
        if len(here := apart[(cosines >= low) & (cosines < high)])
    ]


def _frames(pictures: Pictures) -> list[dict[str, float]]:
    named = {name: row for (folder, name), row in pictures.row_of.items() if folder == "film"}
    found = []
    for apart_s in (1 / FRAMES_A_SECOND, 1, 2):
        later = [(film, int(number) + round(apart_s * FRAMES_A_SECOND)) for film, number in map(str.split, named)]
        pairs = [
            (row, named[f"{film} {at:04}"])
            for row, (film, at) in zip(named.values(), later, strict=True)
            if f"{film} {at:04}" in named
        ]
        apart = pictures.distances(np.array(pairs))
        found.append(
            {
                "seconds": apart_s,
                "pairs": len(apart),
                "taken for one": int((apart <= SAME_PHOTOGRAPH).sum()),
                "median": float(np.median(apart)),
            }
        )
    return found


def _by_cosine(pictures: Pictures, copies: Pairs, different: NDArray[np.float32]) -> list[dict[str, float]]:
    of_copies, nearest = pictures.cosines(copies), np.maximum(different.max(axis=0), different.max(axis=1))
    return [
        {"cosine": least, "copies": float((of_copies >= least).mean()), "read": float((nearest >= least).mean())}
        for least in COSINES
    ]


def _by_distance(copies: NDArray[np.float64], different: NDArray[np.float64]) -> list[dict[str, float]]:
    return [
        {"distance": most, "copies": float((copies <= most).mean()), "different": int((different <= most).sum())}
        for most in DISTANCES
    ]


if __name__ == "__main__":
    main()
