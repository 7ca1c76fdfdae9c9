"""Use case: notice that sources change, and bring their library up to date again."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import Self

from xsearch.errors import LibraryLocked, SourceError, XSearchError, command
from xsearch.sources.containers import COCO_PREFIX, HUB_PREFIX
from xsearch.sources.folder import LIBRARY_FILES

# A burst of changes ends when nothing has changed for a while; one without an end is taken in parts.
QUIET_MS = 250
BURST_S = 30.0
LOCKED_S = 3.0
ATTEMPTS = 8

_Identity = tuple[int, int]


def watch(
    sources: Sequence[str | Path],
    data: Path,
    update: Callable[[], object],
    *,
    root: Path | None = None,
    poll_s: float | None = None,
    on_trouble: Callable[[XSearchError], None] = lambda error: None,
    stop: Event | None = None,
) -> None:
    """Call `update`, an index run of `sources` into the library `data`, at once and after each burst of changes there.

    Changes are those that the system tells of, also in `root` (`Layout.root`), and what happens during an update is
    followed by another one. With `poll_s` the library is updated every so many seconds instead. Returns when `stop` is
    set and no update is under way. LibraryLocked is handed to `on_trouble`, and the update tried again until the other
    writer is done; a SourceError after the first update is handed to it too, and the next change awaited. Raises
    SourceError for a source of whose changes nothing tells, or for more folders than the system lets a user watch, and
    whatever else `update` raises.
    """
    places = [_place(str(source)) for source in sources] + ([] if root is None else [root.absolute()])
    stop = stop or Event()
    with closing(_heard(places, data, stop) if poll_s is None else _polled(poll_s, stop)) as due:
        for number, _ in enumerate(due):
            try:
                _update_when_free(update, on_trouble, stop)
            except SourceError as error:
                if number == 0:
                    raise
                on_trouble(error)


def _update_when_free(update: Callable[[], object], on_trouble: Callable[[XSearchError], None], stop: Event) -> None:
    told = False
    while not stop.is_set():
        try:
            update()
            return
        except LibraryLocked as error:
            if not told:
                on_trouble(error)
            told = True
            stop.wait(LOCKED_S)


def _polled(poll_s: float, stop: Event) -> Generator[None]:
    while not stop.is_set():
        yield
        stop.wait(poll_s)


def _heard(places: Sequence[Path], data: Path, stop: Event) -> Generator[None]:
    """Yield at once and after each burst of changes, of which none is missed while the caller is busy."""
    failed = 0
    while not stop.is_set():
        try:
            listener = _Listener(places, Path(os.path.realpath(data)), stop)
        except SourceError:
            # A folder may go after the look at it, and what the last listener took of the system's limits may not be
            # given back yet.
            failed += 1
            if failed == ATTEMPTS:
                raise
            stop.wait(QUIET_MS / 1000)
            continue
        failed = 0
        with listener:
            yield
            listener.wait()


class _Listener:
    """Listens to changes of what is there when it is made, until one burst of them is over.

    The next burst has a listener of its own: events that the system dropped, and folders that came, went or changed
    places, then need no care.
    """

    def __init__(self, places: Sequence[Path], library: Path, stop: Event) -> None:
        """Listen from here on. Raises SourceError if something goes meanwhile, or the system refuses."""
        # Used directly, as its documentation shows: `watchfiles.watch` forgets what comes in the moment of a time-out,
        # and does not say when it has begun to listen.
        from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

        self._places, self._library, self._stop = places, library, stop
        self._identities = [_identity(place) for place in places]
        self._watched = _watched(places, library)
        try:
            # Not recursive: that would take in the library and hidden folders, and fail on one that cannot be read.
            self._notify = RustNotify(sorted(filter(_is_utf8, self._watched)), False, False, 0, False, False)
        except (OSError, WatchfilesRustInternalError) as error:
            reason = str(error).partition(" about ")[0].rstrip(".")
            raise SourceError(
                f"the system does not let {len(self._watched):,} folders be watched ({reason})",
                remedy="raise its limits, `sudo sysctl fs.inotify.max_user_watches=1048576 "
                "fs.inotify.max_user_instances=1024`, or look at intervals: `--poll 60`",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._notify.close()

    def wait(self) -> None:
        """Return after a burst of changes, or when `is_set`. Raises KeyboardInterrupt."""
        from watchfiles._rust_notify import WatchfilesRustInternalError

        # An event that cannot be told, of a name that is not UTF-8, is one too.
        with suppress(WatchfilesRustInternalError):
            # Nothing tells of a folder made after the look at its parent and before that was listened to.
            if _watched(self._places, self._library) == self._watched:
                while not self._heard(timeout_ms=0):
                    pass
            end_s = time.monotonic() + BURST_S
            while time.monotonic() < end_s and not self.is_set() and self._heard(timeout_ms=1):
                pass

    def is_set(self) -> bool:
        """Whether to listen no longer: it is to stop, or a drive has come or gone, which no event tells of."""
        return self._stop.is_set() or [_identity(place) for place in self._places] != self._identities

    def _heard(self, timeout_ms: int) -> bool:
        """Wait for a change, QUIET_MS at least; 0 for as long as it takes. What is hidden and the library are none."""
        heard = self._notify.watch(0, QUIET_MS, timeout_ms, self)
        if heard == "signal":
            raise KeyboardInterrupt
        if isinstance(heard, str):
            return heard == "stop"
        return any(path in self._watched or not self._is_left_out(Path(path)) for _, path in heard)

    def _is_left_out(self, path: Path) -> bool:
        return path.name.startswith(".") or Path(os.path.realpath(path)) == self._library


def _place(source: str) -> Path:
    """Return where a source lies, an absolute path. Raises SourceError if it is not on this machine."""
    if not source.startswith(HUB_PREFIX):
        return Path(source.removeprefix(COCO_PREFIX)).absolute()
    name = source.removeprefix(HUB_PREFIX)
    for folder in (Path(name), Path(name.rpartition(":")[0])):
        if folder.name and folder.is_dir():
            return folder.absolute()
    raise SourceError(
        f"{source} is not on this machine: nothing would tell of its changes",
        remedy=command("xsearch", "index", source),
    )


def _identity(path: Path) -> _Identity | None:
    """Return what tells a file or folder from any other of its name, None if it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _watched(places: Sequence[Path], library: Path) -> set[str]:
    """Return what is to be listened to: files, and all folders that an index run enters."""
    watched: set[str] = set()
    entered = {_identity(library)}
    for place in (Path(os.path.realpath(place)) for place in places):
        if place.is_dir():
            watched.update(_folders(place, entered))
        elif place.exists():
            watched.add(str(place))
    return watched


def _folders(top: Path, entered: set[_Identity | None]) -> Iterator[str]:
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        identity = _identity(folder)
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:  # for the index run to tell
            continue
        if identity not in entered and not {entry.name for entry in entries} >= LIBRARY_FILES:
            entered.add(identity)
            waiting += [Path(entry.path) for entry in entries if _is_visible_folder(entry)]
            yield str(folder)


def _is_visible_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.name.startswith(".") and entry.is_dir()
    except OSError:
        return False


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
