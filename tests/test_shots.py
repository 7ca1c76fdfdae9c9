"""Shot boundaries in films of tiny pictures, where every transition is known."""

import weakref
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xsearch.media.shots import THUMB_H, THUMB_W, ShotDetector, Thumb, correlation, difference, drift

FPS = 25


def scene(seed: int) -> Thumb:
    """A picture of fields in random colours, each about a sixth of its width."""
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 6)).astype(np.float32)
    return colours[:, np.arange(THUMB_H) * 4 // THUMB_H][:, :, np.arange(THUMB_W) * 6 // THUMB_W]


def even(level: float) -> Thumb:
    return np.full((3, THUMB_H, THUMB_W), level, np.float32)


def grain(seed: int) -> Thumb:
    return np.random.default_rng(seed).normal(0, 3, (3, THUMB_H, THUMB_W)).astype(np.float32)


def boundaries(thumbs: Iterable[Thumb], fps: float = FPS) -> list[float]:
    """Return when shots begin in a film of these frames, in order."""
    detector = ShotDetector()
    told = [t_s for n, thumb in enumerate(thumbs) for t_s in detector.add(n / fps, thumb)]
    return sorted([*told, *detector.finish()])


def shot(picture: Thumb, seconds: float) -> list[Thumb]:
    return [picture + grain(n) for n in range(round(seconds * FPS))]


def mixed(before: Thumb, after: Thumb, seconds: float) -> list[Thumb]:
    n = round(seconds * FPS)
    return [before + (after - before) * np.float32((i + 1) / (n + 1)) for i in range(n)]


class TestMeasures:
    def test_of_what_is_known(self) -> None:
        a, b = scene(1), scene(2)
        assert difference(a, b) == pytest.approx(np.mean(np.abs(a - b)), rel=1e-5)
        assert correlation(a, a) == pytest.approx(1)
        assert correlation(a, 255 - a) == pytest.approx(-1)
        assert correlation(a, a * 0.5 + 20) == pytest.approx(1)  # another light
        assert correlation(even(10), even(200)) == 0

    def test_drift_is_the_change_of_the_most_changed_cell(self) -> None:
        changed = even(100)
        changed[:, 3:6, 4:8] = 160  # one of 8 x 6 cells
        assert drift(even(100), changed) == 60
        assert difference(even(100), changed) == pytest.approx(60 / 48)

    @given(st.integers(0, 2**32), st.integers(0, 2**32))
    def test_symmetry(self, a: int, b: int) -> None:
        for measure in (difference, drift, correlation):
            assert measure(scene(a), scene(b)) == pytest.approx(measure(scene(b), scene(a)))
        assert drift(scene(a), scene(b)) >= difference(scene(a), scene(b)) - 1e-3


class TestWhatIsABoundary:
    def test_cuts_are_found_at_their_frame(self) -> None:
        lengths_s = [2.0, 0.8, 3.2, 1.0, 5.0]
        film = [thumb for seed, length_s in enumerate(lengths_s) for thumb in shot(scene(seed), length_s)]
        assert boundaries(film) == [2.0, 2.8, 6.0, 7.0]

    @pytest.mark.parametrize("seconds", [0.4, 0.8, 1.2])
    def test_a_dissolve_is_found_in_its_middle(self, seconds: float) -> None:
        film = [*shot(scene(1), 2), *mixed(scene(1), scene(2), seconds), *shot(scene(2), 2)]
        (found,) = boundaries(film)
        assert found == pytest.approx(2 + seconds / 2, abs=0.1)

    def test_a_fade_through_black_is_found_while_it_lasts(self) -> None:
        film = [
            *shot(scene(1), 2),
            *mixed(scene(1), even(16), 0.5),
            *mixed(even(16), scene(2), 0.5),
            *shot(scene(2), 2),
        ]
        (found,) = boundaries(film)
        assert 2 <= found <= 3

    def test_two_cuts_beside_a_dissolve_are_three_boundaries(self) -> None:
        film = [*shot(scene(1), 2), *shot(scene(2), 2), *mixed(scene(2), scene(3), 0.8), *shot(scene(3), 2)]
        found = boundaries([*film, *shot(scene(4), 1)])
        assert found[0] == 2
        assert found[1] == pytest.approx(4.4, abs=0.1)
        assert found[2] == pytest.approx(6.8)

    def test_slides_that_follow_each_other_are_shots(self) -> None:
        assert boundaries([scene(seed) for seed in range(6)], fps=1) == [1, 2, 3, 4, 5]
        assert boundaries([scene(seed) for seed in range(6)], fps=1 / 1024) == [1024, 2048, 3072, 4096, 5120]

    def test_no_frames_and_one_frame_have_none(self) -> None:
        assert boundaries([]) == []
        assert boundaries([scene(1)]) == []


class TestWhatIsNone:
    def test_grain(self) -> None:
        assert boundaries(shot(scene(1), 4)) == []

    def test_a_flash(self) -> None:
        film = shot(scene(1), 4)
        film[50:53] = [film[50] * 0.15 + 220] * 3
        assert boundaries(film) == []

    def test_a_frame_of_something_else(self) -> None:
        film = shot(scene(1), 4)
        film[50] = scene(2)
        assert boundaries(film) == []

    def test_a_change_of_light(self) -> None:
        dimmed = scene(1) * np.float32(0.5)
        assert boundaries([*shot(scene(1), 2), *shot(dimmed, 2)]) == []
        assert boundaries([*shot(scene(1), 2), *mixed(scene(1), dimmed, 0.8), *shot(dimmed, 2)]) == []

    def test_a_pan_and_a_passing_object(self) -> None:
        wide = np.concatenate([scene(1), scene(2), scene(3)], axis=2)
        assert boundaries([wide[:, :, n : n + THUMB_W] for n in range(2 * THUMB_W)]) == []
        passing = [scene(1) for _ in range(4 * FPS)]
        for n in range(THUMB_W):
            passing[30 + n][:, 4:14, max(n - 6, 0) : n] = 255
        assert boundaries(passing) == []


class TestStreaming:
    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=12), st.sampled_from([0.5, 4, 25, 60]))
    def test_nothing_is_told_of_what_was_settled(self, runs: list[tuple[int, int]], fps: float) -> None:
        detector = ShotDetector()
        times: list[float] = []
        told: list[float] = []
        settled_s = 0.0
        for thumb in (scene(seed) for seed, n in runs for _ in range(n)):
            times.append(len(times) / fps)
            new = detector.add(times[-1], thumb)
            assert all(t_s >= settled_s for t_s in new)
            assert settled_s <= detector.settled_s <= times[-1]
            settled_s = detector.settled_s
            told += new
        last = detector.finish()
        assert all(t_s >= settled_s for t_s in last)
        assert detector.settled_s == np.inf
        told += last
        assert len(set(told)) == len(told)
        assert set(told) <= set(times[1:])

    @pytest.mark.parametrize("picture", [lambda n: scene(n // 10), lambda n: scene(1) + grain(n)])
    def test_memory_does_not_grow_with_the_film(self, picture: Callable[[int], NDArray[np.float32]]) -> None:
        detector = ShotDetector()
        alive: list[weakref.ref[Thumb]] = []
        for n in range(1500):
            thumb = picture(n)
            alive = [ref for ref in alive if ref() is not None]
            assert len(alive) <= 3.5 * FPS
            alive.append(weakref.ref(thumb))
            detector.add(n / FPS, thumb)
