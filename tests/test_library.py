"""What a library promises: what is read is what was written, a commit is whole, and readers never wait."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fakes import DIM, SPEC, an_item, living, picture, unit_rows
from xsearch.errors import EncoderMismatch, LibraryDamaged, LibraryLocked, LibraryNotFound, LibraryTooNew
from xsearch.library import Library, LibraryWriter, Manifest, faults, shards
from xsearch.library import writer as writer_module
from xsearch.library.manifest import MANIFEST
from xsearch.library.shards import ROW_GROUP_ROWS, VECTOR, RecentTables, shard_entry
from xsearch.types import Item, Kind, Skipped, item_id

REPOSITORY = Path(__file__).resolve().parents[1]
WAIT_S = 60

EVERYTHING = Item(
    id="0123456789abcdef",
    kind=Kind.FRAME,
    root="/films/日本 🎞",
    path="Ünï/cödé '\"\n,.mp4",
    part="f7",
    pair="fedcba9876543210",
    bytes=2**40,
    mtime_ns=1_700_000_000_123_456_789,
    content_hash="ab" * 16,
    t_start_s=0.1,
    t_end_s=1 / 3,
    shot=7,
    text="čaj, шай, 茶\nsecond line",
    width=8192,
    height=1,
    taken_at="2001-02-03T04:05:06",
    camera="Canon EOS 5D",
    gps_lat=-89.5,
    gps_lon=179.999999,
)


def add(folder: Path, *names: str, seed: int = 0, bury: tuple[int, ...] = ()) -> None:
    with LibraryWriter(folder, SPEC) as writer:
        writer.add([an_item(name) for name in names], unit_rows(len(names), seed), bury=bury)


def half(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors.astype(np.float16).astype(np.float32)


def all_vectors(library: Library) -> NDArray[np.float32]:
    return library.vectors.take(np.arange(len(library)))


def shard_files(folder: Path) -> set[str]:
    return {file.name for file in (folder / "shards").iterdir()}


def named(manifest: Manifest) -> set[str]:
    return {f"{entry.id}.parquet" for entry in manifest.shards}


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array is a view of a mapped file, without a copy."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


class TestVectors:
    def test_they_are_read_back_as_float16_of_what_was_written(self, tmp_path: Path) -> None:
        vectors = unit_rows(300)
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(str(i)) for i in range(300)], vectors)
        library = Library.open(tmp_path)
        assert len(library) == 300
        np.testing.assert_array_equal(all_vectors(library), half(vectors))

    def test_they_are_mapped_in_place(self, tmp_path: Path) -> None:
        vectors = unit_rows(300)
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(str(i)) for i in range(300)], vectors)
        (shard,) = Library.open(tmp_path)._shards
        (segment,) = shard.segments
        assert is_mapped(segment)
        (file,) = (tmp_path / "shards").iterdir()
        assert vectors.astype(np.float16).tobytes() in file.read_bytes()

    def test_a_shard_of_several_row_groups(self, tmp_path: Path) -> None:
        n = 2 * ROW_GROUP_ROWS + 5
        vectors = unit_rows(n, dim=16)
        spec = replace(SPEC, fingerprint=replace(SPEC.fingerprint, dim=16))
        with LibraryWriter(tmp_path, spec) as writer:
            writer.add([an_item(str(i)) for i in range(n)], vectors)
        library = Library.open(tmp_path)
        (shard,) = library._shards
        assert [len(segment) for segment in shard.segments] == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 5]
        assert all(is_mapped(segment) for segment in shard.segments)
        np.testing.assert_array_equal(all_vectors(library), half(vectors))
        rows = np.array([n - 1, 0, ROW_GROUP_ROWS, ROW_GROUP_ROWS - 1, 2 * ROW_GROUP_ROWS, 0])
        assert [item.path for item in library.items(rows)] == [str(row) for row in rows]

    @pytest.mark.parametrize(
        "layout",
        [
            {"compression": "zstd", "use_dictionary": False},
            {"compression": "none", "use_dictionary": True},
            {"compression": "snappy", "use_dictionary": True},
            {"compression": "none", "use_dictionary": False, "data_page_size": 512, "write_batch_size": 8},
            {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
            {"compression": "none", "use_dictionary": False, "column_encoding": {VECTOR: "BYTE_STREAM_SPLIT"}},
            {"compression": "none", "use_dictionary": False, "column_encoding": {VECTOR: "DELTA_BYTE_ARRAY"}},
        ],
        ids=lambda layout: " ".join(map(str, layout.values())),
    )
    def test_a_shard_that_another_writer_laid_out_gives_the_same_values(
        self, layout: dict[str, Any], tmp_path: Path
    ) -> None:
        vectors = unit_rows(100)
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(str(i)) for i in range(100)], vectors)
        _rewrite(tmp_path, row_group_size=40, **layout)
        library = Library.open(tmp_path)
        (shard,) = library._shards
        assert [len(segment) for segment in shard.segments] == [40, 40, 20]
        assert not any(is_mapped(segment) for segment in shard.segments)
        np.testing.assert_array_equal(all_vectors(library), half(vectors))
        assert [item.path for item in library.items(np.arange(100))] == [str(i) for i in range(100)]


def _rewrite(folder: Path, **layout: Any) -> None:
    """Lay the only shard out in another way, with a manifest that says so."""
    manifest = Manifest.load(folder)
    (file,) = (folder / "shards").iterdir()
    table = pq.read_table(file)
    file.unlink()
    pq.write_table(table, file, **layout)
    entry = shard_entry(file, 1)
    file.rename(file.with_name(f"{entry.id}.parquet"))
    replace(manifest, shards=(entry,)).save(folder)


class TestItems:
    def test_every_field_survives(self, tmp_path: Path) -> None:
        nothing = an_item("nothing.jpg")
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([EVERYTHING, nothing], unit_rows(2))
        library = Library.open(tmp_path)
        assert all(value is not None for value in asdict(EVERYTHING).values())
        assert library.items(np.array([1, 0, 1])) == [nothing, EVERYTHING, nothing]
        assert library.items(np.array([], np.int64)) == []

    def test_shards_from_before_a_column_was_added_are_read_and_merged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as before:
            before.setattr(shards, "METADATA", shards.METADATA.remove(shards.METADATA.get_field_index("shot")))
            add(tmp_path, "old.jpg")
        old = an_item("old.jpg")
        assert Library.open(tmp_path).items(np.array([0])) == [old]
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([EVERYTHING], unit_rows(1, seed=1))
        library = Library.open(tmp_path)
        assert len(library.manifest.shards) == 1
        assert library.items(np.array([0, 1])) == [old, EVERYTHING]

    def test_they_are_found_by_kind_through_all_shards(self, tmp_path: Path) -> None:
        kinds = [Kind.TEXT, Kind.IMAGE, Kind.FRAME, Kind.IMAGE]
        with LibraryWriter(tmp_path, SPEC) as writer:
            for i in range(3):
                items = [an_item(f"{i}{kind}{at}", kind=kind) for at, kind in enumerate(kinds)]
                writer.add(items, unit_rows(4, seed=i))
            writer.bury([1])
        library = Library.open(tmp_path)
        assert library.counts() == {Kind.IMAGE: 5, Kind.FRAME: 3, Kind.TEXT: 3}
        assert np.flatnonzero(library.of_kinds([Kind.IMAGE])).tolist() == [3, 5, 7, 9, 11]
        assert np.flatnonzero(library.of_kinds([Kind.TEXT, Kind.FRAME])).tolist() == [0, 2, 4, 6, 8, 10]

    def test_a_file_is_known_by_the_state_of_its_living_rows(self, tmp_path: Path) -> None:
        passages = [an_item("a.txt", kind=Kind.TEXT, part=part, content_hash="new") for part in "01"]
        rows_of_table = [an_item("t.csv", kind=Kind.TEXT, part=part, content_hash=part) for part in "xy"]
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item("a.txt", kind=Kind.TEXT, content_hash="old")], unit_rows(1))
            writer.add([*passages, *rows_of_table], unit_rows(4), bury=[0])
        files = Library.open(tmp_path).files()
        assert {file.name: [(s.content_hash, s.rows) for s in states] for file, states in files.items()} == {
            "a.txt": [("new", (1, 2))],
            "t.csv": [("x", (3,)), ("y", (4,))],
        }

    def test_the_list_of_skipped_files_is_replaced_as_a_whole(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            assert Library.open(tmp_path).skipped() == []
            writer.set_skipped([Skipped("/a/ö.jpg", "damaged picture", "cut"), Skipped("/b", "hidden")])
            library = Library.open(tmp_path)
            assert library.skipped() == [Skipped("/a/ö.jpg", "damaged picture", "cut"), Skipped("/b", "hidden")]
            writer.set_skipped([])
            assert library.skipped() == []


class TestCommits:
    def test_replacing_is_one_commit(self, tmp_path: Path) -> None:
        add(tmp_path, "a", "b", "c")
        before = Manifest.load(tmp_path).commit
        with LibraryWriter(tmp_path, SPEC) as writer:
            seen: list[list[str]] = []
            save = Manifest.save

            def spy(self: Manifest, folder: Path) -> None:
                save(self, folder)
                seen.append(sorted(living(Library.open(folder))))

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Manifest, "save", spy)
                writer.add([an_item("b")], unit_rows(1, seed=9), bury=[1])
        assert seen == [["a", "b", "c"]]
        assert Manifest.load(tmp_path).commit == before + 1
        np.testing.assert_array_equal(living(Library.open(tmp_path))["b"], half(unit_rows(1, seed=9))[0])

    def test_nothing_new_is_no_commit(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.bury([0])
            before = writer.manifest
            writer.bury([0])
            writer.add([], np.empty((0, DIM), np.float32))
            writer.drop_index()
            assert writer.manifest is before

    def test_the_number_of_shards_stays_logarithmic(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            for i in range(60):
                writer.add([an_item(f"{i}/{j}") for j in range(3)], unit_rows(3, seed=i))
                assert shard_files(tmp_path) == named(writer.manifest)
                assert len(writer.manifest.shards) <= (3 * (i + 1)).bit_length()
        vectors = np.concatenate([unit_rows(3, seed=i) for i in range(60)])
        np.testing.assert_array_equal(all_vectors(Library.open(tmp_path)), half(vectors))

    def test_a_full_shard_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "FULL_SHARD_ROWS", 4)
        with LibraryWriter(tmp_path, SPEC) as writer:
            full: set[str] = set()
            for i in range(12):
                writer.add([an_item(str(i))], unit_rows(1, seed=i))
                assert full <= {entry.id for entry in writer.manifest.shards}
                full = {entry.id for entry in writer.manifest.shards if entry.rows >= 4}
        assert [entry.rows for entry in writer.manifest.shards] == [5, 5, 2]

    def test_a_reader_holds_one_descriptor_a_shard(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            for rows in (64, 16, 4, 1):
                writer.add([an_item(f"{rows}/{i}") for i in range(rows)], unit_rows(rows))
        before = len(list(Path("/proc/self/fd").iterdir()))
        library = Library.open(tmp_path)
        assert len(library.manifest.shards) == 4
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4

    def test_an_index_survives_a_merge_and_not_a_purge(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(str(i)) for i in range(8)], unit_rows(8))
            writer.set_index(8, {"kind": "ivfpq"}, lambda path: path.write_bytes(b"an index") and None)
            entry = writer.manifest.index
            assert entry is not None
            assert (entry.rows, entry.bytes, dict(entry.details)) == (8, 8, {"kind": "ivfpq"})
            file = tmp_path / "index" / entry.file
            writer.add([an_item(str(8 + i)) for i in range(8)], unit_rows(8), bury=[1, 2, 3])
            assert len(writer.manifest.shards) == 1
            writer.merge()
            assert writer.manifest.index == entry
            assert file.read_bytes() == b"an index"
            writer.bury([4, 5])
            assert writer.manifest.index == entry
            writer.merge()
            assert writer.manifest.index is None
            assert list((tmp_path / "index").iterdir()) == []
        assert sorted(living(Library.open(tmp_path)), key=int) == [str(i) for i in (0, *range(6, 16))]

    def test_a_new_index_takes_the_place_of_the_old_one(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        with LibraryWriter(tmp_path, SPEC) as writer:
            for content in (b"one", b"two"):
                writer.set_index(1, {}, lambda path, content=content: path.write_bytes(content) and None)
        assert [file.read_bytes() for file in (tmp_path / "index").iterdir()] == [b"two"]

    def test_an_index_that_cannot_be_written_leaves_the_old_one(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.set_index(1, {}, lambda path: path.write_bytes(b"one") and None)
            before = writer.manifest

            def fail(path: Path) -> None:
                path.write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, "no space left")

            with pytest.raises(OSError, match="no space left"):
                writer.set_index(1, {}, fail)
            assert Manifest.load(tmp_path) == before
        assert [file.read_bytes() for file in (tmp_path / "index").iterdir()] == [b"one"]

    def test_a_damaged_shard_is_not_merged_into_a_whole_one(self, tmp_path: Path) -> None:
        add(tmp_path, "a", "b")
        (file,) = (tmp_path / "shards").iterdir()
        content = file.read_bytes()
        at = content.index(unit_rows(2).astype(np.float16).tobytes())
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(LibraryDamaged, match=r"its checksum differs.*--repair"):
            add(tmp_path, "c")
        assert [fault.what for fault in faults(tmp_path)] == ["it is not what was written (its checksum differs)"]
        assert sorted(living(Library.open(tmp_path))) == ["a", "b", "c"]  # it was committed before


Step = tuple[str, list[int]]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(1, 6), min_size=1, max_size=1)),
        st.tuples(st.just("bury"), st.lists(st.integers(0, 60), max_size=6)),
        st.tuples(st.just("replace"), st.lists(st.integers(0, 60), min_size=1, max_size=4)),
        st.tuples(st.just("merge"), st.just([])),
    ),
    max_size=12,
)


class TestModel:
    @settings(max_examples=40, deadline=None)
    @given(STEPS)
    def test_any_sequence_of_steps_agrees_with_a_list(self, steps: list[Step]) -> None:
        """The model is a list of rows, a dead one None. Only a purge may leave rows out, and only dead ones."""
        with tempfile.TemporaryDirectory() as folder, LibraryWriter(Path(folder), SPEC) as writer:
            model: list[tuple[str, NDArray[np.float32]] | None] = []
            for number, (step, values) in enumerate(steps):
                new = values[0] if step == "add" else len(values) if step == "replace" else 0
                buried = [] if step == "add" else sorted({row for row in values if row < len(model)})
                names = [f"{number}/{i}" for i in range(new)]
                vectors = unit_rows(new, seed=number)
                dead = sum(entry is None for entry in model)
                if step == "merge":
                    writer.merge()
                    if dead > 0.25 * len(model):
                        model = [entry for entry in model if entry is not None]
                elif step == "bury":
                    writer.bury(buried)
                else:
                    writer.add([an_item(name) for name in names], vectors, bury=buried)
                for row in buried:
                    model[row] = None
                model += zip(names, half(vectors), strict=True)
                _check(Path(folder), writer, model)


def _check(folder: Path, writer: LibraryWriter, model: list[tuple[str, NDArray[np.float32]] | None]) -> None:
    library = Library.open(folder)
    assert library.manifest == writer.manifest
    assert library.alive.tolist() == [entry is not None for entry in model]
    expected = [entry for entry in model if entry is not None]
    rows = np.flatnonzero(library.alive)
    assert [item.path for item in library.items(rows)] == [name for name, _ in expected]
    if expected:
        np.testing.assert_array_equal(library.vectors.take(rows), np.stack([vector for _, vector in expected]))
    sizes = [entry.rows for entry in library.manifest.shards]
    assert all(elder > 2 * younger for elder, younger in pairwise(sizes))
    ids = [entry.id for entry in library.manifest.shards]
    assert ids == sorted(ids)
    assert not (folder / "shards").exists() or shard_files(folder) == named(library.manifest)


class TestReaders:
    def test_one_opened_before_a_merge_keeps_answering(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(str(i)) for i in range(40)], unit_rows(40))
            library = Library.open(tmp_path)
            old = shard_files(tmp_path)
            writer.add([an_item(str(i)) for i in range(40, 80)], unit_rows(40, seed=1), bury=range(30))
            writer.merge()
        assert not shard_files(tmp_path) & old
        # Nothing was read before the files were gone.
        assert library.counts()[Kind.IMAGE] == 40
        np.testing.assert_array_equal(all_vectors(library), half(unit_rows(40)))
        assert [item.path for item in library.items(np.arange(40))] == [str(i) for i in range(40)]
        assert len(library.files()) == 40
        assert sorted(living(Library.open(tmp_path)), key=int) == [str(i) for i in range(30, 80)]

    def test_one_that_opens_while_another_thread_commits_sees_a_whole_commit(self, tmp_path: Path) -> None:
        """Every commit replaces all items of the one before: what is seen must be all of one commit."""
        width, commits = 5, 40
        add(tmp_path, *(f"0/{j}" for j in range(width)), seed=0)
        looked, committed = threading.Event(), threading.Event()

        def write() -> None:
            looked.wait(WAIT_S)
            with LibraryWriter(tmp_path, SPEC) as writer:
                for i in range(1, commits):
                    rows = np.flatnonzero(Library.open(tmp_path).alive).tolist()
                    writer.add([an_item(f"{i}/{j}") for j in range(width)], unit_rows(width, seed=i), bury=rows)
                    writer.merge()
            committed.set()

        thread = threading.Thread(target=write)
        thread.start()
        seen = []
        while thread.is_alive() or not seen:
            items = living(Library.open(tmp_path))
            (commit,) = {int(name.split("/")[0]) for name in items}
            np.testing.assert_array_equal(
                np.stack([items[f"{commit}/{j}"] for j in range(width)]), half(unit_rows(width, seed=commit))
            )
            assert len(items) == width
            seen.append(commit)
            looked.set()
        assert committed.is_set()
        assert seen[0] == 0
        assert seen == sorted(seen)
        assert sorted(living(Library.open(tmp_path))) == sorted(f"{commits - 1}/{j}" for j in range(width))

    def test_many_threads_share_one(self, tmp_path: Path) -> None:
        n = ROW_GROUP_ROWS + 200
        spec = replace(SPEC, fingerprint=replace(SPEC.fingerprint, dim=8))
        with LibraryWriter(tmp_path, spec) as writer:
            writer.add([an_item(str(i)) for i in range(n)], unit_rows(n, dim=8))
        library = Library.open(tmp_path)
        wrong: list[object] = []

        def read(seed: int) -> None:
            try:
                for rows in np.random.default_rng(seed).integers(0, n, (5, 4)):
                    assert [item.path for item in library.items(rows)] == [str(row) for row in rows]
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


HOLD = """
import sys
from pathlib import Path
from tests.fakes import SPEC
from xsearch.library import LibraryWriter
with LibraryWriter(Path(sys.argv[1]), SPEC):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()
            process.wait(WAIT_S)


class TestLock:
    def test_a_second_writer_is_refused_and_a_reader_is_not(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        with another_writer(tmp_path):
            with pytest.raises(LibraryLocked) as refused, LibraryWriter(tmp_path, SPEC):
                pass
            assert str(refused.value) == (
                f"another xsearch is writing to {tmp_path}; wait for it, or name another folder with --data"
            )
            assert list(living(Library.open(tmp_path))) == ["a"]
            assert faults(tmp_path) == []
        add(tmp_path, "b")  # the lock went with the process that was killed
        assert sorted(living(Library.open(tmp_path))) == ["a", "b"]

    def test_it_holds_within_one_process(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC), pytest.raises(LibraryLocked), LibraryWriter(tmp_path, SPEC):
            pass

    def test_it_is_released_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), LibraryWriter(tmp_path, SPEC):
            _ = 1 / 0
        other = replace(SPEC, fingerprint=replace(SPEC.fingerprint, weights="1"))
        with pytest.raises(EncoderMismatch), LibraryWriter(tmp_path, other):
            pass
        add(tmp_path, "a")


class TestOpening:
    def test_no_library(self, tmp_path: Path) -> None:
        with pytest.raises(LibraryNotFound, match="xsearch index SOURCE"):
            Library.open(tmp_path / "none")
        with pytest.raises(LibraryNotFound), LibraryWriter(tmp_path / "none"):
            pass
        assert not (tmp_path / "none").exists()
        (tmp_path / "file").write_text("")
        with pytest.raises(LibraryNotFound):
            Library.open(tmp_path / "file")

    def test_an_empty_library(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC):
            pass
        library = Library.open(tmp_path)
        assert len(library) == 0
        assert library.counts() == dict.fromkeys(Kind, 0)
        assert library.files() == {}
        assert faults(tmp_path) == []

    def test_a_format_of_the_future(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        raw = json.loads((tmp_path / MANIFEST).read_text())
        (tmp_path / MANIFEST).write_text(json.dumps({"format": raw["format"] + 1, "layers": []}))
        for attempt in (lambda: Library.open(tmp_path), lambda: add(tmp_path, "b"), lambda: faults(tmp_path)):
            with pytest.raises(LibraryTooNew, match="newer xsearch; upgrade: `pip install -U xsearch`"):
                attempt()
        assert len(shard_files(tmp_path)) == 1

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '"{}"', "{}", '{"format": 1}', "\xff"])
    def test_a_manifest_that_is_none(self, text: str, tmp_path: Path) -> None:
        add(tmp_path, "a")
        (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
        for attempt in (lambda: Library.open(tmp_path), lambda: add(tmp_path, "b")):
            with pytest.raises(
                LibraryDamaged, match=r"manifest.json cannot be read \(.*; `xsearch verify --repair --data .*`"
            ):
                attempt()
        assert [fault.file for fault in faults(tmp_path)] == [MANIFEST]
        assert len(shard_files(tmp_path)) == 1

    def test_a_manifest_that_is_lost_is_not_a_library_that_never_was(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        (tmp_path / MANIFEST).unlink()
        with pytest.raises(LibraryDamaged, match="--repair"):
            Library.open(tmp_path)
        with pytest.raises(LibraryDamaged, match="--repair"):
            add(tmp_path, "b")
        assert len(shard_files(tmp_path)) == 1

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        (file,) = (tmp_path / "shards").iterdir()
        file.unlink()
        with pytest.raises(
            LibraryDamaged, match=rf"shard {file.stem} of .* is missing; `xsearch verify --repair --data {tmp_path}`"
        ):
            Library.open(tmp_path)
        assert [(fault.file, fault.what) for fault in faults(tmp_path)] == [(f"shards/{file.name}", "it is missing")]

    @pytest.mark.parametrize("length", [0, 3, 11, 1000, -1])
    def test_a_cut_shard(self, length: int, tmp_path: Path) -> None:
        add(tmp_path, "a", "b")
        (file,) = (tmp_path / "shards").iterdir()
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(LibraryDamaged, match="it has not the size that was written"):
            Library.open(tmp_path)

    def test_what_a_dead_writer_left_is_removed(self, tmp_path: Path) -> None:
        add(tmp_path, "a")
        manifest = Manifest.load(tmp_path)
        (file,) = (tmp_path / "shards").iterdir()
        (tmp_path / "index").mkdir()
        strays = [
            shutil.copy(file, tmp_path / "shards" / "00000009-0123456789abcdef.parquet"),
            shutil.copy(file, tmp_path / "shards" / "new.tmp"),
            shutil.copy(file, tmp_path / "index" / "00000002.faiss"),
            shutil.copy(file, tmp_path / "index" / "00000003.faiss.tmp"),
            shutil.copy(file, tmp_path / "manifest.json.tmp"),
            shutil.copy(file, tmp_path / "skipped.parquet.tmp"),
        ]
        (tmp_path / "shards" / "notes").mkdir()  # whatever it is, it is not ours
        assert list(living(Library.open(tmp_path))) == ["a"]
        with LibraryWriter(tmp_path, SPEC) as writer:
            assert writer.manifest == manifest
        assert [stray for stray in strays if Path(stray).exists()] == []
        assert file.exists()
        assert (tmp_path / "shards" / "notes").is_dir()


class TestFullDisk:
    @pytest.mark.parametrize("at_call", range(8))
    def test_the_last_commit_stays_whole_wherever_it_happens(
        self, at_call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A step that adds, replaces and merges makes several files durable: the disk is full at each in turn."""
        add(tmp_path, "a", "b", "c")
        calls = 0
        fsync = os.fsync

        def full(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls > at_call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        with LibraryWriter(tmp_path, SPEC) as writer, monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left on device"):
                writer.add([an_item("b"), an_item("d")], unit_rows(2, seed=5), bury=[1])
        assert list(tmp_path.rglob("*.tmp")) == []
        assert faults(tmp_path) == []
        items = living(Library.open(tmp_path))
        was_committed = at_call >= 3  # the shard, its folder, the manifest
        assert sorted(items) == (["a", "b", "c", "d"] if was_committed else ["a", "b", "c"])
        expected = unit_rows(2, seed=5)[0] if was_committed else unit_rows(3)[1]
        np.testing.assert_array_equal(items["b"], half(expected))
        add(tmp_path, "e")
        assert shard_files(tmp_path) == named(Manifest.load(tmp_path))

    def test_the_command_says_so_in_one_line_and_goes_on_later(self, tmp_path: Path) -> None:
        """Files may not grow beyond a limit that every shard exceeds, however few pictures a commit comes with."""
        for i in range(8):
            picture(tmp_path / "few" / f"{i}.png", i)
        for i in range(64):
            picture(tmp_path / "many" / f"{100 + i}.png", 100 + i)
        data = tmp_path / "data"

        def index(folder: str, limit_bytes: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "xsearch", "index", str(tmp_path / folder), "--data", str(data)],
                # Python ignores SIGXFSZ, so that a write beyond the limit is an error.
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY)),
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=False,
            )

        assert index("few").returncode == 0
        before = Manifest.load(data)
        failed = index("many", limit_bytes=before.shards[0].bytes // 2)
        assert failed.returncode == 2
        assert failed.stdout == ""
        (line,) = failed.stderr.splitlines()
        assert line.startswith("xsearch: ")
        assert "File too large" in line
        assert Manifest.load(data) == before
        assert list(data.rglob("*.tmp")) == []
        assert faults(data) == []
        assert len(living(Library.open(data))) == 8
        assert index("many").returncode == 0
        assert len(living(Library.open(data))) == 72


def test_a_living_item_is_found_by_its_id(tmp_path: Path) -> None:
    add(tmp_path, "a", "b", "c")
    add(tmp_path, "d", "b", bury=(1,))
    library = Library.open(tmp_path)
    items = library.items(np.arange(5))
    assert [library.row_of(items[row].id) for row in (0, 2, 3)] == [0, 2, 3]
    assert library.row_of(items[1].id) == 4  # the one of this id that lives
    for name in (
        "",
        "a" * 15,
        "a" * 17,
        items[0].id.upper(),
        f"0x{items[0].id[2:]}",
        "１" * 16,
        item_id(Path("/none")),
    ):
        assert library.row_of(name) is None


def test_recent_tables_are_kept_within_bounds() -> None:
    read: list[str] = []

    def table(name: str) -> pa.Table:
        read.append(name)
        return pa.table({"bytes": np.zeros(125)})

    recent = RecentTables(3000)
    for name in ("a", "b", "a", "c", "d", "b", "a", "d"):
        assert recent.get(name, lambda name=name: table(name)).num_rows == 125
    # Three at most: d drives out b, as a was used since; then b drives out a, and a drives out c.
    assert read == ["a", "b", "c", "d", "b", "a"]
    huge = RecentTables(1)
    huge.get("a", lambda: table("huge"))
    huge.get("a", lambda: table("huge"))
    assert read.count("huge") == 1
