"""`xsearch verify` finds every altered byte, and `--repair` mends what its help says."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from tests.fakes import SPEC, FakeEncoder, an_item, living, picture, unit_rows
from xsearch import Searcher, maintenance
from xsearch.errors import LibraryDamaged, LibraryNotFound
from xsearch.index.plan import IndexKind
from xsearch.index_file import Targets, open_index
from xsearch.indexer import index
from xsearch.library import Library, LibraryWriter, Manifest, check, faults, recover
from xsearch.library.skipped import SKIPPED, read_skipped
from xsearch.maintenance import repair, verify
from xsearch.types import Item, Modality, Skipped

Command = Callable[..., CompletedProcess[str]]

PICTURES = 100
CHECKSUM_DIFFERS = "it is not what was written (its checksum differs)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of two shards, with an IVF-PQ index and a list of skipped files, over `photos` beside it."""
    folder = tmp_path_factory.mktemp("verify")
    for i in range(PICTURES):
        picture(folder / "photos" / f"{i}.png", i)
    (folder / "photos" / "tool.exe").write_bytes(b"MZ")
    _index(folder)
    for i in range(10):
        picture(folder / "photos" / f"late{i}.png", PICTURES + i)
    _index(folder)
    assert [entry.rows for entry in Manifest.load(folder / "data").shards] == [PICTURES, 10]
    return folder


def _index(folder: Path) -> FakeEncoder:
    encoder = FakeEncoder()
    targets = Targets(text=0.9, image=0.97)
    index([folder / "photos"], folder / "data", encoder, index_kind=IndexKind.IVFPQ, targets=targets)
    return encoder


@pytest.fixture
def data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library, to be damaged."""
    monkeypatch.setattr(maintenance, "get_encoder", lambda name: FakeEncoder())
    return Path(shutil.copytree(made / "data", tmp_path / "data"))


@pytest.fixture(scope="module")
def everything(made: Path) -> dict[str, list[float]]:
    return {name: vector.tolist() for name, vector in living(Library.open(made / "data")).items()}


def found(data: Path) -> dict[str, list[float]]:
    return {name: vector.tolist() for name, vector in living(Library.open(data)).items()}


def flip(file: Path, at: int, mask: int = 0x01) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= mask
    file.write_bytes(content)


def shard_files(data: Path) -> list[Path]:
    return sorted((data / "shards").iterdir())


def index_of(data: Path) -> Path:
    (file,) = (data / "index").iterdir()
    return file


def lines_of(data: Path) -> list[tuple[str, str]]:
    return [(fault.file, fault.what) for fault in verify(data)]


class TestAnyByte:
    """Of each kind of file; a mask of one random bit, the positions all or sampled with a fixed seed."""

    def test_of_the_manifest(self, data: Path) -> None:
        file = data / "manifest.json"
        content = file.read_bytes()
        rng = random.Random(1)
        for at in range(len(content)):
            flip(file, at, 1 << rng.randrange(8))
            (fault,) = verify(data)
            assert fault.file == "manifest.json"
            assert "manifest.json cannot be read" in fault.what
            file.write_bytes(content)
        assert verify(data) == []

    def test_of_a_shard(self, data: Path) -> None:
        file = shard_files(data)[0]
        content = file.read_bytes()
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        vectors = content.index(Library.open(data)._shards[0].segments[0].tobytes())
        rng = random.Random(2)
        places = [
            *rng.sample(range(vectors), 20),
            *rng.sample(range(vectors, footer), 20),
            *rng.sample(range(footer, len(content)), 40),
            *range(len(content) - 8, len(content)),
        ]
        for at in places:
            flip(file, at, 1 << rng.randrange(8))
            assert lines_of(data) == [(f"shards/{file.name}", CHECKSUM_DIFFERS)]
            file.write_bytes(content)
        assert verify(data) == []

    def test_of_a_footer_is_noticed_by_whoever_opens_the_library(self, data: Path) -> None:
        """Parquet ends the process on some altered footers: they must not get that far."""
        file = shard_files(data)[1]
        content = file.read_bytes()
        footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        rng = random.Random(3)
        for at in [*rng.sample(range(footer, len(content)), 150), *range(len(content) - 8, len(content))]:
            flip(file, at, 1 << rng.randrange(8))
            with pytest.raises(
                LibraryDamaged, match=f"its footer is not what was written; `xsearch verify --repair --data {data}`"
            ):
                Library.open(data)
            file.write_bytes(content)

    def test_of_the_index(self, data: Path) -> None:
        file = index_of(data)
        content = file.read_bytes()
        rng = random.Random(4)
        for at in [0, *rng.sample(range(len(content)), 60), len(content) - 1]:
            flip(file, at, 1 << rng.randrange(8))
            assert lines_of(data) == [(f"index/{file.name}", f"the index file {file} was altered")]
            file.write_bytes(content)
        assert verify(data) == []

    def test_of_the_list_of_skipped_files(self, data: Path) -> None:
        """A byte that Parquet does not read may be altered: then the list is what it was."""
        file = data / SKIPPED
        content, skipped = file.read_bytes(), read_skipped(data)
        assert [entry.reason for entry in skipped] == ["unsupported type"]
        rng = random.Random(5)
        noticed = 0
        for at in rng.sample(range(len(content)), 600):
            flip(file, at, 1 << rng.randrange(8))
            if lines := [(fault.file, fault.what) for fault in faults(data)]:
                ((name, what),) = lines
                assert name == SKIPPED
                assert what.startswith(f"{file} cannot be read")
                noticed += 1
            else:
                assert read_skipped(data) == skipped
            file.write_bytes(content)
        assert noticed > 300


class TestFaults:
    def test_each_has_its_line(self, data: Path) -> None:
        for file in shard_files(data):
            flip(file, 1000)
        flip(data / SKIPPED, 10)
        names = [name for name, _ in lines_of(data)]
        assert names == [*(f"shards/{file.name}" for file in shard_files(data)), SKIPPED]

    def test_the_index_is_checked_beside_the_list_of_skipped_files(self, data: Path) -> None:
        flip(data / SKIPPED, 10)
        flip(index_of(data), 1000)
        assert [name for name, _ in lines_of(data)] == [SKIPPED, f"index/{index_of(data).name}"]

    def test_missing_files(self, data: Path) -> None:
        missing = index_of(data)
        missing.unlink()
        assert lines_of(data) == [(f"index/{missing.name}", f"the index file {missing} is missing or cut")]
        missing = shard_files(data)[1]
        missing.unlink()
        assert lines_of(data) == [(f"shards/{missing.name}", "it is missing")]
        (data / "manifest.json").unlink()
        ((name, what),) = lines_of(data)
        assert name == "manifest.json"
        assert "No such file" in what

    def test_items_that_are_there_twice(self, data: Path) -> None:
        with LibraryWriter(data) as writer:
            writer.add(Library.open(data).items(np.array([3, 4])), unit_rows(2))
        assert lines_of(data) == [("manifest.json", "2 items are in it twice")]

    def test_a_vector_that_is_none(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item("a"), an_item("b")], unit_rows(2) * np.array([[1.0], [1.1]], np.float32))
        ((_, what),) = lines_of(tmp_path)
        assert what == "a vector in it is not of unit length"

    def test_a_writer_that_merges_meanwhile_makes_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The shards are merged away after the manifest was read and before the first of them is looked at."""
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(str(i)) for i in range(9)], unit_rows(9))
            writer.add([an_item("late")], unit_rows(1))
            before = {entry.id for entry in writer.manifest.shards}
            load = Manifest.load
            sha256 = check.file_sha256

            def merge_first(path: Path) -> str:
                if writer.manifest.commit == 2:
                    writer.add([an_item(f"more{i}") for i in range(20)], unit_rows(20))
                return sha256(path)

            monkeypatch.setattr(check, "file_sha256", merge_first)
            assert faults(tmp_path) == []
            assert not before & {entry.id for entry in load(tmp_path).shards}

    def test_no_library(self, tmp_path: Path) -> None:
        with pytest.raises(LibraryNotFound):
            verify(tmp_path)
        with pytest.raises(LibraryNotFound):
            repair(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestRepair:
    def test_of_a_whole_library_does_nothing(self, data: Path) -> None:
        before = Manifest.load(data)
        assert repair(data) == []
        assert Manifest.load(data) == before

    @pytest.mark.parametrize("position", [0, 1])
    def test_a_damaged_shard_is_let_go_of_and_its_items_come_back(
        self, position: int, made: Path, data: Path, everything: dict[str, list[float]]
    ) -> None:
        rows = Manifest.load(data).shards[position].rows
        flip(shard_files(data)[position], 3000)
        assert repair(data) == [
            f"damaged shards were let go of: 1, with {rows} items; run `xsearch index SOURCE --data {data}`",
            "the index was built anew",
        ]
        assert verify(data) == []
        rest = found(data)
        assert len(rest) == PICTURES + 10 - rows
        assert rest.items() <= everything.items()
        encoder = FakeEncoder()
        report = index([made / "photos"], data, encoder)
        assert (report.indexed, encoder.pictures_encoded) == (rows, rows)
        assert found(data) == everything

    def test_a_missing_shard(self, data: Path) -> None:
        shard_files(data)[0].unlink()
        repair(data)
        assert verify(data) == []
        assert sorted(found(data)) == [f"late{i}.png" for i in range(10)]

    def test_all_shards_and_the_list_of_skipped_files(self, made: Path, data: Path) -> None:
        for file in [*shard_files(data), data / SKIPPED]:
            flip(file, 30)
        assert repair(data) == [
            f"damaged shards were let go of: 2, with {PICTURES + 10} items; run `xsearch index SOURCE --data {data}`",
            "skipped.parquet was emptied: the next index run fills it",
        ]
        assert verify(data) == []
        assert found(data) == {}
        index([made / "photos"], data, FakeEncoder())
        assert [entry.reason for entry in Library.open(data).skipped()] == ["unsupported type"]

    @pytest.mark.parametrize("checked_on_open_bytes", [1 << 30, 0])
    def test_a_damaged_index_is_built_anew_as_it_was_asked_for(
        self, checked_on_open_bytes: int, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also one that is too large to be checked whenever it is opened."""
        monkeypatch.setattr("xsearch.index_file.CHECKED_ON_OPEN_BYTES", checked_on_open_bytes)
        flip(index_of(data), 5000)
        assert repair(data) == ["the index was built anew"]
        assert verify(data) == []
        library = Library.open(data)
        entry = library.manifest.index
        assert entry is not None
        assert entry.rows == PICTURES + 10
        targets = {name: settings["target"] for name, settings in entry.details["settings"].items()}
        assert targets == {"text": 0.9, "image": 0.97}
        opened = open_index(library, check=True)
        assert opened is not None
        assert opened.rows == PICTURES + 10

    @pytest.mark.parametrize("content", [None, b"", b"{}", b"\0" * 500])
    def test_a_lost_manifest_is_made_from_the_shards(
        self, content: bytes | None, data: Path, everything: dict[str, list[float]]
    ) -> None:
        before = Manifest.load(data)
        if content is None:
            (data / "manifest.json").unlink()
        else:
            (data / "manifest.json").write_bytes(content)
        assert repair(data) == ["manifest.json was made anew from 2 of 2 shards"]
        assert verify(data) == []
        after = Manifest.load(data)
        assert (after.encoder, after.fingerprint, after.shards) == (before.encoder, before.fingerprint, before.shards)
        assert found(data) == everything

    def test_a_lost_manifest_and_a_damaged_shard(self, data: Path, everything: dict[str, list[float]]) -> None:
        """A shard is checked by its name: whichever of its bytes is altered, none of its items is taken."""
        (data / "manifest.json").unlink()
        file = shard_files(data)[1]
        content = file.read_bytes()
        rng = random.Random(6)
        for at in rng.sample(range(len(content)), 40):
            flip(file, at, 1 << rng.randrange(8))
            assert [entry.rows for entry in recover(data).shards] == [PICTURES]
            file.write_bytes(content)
        flip(file, 50)
        assert repair(data) == ["manifest.json was made anew from 1 of 2 shards"]
        assert verify(data) == []
        assert found(data) == {name: vector for name, vector in everything.items() if not name.startswith("late")}

    def test_nothing_to_make_a_manifest_of(self, data: Path) -> None:
        (data / "manifest.json").unlink()
        for file in shard_files(data):
            flip(file, 50)
        with pytest.raises(LibraryDamaged, match=r"no shard in .* is whole; delete the folder and index again"):
            repair(data)
        assert len(shard_files(data)) == 2

    def test_an_empty_library_that_lost_its_manifest(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC):
            pass
        (tmp_path / "manifest.json").write_text("{")
        with pytest.raises(LibraryDamaged, match="delete the folder and index again"):
            repair(tmp_path)
        with LibraryWriter(tmp_path, SPEC) as writer:  # there is nothing to lose
            assert writer.manifest.shards == ()
        assert verify(tmp_path) == []


class TestRecovered:
    """What comes back when the manifest is lost, and with it the knowledge of what was removed or replaced."""

    def recovered(self, data: Path) -> dict[str, Item]:
        (data / "manifest.json").unlink()
        with LibraryWriter(data, recover=recover) as writer:
            assert writer.recovered
        assert faults(data) == []
        library = Library.open(data)
        return {f"{item.path}#{item.part}": item for item in library.items(np.flatnonzero(library.alive))}

    def test_the_youngest_state_of_an_item_counts(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            for state in range(7):
                known = Library.open(tmp_path).files().get(an_item("a").file, [])
                others = [an_item(f"{state}/{i}") for i in range(9 - state)]
                items = [an_item("a", content_hash=f"{state}"), *others]
                writer.add(items, unit_rows(len(items)), bury=[row for file in known for row in file.rows])
            assert len(writer.manifest.shards) > 1
        assert self.recovered(tmp_path)["a#"].content_hash == "6"

    def test_also_when_elder_shards_were_merged_after_younger_ones_were_written(self, tmp_path: Path) -> None:
        """The merged shard is the younger file, and holds the elder rows."""
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(str(i)) for i in range(100)], unit_rows(100))
            writer.add([an_item("a", content_hash="old"), *(an_item(f"x{i}") for i in range(19))], unit_rows(20))
            writer.add([an_item("a", content_hash="new")], unit_rows(1), bury=[100])
            assert [entry.rows for entry in writer.manifest.shards] == [100, 20, 1]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("xsearch.library.writer.PURGE_SHARE", 0.0)
                writer.merge()  # writes the second anew, without its dead row
            assert [entry.rows for entry in writer.manifest.shards] == [100, 19, 1]
            writer.add([an_item("x0", content_hash="newer")], unit_rows(1), bury=[100])
        items = self.recovered(tmp_path)
        assert items["a#"].content_hash == "new"
        assert items["x0#"].content_hash == "newer"

    def test_no_passage_of_an_older_state_of_a_text_comes_back(self, tmp_path: Path) -> None:
        def passages(state: str, n: int) -> list[Item]:
            return [an_item("a.txt", part=str(part), content_hash=state) for part in range(n)]

        def rows_of_table(*texts: str) -> list[Item]:
            return [an_item("t.csv", part=text, content_hash=text) for text in texts]

        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([*passages("long", 4), *rows_of_table("x", "y", "z")], unit_rows(7))
            writer.add([*passages("short", 2), *rows_of_table("w")], unit_rows(3), bury=[0, 1, 2, 3, 5])
        items = self.recovered(tmp_path)
        texts = {name: item.content_hash for name, item in items.items() if name.startswith("a.txt")}
        assert texts == {"a.txt#0": "short", "a.txt#1": "short"}
        # A row that was removed comes back; nothing that is left tells that it was.
        assert sorted(name for name in items if name.startswith("t.csv")) == [f"t.csv#{text}" for text in "wxyz"]

    def test_shards_that_a_dead_writer_left_are_no_twins(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item(f"{i}") for i in range(9)], unit_rows(9))
            kept = {file: file.read_bytes() for file in (tmp_path / "shards").iterdir()}
            writer.add([an_item(f"{i}") for i in range(9, 18)], unit_rows(9, seed=1))
            before = living(Library.open(tmp_path))
        for file, content in kept.items():
            assert not file.exists()
            file.write_bytes(content)
        assert len(self.recovered(tmp_path)) == 18
        after = living(Library.open(tmp_path))
        assert {name: vector.tolist() for name, vector in after.items()} == {
            name: vector.tolist() for name, vector in before.items()
        }

    def test_it_can_be_written_to(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item("a")], unit_rows(1))
        self.recovered(tmp_path)
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item("b")], unit_rows(1))
            writer.set_skipped([Skipped("/c", "hidden")])
        assert sorted(self.recovered(tmp_path)) == ["a#", "b#"]


class TestDamagedIndex:
    def test_answers_are_those_of_an_exact_search_with_a_warning(self, data: Path) -> None:
        queries = unit_rows(20, seed=5)
        file = index_of(data)
        flip(file, file.stat().st_size // 2)
        warnings: list[str] = []
        searcher = Searcher(data, encoder=FakeEncoder(), on_warning=warnings.append)
        assert warnings == [
            f"the index file {file} was altered: searching without it, which is slower; "
            f"`xsearch verify --repair --data {data}` makes it anew"
        ]
        vectors = searcher.library.vectors.take(np.arange(PICTURES + 10)).astype(np.float64)
        scores = (vectors @ queries.T.astype(np.float64)).T.astype(np.float32)
        answer = searcher.search(queries, Modality.TEXT, k=7)
        np.testing.assert_array_equal(answer.rows, np.argsort(-scores, axis=1, kind="stable")[:, :7])

    def test_the_next_run_builds_it_anew(self, made: Path, data: Path) -> None:
        flip(index_of(data), 5000)
        encoder = FakeEncoder()
        index([made / "photos"], data, encoder)
        assert encoder.pictures_encoded == 0
        assert verify(data) == []
        assert Manifest.load(data).index is not None


@pytest.fixture(scope="module")
def built_in(tmp_path_factory: pytest.TempPathFactory, run_xsearch: Command) -> Path:
    folder = tmp_path_factory.mktemp("command")
    for i in range(60):
        picture(folder / "photos" / f"{i}.png", i)
    (folder / "photos" / "tool.exe").write_bytes(b"MZ")
    made = run_xsearch("index", folder / "photos", "--data", folder / "data", "--index", "ivfpq", "--json")
    assert made.returncode == 0
    assert json.loads(made.stdout)["indexed"] == 60
    return folder


class TestCommand:
    """The real command, on a library of the built-in encoder."""

    @pytest.fixture
    def data(self, built_in: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(built_in / "data", tmp_path / "data"))

    def test_it_is_clean(self, data: Path, run_xsearch: Command) -> None:
        done = run_xsearch("verify", "--data", data)
        assert (done.returncode, done.stdout, done.stderr) == (0, "clean\n", "")

    def test_an_index_is_forced_on_a_small_library(self, built_in: Path, run_xsearch: Command) -> None:
        stats = json.loads(run_xsearch("stats", "--data", built_in / "data", "--json").stdout)
        assert (stats["index"]["kind"], stats["index"]["rows"]) == ("ivfpq", 60)
        assert all(settings["recall"] >= settings["target"] for settings in stats["index"]["settings"].values())

    def test_queries_over_a_damaged_index_answer_as_exact_ones(
        self, built_in: Path, data: Path, tmp_path: Path, run_xsearch: Command
    ) -> None:
        exact = shutil.copytree(built_in / "data", tmp_path / "exact")
        assert run_xsearch("index", built_in / "photos", "--data", exact, "--index", "exact").returncode == 0
        assert Manifest.load(exact).index is None
        flip(index_of(data), 5000)
        query = ("query", "--image", built_in / "photos" / "7.png", "-k", "12", "--json", "--data")
        expected, answer = run_xsearch(*query, exact), run_xsearch(*query, data)
        assert expected.stderr == ""
        assert json.loads(answer.stdout)["hits"] == json.loads(expected.stdout)["hits"]
        assert json.loads(answer.stdout)["hits"][0]["path"] == str(built_in / "photos" / "7.png")
        assert "was altered: searching without it" in answer.stderr
        assert answer.returncode == 0

    def test_faults_are_lines_and_repair_mends_them(self, data: Path, run_xsearch: Command) -> None:
        flip(index_of(data), 5000)
        flip(data / SKIPPED, 10)
        done = run_xsearch("verify", "--data", data)
        assert done.returncode == 2
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == [SKIPPED, f"index/{index_of(data).name}"]
        assert done.stderr.count("\n") == 1
        assert f"`xsearch verify --repair --data {data}`" in done.stderr
        record = json.loads(run_xsearch("verify", "--data", data, "--json").stdout)
        assert record["clean"] is False
        assert [fault["file"] for fault in record["faults"]] == [SKIPPED, f"index/{index_of(data).name}"]
        done = run_xsearch("verify", "--repair", "--data", data)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "repaired: skipped.parquet was emptied: the next index run fills it",
            "repaired: the index was built anew",
            "clean",
        ]
        assert run_xsearch("verify", "--data", data).returncode == 0

    def test_a_damaged_manifest_is_one_line_for_every_command(self, data: Path, run_xsearch: Command) -> None:
        flip(data / "manifest.json", 100)
        for command in (["stats"], ["query", "a cat"], ["index", data.parent], ["forget", data.parent]):
            done = run_xsearch(*command, "--data", data)
            assert done.returncode == 2
            assert done.stdout == ""
            (line,) = done.stderr.splitlines()
            assert f"`xsearch verify --repair --data {data}`" in line
