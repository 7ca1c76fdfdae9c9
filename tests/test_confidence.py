"""Confidence: worked examples, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fakes import unit_rows
from xsearch.ranking.confidence import (
    BANK_SIZE,
    CALIBRATIONS,
    GOOD_MATCH,
    LEAST_SPREAD,
    Background,
    among_themselves,
    bank_rows,
    confidence,
    is_good_match,
)
from xsearch.types import Kind, Modality

cosines = st.floats(-1, 1, width=32)


def of_generic_queries(items: NDArray[np.float32], n: int | None = None) -> Background:
    return Background.fit(unit_rows(BANK_SIZE, seed=1, dim=items.shape[1]) @ items.T, n or len(items))


def test_background_of_a_worked_example() -> None:
    scores = np.array([[0.1, 0.5, 0.3], [0.2, 0.2, 0.8]], np.float32)  # best .5 and .8, means .3 and .4
    background = Background.fit(scores, 3)
    assert background.centring == pytest.approx(3 / 13)
    above = np.array([0.5, 0.8]) - 3 / 13 * np.array([0.3, 0.4])
    assert background.level == pytest.approx(above.mean(), abs=1e-7)
    assert background.spread == pytest.approx(above.std(), abs=1e-7)
    standing = background.standing(np.array([0.9, 0.1], np.float32), 0.2)
    np.testing.assert_allclose(standing, (np.array([0.9, 0.1]) - 3 / 13 * 0.2 - above.mean()) / above.std(), rtol=1e-5)


def test_confidence_is_the_logistic_of_standing_and_size() -> None:
    background = Background(level=0.3, spread=0.05, centring=0.5, n=1_000)
    calibration = CALIBRATIONS[Modality.TEXT, False]
    log_odds = calibration.slope * (0.5 - 0.5 * 0.1 - 0.3) / 0.05 + calibration.per_decade * 3 + calibration.intercept
    (sure,) = confidence(np.array([0.5]), 0.1, background, asked=Modality.TEXT, found=Kind.IMAGE)
    assert sure == pytest.approx(1 / (1 + np.exp(-log_odds)), rel=1e-12)


@pytest.mark.parametrize("sampled", [500, 5_000])
def test_the_level_of_a_whole_library_is_told_from_a_sample_of_it(sampled: int) -> None:
    items = unit_rows(50_000, seed=2)
    whole, part = of_generic_queries(items), of_generic_queries(items[:sampled], len(items))
    of_part_alone = of_generic_queries(items[:sampled])
    assert part.level == pytest.approx(whole.level, rel=0.05)
    assert of_part_alone.level < 0.95 * whole.level


def test_what_is_in_the_library_stands_out_and_what_is_not_does_not() -> None:
    items = unit_rows(2_000, seed=3)
    background = of_generic_queries(items)

    def of(query: NDArray[np.float32]) -> NDArray[np.float64]:
        scores = items @ query
        best = np.sort(scores)[::-1][:10]
        return confidence(best, float(scores.mean()), background, asked=Modality.TEXT, found=Kind.IMAGE)

    present, absent = of(items[7]), of(unit_rows(1, seed=4)[0])
    assert present[0] > 0.99
    assert is_good_match(present)
    assert (present[2:] < GOOD_MATCH).all()
    assert present[0] > 2 * absent[0]


def test_pictures_among_themselves_do_not_count_their_own_score() -> None:
    vectors = unit_rows(5)
    scores = among_themselves(vectors, 3)
    gram = vectors @ vectors.T
    expected = [[gram[i, j] for j in range(5) if j != i] for i in (0, 2, 4)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert among_themselves(vectors).shape == (5, 4)


@pytest.mark.parametrize(("b", "m", "rows"), [(1_000, 3, [0, 499, 999]), (2, 5, [0, 1]), (1, 5, [0]), (0, 5, [])])
def test_the_bank_is_spread_over_the_library(b: int, m: int, rows: list[int]) -> None:
    np.testing.assert_array_equal(bank_rows(b, m), rows)


@pytest.mark.parametrize("n", [0, 1])
def test_pictures_without_others_have_no_background(n: int) -> None:
    with pytest.raises(ValueError, match="queries and items"):
        Background.fit(among_themselves(unit_rows(n)), n)


@pytest.mark.parametrize("asked", Modality)
@pytest.mark.parametrize("found", Kind)
def test_a_hit_is_surer_the_higher_it_scores_and_less_sure_the_more_generic_queries_reach(
    asked: Modality, found: Kind
) -> None:
    scores = np.linspace(-1, 1, 50)
    low, high = (Background(level, 0.1, 1.0, 100) for level in (0.2, 0.4))
    sure = confidence(scores, 0.0, low, asked=asked, found=found)
    assert (np.diff(sure) > 0).all()
    assert (confidence(scores, 0.0, high, asked=asked, found=found) < sure).all()


def test_frames_are_pictures() -> None:
    background, scores = Background(0.3, 0.1, 1.0, 100), np.array([0.1, 0.4, 0.9])
    of_frames, of_images = (
        confidence(scores, 0.1, background, asked=Modality.TEXT, found=kind) for kind in (Kind.FRAME, Kind.IMAGE)
    )
    np.testing.assert_array_equal(of_frames, of_images)


@given(scale=st.floats(0.2, 3), shift=st.floats(-0.5, 0.5))
def test_another_scale_of_cosines_does_not_matter(scale: float, shift: float) -> None:
    """Spaces of other encoders are wider or narrower, and their modalities lie further apart."""
    bank = (unit_rows(BANK_SIZE, seed=5) @ unit_rows(40, seed=6).T).astype(np.float64)
    hits, mean = np.array([0.6, 0.3, 0.1]), 0.05
    here = Background.fit(bank, 40).standing(hits, mean)
    there = Background.fit(scale * bank + shift, 40).standing(scale * hits + shift, scale * mean + shift)
    np.testing.assert_allclose(there, here, atol=1e-6)


@given(
    bank=st.lists(st.lists(cosines, min_size=3, max_size=3), min_size=1, max_size=6),
    scores=st.lists(cosines, max_size=5),
    mean=cosines,
    n=st.integers(1, 10**9),
    asked=st.sampled_from(Modality),
    found=st.sampled_from(Kind),
)
def test_confidence_is_always_a_probability(
    bank: list[list[float]], scores: list[float], mean: float, n: int, asked: Modality, found: Kind
) -> None:
    background = Background.fit(np.array(bank, np.float32), n)
    sure = confidence(np.array(scores, np.float32), mean, background, asked=asked, found=found)
    assert sure.shape == (len(scores),)
    assert ((sure >= 0) & (sure <= 1)).all()
    assert is_good_match(sure) == any(one >= GOOD_MATCH for one in sure.tolist())


def test_a_library_of_one_picture_tells_what_fits_it() -> None:
    item = unit_rows(1, seed=8)
    background = of_generic_queries(item)
    assert background.centring == pytest.approx(1 / 11)  # the mean is the one score: it tells nothing of the others
    fits, does_not = (
        confidence(np.array([score]), score, background, asked=Modality.TEXT, found=Kind.IMAGE) for score in (0.9, 0.0)
    )
    assert fits[0] > 0.9
    assert does_not[0] < GOOD_MATCH


def test_items_that_are_all_the_same_leave_a_finite_answer() -> None:
    scores = np.full((5, 2), 0.4, np.float32)
    background = Background.fit(scores, 2)
    assert background.spread == LEAST_SPREAD
    equal = confidence(np.array([0.4, 0.4]), 0.4, background, asked=Modality.IMAGE, found=Kind.IMAGE)
    assert equal[0] == equal[1]
    assert 0 < equal[0] < 0.5


def test_nothing_found_is_no_good_match() -> None:
    assert not is_good_match(np.empty(0))


@pytest.mark.parametrize(("shape", "n"), [((0, 5), 5), ((5, 0), 5), ((5, 5), 0)])
def test_without_queries_or_items_there_is_no_background(shape: tuple[int, int], n: int) -> None:
    with pytest.raises(ValueError, match="queries and items"):
        Background.fit(np.zeros(shape, np.float32), n)
