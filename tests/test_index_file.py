"""The index file over the life of a library: rows are added to it, and it is trained anew when that pays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xsearch.index_file as index_file
from tests.fakes import DIM, SPEC, FakeEncoder, an_item, unit_rows
from xsearch.index.calibrate import calibrate
from xsearch.index.exact import search_exact
from xsearch.index.ivfpq import IvfPq
from xsearch.index.plan import IndexKind, SearchSettings
from xsearch.index.search import search
from xsearch.index_file import Targets, keep_index, open_index
from xsearch.library import Library, LibraryWriter
from xsearch.maintenance import optimize, stats
from xsearch.types import Embeddings, Kind, Modality
from xsearch.vectors import l2_normalize

EASY, HARD = Targets(text=0.5, image=0.5), Targets(text=0.9, image=0.9)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each training."""
    trained: list[int] = []
    build = IvfPq.build

    def counted(vectors: Any, *args: Any, **kwargs: Any) -> IvfPq:
        trained.append(len(vectors))
        return build(vectors, *args, **kwargs)

    monkeypatch.setattr(IvfPq, "build", counted)
    return trained


def grow(folder: Path, first: int, n: int, *, bury: tuple[int, ...] = (), **wanted: Any) -> list[str]:
    """Add pictures, as an index run does; return what it says it is at."""
    stages: list[str] = []
    with LibraryWriter(folder, SPEC) as writer:
        writer.add([an_item(f"{first + i}.jpg") for i in range(n)], unit_rows(n, first), bury=bury)
        writer.merge()
        keep_index(writer, FakeEncoder(), on_stage=stages.append, **wanted)
    return stages


def test_new_rows_are_added_without_training(tmp_path: Path, trainings: list[int]) -> None:
    assert grow(tmp_path, 0, 1000, kind=IndexKind.IVFPQ, targets=EASY) == ["building the index of 1,000 vectors"]
    assert grow(tmp_path, 1000, 100) == []  # few enough to be scanned
    assert grow(tmp_path, 2000, 400, bury=(3,)) == ["adding 500 vectors to the index"]
    assert trainings == [1000]
    library = Library.open(tmp_path)
    entry = library.manifest.index
    assert entry is not None
    assert (entry.rows, entry.details["trained_rows"]) == (1500, 1000)
    index = open_index(library, check=True)
    assert index is not None
    # With all lists and a deep re-rank nothing can be missed, old or new, and what was buried is not found.
    queries = library.vectors.take(np.array([3, 500, 1200, 1499]))
    found = search(
        library.vectors, index, queries, 10, settings=SearchSettings(index.nlist, 1500), allowed=library.alive
    )
    expected = search_exact(library.vectors, queries, 10, allowed=library.alive)
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert found.rows[1:, 0].tolist() == [500, 1200, 1499]
    assert 3 not in found.rows


def test_of_a_large_library_fewer_than_a_fifth_are_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_file, "TAIL_ROWS", 150)
    grow(tmp_path, 0, 2000, kind=IndexKind.IVFPQ, targets=EASY)
    assert grow(tmp_path, 2000, 150) == []
    assert grow(tmp_path, 3000, 1) == ["adding 151 vectors to the index"]


def test_it_is_trained_anew_when_the_library_has_doubled(tmp_path: Path, trainings: list[int]) -> None:
    grow(tmp_path, 0, 1000, kind=IndexKind.IVFPQ, targets=EASY)
    assert grow(tmp_path, 1000, 1001) == ["building the index of 2,001 vectors"]
    assert trainings == [1000, 2001]


def test_it_is_trained_anew_when_new_rows_make_it_miss_its_target(
    tmp_path: Path, trainings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(tmp_path, 0, 1000, kind=IndexKind.IVFPQ, targets=HARD)
    # As if the new rows were none of those that the lists lead to.
    add = IvfPq.add

    def lost(self: IvfPq, vectors: Any, **kwargs: Any) -> None:
        if self.rows:
            self.rows = len(vectors)
        else:
            add(self, vectors, **kwargs)

    monkeypatch.setattr(IvfPq, "add", lost)
    with LibraryWriter(tmp_path, SPEC) as writer:
        writer.add([an_item(f"more {i}") for i in range(900)], unit_rows(900, 7))
        stages: list[str] = []
        keep_index(writer, FakeEncoder(), targets=HARD, on_stage=stages.append)
    assert stages == ["adding 900 vectors to the index", "building the index of 1,900 vectors"]
    assert trainings == [1000, 1900]


def test_what_was_asked_for_outlives_the_index(tmp_path: Path) -> None:
    grow(tmp_path, 0, 400, kind=IndexKind.IVFPQ, targets=EASY)
    grow(tmp_path, 400, 100, bury=tuple(range(200)))  # so many that they are purged, and the index with them
    manifest = Library.open(tmp_path).manifest
    assert manifest.rows == 300
    assert manifest.index is not None
    assert {m["target"] for m in manifest.index.details["settings"].values()} == {0.5}
    grow(tmp_path, 600, 10, kind=IndexKind.AUTO)
    assert Library.open(tmp_path).manifest.index is None
    grow(tmp_path, 700, 10)
    assert Library.open(tmp_path).manifest.index is None


def test_optimize_rewrites_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[int]) -> None:
    monkeypatch.setattr("xsearch.maintenance.get_encoder", lambda name: FakeEncoder())
    grow(tmp_path, 0, 1000, kind=IndexKind.IVFPQ, targets=EASY)
    grow(tmp_path, 1000, 300, bury=(0, 5))
    before, after = optimize(tmp_path)
    assert (before["removed_rows"], after["removed_rows"]) == (2, 0)
    assert before["index"]["trained_rows"] == 1000
    assert after["index"]["trained_rows"] == after["index"]["rows"] == 1298
    assert after == stats(tmp_path)
    assert trainings == [1000, 1298]


def test_texts_of_the_library_stand_for_the_queries_to_come(tmp_path: Path) -> None:
    encoder = FakeEncoder()

    def refuse(texts: Any) -> Any:
        raise AssertionError("generic texts are not needed")

    with LibraryWriter(tmp_path, SPEC) as writer:
        writer.add([an_item(f"{i}.jpg") for i in range(500)], unit_rows(500))
        writer.add([an_item(f"{i}.txt", kind=Kind.TEXT, text=f"text {i}") for i in range(1000)], unit_rows(1000, 1))
        encoder.encode_texts = refuse  # type: ignore[method-assign]
        keep_index(writer, encoder, kind=IndexKind.IVFPQ, targets=EASY)
        entry = writer.manifest.index
    assert entry is not None
    assert entry.details["settings"][Modality.TEXT.value]["queries"] == 1000
    assert entry.details["settings"][Modality.IMAGE.value]["queries"] == 500
    assert Library.open(tmp_path).vectors.dim == DIM


def test_near_copies_do_not_make_pictures_look_easier_to_find_for(tmp_path: Path) -> None:
    # As frames of films: pictures of 200 subjects, each ten times, a little changed.
    rng = np.random.default_rng(0)
    subjects = unit_rows(200, 1)

    def pictures(n: int) -> Embeddings:
        return l2_normalize(subjects[rng.integers(len(subjects), size=n)] + 0.12 * rng.standard_normal((n, DIM)))

    frames = np.repeat(pictures(1_500), 10, axis=0)
    frames = l2_normalize(frames + 0.02 * rng.standard_normal(frames.shape))
    with LibraryWriter(tmp_path, SPEC) as writer:
        writer.add([an_item(f"{i}.jpg") for i in range(len(frames))], frames)
        keep_index(writer, FakeEncoder(), kind=IndexKind.IVFPQ, targets=Targets(text=0.5, image=0.95))
    library = Library.open(tmp_path)
    index, entry = open_index(library), library.manifest.index
    assert index is not None
    assert entry is not None
    said = entry.details["settings"][Modality.IMAGE]
    others = pictures(500)
    expected = search_exact(library.vectors, others, 10).rows

    def recall(settings: SearchSettings) -> float:
        found = search(library.vectors, index, others, 10, settings=settings).rows
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)]))

    assert recall(SearchSettings(said["nprobe"], said["depth"])) >= 0.95
    by_frames = calibrate(index, library.vectors, library.vectors.take(np.arange(0, len(frames), 15)), 0.95).settings
    assert recall(by_frames) < 0.95
