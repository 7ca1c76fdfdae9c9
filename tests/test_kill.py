"""kill -9 at any moment: what was committed stays, the library is whole, and the next run goes on from there."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.fakes import living, picture
from xsearch import Searcher
from xsearch.encoders import Encoder, get_encoder
from xsearch.library import Library, LibraryWriter, Manifest
from xsearch.maintenance import verify
from xsearch.media.images import open_image

REPOSITORY = Path(__file__).resolve().parents[1]

KILLS = 32
PICTURES = 96
MORE = 32
COMMAND_TIMEOUT_S = 60
# Of a float16 below 1, and of the same picture in another batch.
TOLERANCE = 1e-3
POLL_S = 0.002

# The real command, with a commit after every batch.
COMMAND = "import xsearch.pipeline as p; p.COMMIT_S = 0.05; from xsearch.cli import main; main()"

Moment = Callable[[], bool]


@dataclass(slots=True)
class Killed:
    """A library over a folder of pictures, whose index runs are killed. `vectors` are those that were committed."""

    folder: Path
    encoder: Encoder
    rng: random.Random
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    rewritten: set[str] = field(default_factory=set)
    pictures: int = 0

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", COMMAND, "index", str(self.photos), "--data", str(self.data), *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)

    def kill(self, moment: Moment, *options: str) -> bool:
        """Run the command and kill it when the moment has come; return False if it was done before."""
        with self.start(*options) as process:
            try:
                while process.poll() is None and not moment():
                    time.sleep(POLL_S)
            finally:
                process.kill()
            _, stderr = process.communicate(timeout=COMMAND_TIMEOUT_S)
        assert process.returncode in (0, -9), stderr
        return process.returncode == -9

    def check(self) -> None:
        """All is whole, nothing that was committed is lost, and a reader finds it."""
        if not (self.data / "manifest.json").exists():
            assert self.vectors == {}
            return
        assert verify(self.data) == []
        now = living(Library.open(self.data))
        assert self.vectors.keys() <= now.keys()
        for name in self.vectors.keys() - self.rewritten:
            np.testing.assert_array_equal(now[name], self.vectors[name])
        self.vectors = now
        if now:
            warnings: list[str] = []
            searcher = Searcher(self.data, encoder=self.encoder, on_warning=warnings.append)
            assert len(searcher.query("a picture", k=5)) == min(5, len(now))
            name = self.rng.choice(sorted(now.keys() - self.rewritten))
            assert searcher.query(image=self.photos / name, k=1)[0].path == str(self.photos / name)
            assert warnings == []

    def add_pictures(self, n: int) -> None:
        for i in range(self.pictures, self.pictures + n):
            picture(self.photos / f"{i:04}.png", i)
        self.pictures += n

    def rewrite_pictures(self, n: int) -> None:
        for i in self.rng.sample(range(self.pictures), n):
            picture(self.photos / f"{i:04}.png", 10_000 + self.rng.randrange(10_000))
            self.rewritten.add(f"{i:04}.png")


def after_s(seconds: float) -> Moment:
    end_s = time.monotonic() + seconds
    return lambda: time.monotonic() >= end_s


def after_commits(data: Path, commits: int, then_s: float) -> Moment:
    """A while after the manifest has been replaced so many times: writing, renaming or removing the next files."""
    seen: set[int] = set()
    waiting: list[Moment] = []

    def has_come() -> bool:
        try:
            seen.add((data / "manifest.json").stat().st_mtime_ns)
        except FileNotFoundError:
            return False
        if len(seen) > commits and not waiting:
            waiting.append(after_s(then_s))
        return bool(waiting) and waiting[0]()

    return has_come


def when_there_is(folder: Path, pattern: str, then_s: float) -> Moment:
    """A while after a file of such a name is there that a run killed earlier has not left."""
    started_ns = time.time_ns()
    waiting: list[Moment] = []

    def has_come() -> bool:
        with suppress(FileNotFoundError):
            if not waiting and any(file.stat().st_mtime_ns > started_ns for file in folder.glob(pattern)):
                waiting.append(after_s(then_s))
        return bool(waiting) and waiting[0]()

    return has_come


def moments(killed: Killed, n: int) -> Iterator[tuple[Moment, tuple[str, ...]]]:
    """Yield when to kill, and the options of the run: at start-up, around commits, while an index is made."""
    rng, data = killed.rng, killed.data
    for number in range(n):
        match number % 8:
            case 0:
                yield after_s(rng.uniform(0.1, 1.2)), ()
            case 1 | 2 | 3 | 4:
                yield after_commits(data, rng.randint(1, 2), rng.uniform(0, 0.05)), ()
            case 5 | 6:
                yield when_there_is(data, rng.choice(["*.tmp", "shards/*.tmp"]), rng.uniform(0, 0.003)), ()
            case _:
                written = when_there_is(data, "index/*", rng.uniform(0, 0.01))
                yield written if number % 16 == 7 else after_s(rng.uniform(1, 3)), ("--index", "ivfpq")


def test_nothing_that_was_committed_is_lost(tmp_path: Path) -> None:
    killed = Killed(tmp_path, get_encoder(), random.Random(20))
    killed.add_pictures(PICTURES)
    kills = 0
    while kills < KILLS:
        for moment, options in moments(killed, KILLS - kills):
            kills += killed.kill(moment, *options)
            killed.check()
            if len(killed.vectors) == killed.pictures:  # there is work for the next run
                killed.add_pictures(MORE)
                killed.rewrite_pictures(MORE // 4)
                with LibraryWriter(killed.data) as writer:
                    writer.drop_index()
    with killed.start("--index", "ivfpq", "--json") as process:
        stdout, stderr = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 0, stderr
    report = json.loads(stdout)
    assert report["seen"] == killed.pictures == report["indexed"] + report["unchanged"]
    assert (report["moved"], report["removed"], report["skipped"]) == (0, 0, {})
    killed.check()
    assert sorted(killed.vectors) == sorted(file.name for file in killed.photos.iterdir())
    manifest = Manifest.load(killed.data)
    assert manifest.index is not None
    assert manifest.index.rows == manifest.rows
    assert {file.name for file in (killed.data / "shards").iterdir()} == {f"{e.id}.parquet" for e in manifest.shards}
    assert [file.name for file in (killed.data / "index").iterdir()] == [manifest.index.file]
    assert list(killed.data.rglob("*.tmp")) == []
    # Rewritten ones included, a picture has the vector of what is in its file.
    names = killed.rng.sample(sorted(killed.rewritten), 32) + killed.rng.sample(sorted(killed.vectors), 32)
    pixels = [open_image(killed.photos / name, killed.encoder.spec.image_px) for name in names]
    np.testing.assert_allclose(
        [killed.vectors[name] for name in names], killed.encoder.encode_images(pixels), atol=TOLERANCE
    )
