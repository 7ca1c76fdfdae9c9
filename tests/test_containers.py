"""Archives and data sets through a whole index run: counted, read once, taken up again, shown."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.fakes import FakeEncoder
from xsearch.errors import SourceError
from xsearch.indexer import IndexReport, index
from xsearch.library import Library, LibraryWriter, Manifest
from xsearch.searcher import Searcher
from xsearch.survey import Layout
from xsearch.types import Item, Kind


def jpeg(colour: int) -> bytes:
    out = io.BytesIO()
    shade = (colour * 37 % 256, colour * 91 % 256, colour * 53 % 256)
    Image.new("RGB", (40, 30), shade).save(out, "JPEG")
    return out.getvalue()


def write_tar(path: Path, numbers: Sequence[int]) -> Path:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for suffix, data in (("jpg", jpeg(number)), ("txt", f"colour {number}\n".encode())):
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def write_parquet(path: Path, numbers: Sequence[int]) -> Path:
    captions = [[f"colour {number}", f"shade {number}"] for number in numbers]
    table = {"key": [f"k{n}" for n in numbers], "image": [jpeg(n) for n in numbers], "captions": captions}
    pq.write_table(pa.table(table), path)
    return path


def write_coco(folder: Path, numbers: Sequence[int]) -> str:
    (folder / "val").mkdir()
    for number in numbers:
        (folder / "val" / f"{number}.jpg").write_bytes(jpeg(number))
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in numbers],
        "annotations": [{"id": n, "image_id": n, "caption": f"colour {n}"} for n in numbers],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return f"coco:{folder / 'captions.json'}"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., IndexReport]:
    def run(*sources: str | Path, layout: Layout | None = None) -> IndexReport:
        report = index(sources, tmp_path / "library", FakeEncoder(), layout=layout)
        accounted = report.indexed + report.unchanged + report.moved + sum(report.skipped.values())
        assert report.seen == accounted
        return report

    return run


def living(data: Path) -> list[Item]:
    library = Library.open(data)
    return library.items(np.flatnonzero(library.alive))


@pytest.mark.parametrize(("write", "name", "texts"), [(write_tar, "0.tar", 1), (write_parquet, "0.parquet", 2)])
def test_a_container_is_indexed_once(
    write: Callable[[Path, Sequence[int]], Path],
    name: str,
    texts: int,
    run: Callable[..., IndexReport],
    tmp_path: Path,
) -> None:
    container = write(tmp_path / name, range(5))
    assert run(container).indexed == 5
    items = living(tmp_path / "library")
    pictures = [item for item in items if item.kind is Kind.IMAGE]
    assert len(pictures) == 5
    assert len(items) == 5 * (1 + texts)
    assert {item.pair for item in items if item.kind is Kind.TEXT} == {item.id for item in pictures}
    assert {item.file for item in items} == {container}
    again = run(container)
    assert (again.unchanged, again.indexed) == (5, 0)
    assert living(tmp_path / "library") == items


def test_a_container_in_a_folder_is_found_and_leaves_with_its_file(
    run: Callable[..., IndexReport], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    tar = write_tar(folder / "a.tar", range(3))
    write_parquet(folder / "b.parquet", range(3, 5))
    assert run(folder).indexed == 5
    tar.unlink()
    report = run(folder)
    assert (report.unchanged, report.removed) == (2, 3)
    assert {item.file.name for item in living(tmp_path / "library")} == {"b.parquet"}


def test_only_what_changed_in_a_container_is_encoded(run: Callable[..., IndexReport], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [0, 1, 2])
    run(tar)
    write_tar(tar, [0, 2, 7])
    report = run(tar)
    assert (report.indexed, report.unchanged, report.removed) == (1, 2, 1)
    keys = sorted(item.part for item in living(tmp_path / "library") if item.kind is Kind.IMAGE)
    assert keys == ["000000", "000002", "000007"]


def test_behind_damage_nothing_is_removed_and_it_is_told_again(run: Callable[..., IndexReport], tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", range(6))
    whole = tar.read_bytes()
    run(tar)
    tar.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        report = run(tar)
        assert report.skipped == {"damaged archive": 1}
        assert report.removed == 0
    assert sum(item.kind is Kind.IMAGE for item in living(tmp_path / "library")) == 6
    tar.write_bytes(whole)
    assert run(tar).skipped == {}


def test_a_sample_of_which_only_a_part_was_committed_is_taken_up_again(
    run: Callable[..., IndexReport], tmp_path: Path
) -> None:
    parquet = write_parquet(tmp_path / "a.parquet", range(3))
    run(parquet)
    complete = {item.id for item in living(tmp_path / "library")}
    library = Library.open(tmp_path / "library")
    lost = next(row for row in range(len(library)) if library.items(np.array([row]))[0].part == "k1 text 1")
    with LibraryWriter(tmp_path / "library") as writer:
        writer.bury([lost])
        writer.set_containers({}, {})
    report = run(parquet)
    assert (report.indexed, report.unchanged) == (1, 2)
    assert {item.id for item in living(tmp_path / "library")} == complete
    assert list(Manifest.load(tmp_path / "library").containers) == [str(parquet)]


def test_coco_gives_files_and_their_captions(run: Callable[..., IndexReport], tmp_path: Path) -> None:
    name = write_coco(tmp_path, range(4))
    layout = Layout(root=tmp_path / "val")
    assert run(name, layout=layout).indexed == 8
    assert run(name, layout=layout).unchanged == 8
    items = living(tmp_path / "library")
    assert {item.file for item in items if item.kind is Kind.IMAGE} == {tmp_path / f"val/{n}.jpg" for n in range(4)}
    assert sorted(item.text or "" for item in items if item.kind is Kind.TEXT) == [f"colour {n}" for n in range(4)]


def test_tables_by_named_columns_and_root(run: Callable[..., IndexReport], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "t.csv").write_text("Bild,Satz\na.jpg,ein Hund\n")
    layout = Layout(path_column="Bild", text_column="Satz", root=tmp_path / "pictures")
    assert run(tmp_path / "t.csv", layout=layout).indexed == 2
    report = run(tmp_path / "t.csv", layout=Layout(path_column="Foto", text_column="Satz"))
    assert report.skipped == {"unreadable table": 1}
    (told,) = Library.open(tmp_path / "library").skipped()
    assert "called 'Foto'" in told.detail
    assert "Bild, Satz" in told.detail


@pytest.mark.parametrize("write", [write_tar, write_parquet])
def test_a_hit_inside_a_container_can_be_opened(
    write: Callable[[Path, Sequence[int]], Path], run: Callable[..., IndexReport], tmp_path: Path
) -> None:
    container = write(tmp_path / ("a.tar" if write is write_tar else "a.parquet"), range(4))
    run(container)
    searcher = Searcher(tmp_path / "library", encoder=FakeEncoder())
    hit = searcher.query(image=jpeg(2), kind="image", k=1)[0]
    assert hit.open() == jpeg(2)
    assert hit.path == f"{container}#{hit.item.part}"
    container.unlink()
    with pytest.raises((OSError, SourceError)):
        hit.open()


def test_a_hit_can_be_opened_where_the_column_had_to_be_named(run: Callable[..., IndexReport], tmp_path: Path) -> None:
    table = {"drawing": [jpeg(n + 50) for n in range(4)], "photo": [jpeg(n) for n in range(4)]}
    pq.write_table(pa.table(table), tmp_path / "two.parquet")
    assert run(tmp_path / "two.parquet", layout=Layout(image_column="photo")).indexed == 4
    assert run(tmp_path / "two.parquet", layout=Layout(image_column="photo")).unchanged == 4
    hit = Searcher(tmp_path / "library", encoder=FakeEncoder()).query(image=jpeg(2), k=1)[0]
    assert hit.open() == jpeg(2)
