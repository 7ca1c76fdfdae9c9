"""Parts on replicas answer as one process does, bit for bit, whoever dies meanwhile."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from tests.fakes import FakeEncoder, an_item, unit_rows
from tests.serving import problem_of, served, until
from xsearch import Searcher
from xsearch.cli.options import with_ray_address
from xsearch.encoders import get_encoder
from xsearch.errors import CommitGone, LibraryDamaged, PartUnavailable, XSearchError
from xsearch.index.exact import Found
from xsearch.index.plan import IndexKind
from xsearch.index_file import keep_index, open_index
from xsearch.library import Library, LibraryWriter
from xsearch.types import Embeddings, Kind, Modality
from xsearch.vectors import l2_normalize

ray = pytest.importorskip("ray", reason="pip install 'xsearch[ray]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of Ray Serve's own use of pydantic
    from xsearch.distributed.serving import Parts, serving

PICTURES, TEXTS, TAIL, COPIES = 5_000, 1_500, 2_000, 300
PARTS, REPLICAS = 3, 2
BACK_S = 120


@pytest.fixture(scope="module", autouse=True)
def _ray_started() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=12, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def add(data: Path, kind: Kind, first: int, vectors: Embeddings) -> None:
    names = [f"{kind}/{first + i:05d}" for i in range(len(vectors))]
    said = {"text": "a text"} if kind is Kind.TEXT else {}
    with LibraryWriter(data, FakeEncoder().spec) as writer:
        items = [an_item(name, kind=kind, width=i % 100, **said) for i, name in enumerate(names)]
        writer.add(items, vectors)


def in_groups(n: int, seed: int) -> Embeddings:
    """Return unit rows around 50 directions, so that lists of an index are of unequal length."""
    rng = np.random.default_rng(seed)
    return l2_normalize(unit_rows(50)[rng.integers(50, size=n)] + 0.8 * unit_rows(n, seed + 1))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with an index, copies of one picture, dead rows before and after the index was made, and a tail."""
    data = tmp_path_factory.mktemp("indexed") / "data"
    add(data, Kind.IMAGE, 0, in_groups(PICTURES, 1))
    add(data, Kind.IMAGE, PICTURES, np.repeat(unit_rows(1, seed=9), COPIES, axis=0))
    add(data, Kind.TEXT, 0, in_groups(TEXTS, 3))
    with LibraryWriter(data) as writer:
        writer.bury(range(0, 1_000, 10))
        keep_index(writer, FakeEncoder(), kind=IndexKind.IVFPQ)
    add(data, Kind.IMAGE, PICTURES + COPIES, in_groups(TAIL, 5))
    with LibraryWriter(data) as writer:
        writer.bury(range(5, 1_000, 10))
    library = Library.open(data)
    assert library.manifest.index is not None
    assert library.manifest.index.rows == len(library) - TAIL
    return data


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that is searched exactly."""
    data = tmp_path_factory.mktemp("plain") / "data"
    add(data, Kind.IMAGE, 0, np.concatenate([in_groups(3_000, 1), np.repeat(unit_rows(1, seed=9), COPIES, axis=0)]))
    add(data, Kind.TEXT, 0, in_groups(1_500, 3))
    with LibraryWriter(data) as writer:
        writer.bury(range(0, 1_000, 10))
    return data


def name_of(what: str) -> str:
    return f"test-{os.getpid()}-{what}"


@pytest.fixture(scope="module")
def parts(indexed: Path) -> Iterator[Parts]:
    with serving(indexed, name_of("indexed"), address=None, parts=PARTS, replicas=REPLICAS) as parts:
        yield parts


@pytest.fixture(scope="module")
def plain_parts(plain: Path) -> Iterator[Parts]:
    with serving(plain, name_of("plain"), address=None, parts=2, replicas=1) as parts:
        yield parts


def asked_of(data: Path, parts: Parts | None = None) -> Searcher:
    return Searcher(data, encoder=FakeEncoder(), searching=None if parts is None else parts.searching)


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What the parts were asked for."""
    seen: set[str] = set()
    ask = Parts.ask

    def noted(self: Parts, method: str, *arguments: Any) -> list[Any]:
        seen.add(method)
        return ask(self, method, *arguments)

    monkeypatch.setattr(Parts, "ask", noted)
    return seen


def assert_equal(found: Found, expected: Found) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores.view(np.uint32), expected.scores.view(np.uint32))


def queries(modality: Modality) -> Embeddings:
    """Some between the groups, some in them, and the picture that there are copies of."""
    seed = 100 if modality is Modality.TEXT else 200
    return np.concatenate([unit_rows(15, seed), in_groups(16, seed), unit_rows(1, seed=9)])


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("share", [None, 0.5, 0.2, 0.01])
def test_parts_of_an_index_find_what_one_process_finds(
    indexed: Path, parts: Parts, modality: Modality, share: float | None, methods: set[str]
) -> None:
    alone, shared = asked_of(indexed), asked_of(indexed, parts)
    allowed = None if share is None else np.random.default_rng(7).random(len(alone.library)) < share
    for kinds in ((Kind.IMAGE,), tuple(Kind)):
        for k in (1, 10, 400):
            assert_equal(
                *(one.search(queries(modality), modality, k=k, kinds=kinds, allowed=allowed) for one in (shared, alone))
            )
    # Within 1,000 rows nobody is asked.
    assert methods == (set() if share == 0.01 else {"scan", "exact"})


def test_without_a_filter_too(indexed: Path, parts: Parts, methods: set[str]) -> None:
    """A search of all rows, the dead among them: those that the index holds or the tail."""
    alone, shared = asked_of(indexed), asked_of(indexed, parts)
    settings = alone._settings[Modality.TEXT]
    for k in (10, len(alone.library) + 5):
        assert_equal(*(one._rows(queries(Modality.TEXT), k, settings=settings) for one in (shared, alone)))
    assert methods == {"scan", "exact"}


@pytest.mark.parametrize("modality", list(Modality))
def test_parts_of_a_library_without_an_index_too(
    plain: Path, plain_parts: Parts, modality: Modality, methods: set[str]
) -> None:
    alone, shared = asked_of(plain), asked_of(plain, plain_parts)
    rng = np.random.default_rng(7)
    for allowed in (None, rng.random(len(alone.library)) < 0.9, rng.random(len(alone.library)) < 0.3):
        for k in (1, 10, 5_000):
            assert_equal(*(one.search(queries(modality), modality, k=k, allowed=allowed) for one in (shared, alone)))
    assert methods == {"exact"}


def test_hits_are_the_same_to_the_last_bit(indexed: Path, parts: Parts) -> None:
    alone, shared = asked_of(indexed), asked_of(indexed, parts)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for options in (
        {"query": "a cat"},
        {"query": "a cat", "where": "width < 30", "k": 50},
        {"query": "a cat", "kind": "text", "k": 3_000},
        {"query": "a cat", "where": "width = 7 AND kind = 'image'", "k": 1_000},
        {"image": picture, "kind": "image"},
        {"query": "a dog", "image": picture, "fusion": "rrf"},
    ):
        assert shared.query(**options).hits == alone.query(**options).hits  # type: ignore[arg-type]
    texts = [f"text {number}" for number in range(40)]
    for one, other in zip(shared.query_batch(texts), alone.query_batch(texts), strict=True):
        assert one.hits == other.hits


def test_codes_have_the_same_scores_in_any_company(indexed: Path) -> None:
    searcher = asked_of(indexed)
    index = open_index(searcher.library)
    assert index is not None
    routes = index.routes(queries(Modality.TEXT), 16)
    whole = index.scan(routes, index.rows)
    scores: list[dict[int, float]] = [
        dict(zip(rows[rows >= 0].tolist(), of_rows[rows >= 0].tolist(), strict=True))
        for rows, of_rows in zip(whole.rows, whole.scores, strict=True)
    ]
    for parts in (2, 3, 7):
        seen: list[dict[int, float]] = [{} for _ in scores]
        for part in range(parts):
            found = index.scan(routes.within(part, parts), index.rows)
            for one, rows, of_rows in zip(seen, found.rows, found.scores, strict=True):
                known = rows >= 0
                assert one.keys().isdisjoint(rows[known].tolist())
                one |= dict(zip(rows[known].tolist(), of_rows[known].tolist(), strict=True))
        assert seen == scores


# What dies, and what comes


def replicas_of(name: str) -> set[int]:
    """Return the processes that answer for an application."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(f"ray::ServeReplica:{name}:".encode()):
                found.add(int(process.name))
        except OSError:
            continue
    return found


def kill(processes: set[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it may have died since it was listed
            os.kill(process, signal.SIGKILL)


def comes(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + BACK_S
    while not holds():
        assert time.monotonic() < end_s, "it does not come to hold"
        time.sleep(0.1)


def test_a_replica_that_dies_costs_no_answer(indexed: Path, parts: Parts) -> None:
    alone, shared = asked_of(indexed), asked_of(indexed, parts)
    expected = [alone.query(f"text {n}", where="width > 10").hits for n in range(20)]
    name = name_of("indexed-1")
    comes(lambda: len(replicas_of(name)) == REPLICAS)
    before = replicas_of(name)
    stop = threading.Event()
    right: list[bool] = []
    failures: list[XSearchError] = []

    def ask() -> None:
        while not stop.is_set():
            n = len(right) % len(expected)
            try:
                right.append(shared.query(f"text {n}", where="width > 10").hits == expected[n])
            except XSearchError as error:
                failures.append(error)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        comes(lambda: len(right) > 5)
        kill({min(before)})
        comes(lambda: len(replicas_of(name)) == REPLICAS and replicas_of(name) != before)
        answered = len(right)
        comes(lambda: len(right) > answered + 20)
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert all(right)


def test_a_replica_that_hangs_is_passed_over(indexed: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = asked_of(indexed).query("a cat").hits
    shared = asked_of(indexed, parts)
    monkeypatch.setattr(parts, "_wait_s", 8.0)
    comes(lambda: len(replicas_of(name_of("indexed-0"))) == REPLICAS)
    hanging = min(replicas_of(name_of("indexed-0")))
    os.kill(hanging, signal.SIGSTOP)
    try:
        assert [shared.query("a cat").hits for _ in range(6)] == [expected] * 6
    finally:
        with suppress(ProcessLookupError):  # Serve may have replaced it
            os.kill(hanging, signal.SIGCONT)


def test_a_new_commit_is_asked_for_and_the_old_one_still_answers(indexed: Path, parts: Parts, tmp_path: Path) -> None:
    before, shared_before = asked_of(indexed), asked_of(indexed, parts)
    with served(indexed, FakeEncoder(), searching=parts.searching) as client:
        asked = {"q": "a cat", "k": 50, "kind": "image"}
        first = client.get("/api/v1/search", params=asked).json()["hits"]
        assert [hit["item_id"] for hit in first] == [hit.item_id for hit in before.query("a cat", k=50, kind="image")]
        row = before.library.row_of(first[0]["item_id"])
        with LibraryWriter(indexed) as writer:
            writer.bury([row])
        until(lambda: client.get("/api/v1/health").json()["commit"] == Library.open(indexed).manifest.commit)
        second = client.get("/api/v1/search", params=asked).json()["hits"]
    after = asked_of(indexed)
    assert [hit["item_id"] for hit in second] == [hit.item_id for hit in after.query("a cat", k=50, kind="image")]
    assert [hit["item_id"] for hit in second[:49]] == [hit["item_id"] for hit in first[1:]]
    assert shared_before.query("a cat", k=50).hits == before.query("a cat", k=50).hits


def test_a_commit_that_is_gone_is_no_answer_but_the_next_one_is(
    plain: Path, plain_parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that starts when the files of a commit are swept cannot open it: the front goes over to the last."""
    late = asked_of(plain, plain_parts)  # nobody has opened this commit yet
    with served(plain, FakeEncoder(), searching=plain_parts.searching) as client:
        with LibraryWriter(plain) as writer:
            writer.purge()
        with pytest.raises(CommitGone, match="the last is"):
            late.query("a cat", kind="image")
        hits = client.get("/api/v1/search", params={"q": "a cat", "k": 50}).json()["hits"]
    assert [hit["item_id"] for hit in hits] == [hit.item_id for hit in asked_of(plain).query("a cat", k=50)]


@pytest.mark.parametrize("missing", ["shards", ""])
def test_what_a_replica_cannot_open_is_told_with_its_machine(plain: Path, plain_parts: Parts, missing: str) -> None:
    shared = asked_of(plain, plain_parts)
    hidden = plain.with_name("hidden")
    (plain / missing).rename(hidden)
    try:
        with pytest.raises(LibraryDamaged, match=r"cannot open .*/data: ") as told:
            shared.query("a cat", kind="image")
    finally:
        hidden.rename(plain / missing)
    assert socket.gethostname() in told.value.message
    assert shared.query("a cat").hits == asked_of(plain).query("a cat").hits


def test_without_all_of_its_replicas_a_part_is_an_error_never_a_wrong_answer(
    indexed: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of("indexed-2")
    expected = asked_of(indexed).query("a cat").hits
    monkeypatch.setattr(parts, "_wait_s", 5.0)  # enough for the other parts on a busy machine
    shared = asked_of(indexed, parts)
    comes(lambda: len(replicas_of(name)) == REPLICAS)
    with served(indexed, FakeEncoder(), searching=parts.searching) as client:
        stop = threading.Event()

        def keep_away() -> None:
            while not stop.wait(0.02):
                kill(replicas_of(name))

        killer = threading.Thread(target=keep_away)
        killer.start()
        try:
            comes(lambda: not replicas_of(name))
            with pytest.raises(PartUnavailable, match="part 3 of 3 of the library does not answer"):
                shared.query("a cat")
            told = client.get("/api/v1/search", params={"q": "a cat"})
            assert problem_of(told, 503)["detail"] == "part 3 of 3 of the library does not answer"
            assert told.headers["retry-after"] == "1"
        finally:
            stop.set()
            killer.join()
        monkeypatch.undo()
        comes(lambda: len(replicas_of(name)) == REPLICAS)
        assert shared.query("a cat").hits == expected


def test_a_busy_replica_is_no_warning(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("ray.serve")
    log.warning("Failed to get queue length from %s within 0.1s.", "Replica(id='1')")
    log.warning("%s has died.", "Replica(id='1')")
    assert caplog.messages == ["Replica(id='1') has died."]


# The command


def test_a_cluster_that_is_too_small_or_not_there_is_told(plain: Path) -> None:
    with (
        pytest.raises(XSearchError, match="5 parts on 3 replicas each want 15 CPUs, and the cluster has 12"),
        serving(plain, name_of("big"), address=None, parts=5, replicas=3),
    ):
        pass


def test_the_command_on_a_cluster(tmp_path: Path) -> None:
    """It joins the cluster that is there, answers as one process does, and leaves nothing behind on Ctrl-C."""
    data = tmp_path / "data"
    with LibraryWriter(data, get_encoder().spec) as writer:
        writer.add([an_item(str(i)) for i in range(1_500)], unit_rows(1_500, dim=writer.manifest.fingerprint.dim))
    address = ray.get_runtime_context().gcs_address
    options = f"-m xsearch serve --port 0 --parts 2 --ray {address} --data".split()
    command = [sys.executable, *options, data]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert found, process.communicate()
            name = f"xsearch-{socket.gethostname()}-{found[1]}"
            assert [len(replicas_of(f"{name}-{part}")) for part in range(2)] == [1, 1]
            with urlopen(f"{found[0]}api/v1/search?q=a+cat&k=20") as answer:
                hits = json.load(answer)["hits"]
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30) == ("", "")
            assert process.returncode == 0
        finally:
            process.kill()
    assert hits == [hit.to_dict() for hit in Searcher(data).query("a cat", k=20)]
    comes(lambda: not any(replicas_of(f"{name}-{part}") for part in range(2)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ray", "127.0.0.1:1"), ("there is no Ray cluster at 127.0.0.1:1 ", "ray start --head")),
        (("--ray", "--data", "nowhere"), ("there is no library in nowhere", "xsearch index")),
        (("--parts", "0", "--ray"), ("--parts",)),
        (("--replicas", "2"), ("--replicas", "--ray")),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    plain: Path, run_xsearch: Callable[..., "subprocess.CompletedProcess[str]"], options: tuple[str, ...], words: Any
) -> None:
    done = run_xsearch("serve", "--data", plain, "--port", "0", *options)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


def test_without_ray_the_command_says_what_to_install(plain: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None; from xsearch.cli import main; "
        f"sys.argv[1:] = ['serve', '--data', {str(plain)!r}, '--port', '0', '--ray']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "xsearch: Ray is not installed here; pip install 'xsearch[ray]'\n"


def test_an_address_may_be_left_out() -> None:
    assert with_ray_address(["index", "--ray", "./photos"]) == ["index", "--ray", "here", "./photos"]
    assert with_ray_address(["serve", "--ray"]) == ["serve", "--ray", "here"]
    assert with_ray_address(["serve", "--ray", "--port", "0"]) == ["serve", "--ray", "here", "--port", "0"]
    for address in ("auto", "10.0.0.7:6379", "head.example:6379"):
        assert with_ray_address(["serve", "--ray", address]) == ["serve", "--ray", address]
