"""Frames that were found in a library, made into moments: those around them are looked up and join in.

A film is committed whole and in its order, so the neighbours of a frame in time are its neighbours by row.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xsearch.library import Library
from xsearch.ranking.moments import moments

REACH_ROWS = 256
"""A moment goes no farther from its best frame than so many frames."""


class Group(StrEnum):
    """What frames of films are shown as."""

    MOMENT = "moment"
    FILM = "film"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of the library that answers a query.

    `score` is its cosine; `standing`, by which answers are ordered, can be compared between items of any kind.
    `stretch` is that of its moment, from and to, in seconds. `text_row` is a text of its own that speaks for it, with
    its cosine, and `words` the share of the query's words that it has. `part` is that of the query which it answers.
    """

    row: int
    score: float
    standing: float
    stretch: tuple[float, float] | None = None
    confidence: float | None = None
    text_row: int | None = None
    text_score: float = 0.0
    words: float = 0.0
    part: int = 0


def in_moments(
    answers: Iterable[Answer],
    vectors: NDArray[np.float32],
    *,
    library: Library,
    is_frame: NDArray[np.bool_],
    level: float,
    group: Group,
) -> list[Answer]:
    """Return the answers, best first, with a frame for each moment or film and all else as it is.

    `vectors` (parts, dim) are the query, of which the best part counts, `is_frame` (rows of the library,) says which
    rows are frames that may be shown, and `level` is what a picture scores that is not meant.
    """
    given = list(answers)
    peaks = [answer.row for answer in given if is_frame[answer.row]]
    if group is Group.NONE or not peaks:
        return given
    rows = np.unique(np.concatenate([_around(peak, is_frame) for peak in peaks]))
    scores = (library.vectors.take(rows) @ vectors.T).max(axis=1)
    # First without a look at which film a row is of, as that is slow to read and few rows are left then.
    near = moments(scores, _is_apart(rows), np.searchsorted(rows, peaks).tolist(), level)
    kept = np.unique(np.concatenate([np.arange(moment.first, moment.last + 1) for moment in near]))
    rows, scores = rows[kept], scores[kept]
    items = library.items(rows)
    films = [item.file for item in items]
    is_other_film = np.array([True, *(a != b for a, b in pairwise(films))])
    found = moments(scores, _is_apart(rows) | is_other_film, np.searchsorted(rows, peaks).tolist(), level)
    stretches = {
        int(rows[moment.best]): (items[moment.first].t_start_s or 0.0, items[moment.last].t_end_s or 0.0)
        for moment in found
    }
    file_of = dict(zip(rows.tolist(), films, strict=True))
    shown: set[Path] = set()
    answered = []
    for answer in given:
        if not is_frame[answer.row]:
            answered.append(answer)
        elif answer.row in stretches and not (group is Group.FILM and file_of[answer.row] in shown):
            shown.add(file_of[answer.row])
            answered.append(replace(answer, stretch=stretches[answer.row]))
    return answered


def _around(row: int, is_frame: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rows next to a frame, and itself, up to the first on each side that is none."""
    low, high = max(0, row - REACH_ROWS), min(len(is_frame), row + REACH_ROWS + 1)
    others = np.flatnonzero(~is_frame[low:high]) + low
    at = int(np.searchsorted(others, row))
    first = int(others[at - 1]) + 1 if at else low
    last = int(others[at]) if at < len(others) else high
    return np.arange(first, last)


def _is_apart(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) True where a row does not follow the one before."""
    return np.concatenate([[True], np.diff(rows) != 1])
