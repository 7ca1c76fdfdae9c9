"""An index run on a Ray cluster gives what a local run gives, exactly once, also when a node dies in the middle."""

import csv
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from tests.clusters import Altered, DyingEncoder, Elsewhere, FullDisk, HeldEncoder, NoEncoder, OtherVersion, three_nodes
from tests.fakes import FakeEncoder, an_item, picture
from tests.films import write_film
from tests.stores import Place, s3_server
from xsearch.cli.options import with_ray_address
from xsearch.distributed import cluster, pieces
from xsearch.distributed.cluster import Workers, plan_workers
from xsearch.distributed.indexing import MAX_ATTEMPTS, OnRay
from xsearch.distributed.pieces import MAX_PIECE, cut
from xsearch.encoders import get_encoder
from xsearch.errors import ClusterError, EncoderMismatch, LibraryDamaged, LibraryLocked
from xsearch.indexer import IndexReport, index
from xsearch.library import Library, LibraryWriter, Manifest, faults
from xsearch.library.remote import Remote, local_folder
from xsearch.sources.folder import FoundFile
from xsearch.survey import FileWork, RunPlan
from xsearch.types import Item

# Of a float16 below 1, and of the same picture in another batch.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with three_nodes() as cluster:
        yield cluster


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MIN_PIECE", 4)


def on_ray(data: Path, *sources: Path, open_encoder: Callable[[], Any] = FakeEncoder, **options: Any) -> IndexReport:
    return index(sources, data, FakeEncoder(), take_in=OnRay(open_encoder=open_encoder), **options)


def contents(data: Path) -> tuple[dict[str, Item], dict[str, NDArray[np.float32]]]:
    """Return the living items and their vectors, by id."""
    assert faults(data) == []
    library = Library.open(data)
    rows = np.flatnonzero(library.alive)
    items = library.items(rows)
    ids = [item.id for item in items]
    assert len(set(ids)) == len(ids)
    return dict(zip(ids, items, strict=True)), dict(zip(ids, library.vectors.take(rows), strict=True))


def assert_same(here: Path, there: Path) -> None:
    """Two libraries hold the same items with the same vectors, and skipped the same."""
    items, vectors = contents(here)
    other_items, other_vectors = contents(there)
    assert other_items == items
    for item_id, vector in vectors.items():
        np.testing.assert_allclose(other_vectors[item_id], vector, atol=TOLERANCE)
    assert Library.open(there).skipped() == Library.open(here).skipped()


def counted(report: IndexReport) -> IndexReport:
    assert report.seen == report.indexed + report.unchanged + report.moved + sum(report.skipped.values())
    return replace(report, seconds=0.0)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Pictures, texts, captions, a film, a tar of samples, a table; an unreadable one, one that is none of ours."""
    folder = tmp_path / "sources"
    for i in range(21):
        picture(folder / "photos" / f"{i}.png", i)
    (folder / "photos" / "note.txt").write_text("a note")
    (folder / "photos" / "3.txt").write_text("the first caption\nthe second")
    (folder / "photos" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0torn")
    (folder / "tool.exe").write_bytes(b"MZ")
    write_film(folder / "film.mp4", [(1, 1.0), (2, 1.0)])
    picture(folder / "in" / "a.jpg", 100)
    picture(folder / "in" / "b.jpg", 101)
    (folder / "in" / "a.txt").write_text("one of the samples")
    with tarfile.open(folder / "samples.tar", "w") as tar:
        for name in ("a.jpg", "a.txt", "b.jpg"):
            tar.add(folder / "in" / name, name)
    shutil.rmtree(folder / "in")
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "caption"), *((f"photos/{i}.png", f"number {i}") for i in range(9))])
    return folder


@pytest.mark.usefixtures("nodes", "small_pieces")
def test_a_run_on_ray_is_the_local_run(sources: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    first = counted(index([sources], here, FakeEncoder()))
    assert counted(on_ray(there, sources)) == first
    assert first.skipped == {"damaged picture": 1, "unsupported type": 1}
    assert_same(here, there)
    # The order of rows is that of the pieces, whoever was first.
    names = [item.path for item in Library.open(there).items(np.arange(21))]
    assert names == [item.path for item in Library.open(here).items(np.arange(21))]

    # Unchanged, moved, changed, twice there, gone: as in a local run.
    (sources / "photos" / "0.png").rename(sources / "photos" / "moved.png")
    picture(sources / "photos" / "1.png", 50)
    shutil.copy(sources / "photos" / "2.png", sources / "photos" / "copy.png")
    (sources / "photos" / "4.png").unlink()
    (sources / "photos" / "note.txt").write_text("another note")
    write_film(sources / "film.mp4", [(3, 1.0)])
    again = counted(index([sources], here, FakeEncoder()))
    assert again.moved == 1
    assert counted(on_ray(there, sources)) == again
    assert_same(here, there)


def test_nothing_to_do_starts_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "photos" / "0.png", 0)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    monkeypatch.setattr(cluster, "import_ray", lambda: pytest.fail("Ray was asked for"))
    report = on_ray(tmp_path / "data", tmp_path / "photos")
    assert (report.unchanged, report.indexed) == (1, 0)


@pytest.mark.usefixtures("nodes")
def test_the_built_in_encoder_on_photographs(photos: Path, tmp_path: Path) -> None:
    chosen = sorted(photos.rglob("*.jpg"))[:12]
    encoder = get_encoder()
    local = counted(index(chosen, tmp_path / "here", encoder))
    report = index(chosen, tmp_path / "there", encoder, take_in=OnRay())
    assert counted(report) == local
    assert report.indexed == len(chosen)
    assert_same(tmp_path / "here", tmp_path / "there")


@pytest.mark.usefixtures("small_pieces")
def test_a_node_dies_in_the_middle(nodes: Any, tmp_path: Path) -> None:
    n = 40
    for i in range(n):
        picture(tmp_path / "photos" / f"{i:02}.png", i)
    doomed = sorted(nodes.worker_nodes, key=lambda node: node.node_id)[0]
    log, data = tmp_path / "log", tmp_path / "data"
    log.touch()
    told: list[int] = []

    def on_progress(progress: Any) -> None:
        told.append(progress.done)
        assert not (data / "manifest.json").exists() or Manifest.load(data).shards == ()
        if len(told) == 1:  # some pieces are done, and one is under way on the node that now dies
            assert "held" in log.read_text()
            nodes.remove_node(doomed, allow_graceful=False)

    encoder = partial(HeldEncoder, log, doomed.node_id)
    report = on_ray(data, tmp_path / "photos", open_encoder=encoder, on_progress=on_progress)

    assert (report.seen, report.indexed, report.items) == (n, n, n)
    assert told[-1] == n
    assert report.notes == ("workers were lost on the way: 1 of 10 pieces were done again",)
    index([tmp_path / "photos"], tmp_path / "local", FakeEncoder())
    assert_same(tmp_path / "local", data)
    # Each picture was encoded to the end once; those of the lost piece had been begun before.
    assert Counter(log.read_text().split()) == {"done": n, "held": 4}
    again = on_ray(data, tmp_path / "photos")
    assert (again.unchanged, again.indexed) == (n, 0)


@pytest.mark.usefixtures("nodes")
def test_shards_go_to_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XSEARCH_CACHE", str(tmp_path / "cache"))
    for i in range(5):
        picture(tmp_path / "photos" / f"{i}.png", i)
    with s3_server() as address:
        place = Place(address, "library")
        to_there = OnRay(store=Remote(place.uri), open_encoder=FakeEncoder)
        with Remote(place.uri).writing() as folder:
            report = index([tmp_path / "photos"], folder, FakeEncoder(), take_in=to_there)
            assert sorted(name.split("/")[0] for name in place.names()) == ["locks", "shards"]
        assert report.indexed == 5
        index([tmp_path / "photos"], tmp_path / "local", FakeEncoder())
        assert_same(tmp_path / "local", local_folder(place.uri))


@pytest.mark.usefixtures("nodes")
class TestTroubles:
    """Each is one clear error, and the last commit stays whole."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """A library of one picture, and two more beside it."""
        picture(tmp_path / "photos" / "0.png", 0)
        index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
        picture(tmp_path / "photos" / "1.png", 1)
        picture(tmp_path / "photos" / "2.png", 2)
        return tmp_path / "data"

    def run(self, data: Path, **options: Any) -> IndexReport:
        options = {"open_encoder": FakeEncoder} | options
        return index([data.parent / "photos"], data, FakeEncoder(), take_in=OnRay(**options))

    def assert_refused(self, data: Path, error: type[Exception], message: str, **options: Any) -> None:
        before = Manifest.load(data)
        with pytest.raises(error, match=message):
            self.run(data, **options)
        assert Manifest.load(data) == before
        assert len(contents(data)[0]) == 1
        report = index([data.parent / "photos"], data, FakeEncoder())
        assert report.indexed == 2  # what went wrong is not in the way of the next run
        assert len(contents(data)[0]) == 3
        assert len(list((data / "shards").iterdir())) == len(Manifest.load(data).shards)

    def test_another_version_of_the_encoder(self, data: Path) -> None:
        self.assert_refused(
            data, EncoderMismatch, "node .* has another version of fake.*install the same", open_encoder=OtherVersion
        )

    def test_no_encoder_there(self, data: Path) -> None:
        self.assert_refused(
            data, ClusterError, r"node .*: torch is missing here; pip install 'xsearch\[clip\]'", open_encoder=NoEncoder
        )

    def test_a_full_disk(self, data: Path) -> None:
        self.assert_refused(
            data, ClusterError, "node .* cannot write to .*No space left on device.*make room", store=FullDisk(data)
        )

    def test_a_folder_that_is_not_shared(self, data: Path) -> None:
        self.assert_refused(data, LibraryDamaged, "is not there; every node must see", store=Elsewhere(data))

    def test_a_shard_that_is_not_what_was_written(self, data: Path) -> None:
        self.assert_refused(data, LibraryDamaged, "is not what was written", store=Altered(data))

    def test_a_picture_that_brings_workers_down(self, data: Path) -> None:
        self.assert_refused(
            data, ClusterError, f"files from .*1.png to .*2.png cost {MAX_ATTEMPTS} workers", open_encoder=DyingEncoder
        )

    def test_another_writer(self, data: Path) -> None:
        with LibraryWriter(data), pytest.raises(LibraryLocked):
            self.run(data)

    def test_sources_that_a_node_does_not_see(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        photos, moved = data.parent / "photos", data.parent / "unmounted"

        def unmounted(*_: Any) -> Workers:
            photos.rename(moved)
            return Workers(1, 1, 0)

        with monkeypatch.context() as patch:
            patch.setattr("xsearch.distributed.indexing.room_for_workers", unmounted)
            with pytest.raises(ClusterError, match=r"node .* does not see .*photos; mount it"):
                self.run(data)
        moved.rename(photos)
        assert self.run(data).indexed == 2

    def test_ctrl_c_keeps_the_pieces_that_are_done(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pieces, "MIN_PIECE", 1)

        def interrupt(progress: Any) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            on_ray(data, data.parent / "photos", on_progress=interrupt)
        assert len(contents(data)[0]) == 2
        assert self.run(data).indexed == 1


def test_no_cluster_at_that_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    picture(tmp_path / "photos" / "0.png", 0)
    with pytest.raises(ClusterError, match=r"no Ray cluster at 127.0.0.1:1 .*refused.*ray start --head"):
        index([tmp_path / "photos"], tmp_path / "data", FakeEncoder(), take_in=OnRay("127.0.0.1:1"))
    monkeypatch.setattr(ray, "init", raising(ConnectionError("nobody answers")))
    with pytest.raises(ClusterError, match=r"no Ray cluster at auto .*nobody answers.*ray start --head"):
        index([tmp_path / "photos"], tmp_path / "data", FakeEncoder(), take_in=OnRay("auto"))


def raising(error: Exception) -> Callable[..., None]:
    def function(*_: Any, **__: Any) -> None:
        raise error

    return function


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'xsearch\[ray\]'"):
        cluster.import_ray()


def test_pieces_hold_each_file_and_caption_once_in_order() -> None:
    files = tuple(FileWork(FoundFile("/p", f"{i}.png", 1, 1), None, None) for i in range(1_000))
    films = tuple(FileWork(FoundFile("/p", f"{i}.mp4", 1, 1), None, None) for i in range(3))
    captions = tuple(an_item("c.csv", part=str(i)) for i in range(70))
    found = cut(RunPlan(0, (*films, *files), captions, (), 5, ()), workers=2)
    assert [work for piece in found for work in piece.files] == [*files, *films]
    assert [caption for piece in found for caption in piece.captions] == list(captions)
    assert [len(piece.files) for piece in found[:16]] == [64] * 15 + [40]
    assert [len(piece.files) for piece in found[16:]] == [1, 1, 1, 0, 0]
    assert {(piece.unchanged, piece.vanished) for piece in found} == {(0, ())}
    assert max(len(piece.files) for piece in cut(RunPlan(0, files * 66, (), (), 0, ()), workers=1)) == MAX_PIECE


@pytest.mark.parametrize(
    ("of_nodes", "expected"),
    [
        ([(8, 0), (8, 0)], Workers(2, 8, 0)),
        ([(0, 0), (4, 0), (8, 0)], Workers(3, 4, 0)),
        ([(64, 8), (16, 0), (16, 1)], Workers(9, 8, 1)),
    ],
)
def test_workers_for_nodes(of_nodes: list[tuple[int, int]], expected: Workers) -> None:
    assert plan_workers(of_nodes) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["index", "--ray", "photos"], ["index", "--ray", "here", "photos"]),
        (["index", "photos", "--ray"], ["index", "photos", "--ray", "here"]),
        (["index", "--ray", "auto", "photos"], ["index", "--ray", "auto", "photos"]),
        (["index", "photos", "--ray", "10.0.0.7:6379"], ["index", "photos", "--ray", "10.0.0.7:6379"]),
        (["index", "--ray=10.0.0.7:6379", "photos"], ["index", "--ray=10.0.0.7:6379", "photos"]),
        (["index", "--ray", "./10:20/photos"], ["index", "--ray", "here", "./10:20/photos"]),
    ],
)
def test_an_address_may_be_left_out(given: list[str], expected: list[str]) -> None:
    assert with_ray_address(given) == expected


def test_a_cluster_without_cores() -> None:
    with pytest.raises(ClusterError, match="no node with a core"):
        plan_workers([(0, 0)])
