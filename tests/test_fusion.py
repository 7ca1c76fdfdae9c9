"""Fusion of several terms, against the formulas."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fakes import unit_rows
from xsearch.errors import QueryError
from xsearch.ranking.fusion import early, late, reciprocal_ranks, standings

_WEIGHTS = st.lists(st.floats(0.1, 10), min_size=1, max_size=5)


@given(_WEIGHTS, st.integers(0, 1_000))
def test_early_is_the_unit_vector_of_the_weighted_sum(weights: list[float], seed: int) -> None:
    vectors = unit_rows(len(weights), seed)
    summed = sum(w * v.astype(np.float64) for w, v in zip(weights, vectors, strict=True))
    fused = early(vectors, weights)
    assert fused.shape == (vectors.shape[1],)
    np.testing.assert_allclose(fused, summed / np.linalg.norm(summed), atol=1e-5)


def test_early_by_hand_also_with_negative_weights() -> None:
    axes = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(early(axes, [3, 4, 0]), [0.6, 0.8, 0])
    np.testing.assert_allclose(early(axes[:2], [-1, -1]), [-(0.5**0.5), -(0.5**0.5), 0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_terms_that_cancel_each_other_are_refused_at_any_scale_of_weights(scale: float) -> None:
    vector = unit_rows(1)[0]
    with pytest.raises(QueryError, match="cancel"):
        early(np.stack([vector, -vector]), [scale, scale])
    np.testing.assert_allclose(early(vector[None], [scale]), vector, atol=1e-6)


def test_standings_are_sigmas_above_each_term_s_own_background() -> None:
    backgrounds = [[0.0, 2.0, 4.0, 2.0], [10.0, 10.5, 11.0, 10.5]]
    sigma = 2**0.5
    expected = [[(5 - 2) / sigma, 0], [(9.5 - 10.5) / (sigma / 4), (10.75 - 10.5) / (sigma / 4)]]
    np.testing.assert_allclose(standings([[5, 2], [9.5, 10.75]], backgrounds), expected, rtol=1e-6)


def _late_oracle(scores: NDArray, backgrounds: NDArray, weights: Sequence[float]) -> NDArray:
    means, sigmas = backgrounds.mean(axis=1), backgrounds.std(axis=1)
    fused, background = (
        sum(w * (row - mean) / sigma for w, row, mean, sigma in zip(weights, rows, means, sigmas, strict=True))
        for rows in (scores, backgrounds)
    )
    return (fused - background.mean()) / background.std()


@given(_WEIGHTS, st.integers(0, 1_000))
def test_late_is_the_standing_of_the_weighted_sum_of_standings(weights: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    scales = random.uniform(0.1, 3, (len(weights), 1))
    scores = scales * random.standard_normal((len(weights), 7)) + random.standard_normal()
    backgrounds = scales * random.standard_normal((len(weights), 50))
    expected = _late_oracle(scores, backgrounds, weights)
    np.testing.assert_allclose(late(scores, backgrounds, weights), expected, atol=1e-3)


def test_a_term_of_wider_scores_does_not_outvote_the_other() -> None:
    background = np.random.default_rng(0).standard_normal((2, 1_000)) * [[0.01], [1.0]]
    scores = [[0.05, 0.0], [0.0, 1.0]]  # the first item stands out by 5 sigmas, the second by 1
    fused = late(scores, background, [1, 1])
    assert fused[0] > fused[1]
    weighted = late(scores, background, [1, 10])
    assert weighted[1] > weighted[0]


def test_late_orders_as_early_fusion_with_weights_by_sigma() -> None:
    terms, items = unit_rows(3, 1), unit_rows(200, 2)
    scores = terms @ items.T
    weights = np.array([1.0, 0.5, 2.0])
    vector = early(terms, (weights / scores.std(axis=1)).tolist())
    np.testing.assert_array_equal(np.argsort(late(scores, scores, weights.tolist())), np.argsort(items @ vector))


def test_reciprocal_ranks_by_hand() -> None:
    missing = -np.inf
    scores = [[0.9, 0.5, 0.7, missing], [missing, 3.0, 3.0, 9.0]]
    expected = [2 / 61, 2 / 63 + 1 / 62, 2 / 62 + 1 / 62, 1 / 61]
    np.testing.assert_allclose(reciprocal_ranks(scores, [2, 1]), expected)
    np.testing.assert_allclose(reciprocal_ranks(scores[:1], [1], k=0), [1, 1 / 3, 1 / 2, 0])


@given(st.lists(st.lists(st.integers(-5, 5), min_size=6, max_size=6), min_size=1, max_size=4))
def test_reciprocal_ranks_see_the_order_alone(scores: list[list[int]]) -> None:
    table = np.array(scores, np.float64)
    weights = [1.0 + i for i in range(len(scores))]
    fused = reciprocal_ranks(table, weights)
    np.testing.assert_array_equal(fused, reciprocal_ranks(np.exp(table) * 7, weights))
    oracle = [sum(w / (60 + 1 + (row > row[i]).sum()) for w, row in zip(weights, table, strict=True)) for i in range(6)]
    np.testing.assert_allclose(fused, oracle)
