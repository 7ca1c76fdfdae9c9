"""Exclusion: what projection leaves, what a penalty costs, and a NOT that works on real vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import unit_rows
from xsearch.errors import QueryError
from xsearch.ranking.exclusion import SLOPE, VETO, penalty, without


@given(st.integers(1, 8), st.integers(0, 1_000))
def test_what_remains_is_orthogonal_to_all_that_is_left_out(m: int, seed: int) -> None:
    vectors, excluded = unit_rows(3, seed), unit_rows(m, seed + 1)
    rest = without(vectors, excluded, [1.0] * m)
    np.testing.assert_allclose(rest @ excluded.T, 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rest, axis=1), 1, rtol=1e-5)
    basis = np.linalg.qr(excluded.T)[0]
    expected = vectors - vectors @ basis @ basis.T
    np.testing.assert_allclose(rest, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_a_weight_below_1_takes_away_a_share_and_one_above_no_more_than_all() -> None:
    wanted, excluded = np.array([[0.6, 0.8]], np.float32), np.array([[0.0, 1.0]], np.float32)
    half = np.array([0.6, 0.4]) / np.hypot(0.6, 0.4)
    np.testing.assert_allclose(without(wanted, excluded, [0.5])[0], half, rtol=1e-6)
    np.testing.assert_allclose(without(wanted, excluded, [3])[0], [1, 0], atol=1e-6)


def test_saying_it_twice_or_of_something_else_changes_nothing() -> None:
    wanted, excluded = unit_rows(2, 1), unit_rows(2, 2)
    once = without(wanted, excluded, [1, 1])
    np.testing.assert_allclose(without(wanted, np.vstack([excluded, excluded]), [1] * 4), once, atol=1e-5)
    axes = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(without(axes[:1], axes[1:], [1, 1]), axes[:1])


def test_leaving_out_what_is_asked_for_is_a_contradiction() -> None:
    vectors = unit_rows(2)
    with pytest.raises(QueryError, match="leaves out what it asks for"):
        without(vectors, vectors[1:], [1])


def test_a_penalty_grows_with_standing_and_becomes_a_veto() -> None:
    standings = np.array([[-3.0, 0.0, 1.0, 1.9, 2.1, 0.9], [0.5, -1.0, 0.0, 1.0, 0.0, 1.1]], np.float32)
    cost = penalty(standings, [1, 1], slope=0.5, veto=2.0)
    np.testing.assert_allclose(cost, [0.25, 0, 0.5, 1.45, np.inf, 1.0], rtol=1e-6)
    assert cost.dtype == np.float32


def test_a_weight_scales_how_far_an_item_stands_out() -> None:
    standings = np.array([[VETO / 2, VETO - 0.1, VETO + 0.1]], np.float32)
    np.testing.assert_allclose(penalty(standings, [1]), [SLOPE * VETO / 2, SLOPE * (VETO - 0.1), np.inf], rtol=1e-6)
    assert np.isfinite(penalty(standings, [0.5])).all()
    np.testing.assert_array_equal(np.isinf(penalty(standings, [2.1])), [True, True, True])
