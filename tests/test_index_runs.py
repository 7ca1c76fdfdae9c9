"""What an index run does to a library when its sources change: what is encoded, kept, replaced and removed."""

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.fakes import FakeEncoder, living, mean_colours, picture
from xsearch.errors import EncoderMismatch, SourceError
from xsearch.indexer import IndexReport, index
from xsearch.library import Library, LibraryWriter, Manifest, faults, recover
from xsearch.probes import probe_texts
from xsearch.ranking.confidence import BANK_SIZE
from xsearch.types import Item, Kind, item_id
from xsearch.vectors import l2_normalize

Counts = tuple[int, int, int, int, int, int]


class Runs:
    """Runs over the folder `photos`, which count what the encoder was asked for."""

    def __init__(self, folder: Path) -> None:
        self.photos = folder / "photos"
        self.data = folder / "data"
        self.encoder = FakeEncoder()

    def __call__(self, *sources: Path) -> IndexReport:
        self.encoder = FakeEncoder()
        report = index(sources or [self.photos], self.data, self.encoder)
        assert report.seen == report.indexed + report.unchanged + report.moved + sum(report.skipped.values())
        assert report.items == len(self.living())
        assert faults(self.data) == []
        return report

    @property
    def encoded(self) -> tuple[int, int]:
        """Pictures and texts that the last run encoded, without the bank of generic texts."""
        return self.encoder.pictures_encoded, len(set(self.encoder.texts_encoded) - set(probe_texts(BANK_SIZE)))

    def living(self) -> dict[str, NDArray[np.float32]]:
        return living(Library.open(self.data))

    def items(self) -> dict[str, Item]:
        library = Library.open(self.data)
        return {item.path: item for item in library.items(np.flatnonzero(library.alive))}


def counts(report: IndexReport) -> Counts:
    skipped = sum(report.skipped.values())
    return report.seen, report.indexed, report.unchanged, report.moved, report.removed, skipped


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Twelve pictures, one of them twice, two texts and a file that is none of ours, indexed once."""
    runs = Runs(tmp_path)
    for i in range(11):
        picture(runs.photos / f"{i}.png", i)
    (runs.photos / "sub").mkdir()
    shutil.copy(runs.photos / "0.png", runs.photos / "sub" / "copy.png")
    (runs.photos / "note.txt").write_text("a note")
    (runs.photos / "10.txt").write_text("the first caption\nthe second")
    (runs.photos / "tool.exe").write_bytes(b"MZ")
    assert counts(runs()) == (15, 14, 0, 0, 0, 1)
    assert runs.encoded == (12, 3)
    return runs


def assert_same_vectors(runs: Runs, before: dict[str, NDArray[np.float32]], renamed: dict[str, str]) -> None:
    """The vectors are bit for bit what they were before, under their new names."""
    now = runs.living()
    assert sorted(now) == sorted(renamed.get(name, name) for name in before)
    for name, vector in before.items():
        np.testing.assert_array_equal(now[renamed.get(name, name)], vector)


class TestFirstRun:
    def test_every_item_has_its_own_vector_and_its_own_name(self, runs: Runs) -> None:
        vectors = runs.living()
        assert sorted(vectors) == sorted(
            [*(f"{i}.png" for i in range(11)), "sub/copy.png", "note.txt#0", "10.txt#0", "10.txt#1"]
        )
        for name, vector in vectors.items():
            if name.endswith(".png"):
                pixels = np.asarray(Image.open(runs.photos / name))
                np.testing.assert_array_equal(vector, l2_normalize(mean_colours(pixels)).astype(np.float16))
        for name, text in {"note.txt#0": "a note", "10.txt#0": "the first caption", "10.txt#1": "the second"}.items():
            np.testing.assert_array_equal(vectors[name], FakeEncoder().encode_texts([text])[0].astype(np.float16))

    def test_items_know_their_file(self, runs: Runs) -> None:
        items = runs.items()
        file = runs.photos / "3.png"
        assert items["3.png"].id == item_id(file)
        assert items["3.png"].kind is Kind.IMAGE
        assert items["3.png"].file == file
        assert (items["3.png"].width, items["3.png"].height) == (32, 32)
        assert (items["3.png"].bytes, items["3.png"].mtime_ns) == (file.stat().st_size, file.stat().st_mtime_ns)
        assert items["10.txt"].pair == item_id(runs.photos / "10.png")
        assert items["note.txt"].pair is None

    def test_a_second_run_changes_nothing(self, runs: Runs) -> None:
        before, manifest = runs.living(), Manifest.load(runs.data)
        assert counts(runs()) == (15, 0, 14, 0, 0, 1)
        assert runs.encoded == (0, 0)
        assert_same_vectors(runs, before, {})
        assert Manifest.load(runs.data) == manifest

    def test_another_encoder_is_refused(self, runs: Runs) -> None:
        other = FakeEncoder()
        other.spec = replace(other.spec, fingerprint=replace(other.spec.fingerprint, weights="1"))
        with pytest.raises(EncoderMismatch):
            index([runs.photos], runs.data, other)
        assert len(runs.living()) == 15


class TestIdentity:
    def test_files_that_agree_in_size_first_megabyte_and_last_kilobyte_differ(self, tmp_path: Path) -> None:
        runs = Runs(tmp_path)
        runs.photos.mkdir()
        pixels = np.full((800, 800, 3), 120, np.uint8)
        Image.fromarray(pixels).save(runs.photos / "a.bmp")
        # A bitmap begins with its lowest row: this is after the first MiB and before the last KiB.
        pixels[1:300] = (250, 10, 10)
        Image.fromarray(pixels).save(runs.photos / "b.bmp")
        a, b = ((runs.photos / name).read_bytes() for name in ("a.bmp", "b.bmp"))
        assert len(a) == len(b)
        assert a[: 1 << 20] == b[: 1 << 20]
        assert a[-1024:] == b[-1024:]
        assert a != b
        assert counts(runs()) == (2, 2, 0, 0, 0, 0)
        assert runs.encoded == (2, 0)
        vectors = runs.living()
        assert float(vectors["a.bmp"] @ vectors["b.bmp"]) < 0.9
        # One that takes the place and the time of the other is no move of it either.
        status = (runs.photos / "a.bmp").stat()
        (runs.photos / "a.bmp").write_bytes(b)
        os.utime(runs.photos / "a.bmp", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert counts(runs()) == (2, 1, 1, 0, 0, 0)
        np.testing.assert_array_equal(runs.living()["a.bmp"], vectors["b.bmp"])

    def test_a_renamed_or_moved_file_keeps_its_vector_and_is_not_encoded(self, runs: Runs) -> None:
        before = runs.living()
        (runs.photos / "1.png").rename(runs.photos / "renamed.png")
        (runs.photos / "2.png").rename(runs.photos / "sub" / "2.png")
        assert counts(runs()) == (15, 0, 12, 2, 0, 1)
        assert runs.encoded == (0, 0)
        assert_same_vectors(runs, before, {"1.png": "renamed.png", "2.png": "sub/2.png"})
        moved = runs.items()["sub/2.png"]
        assert moved.id == item_id(runs.photos / "sub" / "2.png")
        assert moved.mtime_ns == (runs.photos / "sub" / "2.png").stat().st_mtime_ns
        assert (moved.width, moved.height) == (32, 32)

    def test_a_renamed_folder(self, runs: Runs) -> None:
        before = runs.living()
        (runs.photos / "sub").rename(runs.photos / "other")
        assert counts(runs()) == (15, 0, 13, 1, 0, 1)
        assert runs.encoded == (0, 0)
        assert_same_vectors(runs, before, {"sub/copy.png": "other/copy.png"})

    def test_two_files_that_change_places(self, runs: Runs) -> None:
        before = runs.living()
        (runs.photos / "1.png").rename(runs.photos / "x.png")
        (runs.photos / "2.png").rename(runs.photos / "1.png")
        (runs.photos / "x.png").rename(runs.photos / "2.png")
        os.utime(runs.photos / "1.png", ns=(1, 1))
        os.utime(runs.photos / "2.png", ns=(2, 2))
        report = runs()
        assert (report.removed, report.items) == (0, 15)
        assert runs.encoded == (0, 0)
        assert_same_vectors(runs, before, {"1.png": "2.png", "2.png": "1.png"})

    def test_a_copy_is_an_item_of_its_own_and_not_encoded(self, runs: Runs) -> None:
        before = runs.living()
        shutil.copy(runs.photos / "5.png", runs.photos / "five.png")
        assert counts(runs()) == (16, 1, 14, 0, 0, 1)
        assert runs.encoded == (0, 0)
        now = runs.living()
        np.testing.assert_array_equal(now["five.png"], before["5.png"])
        np.testing.assert_array_equal(now["5.png"], before["5.png"])

    def test_a_touched_file_is_not_encoded(self, runs: Runs) -> None:
        before = runs.living()
        for name in ("3.png", "note.txt"):
            os.utime(runs.photos / name, ns=(5, 5))
        assert counts(runs()) == (15, 0, 14, 0, 0, 1)
        assert runs.encoded == (0, 0)
        assert_same_vectors(runs, before, {})
        assert (runs.items()["3.png"].mtime_ns, runs.items()["note.txt"].mtime_ns) == (5, 5)
        assert counts(runs()) == (15, 0, 14, 0, 0, 1)


class TestChange:
    def test_changed_content_replaces_the_item_in_one_commit(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        before = runs.living()
        picture(runs.photos / "4.png", 400)
        held: list[set[str]] = []
        save = Manifest.save

        def spy(self: Manifest, folder: Path) -> None:
            save(self, folder)
            held.append(set(living(Library.open(folder))))

        with monkeypatch.context() as patch:
            patch.setattr(Manifest, "save", spy)
            assert counts(runs()) == (15, 1, 13, 0, 0, 1)
        assert runs.encoded == (1, 0)
        assert held
        assert all(names == set(before) for names in held)
        now = runs.living()
        expected = l2_normalize(mean_colours(np.asarray(Image.open(runs.photos / "4.png")))).astype(np.float16)
        np.testing.assert_array_equal(now["4.png"], expected)
        assert not np.array_equal(now["4.png"], before["4.png"])

    def test_a_text_that_grew_shorter_leaves_no_passage_behind(self, runs: Runs) -> None:
        (runs.photos / "10.txt").write_text("the only caption")
        assert counts(runs()) == (15, 1, 13, 0, 0, 1)
        assert runs.encoder.texts_encoded == ["the only caption"]
        assert "10.txt#1" not in runs.living()
        assert runs.items()["10.txt"].text == "the only caption"

    def test_a_file_that_can_no_longer_be_decoded_leaves_and_comes_back(self, runs: Runs) -> None:
        content = (runs.photos / "6.png").read_bytes()
        (runs.photos / "6.png").write_bytes(content[:60])
        report = runs()
        assert counts(report) == (15, 0, 13, 0, 0, 2)
        assert "6.png" not in runs.living()
        assert str(runs.photos / "6.png") in {entry.path for entry in Library.open(runs.data).skipped()}
        (runs.photos / "6.png").write_bytes(content)
        assert counts(runs()) == (15, 1, 13, 0, 0, 1)
        assert str(runs.photos / "6.png") not in {entry.path for entry in Library.open(runs.data).skipped()}

    def test_deleted_files_leave(self, runs: Runs) -> None:
        before = runs.living()
        for name in ("7.png", "sub/copy.png", "10.txt"):
            (runs.photos / name).unlink()
        assert counts(runs()) == (12, 0, 11, 0, 3, 1)
        assert sorted(runs.living()) == sorted(set(before) - {"7.png", "sub/copy.png", "10.txt#0", "10.txt#1"})
        assert runs.encoded == (0, 0)

    def test_many_deleted_files_are_purged(self, runs: Runs) -> None:
        before = runs.living()
        for i in range(8):
            (runs.photos / f"{i}.png").unlink()
        assert counts(runs()) == (7, 0, 6, 0, 8, 1)
        library = Library.open(runs.data)
        assert library.alive.all()
        assert len(library) == 7
        assert all(np.array_equal(vector, before[name]) for name, vector in living(library).items())

    def test_a_row_that_leaves_a_table_leaves_alone(self, tmp_path: Path) -> None:
        runs = Runs(tmp_path)
        for i in range(3):
            picture(runs.photos / f"{i}.png", i)
        table = runs.photos / "captions.csv"

        def write(*rows: tuple[str, str]) -> None:
            with table.open("w", newline="") as file:
                csv.writer(file).writerows([("path", "caption"), *rows])

        write(("0.png", "zero"), ("1.png", "one"), ("2.png", "two"))
        assert counts(runs()) == (6, 6, 0, 0, 0, 0)
        write(("2.png", "two"), ("0.png", "nought"))
        assert counts(runs()) == (5, 1, 4, 0, 2, 0)
        assert runs.encoder.texts_encoded == ["nought"]
        texts = [item.text for item in Library.open(runs.data).items(np.flatnonzero(Library.open(runs.data).alive))]
        assert sorted(text for text in texts if text) == ["nought", "two"]


def _renamed_away(root: Path) -> Callable[[], Any]:
    elsewhere = root.with_name("elsewhere")
    root.rename(elsewhere)
    return lambda: elsewhere.rename(root)


def _empty_mount_point(root: Path) -> Callable[[], Any]:
    elsewhere = root.with_name("elsewhere")
    root.rename(elsewhere)
    root.mkdir()
    return lambda: (root.rmdir(), elsewhere.rename(root))


def _mount_point_with_a_system_file(root: Path) -> Callable[[], Any]:
    back = _empty_mount_point(root)
    (root / ".DS_Store").write_bytes(b"x")
    (root / "desktop.ini").write_bytes(b"x")
    return lambda: ((root / ".DS_Store").unlink(), (root / "desktop.ini").unlink(), back())


class TestUnmounted:
    @pytest.mark.parametrize("unmount", [_renamed_away, _empty_mount_point, _mount_point_with_a_system_file])
    def test_a_root_that_goes_and_comes_back_loses_nothing_and_encodes_nothing(
        self, unmount: Callable[[Path], Callable[[], Any]], runs: Runs
    ) -> None:
        before = runs.living()
        mount = unmount(runs.photos)
        report = runs()
        assert (report.indexed, report.unchanged, report.moved, report.removed) == (0, 0, 0, 0)
        assert runs.encoded == (0, 0)
        (note,) = report.notes
        assert str(runs.photos) in note
        assert "none of the 14 files known there was removed" in note
        assert_same_vectors(runs, before, {})
        mount()
        assert counts(runs()) == (15, 0, 14, 0, 0, 1)
        assert runs.encoded == (0, 0)
        assert_same_vectors(runs, before, {})

    def test_another_root_is_indexed_meanwhile(self, runs: Runs, tmp_path: Path) -> None:
        before = runs.living()
        mount = _renamed_away(runs.photos)
        picture(tmp_path / "more" / "new.png", 77)
        report = runs(runs.photos, tmp_path / "more")
        assert (report.seen, report.indexed, report.removed, report.items) == (1, 1, 0, 16)
        mount()
        assert counts(runs(runs.photos, tmp_path / "more")) == (16, 0, 15, 0, 0, 1)
        assert runs.encoded == (0, 0)
        assert all(np.array_equal(runs.living()[name], vector) for name, vector in before.items())

    def test_files_that_moved_to_another_root_keep_their_vectors(self, runs: Runs, tmp_path: Path) -> None:
        """The old root is not there, so nothing tells a move from a copy: both are kept, and nothing is encoded."""
        before = runs.living()
        runs.photos.rename(tmp_path / "archive")
        encoder = FakeEncoder()
        report = index([runs.photos, tmp_path / "archive"], runs.data, encoder)
        assert (report.indexed, report.moved, report.removed, report.items) == (14, 0, 0, 30)
        assert encoder.pictures_encoded == 0
        rows = Library.open(runs.data).files()
        for i in range(11):
            (old,) = rows[runs.photos / f"{i}.png"]
            (new,) = rows[tmp_path / "archive" / f"{i}.png"]
            vectors = Library.open(runs.data).vectors.take(np.array([*old.rows, *new.rows]))
            np.testing.assert_array_equal(vectors, [before[f"{i}.png"]] * 2)

    def test_a_source_that_never_was_is_an_error(self, runs: Runs, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="check the path, or mount the drive"):
            runs(tmp_path / "never")
        assert len(runs.living()) == 15

    def test_a_file_that_cannot_be_read_now_is_kept(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        before = runs.living()
        os.utime(runs.photos / "3.png", ns=(5, 5))
        read_bytes = Path.read_bytes

        def fail(self: Path) -> bytes:
            if self.name == "3.png":
                raise PermissionError(13, "Permission denied", str(self))
            return read_bytes(self)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", fail)
            assert counts(runs()) == (15, 0, 13, 0, 0, 2)
        assert_same_vectors(runs, before, {})
        assert counts(runs()) == (15, 0, 14, 0, 0, 1)


class TestInterrupted:
    def test_what_was_committed_is_not_encoded_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The encoder fails at the fifth batch of eight: four were committed, one at a time."""
        monkeypatch.setattr("xsearch.pipeline.COMMIT_S", -1.0)
        runs = Runs(tmp_path)
        for i in range(60):
            picture(runs.photos / f"{i:02}.png", i)
        encoder = FakeEncoder()
        encode_images = encoder.encode_images

        def fail(images: Any) -> Any:
            if encoder.pictures_encoded >= 32:
                raise RuntimeError("out of memory")
            return encode_images(images)

        with monkeypatch.context() as patch:
            patch.setattr(encoder, "encode_images", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                index([runs.photos], runs.data, encoder)
        assert faults(runs.data) == []
        committed = runs.living()
        assert sorted(committed) == [f"{i:02}.png" for i in range(32)]
        assert counts(runs()) == (60, 28, 32, 0, 0, 0)
        assert runs.encoded == (28, 0)
        assert all(np.array_equal(runs.living()[name], vector) for name, vector in committed.items())

    def test_ctrl_c_commits_what_was_encoded(self, tmp_path: Path) -> None:
        runs = Runs(tmp_path)
        for i in range(60):
            picture(runs.photos / f"{i:02}.png", i)

        def interrupt(progress: Any) -> None:
            if progress.done == 40:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index([runs.photos], runs.data, FakeEncoder(), on_progress=interrupt)
        assert sorted(runs.living()) == [f"{i:02}.png" for i in range(40)]
        assert counts(runs()) == (60, 20, 40, 0, 0, 0)

    def test_a_lost_manifest_and_a_run_give_what_was_there(self, runs: Runs) -> None:
        """Recovery brings removed items back; the next run removes them, and replaces no item twice."""
        for i in range(20, 30):
            picture(runs.photos / f"{i}.png", i)
        runs()
        (runs.photos / "10.txt").write_text("only one caption")
        picture(runs.photos / "2.png", 200)
        (runs.photos / "1.png").unlink()
        (runs.photos / "3.png").rename(runs.photos / "three.png")
        runs()
        before = runs.living()
        (runs.data / "manifest.json").unlink()
        with LibraryWriter(runs.data, recover=recover) as writer:
            assert writer.recovered
        assert faults(runs.data) == []
        assert set(runs.living()) == set(before) | {"1.png", "3.png"}
        assert counts(runs()) == (24, 0, 23, 0, 2, 1)
        assert runs.encoded == (0, 0)
        assert_same_vectors(runs, before, {})
