"""The frames of a film that are worth indexing, each with the stretch that it stands for, as the film goes by."""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from xsearch.media.shots import ShotDetector, Thumb, difference, drift
from xsearch.types import RGBImage

CANDIDATE_S = 0.5
"""How often a frame is kept as one that may stand for its stretch."""

MIN_STRETCH_S = 1.0
"""A shot gives at most one frame in so long."""

CHANGED = 20.0
"""`drift` above which two frames of a shot each deserve to be indexed. Over real clips and panned, zoomed and shaken
photographs, the frames of a stretch have a cosine of .93 in the mean and .77 at the 5th percentile with its frame
(built-in encoder); as many frames at even distances have .92 and .64."""

STILL = 4.0
"""`drift` up to which two frames are the same."""

SAME_TIME_S = 1e-3
"""Times that lie closer are the same: names and tables carry milliseconds."""

_MAX_CANDIDATES = 8  # of a stretch


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame of a film that stands for the stretch from `t_start_s` up to, and without, `t_end_s`.

    `shot` counts from 0. `pixels` are upright, sRGB as far as the file says, transparency over white.
    """

    t_s: float
    t_start_s: float
    t_end_s: float
    shot: int
    pixels: RGBImage = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A frame that may stand for its stretch."""

    t_s: float
    thumb: Thumb
    pixels: RGBImage


@dataclass(slots=True)
class _Stretch:
    """Frames of a shot that look alike. `kept` is never empty."""

    start_s: float
    shot: int
    kept: list[_Candidate]
    _stride: int = 1
    _passed: int = 0

    def keep(self, candidate: _Candidate) -> None:
        """Keep a candidate; of a long stretch only every second, fourth, eighth ..."""
        self._passed += 1
        if self._passed % self._stride == 0:
            self.kept.append(candidate)
        if len(self.kept) > _MAX_CANDIDATES:
            del self.kept[1::2]
            self._stride *= 2

    def differs(self, candidate: _Candidate) -> bool:
        """Whether a candidate deserves a stretch of its own."""
        return candidate.t_s - self.start_s >= MIN_STRETCH_S and drift(candidate.thumb, self.kept[0].thumb) >= CHANGED

    def frame(self, end_s: float) -> Frame:
        """Return the medoid of the candidates: no flash, no remainder of a dissolve; if they are alike, the middle."""
        middle_s = (self.start_s + end_s) / 2

        def off_centre(candidate: _Candidate) -> tuple[float, float]:
            apart = sum(difference(candidate.thumb, other.thumb) for other in self.kept)
            return round(apart / len(self.kept)), abs(candidate.t_s - middle_s)

        best = min(self.kept, key=off_centre)
        return Frame(best.t_s, self.start_s, end_s, self.shot, best.pixels)


class FrameChooser:
    """Chooses frames from those of a film in order: one a shot and one more for each stretch of it that differs.

    With `fps`, frames are taken at even distances instead. The stretches tile the film. What is chosen lies some
    seconds in the past; so many candidates are held.
    """

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._detector = ShotDetector()
        self._shot_starts_s = [0.0]
        self._due_s = 0.0
        self._taken_s = -1.0
        self._taken: list[Thumb] = []  # the last two, as a change counts when it is seen twice
        self._waiting: deque[_Candidate] = deque()  # until it is sure in which shot they are
        self._stretch: _Stretch | None = None
        self._changed: _Candidate | None = None  # differs from the stretch; the next candidate tells if that lasts

    def add(self, t_s: float, thumb: Thumb, pixels: Callable[[], RGBImage]) -> Iterator[Frame]:
        """Take the next frame in, of which `pixels` are asked for if it is a candidate. Yield the frames now chosen."""
        for start_s in self._detector.add(t_s, thumb):
            insort(self._shot_starts_s, start_s)
        if self._is_candidate(t_s, thumb):
            self._waiting.append(_Candidate(t_s, thumb, pixels()))
            self._taken, self._taken_s = [*self._taken[-1:], thumb], t_s
        yield from self._place_settled()

    def finish(self, end_s: float) -> Iterator[Frame]:
        """Yield the frames that waited for more to come, which end with the film."""
        for start_s in self._detector.finish():
            insort(self._shot_starts_s, start_s)
        yield from self._place_settled()
        if self._changed is not None and self._stretch is not None and end_s - self._changed.t_s >= MIN_STRETCH_S:
            yield from self._begin(_Stretch(self._changed.t_s, self._stretch.shot, [self._changed]))
        if self._stretch is not None:
            yield self._stretch.frame(end_s)

    def _is_candidate(self, t_s: float, thumb: Thumb) -> bool:
        is_due = t_s >= self._due_s - SAME_TIME_S
        if self._fps is not None:
            if is_due:
                self._due_s = (int((t_s + SAME_TIME_S) * self._fps) + 1) / self._fps
            return is_due
        if is_due:
            self._due_s = t_s + CANDIDATE_S
        moved = len(self._taken) < 2 or max(drift(thumb, other) for other in self._taken) > STILL
        return (is_due and moved) or self._taken_s < self._shot_starts_s[-1]

    def _place_settled(self) -> Iterator[Frame]:
        while self._waiting and self._waiting[0].t_s < self._detector.settled_s:
            yield from self._place(self._waiting.popleft())

    def _place(self, candidate: _Candidate) -> Iterator[Frame]:
        """Put a candidate into the stretch, or begin a new one: with a shot, or with a change that lasts."""
        shot = bisect_right(self._shot_starts_s, candidate.t_s) - 1
        stretch = self._stretch
        if stretch is None or shot != stretch.shot or self._fps is not None:
            at_once = self._fps is not None and stretch is not None
            start_s = candidate.t_s if at_once else self._shot_starts_s[shot]
            yield from self._begin(_Stretch(start_s, shot, [candidate]))
            return
        if self._changed is not None and stretch.differs(candidate):
            stretch = _Stretch(self._changed.t_s, shot, [self._changed])
            yield from self._begin(stretch)
        self._changed = candidate if stretch.differs(candidate) else None
        if self._changed is None:
            stretch.keep(candidate)

    def _begin(self, stretch: _Stretch) -> Iterator[Frame]:
        if self._stretch is not None:
            yield self._stretch.frame(stretch.start_s)
        self._stretch, self._changed = stretch, None


def thinned(frames: Iterable[Frame], max_frames: int) -> Iterator[Frame]:
    """Join the two neighbours with the shortest common stretch as often as needed. So many frames are held."""
    kept: list[Frame] = []
    for frame in frames:
        kept.append(frame)
        if len(kept) > max_frames:
            at = min(range(len(kept) - 1), key=lambda i: kept[i + 1].t_end_s - kept[i].t_start_s)
            first, second = kept[at : at + 2]
            longer = max(first, second, key=lambda frame: frame.t_end_s - frame.t_start_s)
            kept[at : at + 2] = [replace(longer, t_start_s=first.t_start_s, t_end_s=second.t_end_s)]
    yield from kept
