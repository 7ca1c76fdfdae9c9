"""Where one shot of a film ends and the next begins, from tiny pictures of its frames as they go by. numpy only.

A cut is a step between neighbouring frames that is large beside the steps around it: the rolling average of
PySceneDetect's AdaptiveDetector (B. Castellano, scenedetect.com), here with two additions. A picture that comes back
within FLASH_S was a flash; and steps are seen ahead as well as behind. A dissolve or a fade is a straight line in pixel
space: half-way through, the frame is the mean of the frames before and after. Neither a pan, nor a zoom, nor a passing
object is, as pixels that move do not blend; and a change of light is, but leaves the picture correlated with itself.

The library scenedetect is not used because it takes 150 MB of OpenCV, decodes by itself, and finds less. Over 16
generated films (320 x 180, 25 fps, 208 transitions between still, talking, panned, zoomed, shaken, flashing and
darkening shots and real clips; 122 cuts, 55 dissolves and 31 fades of 0.3 to 1.6 s) that played no part in the choice
of the thresholds, found within 0.2 s:

                                precision   cuts   dissolves   fades
    this module                 .99         122    39          29
    AdaptiveDetector 0.7.2      .88         121     9          17
    ContentDetector 0.7.2       .86         121     7          30
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Thumb: TypeAlias = NDArray[np.float32]
"""(3, THUMB_H, THUMB_W), Y, U and V of a whole frame, each number the mean of its area, 0..255."""

THUMB_W, THUMB_H = 32, 18
_CELLS_W, _CELLS_H = 8, 6

CUT_STEP = 8.0
"""Mean difference a pixel, of 255, below which two frames are of one shot whatever the frames around them."""

CUT_RATIO = 3.0
"""So many times the mean step around it is what a cut is at least."""

FLASH_S = 0.25
"""A picture that comes back sooner was not cut away from. Also how far around a step the others are looked at."""

SAME_PICTURE = 0.8
"""Frames whose thumbs correlate more are the same picture in another light."""

BLEND_REACHES_S = (0.2, 0.4, 0.8)
"""Before and after the middle of a blend."""

BLEND_CHANGE = 10.0
BLEND_BEND = 0.27
"""How far the middle may lie off the straight line, as a part of its length. Motion gives .5 and more, a blend of two
moving shots some .2."""
BLEND_CORRELATION = 0.6
"""What a blend connects correlates less."""

_GROUP_S = 0.6  # blends that are found so close together are one
_LONGEST_BLEND_S = 2.0
_MARGIN_S = 0.1
_NEIGHBOURS = 3  # at least so many steps around a step are looked at
_FAR_S = 1.0  # but none from beyond: slides follow each other by steps that are all large


def difference(a: Thumb, b: Thumb) -> float:
    """Return the mean difference a pixel, 0..255."""
    return float(np.abs(a - b).mean())


def drift(a: Thumb, b: Thumb) -> float:
    """Return how much the most changed of 8 x 6 cells changed, 0..255.

    Of the measures that were tried on thumbs (mean, quantiles, correlation, changed area) this foretells best how far
    the built-in encoder's vectors of two frames of a shot lie apart: an object that comes in changes few cells a lot.
    """
    cells = np.abs(a - b).mean(0).reshape(_CELLS_H, THUMB_H // _CELLS_H, _CELLS_W, THUMB_W // _CELLS_W)
    return float(cells.mean((1, 3)).max())


def correlation(a: Thumb, b: Thumb) -> float:
    """Return Pearson's r, each of Y, U and V about its own mean; of two even pictures 0."""
    a = a - a.mean((1, 2), keepdims=True)
    b = b - b.mean((1, 2), keepdims=True)
    # 1e-3: what has no structure correlates with nothing
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-3))


@dataclass(frozen=True, slots=True)
class _Blend:
    t_s: float
    reach_s: float
    bend: float  # the less, the surer that this is the middle


class ShotDetector:
    """Tells the times at which shots begin, the first excepted, from the frames of a film in order.

    What is told lies in the past: a cut FLASH_S, a blend a good second. `settled_s` says up to where nothing will be
    added any more. Times of cuts are those of the first frame after; of blends, their middle. Memory is bounded by the
    number of frames in two seconds.
    """

    def __init__(self) -> None:
        self._times: list[float] = []
        self._thumbs: list[Thumb] = []
        self._steps: list[float] = []
        self._next_step = 1  # the first that is not yet judged
        self._next_middle = 0
        self._cuts: list[float] = []  # as long as a blend could be mistaken for them
        self._blends: list[_Blend] = []  # found, of one group
        self._ended = False

    @property
    def settled_s(self) -> float:
        """Return the time before which no more shots will begin."""
        if self._ended:
            return float("inf")
        if self._blends:
            return self._blends[0].t_s
        return self._times[min(self._next_step, self._next_middle, len(self._times) - 1)] if self._times else 0.0

    def add(self, t_s: float, thumb: Thumb) -> list[float]:
        """Take the next frame in, and return the times at which shots are now known to begin."""
        self._steps.append(difference(thumb, self._thumbs[-1]) if self._thumbs else 0.0)
        self._times.append(t_s)
        self._thumbs.append(thumb)
        told = [*self._judge_steps(), *self._judge_middles()]
        self._forget()
        return told

    def finish(self) -> list[float]:
        """Return the times that wait for frames that do not come."""
        self._ended = True
        return [*self._judge_steps(), *self._judge_middles(), *self._close_group()]

    def _judge_steps(self) -> Iterator[float]:
        while self._next_step < len(self._times):
            i = self._next_step
            seen_s, seen = self._times[-1] - self._times[i], len(self._times) - 1 - i
            if not self._ended and (seen_s < FLASH_S or (seen < _NEIGHBOURS and seen_s < _FAR_S)):
                return
            self._next_step += 1
            if self._is_cut(i):
                self._cuts.append(self._times[i])
                yield self._times[i]

    def _is_cut(self, i: int) -> bool:
        step = self._steps[i]
        if step < CUT_STEP:
            return False
        t_s = self._times[i]
        near, far = bisect_left(self._times, t_s - FLASH_S), bisect_left(self._times, t_s - _FAR_S)
        low = max(min(near, i - _NEIGHBOURS), min(far, i - 1), 0)
        near, far = bisect_left(self._times, t_s + FLASH_S), bisect_left(self._times, t_s + _FAR_S)
        high = min(max(near, i + _NEIGHBOURS) + 1, far)
        around = sorted([*self._steps[low + 1 : i], *self._steps[i + 1 : high]])
        # The largest is left out of the mean: it may be a cut as well.
        if around and (step < around[-1] or step < CUT_RATIO * float(np.mean(around[:-1] or around))):
            return False
        before, after = self._thumbs[i - 1], self._thumbs[i]
        if correlation(before, after) > SAME_PICTURE:
            return False
        comes_back = min(difference(before, later) for later in self._thumbs[i:high])
        was_there = min(difference(after, earlier) for earlier in self._thumbs[low:i])
        return min(comes_back, was_there) > step / 2

    def _judge_middles(self) -> Iterator[float]:
        # A blend is told from a cut only when cuts within its reach are known.
        wait_s = BLEND_REACHES_S[-1] + _MARGIN_S + FLASH_S
        while self._next_middle < len(self._times):
            m = self._next_middle
            t_s = self._times[m]
            sure = self._next_step > m and self._times[self._next_step - 1] >= t_s + BLEND_REACHES_S[-1] + _MARGIN_S
            if not self._ended and not (sure and self._times[-1] - t_s >= wait_s):
                return
            self._next_middle += 1
            if self._blends and (t_s - self._blends[-1].t_s > _GROUP_S or t_s - self._blends[0].t_s > _LONGEST_BLEND_S):
                yield from self._close_group()
            found = [blend for reach_s in BLEND_REACHES_S if (blend := self._blend(m, reach_s))]
            if found:
                self._blends.append(min(found, key=lambda blend: blend.bend))

    def _blend(self, m: int, reach_s: float) -> _Blend | None:
        t_s = self._times[m]
        a, b = self._nearest(t_s - reach_s), self._nearest(t_s + reach_s)
        apart_s = max(abs(self._times[a] - t_s + reach_s), abs(self._times[b] - t_s - reach_s))
        if not a < m < b or apart_s > reach_s / 4:
            return None
        before, middle, after = self._thumbs[a], self._thumbs[m], self._thumbs[b]
        if sum(self._steps[a + 1 : b + 1]) < BLEND_CHANGE:  # nor is the straight way longer
            return None
        change = difference(before, after)
        if change < BLEND_CHANGE:
            return None
        bend = difference(middle, (before + after) * np.float32(0.5)) / change
        if bend > BLEND_BEND or correlation(before, after) > BLEND_CORRELATION:
            return None
        if any(abs(cut - t_s) <= reach_s + _MARGIN_S for cut in self._cuts):
            return None
        return _Blend(t_s, reach_s, bend / change)

    def _nearest(self, t_s: float) -> int:
        at = bisect_left(self._times, t_s)
        if at == len(self._times) or (at and t_s - self._times[at - 1] < self._times[at] - t_s):
            return at - 1
        return at

    def _close_group(self) -> Iterator[float]:
        if self._blends:
            yield min(self._blends, key=lambda blend: blend.bend).t_s
            self._blends = []

    def _forget(self) -> None:
        """Let go of the frames that no judgement to come looks at."""
        oldest_s = self._times[self._next_middle] - 2 * BLEND_REACHES_S[-1]
        n = min(bisect_left(self._times, oldest_s), self._next_middle, max(self._next_step - 1 - _NEIGHBOURS, 0))
        if n > 0:
            del self._times[:n], self._thumbs[:n], self._steps[:n]
            self._next_step -= n
            self._next_middle -= n
        self._cuts = [cut for cut in self._cuts if cut > oldest_s]
