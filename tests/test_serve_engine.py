"""Queries that come together are answered together; new commits are opened beside the old; limits hold."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeEncoder, picture
from tests.serving import items_of, make_library, problem_of, served, until
from xsearch import Searcher
from xsearch.errors import QueryError
from xsearch.indexer import index
from xsearch.library.manifest import MANIFEST
from xsearch.query import Query
from xsearch.searcher import Hits
from xsearch.serve.engine import MAX_BATCH, THREADS, Engine, Options
from xsearch.serve.guard import Limits
from xsearch.serve.metrics import Metrics
from xsearch.serve.models import Refused
from xsearch.types import Embeddings


class Gate(FakeEncoder):
    """Waits with texts until the gate is opened, so that queries come together; tells how many came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = threading.Event()
        self.batches: list[list[str]] = []

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        self.batches.append(list(texts))
        assert self.is_open.wait(10)
        return super().encode_texts(texts)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_library(tmp_path_factory.mktemp("engine"), FakeEncoder())


def an_engine(data: Path, encoder: FakeEncoder, **limits: Any) -> Engine:
    return Engine(data, model=None, encoder=encoder, limits=Limits(**limits), metrics=Metrics())


def together(*asked: Coroutine[Any, Any, Hits], gate: Gate) -> list[Hits | BaseException]:
    """Ask all at once, and let the first batch through when all others wait."""

    async def run() -> list[Hits | BaseException]:
        tasks = [asyncio.ensure_future(one) for one in asked]
        await asyncio.sleep(0.05)
        gate.is_open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())


def ids(hits: Hits | BaseException) -> list[str]:
    assert isinstance(hits, Hits), hits
    return [hit.item_id for hit in hits]


def test_those_that_wait_are_encoded_in_one_call(library: Path) -> None:
    gate = Gate()
    engine = an_engine(library, gate)
    texts = [f"text {n}" for n in range(MAX_BATCH + 10)]
    found = together(*(engine.search(Query(text=text), Options(5)) for text in texts), gate=gate)
    of_queries = [[text for text in batch if text.startswith("text")] for batch in gate.batches]
    assert sorted(len(batch) for batch in of_queries if batch) == [10, MAX_BATCH]  # two threads: either may come first
    searcher = Searcher(library, encoder=FakeEncoder())
    assert [ids(one) for one in found] == [ids(searcher.query(text, k=5)) for text in texts]


def test_only_equal_options_are_answered_together(library: Path) -> None:
    gate = Gate()
    engine = an_engine(library, gate)
    one, other = (items_of(library)[name].id for name in ("1.png", "2.png"))
    asked = [
        ("a", Options(5)),
        ("b", Options(5)),
        ("c", Options(3)),
        ("d", Options(5, kind="image")),
        (f"a + item:{one}", Options(20, named=frozenset({one}))),
        (f"a + item:{other}", Options(20, named=frozenset({other}))),
    ]
    found = together(*(engine.search(Query.parse(text), options) for text, options in asked), gate=gate)
    searcher = Searcher(library, encoder=FakeEncoder())
    for (text, options), hits in zip(asked, found, strict=True):
        assert ids(hits) == ids(searcher.query(Query.parse(text), k=options.k, kind=options.kind))
    assert other in ids(found[4])
    assert one in ids(found[5])


def test_one_that_cannot_be_answered_fails_alone(library: Path) -> None:
    gate = Gate()
    engine = an_engine(library, gate)
    queries = [Query(text="a"), Query(text="b"), Query(image=b"no picture"), Query(text="c")]
    first, *others = together(*(engine.search(query, Options(5)) for query in queries), gate=gate)
    searcher = Searcher(library, encoder=FakeEncoder())
    assert ids(first) == ids(searcher.query("a", k=5))
    assert ids(others[0]) == ids(searcher.query("b", k=5))
    assert str(others[1]) == "not a picture"
    assert ids(others[2]) == ids(searcher.query("c", k=5))


def test_judged_and_reranked_queries_pass_through(library: Path) -> None:
    gate = Gate()
    gate.is_open.set()
    engine = an_engine(library, gate)
    one = items_of(library)["1.png"].id
    liked, refused = together(
        engine.search(None, Options(4, more_like=(one,))),
        engine.search(Query(text="a"), Options(4, where="nonsense = 1")),
        gate=gate,
    )
    assert ids(liked) == ids(Searcher(library, encoder=FakeEncoder()).query(None, k=4, more_like=[one]))
    assert isinstance(refused, QueryError)


def test_too_many_are_not_kept_waiting(library: Path) -> None:
    gate = Gate()
    engine = an_engine(library, gate, waiting=3)
    found = together(*(engine.search(Query(text=f"text {n}"), Options(1)) for n in range(6)), gate=gate)
    refused = [one for one in found if isinstance(one, Refused)]
    assert len(refused) == 3  # all came before the first batch was taken out
    assert {one.status for one in refused} == {503}


def test_an_answer_is_not_waited_for_without_end(library: Path) -> None:
    gate = Gate()
    engine = an_engine(library, gate, time_s=0.05)

    async def run() -> None:
        with pytest.raises(Refused, match="that takes longer than 0 s") as refused:
            await engine.search(Query(text="a"), Options(1))
        assert refused.value.status == 503
        gate.is_open.set()
        with pytest.raises(Refused):
            await engine.run(threading.Event().wait, 1)

    asyncio.run(run())


def test_a_query_whose_asker_has_left_is_not_answered(library: Path) -> None:
    gate = Gate()
    engine = an_engine(library, gate)

    async def run() -> None:
        first = []
        for n in range(THREADS):
            first.append(asyncio.ensure_future(engine.search(Query(text=f"first {n}"), Options(1))))
            await asyncio.sleep(0.05)
        leaving = asyncio.ensure_future(engine.search(Query(text="leaving"), Options(1)))
        await asyncio.sleep(0)
        leaving.cancel()
        gate.is_open.set()
        await asyncio.gather(*first)
        await engine.search(Query(text="next"), Options(1))

    asyncio.run(run())
    assert not any("leaving" in batch for batch in gate.batches)
    assert any("next" in batch for batch in gate.batches)


# New commits


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    picture(tmp_path / "sources" / "first.png", 1)
    return tmp_path / "sources"


def test_a_new_commit_is_found_and_no_request_fails(tmp_path: Path, sources: Path) -> None:
    encoder = FakeEncoder()
    data = tmp_path / "data"
    index([sources], data, encoder)
    statuses: list[int] = []
    names: list[set[str]] = []
    with served(data, encoder) as client:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                response = client.get("/api/v1/search", params={"q": "a cat", "k": 50})
                statuses.append(response.status_code)
                names.append({Path(hit["path"]).name for hit in response.json()["hits"]})

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        for n in range(3):
            picture(sources / f"later {n}.png", 10 + n)
            (sources / "first.png").unlink(missing_ok=True)
            index([sources], data, encoder)
            commit = json.loads((data / MANIFEST).read_text())["commit"]
            until(lambda commit=commit: client.get("/api/v1/health").json()["commit"] == commit)  # type: ignore[misc]
        stop.set()
        for asker in askers:
            asker.join()
        last = client.get("/api/v1/search", params={"q": "a cat"}).json()["hits"]
        told = client.get("/metrics").text
    assert set(statuses) == {200}
    assert names[0] == {"first.png"}
    assert {Path(hit["path"]).name for hit in last} == {"later 0.png", "later 1.png", "later 2.png"}
    assert "xsearch_failed_reloads_total 0.0" in told
    assert 'xsearch_items{kind="image"} 3.0' in told


def remove(data: Path) -> None:
    """Remove a library in which the server may be keeping its words just now."""

    def is_gone() -> bool:
        shutil.rmtree(data, ignore_errors=True)
        return not data.exists()

    until(is_gone)


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: (data / MANIFEST).write_text("{"),
        lambda data: (data / MANIFEST).unlink(),
        lambda data: remove(data),
    ],
)
def test_a_commit_that_cannot_be_opened_leaves_the_old_one_answering(
    tmp_path: Path, sources: Path, harm: Callable[[Path], object]
) -> None:
    encoder = FakeEncoder()
    data = tmp_path / "data"
    index([sources], data, encoder)
    kept = tmp_path / "kept"
    shutil.copytree(data, kept)
    with served(data, encoder) as client:
        harm(data)
        until(lambda: client.get("/api/v1/health").json()["status"] == "stale")
        assert str(data) in client.get("/api/v1/health").json()["problem"]
        (hit,) = client.get("/api/v1/search", params={"q": "a cat"}).json()["hits"]
        assert client.get(f"/api/v1/items/{hit['item_id']}/thumbnail").status_code == 200
        assert "xsearch_failed_reloads_total 1.0" in client.get("/metrics").text
        remove(data)
        shutil.copytree(kept, data)
        until(lambda: client.get("/api/v1/health").json()["status"] == "ok")


def test_an_item_that_was_removed_is_gone(tmp_path: Path, sources: Path) -> None:
    encoder = FakeEncoder()
    data = tmp_path / "data"
    picture(sources / "second.png", 2)
    index([sources], data, encoder)
    items = items_of(data)
    with served(data, encoder) as client:
        (sources / "second.png").unlink()
        picture(sources / "first.png", 3)  # changed: its id is buried once, and lives once
        index([sources], data, encoder)
        gone = f"/api/v1/items/{items['second.png'].id}"
        until(lambda: client.get(gone).status_code == 404)
        problem_of(client.get(gone), 404)
        first = client.get(f"/api/v1/items/{items['first.png'].id}").json()
        assert first["bytes"] == (sources / "first.png").stat().st_size
        assert client.get(f"{gone.rpartition('/')[0]}/{items['first.png'].id}/original").status_code == 200
