"""Libraries at URIs, against an S3 server on loopback: written by one at a time, read through a mirror."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import typer
from pyarrow import fs

from tests.fakes import FakeEncoder, living, picture
from tests.stores import BUCKET, Place, s3_server
from xsearch import Searcher
from xsearch.cli.library import verify_command
from xsearch.errors import LibraryDamaged, LibraryLocked, LibraryNotFound, SourceError
from xsearch.indexer import IndexReport, index
from xsearch.library import Library, Manifest, faults, remote
from xsearch.library.manifest import MANIFEST
from xsearch.library.remote import LEASE_S, Remote, following, is_remote, local_folder, own_folder, without_keys

PICTURES = 5


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(PICTURES):
        picture(tmp_path / "photos" / f"{i}.png", i)
    (tmp_path / "photos" / "tool.exe").write_bytes(b"MZ")
    return tmp_path / "photos"


@pytest.fixture
def place(address: str, tmp_path: Path) -> Place:
    return Place(address, f"{tmp_path.name}/library")


def publish(place: Place, photos: Path, **options: Any) -> IndexReport:
    with Remote(place.uri).writing() as folder:
        return index([photos], folder, FakeEncoder(), **options)


def test_indexed_here_and_read_from_anywhere(
    place: Place, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = publish(place, photos)
    assert (report.indexed, report.skipped) == (PICTURES, {"unsupported type": 1})
    again = publish(place, photos)
    assert (again.indexed, again.unchanged) == (0, PICTURES)

    # Another machine: it has no cache.
    monkeypatch.setenv("XSEARCH_CACHE", str(tmp_path / "elsewhere"))
    folder = local_folder(place.uri)
    assert folder.is_relative_to(tmp_path / "elsewhere")
    assert faults(folder) == []
    index([photos], tmp_path / "local", FakeEncoder())
    expected, found = living(Library.open(tmp_path / "local")), living(Library.open(folder))
    assert {name: vector.tolist() for name, vector in found.items()} == {
        name: vector.tolist() for name, vector in expected.items()
    }
    assert Library.open(folder).skipped() == Library.open(tmp_path / "local").skipped()
    (hit,) = Searcher(place.uri, encoder=FakeEncoder()).query(image=photos / "3.png", k=1)
    assert (Path(hit.path).name, round(hit.score, 3)) == ("3.png", 1.0)

    # The other machine writes, and the first one sees it.
    (photos / "0.png").unlink()
    picture(photos / "new.png", 50)
    changed = publish(place, photos)
    assert (changed.indexed, changed.unchanged, changed.removed) == (1, PICTURES - 1, 1)
    monkeypatch.setenv("XSEARCH_CACHE", str(tmp_path / "cache"))
    assert set(living(Library.open(local_folder(place.uri)))) == {"1.png", "2.png", "3.png", "4.png", "new.png"}
    live = {f"shards/{entry.id}.parquet" for entry in Manifest.load(local_folder(place.uri)).shards}
    assert place.names("shards") == live
    assert not place.names("locks")


def test_nothing_is_fetched_twice(place: Place, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(place, photos)
    fetched: list[str] = []
    opened = remote.shutil.copyfileobj

    def copy(source: Any, sink: Any, length: int) -> None:
        fetched.append(Path(sink.name).name)
        opened(source, sink, length)

    monkeypatch.setattr(remote.shutil, "copyfileobj", copy)
    folder = local_folder(place.uri)
    (shard,) = Manifest.load(folder).shards
    assert f"{shard.id}.parquet.tmp" in fetched
    fetched.clear()
    local_folder(place.uri)
    assert fetched == []


def test_a_crash_before_the_manifest_leaves_the_old_commit(
    place: Place, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place, photos)
    before = living(Library.open(local_folder(place.uri)))
    picture(photos / "more.png", 60)
    with monkeypatch.context() as patch:
        patch.setattr(remote._Lease, "check", raising(MemoryError()))  # the last thing before the manifest is put
        with pytest.raises(MemoryError):
            publish(place, photos)
    folder = local_folder(place.uri)
    assert faults(folder) == []
    assert living(Library.open(folder)).keys() == before.keys()
    assert len(place.names("shards")) == 2
    picture(photos / "more.png", 61)
    assert publish(place, photos).indexed == 1
    assert living(Library.open(local_folder(place.uri))).keys() == before.keys() | {"more.png"}
    live = {f"shards/{entry.id}.parquet" for entry in Manifest.load(local_folder(place.uri)).shards}
    assert place.names("shards") == live  # what the crash left is swept


def test_a_run_that_fails_publishes_nothing_and_ctrl_c_what_was_committed(place: Place, photos: Path) -> None:
    def end(error: BaseException) -> None:
        with Remote(place.uri).writing() as folder:
            index([photos], folder, FakeEncoder())
            raise error

    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError())
    with pytest.raises(LibraryNotFound):
        local_folder(place.uri)
    with pytest.raises(KeyboardInterrupt):
        end(KeyboardInterrupt())
    assert len(living(Library.open(local_folder(place.uri)))) == PICTURES


def test_a_second_writer_is_refused(place: Place, photos: Path) -> None:
    with Remote(place.uri).writing() as folder:
        index([photos], folder, FakeEncoder())
        with pytest.raises(
            LibraryLocked, match=rf"process {os.getpid()} on .* is writing to s3://{BUCKET}/.*wait for it"
        ):
            publish(place, photos)
    assert publish(place, photos).unchanged == PICTURES


def test_a_dead_writer_is_not_waited_for(place: Place, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("locks/dead", json.dumps({"host": "gone", "process": 1}).encode())
    with pytest.raises(LibraryLocked, match="process 1 on gone is writing"):
        publish(place, photos)
    monkeypatch.setattr(remote, "LEASE_S", -1.0)
    monkeypatch.setattr(remote._Lease, "check", lambda lease: None)
    assert publish(place, photos).indexed == PICTURES
    assert not place.names("locks")


def test_a_writer_that_was_given_up_commits_nothing(place: Place, photos: Path) -> None:
    publish(place, photos)
    before = place.read(MANIFEST)
    picture(photos / "more.png", 60)

    def lose_the_lock(stage: str) -> None:
        for lock in place.names("locks"):
            place.delete(lock)

    with pytest.raises(LibraryLocked, match=f"gave no sign of life for {LEASE_S:.0f} s"):
        publish(place, photos, on_stage=lose_the_lock)
    assert place.read(MANIFEST) == before


def test_a_commit_in_between_is_not_overwritten(place: Place, photos: Path) -> None:
    publish(place, photos)
    picture(photos / "more.png", 60)
    other = b"the manifest of another writer"
    with pytest.raises(LibraryLocked, match="another writer has committed"):
        publish(place, photos, on_stage=lambda stage: place.write(MANIFEST, other))
    assert place.read(MANIFEST) == other


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (Place.delete, r"shards/.*parquet is missing at s3://.*delete what is left"),
        (lambda place, name: place.write(name, place.read(name)[:-9] + b"x" * 9), "its checksum differs"),
    ],
)
def test_a_shard_that_is_not_what_was_written(
    place: Place, photos: Path, harm: Callable[[Place, str], None], message: str
) -> None:
    publish(place, photos)
    (shard,) = place.names("shards")
    harm(place, shard)
    with pytest.raises(LibraryDamaged, match=message):
        local_folder(place.uri)


def test_what_lies_beside_is_done_without_where_it_is_damaged(place: Place, photos: Path) -> None:
    publish(place, photos)
    place.write("bank.npy", b"no bank")
    listed = json.loads(place.read(remote.BESIDE))
    listed["../../outside"] = listed["words/../../outside"] = [7, listed["bank.npy"][1]]
    place.write(remote.BESIDE, json.dumps(listed).encode())
    folder = local_folder(place.uri)
    assert not (folder / "bank.npy").exists()
    assert not list(folder.parent.parent.rglob("outside*"))
    assert len(Searcher(place.uri, encoder=FakeEncoder()).query("a text", k=PICTURES)) == PICTURES


def test_a_mirror_that_was_harmed_is_told_and_fetched_anew(
    place: Place, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(place, photos)
    folder = local_folder(place.uri)
    (shard,) = (folder / "shards").iterdir()
    harmed = bytearray(shard.read_bytes())
    harmed[len(harmed) // 2] ^= 1
    shard.write_bytes(harmed)
    with pytest.raises(typer.Exit):
        verify_command(place.uri)
    assert f"remove {folder}, and it is fetched anew" in capsys.readouterr().err
    shutil.rmtree(folder)
    verify_command(place.uri)
    assert capsys.readouterr().out == "clean\n"


def test_a_manifest_that_leads_outside_is_refused(place: Place, photos: Path, tmp_path: Path) -> None:
    publish(place, photos)
    manifest = Manifest.load(local_folder(place.uri))
    (shard,) = manifest.shards
    tmp_path.joinpath("hostile").mkdir()
    replace(manifest, shards=(replace(shard, id="../../outside"),)).save(tmp_path / "hostile")
    place.write(MANIFEST, (tmp_path / "hostile" / MANIFEST).read_bytes())
    with pytest.raises(LibraryDamaged, match="names a file outside the library"):
        local_folder(place.uri)


def test_no_library_no_bucket_no_store(place: Place, photos: Path) -> None:
    with pytest.raises(LibraryNotFound, match=rf"there is no library at s3://{BUCKET}/\S+/library;"):
        local_folder(place.uri)
    with pytest.raises(SourceError, match="cannot be written to"), Remote(place.uri.replace(BUCKET, "none")).writing():
        pass
    with pytest.raises(SourceError, match=r"foo://bar cannot be opened .*check the URI"):
        local_folder("foo://bar")


def test_keys_in_a_uri_are_not_shown() -> None:
    assert without_keys("s3://key:secret@bucket/a/b?region=x") == "s3://bucket/a/b"
    assert without_keys(Path("a/b")) == "a/b"


def test_new_commits_are_followed(place: Place, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FOLLOW_S", 0.05)
    publish(place, photos)
    with following(place.uri) as folder:
        assert len(living(Library.open(folder))) == PICTURES
        picture(photos / "more.png", 60)
        publish(place, photos)
        deadline_s = time.monotonic() + 60
        while len(living(Library.open(folder))) == PICTURES and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert len(living(Library.open(folder))) == PICTURES + 1


def test_what_is_remote() -> None:
    assert is_remote("s3://bucket/a")
    assert not is_remote("file:///a%20b/c")
    assert not is_remote(Path("a/b"))
    assert own_folder("file:///a%20b/c") == Path("/a b/c")
    assert own_folder("a/b") == Path("a/b")


def test_another_file_system(photos: Path, tmp_path: Path) -> None:
    """One that is no object store gets whole files by their names, too."""
    there = Remote("mounted://share/library")
    there.__dict__["_opened"] = fs.LocalFileSystem(), remote.PurePosixPath(tmp_path / "share")
    with there.writing() as folder:
        index([photos], folder, FakeEncoder())
    assert faults(tmp_path / "share") == []
    assert sorted(path.name for path in (tmp_path / "share").iterdir()) == [
        "bank.npy",
        "beside.json",
        "locks",
        "manifest.json",
        "shards",
        "skipped.parquet",
        "words",
    ]
    assert not list(tmp_path.joinpath("share").rglob("*.tmp"))
    folder = there.mirror(tmp_path / "mirror")
    np.testing.assert_array_equal(
        living(Library.open(folder))["3.png"], living(Library.open(tmp_path / "share"))["3.png"]
    )


def test_the_command(
    place: Place, photos: Path, run_xsearch: Callable[..., "CompletedProcess[str]"], tmp_path: Path, cache: Path
) -> None:
    env = {"XSEARCH_CACHE": str(cache), "XSEARCH_DATA": place.uri}
    (photos / "note.txt").write_text("a ship in a storm")
    made = run_xsearch("index", photos, env=env)
    assert (made.returncode, made.stdout.split(";")[0]) == (
        0,
        f"seen {PICTURES + 2} = indexed {PICTURES + 1} + unchanged 0 + moved 0 + skipped 1 (1 unsupported type)",
    ), made.stderr
    found = run_xsearch("query", "a ship in a storm", "--kind", "text", "-k", "1", "--json", env=env)
    assert Path(json.loads(found.stdout)["hits"][0]["path"]).name == "note.txt"
    assert run_xsearch("verify", env=env).stdout == "clean\n"
    assert json.loads(run_xsearch("stats", "--json", env=env).stdout)["items"]["all"] == PICTURES + 1
    refused = run_xsearch("forget", photos, env=env)
    assert refused.returncode == 2
    assert "only `xsearch index` takes a URI" in refused.stderr
    moved = run_xsearch("index", photos, "--data", (tmp_path / "plain").as_uri(), env=env)
    assert moved.returncode == 0
    assert faults(tmp_path / "plain") == []


def raising(error: Exception) -> Callable[..., None]:
    def function(*_: Any) -> None:
        raise error

    return function
