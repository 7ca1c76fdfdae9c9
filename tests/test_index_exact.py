import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xsearch.index import exact
from xsearch.index.exact import Found, search_exact
from xsearch.vectors import VectorTable, l2_normalize


def oracle(
    vectors: NDArray[np.float16], queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
) -> Found:
    """All scores in float64, all rows sorted: slow, and plain to see."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    found = Found.nothing(len(queries), k)
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    for i in range(len(queries)):
        best = rows[np.lexsort((rows, -scores[i, rows]))][:k]
        found.rows[i, : len(best)] = best
        found.scores[i, : len(best)] = scores[i, best]
    return found


def random_units(n: int, dim: int, seed: int) -> NDArray[np.float32]:
    return l2_normalize(np.random.default_rng(seed).standard_normal((n, dim)))


def assert_same(found: Found, expected: Found) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("k", [1, 10, 500])
@pytest.mark.parametrize("dim", [33, 384])
def test_equals_the_oracle_over_many_blocks(k: int, dim: int) -> None:
    stored = random_units(9_000, dim, seed=1).astype(np.float16)
    table = VectorTable([stored[:100], stored[100:101], stored[101:7000], stored[7000:]], dim)
    queries = random_units(7, dim, seed=2)
    assert_same(search_exact(table, queries, k), oracle(stored, queries, k))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.39, 0.41, 0.9, 1.0])
def test_filters(share: float) -> None:
    stored = random_units(9_000, 96, seed=3).astype(np.float16)
    allowed = np.random.default_rng(4).random(len(stored)) < share
    queries = random_units(3, 96, seed=5)
    found = search_exact(VectorTable([stored], 96), queries, 20, allowed=allowed)
    assert_same(found, oracle(stored, queries, 20, allowed))


def test_copies_are_ordered_by_row_wherever_they_stand() -> None:
    # 385 is no multiple of a register: copies in the middle and at the edge of a product round differently in float32.
    few = random_units(3, 385, seed=6).astype(np.float16)
    stored = few[np.random.default_rng(7).integers(0, 3, 5_000)]
    queries = random_units(4, 385, seed=8)
    assert_same(search_exact(VectorTable([stored], 385), queries, 50), oracle(stored, queries, 50))


def test_the_best_rows_may_come_last() -> None:
    stored = random_units(9_000, 64, seed=9).astype(np.float16)
    query = random_units(1, 64, seed=10)
    ascending = stored[np.argsort(stored.astype(np.float32) @ query[0])]
    assert_same(search_exact(VectorTable([ascending], 64), query, 10), oracle(ascending, query, 10))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=4),
    dim=st.integers(1, 9),
    n_queries=st.integers(0, 3),
    k=st.integers(1, 60),
    start=st.integers(0, 50),
    share=st.sampled_from([None, 0.0, 0.2, 0.8]),
    seed=st.integers(0, 1000),
)
def test_any_table(
    sizes: list[int], dim: int, n_queries: int, k: int, start: int, share: float | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Small integers tie often, and their scores are exact however they are summed.
    segments = [rng.integers(-2, 3, (size, dim)).astype(np.float16) / 4 for size in sizes]
    stored = np.concatenate([np.empty((0, dim), np.float16), *segments])
    queries = rng.integers(-2, 3, (n_queries, dim)).astype(np.float32)
    allowed = None if share is None else rng.random(len(stored)) < share
    reachable = np.ones(len(stored), np.bool_) if allowed is None else allowed.copy()
    reachable[:start] = False
    found = search_exact(VectorTable(segments, dim), queries, k, allowed=allowed, start=start)
    assert_same(found, oracle(stored, queries, k, reachable))


def test_pairs_are_scored_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_PAIRS", 7)
    stored = random_units(300, 24, seed=13).astype(np.float16)
    queries = random_units(5, 24, seed=14)
    assert_same(search_exact(VectorTable([stored], 24), queries, 40), oracle(stored, queries, 40))


def test_k_must_be_positive() -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        search_exact(VectorTable([], 4), np.zeros((1, 4), np.float32), 0)
