"""A film in a few frames: how they are chosen, what stands with them, and the forms in which they come."""

import base64
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations
from pathlib import Path
from subprocess import CompletedProcess

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.fakes import DIM, GRID, SPEC, FakeEncoder, an_item, unit_rows
from xsearch.cli import main
from xsearch.cli.output import clock
from xsearch.encoders import get_encoder
from xsearch.errors import EncoderMismatch, QueryError, SourceError
from xsearch.library import Library, LibraryWriter
from xsearch.media.images import jpeg, picture_grid
from xsearch.media.video import frame_at, frames, probe
from xsearch.ranking.summary import MAX_CANDIDATES, TIME_SHARE, Summary, summary
from xsearch.summarize import BoardFrame, summarize
from xsearch.types import Embeddings, Kind, RGBImage
from xsearch.vectors import l2_normalize

RunXsearch = Callable[..., "CompletedProcess[str]"]

FPS = 10
A, B, C = 0, 1, 2
SHOTS = ((A, 3.0), (B, 2.0), (C, 4.0), (A, 1.0))
LONG_S = 6.0


def fields(seed: int, width: int = 128, height: int = 96) -> RGBImage:
    """4 x 4 fields of random colours, others for every seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (GRID, GRID, 3), np.uint8)
    return colours.repeat(height // GRID, axis=0).repeat(width // GRID, axis=1)


def film_of(path: Path, shots: Sequence[tuple[int, float]]) -> Path:
    """Write a film of still shots, each of the fields of a seed for some seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 128, 96, "yuv420p", 2_000_000
        for seed, seconds in shots:
            frame = av.VideoFrame.from_ndarray(fields(seed), "rgb24")
            for _ in range(round(FPS * seconds)):
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film_of(tmp_path_factory.mktemp("films") / "a & b.mp4", SHOTS)


def nearly(picture: RGBImage, seed: int) -> bool:
    height, width = picture.shape[:2]
    return float(np.abs(picture.astype(int) - fields(seed, width, height)).mean()) < 8


# The choice


def distances(vectors: Embeddings, t_s: NDArray[np.float64]) -> NDArray[np.float64]:
    looks = (1 - vectors.astype(np.float64) @ vectors.T) / 2
    between = np.abs(t_s[:, None] - t_s) / (np.ptp(t_s) or 1)
    apart: NDArray[np.float64] = np.clip((1 - TIME_SHARE) * looks + TIME_SHARE * between, 0, 1)
    np.fill_diagonal(apart, 0)
    return apart


def at_angles(*degrees: float) -> Embeddings:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def chosen_of(vectors: Embeddings, k: int, lengths_s: Sequence[float] = ()) -> Summary:
    n = len(vectors)
    return summary(vectors, np.arange(n, dtype=float), np.array(lengths_s or [1.0] * n), k)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 10), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_the_choice_is_near_the_best_and_no_exchange_betters_it(n: int, k: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit_rows(n, seed, dim)
    length_s = rng.uniform(0.1, 10, n)
    t_s = np.cumsum(length_s)
    found = summary(vectors, t_s, length_s, k)
    rows = found.rows.tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == min(k, n)

    apart, shares = distances(vectors, t_s), length_s / length_s.sum()
    worth = {subset: float(shares @ (1 - apart[:, subset].min(axis=1))) for subset in combinations(range(n), len(rows))}
    reached = worth[tuple(rows)]
    assert reached >= (1 - 1 / np.e) * max(worth.values())
    for subset, other in worth.items():
        if len(set(subset) - set(rows)) == 1:
            assert other <= reached + 2e-5

    nearest = apart[:, rows].argmin(axis=1)
    expected = [shares[nearest == position].sum() for position in range(len(rows))]
    np.testing.assert_allclose(found.weights, expected, atol=1e-9)
    np.testing.assert_array_equal(summary(vectors, t_s, length_s, k).rows, found.rows)


def test_each_cluster_is_shown_by_its_middle() -> None:
    found = chosen_of(at_angles(0, 100, 10, 110, 200, 20, 120), 3)
    assert found.rows.tolist() == [2, 3, 4]
    np.testing.assert_allclose(found.weights, [3 / 7, 3 / 7, 1 / 7])


def test_long_stretches_weigh_more() -> None:
    line = at_angles(0, 10, 20)
    assert chosen_of(line, 1).rows.tolist() == [1]
    found = chosen_of(line, 1, [1, 1, 9])
    assert (found.rows.tolist(), found.weights.tolist()) == ([2], [1.0])


def test_a_frame_between_two_clusters_gives_way_to_their_own() -> None:
    # The best single frame is the one at 45 degrees, so that greedy choice alone would keep it.
    angles = at_angles(0, 0, 45, 90, 90)
    assert chosen_of(angles, 1).rows.tolist() == [2]
    rows = chosen_of(angles, 2).rows.tolist()
    assert rows[0] in (0, 1)
    assert rows[1] in (3, 4)


def test_frames_that_look_the_same_are_spread_over_the_film() -> None:
    found = chosen_of(np.tile(unit_rows(1), (9, 1)), 3)
    assert found.rows.tolist() == [1, 4, 7]
    np.testing.assert_allclose(found.weights, 1 / 3)


def test_frames_that_nothing_tells_apart_stand_for_themselves_at_least() -> None:
    found = summary(np.tile(unit_rows(1), (4, 1)), np.zeros(4), np.ones(4), 3)
    assert found.rows.tolist() == [0, 1, 2]
    assert found.weights.tolist() == [0.5, 0.25, 0.25]


def test_of_a_very_long_film_all_frames_are_represented() -> None:
    n = 4 * MAX_CANDIDATES
    vectors = l2_normalize(np.repeat(unit_rows(4, dim=8), n // 4, axis=0) + 0.05 * unit_rows(n, 1, dim=8))
    found = chosen_of(vectors, 4)
    assert (found.rows * 4 // n).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.weights, 0.25)
    assert len(chosen_of(vectors[: MAX_CANDIDATES + 2], MAX_CANDIDATES + 1).rows) == MAX_CANDIDATES + 1


def test_a_summary_of_nothing_is_refused(film: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        chosen_of(unit_rows(3), 0)
    with pytest.raises(QueryError, match="at least 1 frame"):
        summarize(film, FakeEncoder(), length=0)


# The use case


def test_shots_of_the_same_look_are_shown_once_in_time_order(film: Path) -> None:
    board = summarize(film, FakeEncoder(), length=3)
    assert board.film == film
    assert board.duration_s == pytest.approx(10)
    assert [frame.shot for frame in board.frames] == [0, 1, 2]
    assert [frame.weight for frame in board.frames] == pytest.approx([0.4, 0.2, 0.4])
    assert [frame.title for frame in board.frames] == [None] * 3
    stretches = [(frame.t_start_s, frame.t_end_s) for frame in board.frames]
    assert np.ravel(stretches) == pytest.approx([0, 3, 3, 5, 5, 9], abs=0.11)
    for frame, seed in zip(board.frames, (A, B, C), strict=True):
        assert frame.t_start_s <= frame.t_s < frame.t_end_s
        assert nearly(frame_at(film, frame.t_s, 96), seed)


def test_of_a_short_film_there_are_all_frames(film: Path) -> None:
    board = summarize(film, FakeEncoder(), length=50)
    expected = [(one.t_s, one.t_start_s, one.t_end_s, one.shot) for one in frames(film, SPEC.image_px)]
    assert [(one.t_s, one.t_start_s, one.t_end_s, one.shot) for one in board.frames] == expected
    assert [one.weight for one in board.frames] == pytest.approx([0.3, 0.2, 0.4, 0.1], abs=0.02)


def test_titles_are_the_nearest_texts_of_the_library(film: Path, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(200)]
    encoder = FakeEncoder()
    text_vectors = encoder.encode_texts(texts)
    seen = encoder.encode_images([frame.pixels for frame in frames(film, SPEC.image_px)])
    with LibraryWriter(tmp_path / "library", SPEC) as writer:
        items = [an_item("texts.txt", kind=Kind.TEXT, part=str(i), text=text) for i, text in enumerate(texts)]
        writer.add([*items, an_item("a.jpg")], np.concatenate([text_vectors, seen[:1]]))
    board = summarize(film, encoder, texts=Library.open(tmp_path / "library"))
    assert [frame.title for frame in board.frames] == [texts[i] for i in (seen @ text_vectors.T).argmax(axis=1)]


def test_a_library_without_texts_gives_no_titles(film: Path, tmp_path: Path) -> None:
    with LibraryWriter(tmp_path / "library", SPEC) as writer:
        writer.add([an_item("a.jpg")], unit_rows(1))
    board = summarize(film, FakeEncoder(), length=2, texts=Library.open(tmp_path / "library"))
    assert [frame.title for frame in board.frames] == [None, None]


def test_a_library_of_another_encoder_is_refused(film: Path, tmp_path: Path) -> None:
    with LibraryWriter(tmp_path / "library", SPEC) as writer:
        writer.add([an_item("a.txt", kind=Kind.TEXT, text="a")], unit_rows(1))
    with pytest.raises(EncoderMismatch, match="holds vectors of fake, not of builtin"):
        summarize(film, get_encoder(), texts=Library.open(tmp_path / "library"))


def test_pictures_are_encoded_in_batches_and_let_go(tmp_path: Path) -> None:
    class Watching(FakeEncoder):
        def __init__(self) -> None:
            super().__init__(batch_size=3)
            self.seen: list[weakref.ref[RGBImage]] = []
            self.alive: list[int] = []

        def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
            assert 1 <= len(images) <= self.batch_size
            self.seen += [weakref.ref(image) for image in images]
            self.alive.append(sum(image() is not None for image in self.seen))
            return super().encode_images(images)

    encoder = Watching()
    heard: list[tuple[float, float]] = []
    path = film_of(tmp_path / "film.mp4", [(seed, 1.0) for seed in range(20)])
    board = summarize(path, encoder, length=20, on_progress=lambda *seen: heard.append(seen))
    assert len(board.frames) == encoder.pictures_encoded == len(encoder.seen) == 20
    assert len(encoder.alive) == 7
    assert max(encoder.alive) <= 2 * encoder.batch_size
    assert [seen_s for seen_s, _ in heard] == pytest.approx([3, 6, 9, 12, 15, 18, 20], abs=0.11)
    assert {duration_s for _, duration_s in heard} == {board.duration_s}


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        for n in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44_100, 1024 * n
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "is not a file; name a film"),
        (Path.mkdir, "is not a file; name a film"),
        (os.mkfifo, "is not a file; name a film"),
        (Path.touch, "empty file; name a film of which a player shows pictures"),
        (lambda path: path.write_text("a text"), "damaged film"),
        (sound, "no pictures in it; name a film of which a player shows pictures"),
    ],
    ids=["missing", "a folder", "a pipe", "empty", "a text", "sound alone"],
)
def test_what_is_no_film_is_told_with_its_name(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "film.mp4"
    make(path)
    with pytest.raises(SourceError, match=f"^{re.escape(str(path))}.* ?{words}"):
        summarize(path, FakeEncoder())


@pytest.mark.parametrize(
    ("t_s", "start_s", "end_s", "clip_s"),
    [
        (1.0, 0.0, 3.0, (0.0, 3.0)),
        (5.0, 3.0, 7.0, (3.0, 7.0)),
        (50.0, 0.0, 100.0, (48.0, 52.0)),
        (1.0, 0.0, 100.0, (0.0, 4.0)),
        (99.5, 0.0, 100.0, (96.0, 100.0)),
    ],
)
def test_a_clip_shows_a_stretch_or_the_part_around_the_frame(
    t_s: float, start_s: float, end_s: float, clip_s: tuple[float, float]
) -> None:
    assert BoardFrame(t_s, start_s, end_s, 0, 1.0, None).clip_s == clip_s


# The command


@pytest.fixture
def here(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a film, no library."""
    shutil.copy(film, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("XSEARCH_DATA", "XSEARCH_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., "CompletedProcess[str]"]:
    """Run the command in this process, for speed."""

    def run(*arguments: str) -> "CompletedProcess[str]":
        monkeypatch.setattr(sys, "argv", ["xsearch", "summarize", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return CompletedProcess(arguments, int(str(ended.value.code)), printed.out, printed.err)

    return run


def with_titles(folder: Path, *titles: str) -> None:
    """Make `index_data` with these texts, each the nearest to one of the film's shots, in order."""
    encoder = get_encoder()
    vectors = encoder.encode_images([fields(seed, 224, 224) for seed in (A, B, C)])
    with LibraryWriter(folder / "index_data", encoder.spec) as writer:
        items = [an_item(f"{n}.txt", kind=Kind.TEXT, text=title) for n, title in enumerate(titles)]
        writer.add(items, vectors[: len(items)])


def test_the_table_tells_times_shots_weights_and_titles(here: Path, run: RunXsearch) -> None:
    with_titles(here, "the first", "\x1b[31mthe\nsecond", "the third")
    done = run("a & b.mp4", "--length", "3")
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header == "time     shot  weight  title"
    rows = [re.fullmatch(r"(00:0\d\.\d)  ( {3}\d)   (0\.\d{3})  (.*)", line) for line in lines]
    board = summarize(here / "a & b.mp4", get_encoder(), length=3)
    assert [row.groups() for row in rows if row] == [
        (clock(frame.t_s), f"{frame.shot:>4}", f"{frame.weight:.3f}", title)
        for frame, title in zip(board.frames, ("the first", r"\x1b[31mthe second", "the third"), strict=True)
    ]


def test_json_is_the_board(here: Path, run_xsearch: RunXsearch) -> None:
    with_titles(here, "the first", "the second <b>", "猫")
    done = run_xsearch("summarize", "a & b.mp4", "--length", "3", "--json", "--out", "board.json", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    board = json.loads(done.stdout)
    assert json.loads((here / "board.json").read_text()) == board
    assert list(board) == ["film", "duration_s", "frames"]
    assert (board["film"], board["duration_s"]) == ("a & b.mp4", 10.0)
    assert all(list(frame) == ["t_s", "shot", "title", "weight"] for frame in board["frames"])
    assert [frame["shot"] for frame in board["frames"]] == [0, 1, 2]
    assert [frame["title"] for frame in board["frames"]] == ["the first", "the second <b>", "猫"]
    assert [frame["weight"] for frame in board["frames"]] == pytest.approx([0.4, 0.2, 0.4], abs=0.02)
    assert sorted(path.name for path in here.iterdir()) == ["a & b.mp4", "board.json", "index_data"]


class Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [value for name, attrs in self.tags if name == tag and (value := attrs.get(attribute))]


def test_the_html_sheet_shows_each_frame_and_leads_to_its_moment(here: Path, run: RunXsearch) -> None:
    hostile = '</figure><script>alert("1")</script>'
    with_titles(here, hostile, "the second", "the third")
    done = run("a & b.mp4", "--length", "3", "--out", "board.html")
    assert (done.stdout, done.stderr) == ("3 frames of 00:10.0 in board.html\n", "")
    page = Page((here / "board.html").read_text("utf-8"))
    board = summarize(here / "a & b.mp4", get_encoder(), length=3)
    assert [tag for tag, _ in page.tags].count("figure") == 3
    assert "script" not in [tag for tag, _ in page.tags]
    assert page.all("img", "alt") == page.all("a", "title") == [hostile, "the second", "the third"]
    film_uri = (here / "a & b.mp4").as_uri()
    assert page.all("a", "href") == [f"{film_uri}#t={frame.t_s:.3f}" for frame in board.frames]
    for frame, source, seed in zip(board.frames, page.all("img", "src"), (A, B, C), strict=True):
        assert f"{clock(frame.t_s)} · shot {frame.shot} · {frame.weight:.0%}" in page.text
        kind, _, encoded = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(BytesIO(base64.b64decode(encoded, validate=True))) as picture:
            assert picture.size == (128, 96)
            assert nearly(np.asarray(picture), seed)
    assert not page.all("link", "href")
    assert not page.all("script", "src")


def test_the_png_sheet_shows_each_frame_over_its_caption(here: Path, run: RunXsearch) -> None:
    assert run("a & b.mp4", "--out", "board.png", "--length", "3").returncode == 0
    board = summarize(here / "a & b.mp4", get_encoder(), length=3)
    pictures = [frame_at(here / "a & b.mp4", frame.t_s, 270) for frame in board.frames]
    lines = [f"{clock(frame.t_s)} · shot {frame.shot} · {frame.weight:.0%}" for frame in board.frames]
    assert (here / "board.png").read_bytes() == picture_grid(pictures, [(line, "") for line in lines], 4)


def test_the_clip_shows_the_chosen_stretches_in_time_order(tmp_path: Path, here: Path, run: RunXsearch) -> None:
    film_of(here / "film.mp4", [(A, 2.0), (B, LONG_S), (C, 1.0)])
    assert run("film.mp4", "--out", "clip.mp4").stdout == "3 frames of 00:09.0 in clip.mp4\n"
    clip = here / "clip.mp4"
    assert probe(clip).duration_s == pytest.approx(2 + 4 + 1, abs=0.25)
    for t_s, seed in ((0.2, A), (1.7, A), (2.4, B), (5.6, B), (6.4, C), (6.8, C)):
        assert nearly(frame_at(clip, t_s, 96), seed), t_s
    assert not list(here.glob("clip*.*.*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.mp4"], ["missing.mp4 is not a file; name a film"]),
        (["notes.mp4", "--out", "old.html"], ["notes.mp4: damaged film", "of which a player shows pictures"]),
        (["a & b.mp4", "--out", "board.pdf"], ["board.pdf", ".html, .png, .json, .mp4"]),
        (["a & b.mp4", "--out", "board"], ["written to board", ".html, .png, .json, .mp4"]),
        (["a & b.mp4", "--out", "missing/board.png"], ["there is no folder missing", "make it"]),
        (["a & b.mp4", "--out", "folder.png"], ["folder.png is a folder", "--out"]),
        (["a & b.mp4", "--out", "./a & b.mp4"], ["is the film itself", "--out"]),
        (["a & b.mp4", "--out", "link.mp4"], ["is the film itself", "--out"]),
        (["a & b.mp4", "--length", "0"], ["--length", "1<=x<=200"]),
        (["a & b.mp4", "--model", "nonsense"], ["no encoder called 'nonsense'", "`xsearch models`"]),
        ([], ["Missing argument", "`xsearch summarize --help`"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_is_one_line_and_changes_nothing(
    here: Path, run: RunXsearch, arguments: list[str], words: list[str]
) -> None:
    (here / "notes.mp4").write_text("not a film")
    (here / "old.html").write_text("an earlier one")
    (here / "folder.png").mkdir()
    (here / "link.mp4").symlink_to("a & b.mp4")
    before = {path: path.is_file() and path.read_bytes() for path in here.iterdir()}
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("xsearch: ")
    for word in words:
        assert word in line
    assert {path: path.is_file() and path.read_bytes() for path in here.iterdir()} == before


def test_a_library_that_cannot_help_is_told_and_done_without(here: Path, run: RunXsearch) -> None:
    with LibraryWriter(here / "index_data", SPEC) as writer:
        writer.add([an_item("a.txt", kind=Kind.TEXT, text="a")], unit_rows(1, dim=DIM))
    done = run("a & b.mp4", "--model", "builtin", "--json")
    assert [frame["title"] for frame in json.loads(done.stdout)["frames"]] == [None] * 4
    assert done.stderr == ("xsearch: index_data holds vectors of fake, not of builtin: the frames have no titles\n")
    done = run("a & b.mp4", "--data", "missing", "--json")
    assert len(json.loads(done.stdout)["frames"]) == 4
    assert done.stderr == "xsearch: there is no library in missing: the frames have no titles\n"


def test_a_terminal_shows_how_far_it_is(here: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "xsearch", "summarize", "a & b.mp4", "--json"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=theirs, text=True) as running:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how a terminal says that nobody writes to it any more
            while read := os.read(ours, 65_536):
                shown += read
        os.close(ours)
        assert running.stdout is not None
        board = json.loads(running.stdout.read())
    assert running.returncode == 0
    assert b"watching" in shown
    assert b"00:10.0 of 00:10.0" in shown
    assert board["duration_s"] == 10.0


# What it is made of


@pytest.mark.parametrize(
    ("t_s", "expected"),
    [
        (0, "00:00.0"),
        (12.4, "00:12.4"),
        (59.94, "00:59.9"),
        (59.96, "01:00.0"),
        (3599.96, "1:00:00.0"),
        (3723.4, "1:02:03.4"),
        (360_000, "100:00:00.0"),
    ],
)
def test_clock(t_s: float, expected: str) -> None:
    assert clock(t_s) == expected


def test_a_grid_has_every_picture_in_its_place() -> None:
    pictures = [fields(seed, 240, 160) for seed in range(5)]
    sheet = np.asarray(Image.open(BytesIO(picture_grid(pictures, [("one", "two")] * 5, 2))))
    assert sheet.shape == (3 * 212 + 12, 2 * 252 + 12, 3)
    for n, picture in enumerate(pictures):
        x, y = 12 + n % 2 * 252, 12 + n // 2 * 212
        np.testing.assert_array_equal(sheet[y : y + 160, x : x + 240], picture)
        for line in (sheet[y + 160 : y + 180, x : x + 240], sheet[y + 180 : y + 200, x : x + 240]):
            assert 20 < np.count_nonzero(line < 128) < 2_000
    assert (sheet[12 + 2 * 212 :, 12 + 252 :] == 255).all()  # there is no sixth


def test_letters_that_no_font_has_are_question_marks_and_long_lines_are_cut() -> None:
    def line(text: str) -> bytes:
        return picture_grid([fields(0)], [(text,)], 1)

    assert line("a\x1bb\U000f1234c") == line("a?b?c")
    assert line("y" * 400) == line("y" * 600)
    sheet = np.asarray(Image.open(BytesIO(line("y" * 400))))
    assert (sheet[:, -12:] == 255).all()
    assert (sheet[12 + 96 :, :12] == 255).all()


def test_a_picture_as_jpeg_keeps_its_pixels() -> None:
    with Image.open(BytesIO(jpeg(fields(3, 64, 48)))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 48))
        assert nearly(np.asarray(picture), 3)
