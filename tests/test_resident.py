"""Exact search in the memory of a device: bit for bit the answers of `search_exact`, whatever float16 rounds away."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.testclient import TestClient

pytest.importorskip("torch", reason="needs the extra [clip]: torch")

import torch

from tests.fakes import FakeEncoder, picture
from tests.serving import served, until
from xsearch import Searcher
from xsearch.errors import XSearchError
from xsearch.index import resident
from xsearch.index.exact import Found, search_exact
from xsearch.index.resident import Resident
from xsearch.indexer import index
from xsearch.searcher import search_resident
from xsearch.vectors import VectorTable, l2_normalize


def random_units(n: int, dim: int, seed: int) -> NDArray[np.float32]:
    return l2_normalize(np.random.default_rng(seed).standard_normal((n, dim)))


def assert_same(found: Found, expected: Found) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)


def table_of(stored: NDArray[np.float16]) -> VectorTable:
    third = len(stored) // 3
    return VectorTable([stored[:third], stored[third : third + 1], stored[third + 1 :]], stored.shape[1])


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are copied and scored a few hundred at a time."""
    monkeypatch.setattr(resident, "STAGED_BYTES", 20_000)
    monkeypatch.setattr(resident, "SCORES_BYTES", 10_000)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("dim", [33, 128])
def test_answers_are_those_of_the_exact_search(k: int, dim: int) -> None:
    table, queries = table_of(random_units(4_000, dim, 1).astype(np.float16)), random_units(5, dim, 2)
    assert_same(Resident(table, "cpu")(queries, k), search_exact(table, queries, k))


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 1.0])
def test_only_what_is_allowed_is_found(share: float) -> None:
    table, queries = table_of(random_units(4_000, 48, 3).astype(np.float16)), random_units(3, 48, 4)
    allowed = np.random.default_rng(5).random(len(table)) < share
    found = Resident(table, "cpu")(queries, 20, allowed=allowed)
    assert_same(found, search_exact(table, queries, 20, allowed=allowed))


def test_rows_that_float16_cannot_tell_apart_are_ordered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of near copies: far more than are proposed at first have one score in float16."""
    rng = np.random.default_rng(6)
    centre = random_units(1, 64, 7)
    stored = l2_normalize(centre + 1e-3 * rng.standard_normal((5_000, 64))).astype(np.float16)
    table, depths = table_of(stored), []
    propose = Resident._propose

    def proposing(self: Resident, queries: NDArray[np.float32], depth: int, allowed: object) -> object:
        depths.append(depth)
        return propose(self, queries, depth, allowed)

    monkeypatch.setattr(Resident, "_propose", proposing)
    queries = np.concatenate([centre, random_units(1, 64, 8)])
    assert_same(Resident(table, "cpu")(queries, 10), search_exact(table, queries, 10))
    assert depths[:2] == [256, 2048]
    monkeypatch.setattr(resident, "MAX_DEPTH", 256)
    assert_same(Resident(table, "cpu")(queries, 10), search_exact(table, queries, 10))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.floats(0.1, 30))
def test_no_estimate_is_farther_off_than_the_bound_says(seed: int, length: float) -> None:
    stored = random_units(200, 768, seed).astype(np.float16)
    queries = np.float32(length) * random_units(4, 768, seed + 1)
    rows, estimates = Resident(VectorTable([stored], 768), "cpu")._propose(queries, 200, None)
    exact = np.take_along_axis(queries.astype(np.float64) @ stored.astype(np.float64).T, rows, axis=1)
    assert np.abs(estimates - exact).max() <= resident.SLACK * max(1.0, length)


def test_a_library_without_rows() -> None:
    found = Resident(VectorTable([], 16), "cpu")(random_units(2, 16, 0), 3)
    assert_same(found, Found.nothing(2, 3))


def test_threads_get_their_own_answers() -> None:
    table = table_of(random_units(3_000, 32, 9).astype(np.float16))
    search, queries = Resident(table, "cpu"), random_units(16, 32, 10)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: search(query[None], 5), queries))
    expected = search_exact(table, queries, 5)
    np.testing.assert_array_equal(np.concatenate([one.rows for one in found]), expected.rows)


def test_what_does_not_fit_and_what_is_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(random_units(30, 16, 0).astype(np.float16))
    with pytest.raises(XSearchError, match="there is no device abacus here"):
        Resident(table, "abacus")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 2_000_000))
    with pytest.raises(XSearchError, match=r"30 vectors take 0\.3 GB on cuda, which has 0\.0 GB free"):
        Resident(table, "cuda")


def test_a_searcher_answers_from_the_device_as_from_the_shards(tmp_path: Path) -> None:
    for seed in range(40):
        picture(tmp_path / f"photos/{seed:02}.png", seed)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    here = Searcher(tmp_path / "data", encoder=FakeEncoder())
    on_device = Searcher(tmp_path / "data", encoder=FakeEncoder(), searching=search_resident("cpu"))
    image = tmp_path / "photos/07.png"
    for query in ({"query": "a cat"}, {"image": image}, {"query": "a cat", "where": "name >= '20'"}):
        expected = [(hit.path, hit.score, hit.confidence) for hit in here.query(**query, k=12)]
        assert [(hit.path, hit.score, hit.confidence) for hit in on_device.query(**query, k=12)] == expected
        assert len(expected) == 12


def test_a_server_answers_from_the_device_and_goes_over_to_new_commits(tmp_path: Path) -> None:
    for seed in range(6):
        picture(tmp_path / f"photos/{seed}.png", seed)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    with (
        served(tmp_path / "data", FakeEncoder()) as here,
        served(tmp_path / "data", FakeEncoder(), searching=search_resident("cpu")) as on_device,
    ):

        def hits(client: TestClient) -> list[object]:
            found: list[object] = client.get("/api/v1/search", params={"q": "a cat", "k": 50}).json()["hits"]
            return found

        assert len(hits(on_device)) == 6
        assert hits(on_device) == hits(here)
        picture(tmp_path / "photos/7.png", 7)
        index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
        until(lambda: len(hits(on_device)) == len(hits(here)) == 7)
        assert hits(on_device) == hits(here)


@pytest.mark.gpu
def test_gpu_answers_are_those_of_the_exact_search() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA GPU")
    table, queries = table_of(random_units(300_000, 512, 11).astype(np.float16)), random_units(65, 512, 12)
    search = Resident(table, "cuda")
    assert_same(search(queries, 10), search_exact(table, queries, 10))
    assert_same(search(queries[:1], 100), search_exact(table, queries[:1], 100))
