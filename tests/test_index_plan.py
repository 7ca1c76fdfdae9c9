from math import ceil, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsearch.index.plan import (
    EXACT_ROWS,
    HNSW_ROWS,
    TRAIN_ROWS_PER_LIST,
    IndexKind,
    IndexPlan,
    SearchSettings,
    plan_index,
)

rows = st.integers(0, 2_000_000_000)
dims = st.integers(1, 2048)
budgets = st.integers(1, 1 << 40)
targets = st.floats(0.5, 0.999)


def test_a_small_library_is_searched_exactly() -> None:
    assert plan_index(EXACT_ROWS, 384) == IndexPlan(IndexKind.EXACT, 384, hot_bytes=EXACT_ROWS * 384 * 2)
    assert plan_index(EXACT_ROWS + 1, 384).kind is IndexKind.IVFPQ
    assert plan_index(10 * EXACT_ROWS, 384, kind=IndexKind.EXACT).kind is IndexKind.EXACT


def test_one_million_vectors() -> None:
    plan = plan_index(1_000_000, 512)
    assert (plan.nlist, plan.reduced_dim, plan.subquantizers, plan.code_bytes) == (4096, 256, 128, 64)
    assert plan.train_rows == 40 * 4096
    assert not plan.hnsw
    # A vector: 64 bytes of code, 8 of id. A list: its centroid, half a padded block. Then reduction and codebooks.
    assert plan.hot_bytes == 1_000_000 * 72 + 4096 * (1024 + 64 * 16) + 4 * 256 * (512 + 16)
    assert plan.settings == SearchSettings(nprobe=132, depth=400)


@pytest.mark.parametrize(
    ("dim", "reduced_dim", "subquantizers"),
    [
        (512, 256, 128),
        (384, 192, 96),
        (768, 384, 192),
        (1152, 576, 288),
        (100, 64, 32),
        (64, 64, 32),
        (1, 1, 1),
        (3, 2, 1),
    ],
)
def test_how_dimensions_are_reduced(dim: int, reduced_dim: int, subquantizers: int) -> None:
    plan = plan_index(100_000, dim)
    assert (plan.reduced_dim, plan.subquantizers) == (reduced_dim, subquantizers)


@given(rows, dims, st.none() | budgets, targets)
def test_codes_divide_and_fastscan_gets_pairs(n: int, dim: int, budget: int | None, target: float) -> None:
    plan = plan_index(n, dim, budget_bytes=budget, target_recall=target, kind=IndexKind.IVFPQ)
    assert 1 <= plan.reduced_dim <= dim
    assert plan.reduced_dim % plan.subquantizers == 0
    assert plan.subquantizers % 2 == 0 or dim < 32
    assert plan.reduced_dim >= min(dim // 2, 16)


@given(rows, dims, targets)
def test_lists_are_few_enough_to_be_trained(n: int, dim: int, target: float) -> None:
    plan = plan_index(n, dim, target_recall=target, kind=IndexKind.IVFPQ)
    assert plan.nlist & (plan.nlist - 1) == 0
    assert plan.nlist <= max(1, n // TRAIN_ROWS_PER_LIST)
    assert plan.nlist <= 8 * sqrt(n) + 1
    if n >= 50_000:
        assert plan.nlist >= min(4 * sqrt(n), n / (2 * TRAIN_ROWS_PER_LIST))
    assert plan.train_rows <= n
    assert 1 <= plan.settings.nprobe <= plan.nlist
    assert plan.settings.depth >= 10
    assert plan.hnsw == (n > HNSW_ROWS)


@given(rows, rows, dims)
def test_more_vectors_never_cost_less(n: int, m: int, dim: int) -> None:
    few, many = (plan_index(size, dim, kind=IndexKind.IVFPQ) for size in sorted([n, m]))
    assert few.hot_bytes <= many.hot_bytes
    assert few.nlist <= many.nlist
    assert few.train_rows <= many.train_rows


@given(rows, dims, budgets, budgets)
def test_a_larger_budget_never_shortens_the_code(n: int, dim: int, a: int, b: int) -> None:
    small, large = (plan_index(n, dim, budget_bytes=budget, kind=IndexKind.IVFPQ) for budget in sorted([a, b]))
    assert small.code_bytes <= large.code_bytes


@given(rows, dims, budgets)
def test_the_budget_is_kept_wherever_the_shortest_code_allows(n: int, dim: int, budget: int) -> None:
    plan = plan_index(n, dim, budget_bytes=budget)
    shortest = plan_index(n, dim, budget_bytes=1, kind=IndexKind.IVFPQ)
    assert plan.hot_bytes <= budget or plan.hot_bytes == shortest.hot_bytes


def test_a_budget_makes_codes_shorter() -> None:
    codes = [plan_index(1_000_000, 512, budget_bytes=mb * 10**6).code_bytes for mb in (82, 50, 30, 1)]
    assert codes == [64, 32, 16, 8]


@given(rows, dims, targets, targets)
def test_a_higher_target_never_searches_less(n: int, dim: int, a: float, b: float) -> None:
    low, high = (plan_index(n, dim, target_recall=target, kind=IndexKind.IVFPQ) for target in sorted([a, b]))
    assert low.settings.nprobe <= high.settings.nprobe
    assert low.settings.depth <= high.settings.depth


def test_codes_are_rounded_up_to_whole_bytes() -> None:
    assert plan_index(1000, 3, kind=IndexKind.IVFPQ).code_bytes == ceil(1 / 2)


@pytest.mark.parametrize(("n", "dim", "target"), [(-1, 8, 0.9), (10, 0, 0.9), (10, 8, 0.0), (10, 8, 1.0)])
def test_what_cannot_be_planned(n: int, dim: int, target: float) -> None:
    with pytest.raises(ValueError, match=r"cannot plan|target recall"):
        plan_index(n, dim, target_recall=target)
