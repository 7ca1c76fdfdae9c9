"""Embeddings in and out: a round trip is exact to float16, and what does not fit is told."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fakes import SPEC, FakeEncoder, an_item, unit_rows
from xsearch.errors import SourceError
from xsearch.exchange import export_library, import_embeddings
from xsearch.library import Library, LibraryWriter
from xsearch.searcher import Searcher
from xsearch.sources.formats import ExportFormat
from xsearch.types import Item


def state(data: Path) -> dict[str, tuple[Item, list[float]]]:
    library = Library.open(data)
    rows = np.flatnonzero(library.alive)
    vectors = library.vectors.take(rows).tolist()
    return {item.id: (item, vector) for item, vector in zip(library.items(rows), vectors, strict=True)}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    data = tmp_path / "library"
    with LibraryWriter(data, SPEC) as writer:
        writer.add([an_item(f"{i}.jpg") for i in range(20)], unit_rows(20, seed=1))
        writer.bury([3, 11])
    return data


def test_out_and_in_again_is_the_same_to_the_last_bit(library: Path, tmp_path: Path) -> None:
    assert export_library(library, tmp_path / "out", ExportFormat.NPY) == 18
    taken, skipped = import_embeddings(tmp_path / "out", None, tmp_path / "back", FakeEncoder())
    assert (taken, skipped) == (18, [])
    assert state(tmp_path / "back") == state(library)


def test_taking_in_twice_replaces(library: Path, tmp_path: Path) -> None:
    export_library(library, tmp_path / "out", ExportFormat.NPY)
    for _ in range(2):
        import_embeddings(tmp_path / "out", None, tmp_path / "back", FakeEncoder())
    assert sum(Library.open(tmp_path / "back").counts().values()) == 18


def test_a_parquet_export_has_every_column_and_the_vectors(library: Path, tmp_path: Path) -> None:
    export_library(library, tmp_path / "out.parquet", ExportFormat.PARQUET)
    table = pq.read_table(tmp_path / "out.parquet")
    stored = dict(zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True))
    assert stored == {key: vector for key, (_, vector) in state(library).items()}


def test_metadata_of_others_say_what_a_vector_is_of(tmp_path: Path) -> None:
    vectors = unit_rows(3, seed=2) * 5  # as many tools leave them
    np.save(tmp_path / "v.npy", vectors)
    names = ["a.jpg", "https://example.org/b.jpg", "a.jpg"]
    pq.write_table(pa.table({"image_path": names, "caption": ["one", "two", None]}), tmp_path / "m.parquet")
    taken, skipped = import_embeddings(tmp_path / "v.npy", tmp_path / "m.parquet", tmp_path / "library", FakeEncoder())
    assert taken == 2
    assert [entry.reason for entry in skipped] == ["duplicate key"]
    searcher = Searcher(tmp_path / "library", encoder=FakeEncoder())
    rows = np.flatnonzero(searcher.library.alive)
    items = searcher.library.items(rows)
    assert [item.text for item in items][:2] == ["one", "two"]
    assert items[0].file == tmp_path / "a.jpg"
    np.testing.assert_allclose(searcher.library.vectors.take(rows), vectors[:2] / 5, atol=1e-3)


def test_dimensions_that_do_not_fit_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((2, SPEC.dim + 1), np.float32))
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"]}), tmp_path / "m.parquet")
    with pytest.raises(SourceError, match=f"{SPEC.dim + 1} dimensions, .* has {SPEC.dim}"):
        import_embeddings(tmp_path / "v.npy", tmp_path / "m.parquet", tmp_path / "library", FakeEncoder())


def test_metadata_without_paths_are_refused_with_their_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", unit_rows(2, seed=3))
    pq.write_table(pa.table({"colour": ["a", "b"]}), tmp_path / "m.parquet")
    with pytest.raises(SourceError, match="its columns: colour"):
        import_embeddings(tmp_path / "v.npy", tmp_path / "m.parquet", tmp_path / "library", FakeEncoder())
