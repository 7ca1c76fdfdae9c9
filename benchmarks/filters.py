"""What a condition costs, and what filtered search does to time and recall, at 100 % to 0.1 % of a million items.

    python benchmarks/filters.py [--items 1000000]

A library of made-up pictures of 1,000 subjects is written, with an index, and texts about 100 of the subjects ask. What
is named after a share has nothing to do with what the pictures show. "other subjects" is a tenth of the library, and
"all but these" all of it but the subjects asked for: the lists that the texts lead to hold nothing that is allowed.
Times are of CPU, medians: those of the clock depend on who else uses the machine.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import report

from xsearch.index.calibrate import calibrate
from xsearch.index.exact import Found, search_exact
from xsearch.index.ivfpq import IvfPq
from xsearch.index.plan import IndexKind, SearchSettings, plan_index
from xsearch.index.search import search
from xsearch.library import Library, LibraryWriter
from xsearch.library.where import matching
from xsearch.types import Embeddings, EncoderSpec, Fingerprint, Item, Kind, item_id
from xsearch.vectors import l2_normalize

DIM, SUBJECTS, ASKED, K, TARGET = 96, 1_000, 100, 10, 0.95
CALIBRATING, ASKING, ROUNDS = 1_000, 100, 5
COMMIT_ROWS = 125_000
SPEC = EncoderSpec("made up", Fingerprint("made up", "0", "", "", "float", DIM), 1, 1, 1.0)

CONDITIONS = {
    "100 %": "width > 0",
    "10 %": "camera LIKE '%Pixel%'",
    "1 %": "camera LIKE '%Pixel%' AND taken_at >= '2023-01-01'",
    "0.1 %": "camera LIKE '%Pixel%' AND taken_at >= '2023-01-01' AND width >= 5400",
    "near": "near(48.137, 11.575, 500)",
    "other subjects": "path LIKE '%/subject-7%'",
    "all but these": "path NOT LIKE '%/subject-0%'",
}
COLD = """
import sys, time
from pathlib import Path
from xsearch.library import Library
library = Library.open(Path(sys.argv[1]))
start_s = time.process_time()
from xsearch.library.where import matching
matching(library, sys.argv[2])
print(time.process_time() - start_s)
"""


class World:
    """Pictures and texts about subjects, around two directions apart from one another, as encoders place them."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self._spectrum = np.arange(1, DIM + 1) ** -0.5
        self._spectrum /= np.linalg.norm(self._spectrum)
        self._centres = self.rng.standard_normal((SUBJECTS, DIM)) * self._spectrum
        self._picture_cone, self._text_cone = np.linalg.qr(self.rng.standard_normal((DIM, 2)))[0].T

    def pictures(self, subjects: NDArray[np.int64]) -> Embeddings:
        return l2_normalize(self._picture_cone + self._about(subjects, 0.7))

    def texts(self, subjects: NDArray[np.int64]) -> Embeddings:
        return l2_normalize(0.4 * self._picture_cone + 0.9 * self._text_cone + self._about(subjects, 1.2))

    def _about(self, subjects: NDArray[np.int64], jitter: float) -> Embeddings:
        noise = self.rng.standard_normal((len(subjects), DIM)) * self._spectrum
        return l2_normalize(self._centres[subjects] + jitter * noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    options = parser.parse_args()
    world = World()
    with tempfile.TemporaryDirectory() as name:
        library = _written(Path(name), options.items, world)
        index = IvfPq.build(library.vectors, plan_index(len(library), DIM, kind=IndexKind.IVFPQ))
        calibrating = world.texts(world.rng.integers(SUBJECTS, size=CALIBRATING))
        settings = calibrate(index, library.vectors, calibrating, TARGET).settings
        texts = world.texts(world.rng.integers(ASKED, size=ASKING))
        rows = [
            _measured("none", library, None, index, settings, texts),
            *(_measured(name, library, where, index, settings, texts) for name, where in CONDITIONS.items()),
        ]
        cold_s = median(_cold_s(library.folder, CONDITIONS["0.1 %"]) for _ in range(ROUNDS))
    report("filters", rows, dim=DIM, nlist=index.nlist, nprobe=settings.nprobe, depth=settings.depth, cold_s=cold_s)


def _written(folder: Path, n: int, world: World) -> Library:
    with LibraryWriter(folder, SPEC) as writer:
        for first in range(0, n, COMMIT_ROWS):
            subjects = world.rng.integers(SUBJECTS, size=min(COMMIT_ROWS, n - first))
            items = [_item(first + i, int(subject), world.rng) for i, subject in enumerate(subjects)]
            writer.add(items, world.pictures(subjects))
    return Library.open(folder)


def _item(number: int, subject: int, rng: np.random.Generator) -> Item:
    path = f"subject-{subject:03d}/IMG_{number:07d}.jpg"
    chance = rng.random(6)
    return Item(
        id=item_id(Path("/photos", path)),
        kind=Kind.IMAGE,
        root="/photos",
        path=path,
        bytes=int(1e7 * chance[0]),
        mtime_ns=10**18 + number,
        content_hash=f"{number:032x}",
        width=int(6000 * chance[1]) + 1,
        height=4000,
        taken_at=f"{int(2014 + 10 * chance[2])}-{number % 12 + 1:02d}-{number % 28 + 1:02d}T12:34:56",
        camera="Google Pixel 7" if chance[3] < 0.1 else "Canon EOS 5D",
        gps_lat=float(180 * chance[4] - 90),
        gps_lon=float(360 * chance[5] - 180),
    )


def _measured(
    name: str, library: Library, where: str | None, index: IvfPq, settings: SearchSettings, texts: Embeddings
) -> dict[str, Any]:
    allowed, condition_ms = None, 0.0
    if where is not None:
        allowed = matching(library, where)
        condition_ms = median(_condition_ms(library, where) for _ in range(ROUNDS))

    def through_the_index(text: Embeddings) -> Found:
        return search(library.vectors, index, text, K, settings=settings, allowed=allowed)

    def exactly(text: Embeddings) -> Found:
        return search_exact(library.vectors, text, K, allowed=allowed)

    found, search_ms = _answers(through_the_index, texts)
    exact, exact_ms = _answers(exactly, texts)
    return {
        "filter": name,
        "matches": len(library) if allowed is None else int(np.count_nonzero(allowed)),
        "condition_ms": condition_ms,
        "search_ms": search_ms,
        "exact_ms": exact_ms,
        "recall@10": float(np.mean([np.isin(true, rows).mean() for rows, true in zip(found, exact, strict=True)])),
    }


def _answers(ask: Callable[[Embeddings], Found], texts: Embeddings) -> tuple[list[NDArray[np.int64]], float]:
    """Return the rows that each text finds, asked one by one, and the median of their milliseconds of CPU."""
    answers, times_ms = [], []
    for text in np.split(texts, len(texts)):
        start_s = time.process_time()
        answers.append(ask(text).rows)
        times_ms.append(1000 * (time.process_time() - start_s))
    return answers, median(times_ms)


def _condition_ms(library: Library, where: str) -> float:
    start_s = time.process_time()
    matching(library, where)
    return 1000 * (time.process_time() - start_s)


def _cold_s(folder: Path, where: str) -> float:
    """Return the CPU time of a condition in a process of its own, the start of DuckDB included."""
    script = [sys.executable, "-c", COLD, str(folder), where]
    return float(subprocess.run(script, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
