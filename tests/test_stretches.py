"""Which frames of a film are chosen, on tiny pictures without a file."""

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_shots import even, scene
from xsearch.media.shots import Thumb
from xsearch.media.stretches import Frame, FrameChooser, thinned
from xsearch.types import RGBImage

Run = tuple[Thumb, float]
"""A picture, and for how many seconds it is seen."""


def chosen(runs: Iterable[Run], fps: float | None = None, film_fps: float = 25) -> list[Frame]:
    """Return the frames that are chosen; the first pixel of each is the number of its run."""
    chooser = FrameChooser(fps)
    found: list[Frame] = []
    n = 0
    for number, (thumb, seconds) in enumerate(runs):
        pixels: RGBImage = np.full((1, 1, 3), number, np.uint8)
        for _ in range(round(seconds * film_fps)):
            found += chooser.add(n / film_fps, thumb, lambda pixels=pixels: pixels)
            n += 1
    return [*found, *chooser.finish(n / film_fps)]


def told(found: Iterable[Frame]) -> list[tuple[int, int, float, float]]:
    return [(int(f.pixels[0, 0, 0]), f.shot, f.t_start_s, f.t_end_s) for f in found]


def with_object(seed: int) -> Thumb:
    """A scene with something small in it: two of 8 x 6 cells."""
    thumb = scene(seed).copy()
    thumb[:, 9:12, 16:24] = 255 - thumb[:, 9:12, 16:24]
    return thumb


class TestChoice:
    def test_one_a_shot(self) -> None:
        runs = [(scene(1), 2.0), (scene(2), 5.0), (scene(3), 1.0)]
        assert told(chosen(runs)) == [(0, 0, 0, 2), (1, 1, 2, 7), (2, 2, 7, 8)]

    def test_a_change_that_lasts_is_a_stretch_of_its_shot(self) -> None:
        found = chosen([(scene(1), 3.0), (with_object(1), 3.0)])
        assert [(run, shot) for run, shot, _, _ in told(found)] == [(0, 0), (1, 0)]
        assert found[1].t_start_s == pytest.approx(3, abs=0.5)

    def test_a_change_that_goes_away_is_none(self) -> None:
        (frame,) = chosen([(scene(1), 3.0), (with_object(1), 0.4), (scene(1), 3.0)])
        assert (frame.t_start_s, frame.t_end_s) == (0, 6.4)
        assert frame.pixels[0, 0, 0] != 1

    def test_slides_of_one_frame_each(self) -> None:
        found = chosen([(scene(n), 4.0) for n in range(5)], film_fps=0.25)
        assert told(found) == [(n, n, 4 * n, 4 * n + 4) for n in range(5)]

    def test_a_change_shortly_before_the_end_is_none_unless_it_is_seen_for_long(self) -> None:
        assert told(chosen([(scene(1), 4.0), (with_object(1), 4.0)], film_fps=0.25)) == [(0, 0, 0, 4), (1, 0, 4, 8)]
        (frame,) = chosen([(scene(1), 4.0), (with_object(1), 0.4)])
        assert (frame.t_start_s, frame.t_end_s) == (0, 4.4)

    def test_the_most_central_is_taken(self) -> None:
        """Of a shot that is dim at first it is from what follows, of a still one that nearest to the middle."""
        (frame,) = chosen([(scene(1) * np.float32(0.93), 0.4), (scene(1), 4.0)])
        assert frame.pixels[0, 0, 0] == 1
        (frame,) = chosen([(scene(1), 0.8)])
        assert frame.t_s == 0.52

    def test_a_still_film_is_looked_at_once(self) -> None:
        """Pixels are converted for a first and a second look, and not again for hours."""
        chooser = FrameChooser(None)
        asked = 0

        def pixels() -> RGBImage:
            nonlocal asked
            asked += 1
            return np.zeros((1, 1, 3), np.uint8)

        for n in range(2000):
            assert list(chooser.add(n / 25, even(100), pixels)) == []
        assert asked == 2

    def test_at_even_distances(self) -> None:
        runs = [(scene(1), 2.0), (scene(2), 1.0)]
        assert told(chosen(runs, fps=1)) == [(0, 0, 0, 1), (0, 0, 1, 2), (1, 1, 2, 3)]
        assert [f.t_s for f in chosen(runs, fps=10, film_fps=4)] == [n / 4 for n in range(12)]

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 40)), min_size=1, max_size=10),
        st.sampled_from([None, 0.3, 2, 7]),
        st.sampled_from([0.1, 2, 25]),
        st.integers(1, 5),
    )
    def test_stretches_tile_the_film(
        self, parts: list[tuple[int, bool, int]], fps: float | None, film_fps: float, most: int
    ) -> None:
        runs = [(with_object(seed) if changed else scene(seed), n / film_fps) for seed, changed, n in parts]
        found = chosen(runs, fps, film_fps)
        end_s = sum(n for _, _, n in parts) / film_fps
        for frames in (found, list(thinned(found, most))):
            assert frames[0].t_start_s == 0
            assert frames[-1].t_end_s == end_s
            assert all(frame.t_start_s <= frame.t_s < frame.t_end_s for frame in frames)
            for before, after in itertools.pairwise(frames):
                assert before.t_end_s == after.t_start_s
                assert before.shot <= after.shot
        assert len(list(thinned(found, most))) == min(most, len(found))


class TestThinned:
    def test_joins_what_is_shortest_together_and_keeps_the_longer(self) -> None:
        at_s = [0.0, 10.0, 12.0, 13.0, 20.0]
        pixels = np.zeros((1, 1, 3), np.uint8)
        found = [Frame(t_s, t_s, end_s, n, pixels) for n, (t_s, end_s) in enumerate(itertools.pairwise([*at_s, 30.0]))]
        assert [(f.shot, f.t_start_s, f.t_end_s) for f in thinned(found, 3)] == [(0, 0, 10), (3, 10, 20), (4, 20, 30)]
