"""A query that is moved by what was liked and what was not: the formula, its guard, and that it helps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import unit_rows
from xsearch.errors import QueryError
from xsearch.ranking.feedback import LESS, MAX_TURN_DEG, MORE, moved
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

DIM = 16


def rows(n: int, seed: int) -> Embeddings:
    return unit_rows(n, seed, DIM) if n else np.empty((0, DIM), np.float32)


def angle_deg(a: Embeddings, b: Embeddings) -> float:
    return float(np.degrees(np.arccos(np.clip(a.astype(np.float64) @ b, -1, 1))))


def rocchio(query: Embeddings, liked: Embeddings, disliked: Embeddings) -> Embeddings:
    """The formula without its guard, in float64."""
    target = query.astype(np.float64)
    for examples, weight in ((liked, MORE), (disliked, -LESS)):
        if n := len(examples):
            target = target + weight * n / (n + 1) * examples.mean(axis=0, dtype=np.float64)
    return np.asarray(target / np.linalg.norm(target))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 2))
def test_a_query_moves_by_the_formula_and_no_farther_than_the_guard(n: int, m: int, seed: int) -> None:
    (query,), liked, disliked = rows(1, seed), rows(n, seed + 1), rows(m, seed + 1)[::-1]
    found = moved(query, liked, disliked)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    expected = rocchio(query, liked, disliked)
    asked = angle_deg(query, expected)
    assert angle_deg(query, found) == pytest.approx(min(asked, MAX_TURN_DEG), abs=0.05)
    # On the way there: the three lie on one great circle.
    assert angle_deg(found, expected) == pytest.approx(max(0, asked - MAX_TURN_DEG), abs=0.05)
    np.testing.assert_allclose(moved(query, liked, disliked, max_turn_deg=180), expected, atol=1e-6)


def test_nothing_liked_or_disliked_leaves_the_query_as_it_is() -> None:
    (query,) = rows(1, 0)
    np.testing.assert_allclose(moved(query, rows(0, 0), rows(0, 0)), query, atol=1e-7)


def test_one_example_counts_half_and_many_count_whole() -> None:
    query, liked = np.eye(DIM, dtype=np.float32)[:2]
    for n in (1, 3, 1000):
        found = moved(query, np.tile(liked, (n, 1)), rows(0, 0), max_turn_deg=90)
        assert found[1] / found[0] == pytest.approx(MORE * n / (n + 1), rel=1e-4)


def test_without_a_query_the_liked_ones_are_it_and_only_the_disliked_turn_it() -> None:
    liked = rows(3, 1)
    middle = l2_normalize(liked.mean(axis=0))
    np.testing.assert_allclose(moved(None, liked, rows(0, 0)), middle, atol=1e-6)
    disliked = l2_normalize(middle + rows(1, 2))
    found = moved(None, liked, disliked)
    assert found @ disliked[0] < middle @ disliked[0]
    assert angle_deg(found, middle) <= MAX_TURN_DEG + 0.05


def test_however_many_are_disliked_they_do_not_dominate() -> None:
    query, other = np.eye(DIM, dtype=np.float32)[:2]
    found = moved(query, rows(0, 0), np.tile(other, (10_000, 1)))
    assert found @ query >= 1 / np.hypot(1, LESS) - 1e-4
    assert found @ other == pytest.approx(-LESS / np.hypot(1, LESS), abs=1e-3)


def test_an_example_against_the_query_turns_it_no_farther_than_the_guard() -> None:
    (query,) = rows(1, 0)
    opposite = l2_normalize(-query + 0.1 * rows(1, 1)[0])
    found = moved(query, np.tile(opposite, (9, 1)), query[None], more=3.0)
    assert angle_deg(found, query) == pytest.approx(MAX_TURN_DEG, abs=0.05)
    np.testing.assert_allclose(
        moved(query, -query[None], query[None], more=9.0), query, atol=1e-6
    )  # no side to turn to


def test_what_is_asked_for_has_to_be_said() -> None:
    with pytest.raises(QueryError, match="nothing says what to find"):
        moved(None, rows(0, 0), rows(2, 0))
    with pytest.raises(QueryError, match="cancel each other"):
        moved(None, np.concatenate([rows(1, 0), -rows(1, 0)]), rows(0, 0))


def test_like_ones_come_nearer_and_unlike_ones_go() -> None:
    """A text lies off the pictures that it means, in a cone of its own; examples show which of two kinds it means."""
    rng = np.random.default_rng(0)
    cats, dogs, words = np.eye(3, 64, dtype=np.float32)
    kinds = {
        name: l2_normalize(0.8 * axis + rng.standard_normal((50, 64)) / 16)
        for name, axis in (("cat", cats), ("dog", dogs))
    }
    query = l2_normalize(words + 0.3 * cats + 0.35 * dogs)
    pictures = np.concatenate([kinds["cat"], kinds["dog"]])
    are_cats = np.arange(100) < 50

    def precision(vector: Embeddings) -> float:
        return float(are_cats[np.argsort(-(pictures @ vector))[:10]].mean())

    assert precision(query) < 0.5
    assert precision(moved(query, kinds["cat"][:1], kinds["dog"][:1])) == 1
