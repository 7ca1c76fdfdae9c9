"""Neighbouring frames of a film come back as one moment: the arithmetic, and on a library of known vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fakes import DIM, SPEC, FakeEncoder, an_item
from xsearch.errors import QueryError
from xsearch.library import LibraryWriter
from xsearch.ranking.moments import Moment, moments
from xsearch.searcher import Hits, Searcher
from xsearch.types import Item, Kind, Modality


def found(
    scores: Sequence[float], peaks: Sequence[int], level: float = 0.0, films: Sequence[int] = (0,)
) -> list[Moment]:
    starts_new = np.zeros(len(scores), np.bool_)
    starts_new[list(films)] = True
    return moments(np.array(scores, np.float32), starts_new, peaks, level)


class TestArithmetic:
    def test_a_moment_reaches_down_to_half_its_height(self) -> None:
        assert found([0.1, 0.5, 0.8, 1.0, 0.6, 0.4, 0.9], [3]) == [Moment(1, 3, 4)]

    def test_height_counts_from_the_level_of_the_library(self) -> None:
        assert found([0.6, 0.79, 0.81, 1.0, 0.9, 0.7], [3], level=0.6) == [Moment(2, 3, 4)]

    def test_frames_of_one_moment_are_found_once_and_by_the_best(self) -> None:
        assert found([0.7, 0.9, 1.0, 0.2, 0.8, 0.1], [0, 1, 2, 4]) == [Moment(0, 2, 2), Moment(4, 4, 4)]

    def test_a_moment_ends_where_its_film_does(self) -> None:
        assert found([1.0, 0.9, 0.95, 0.9], [0, 2], films=[0, 2]) == [Moment(0, 0, 1), Moment(2, 2, 3)]

    def test_a_lesser_moment_takes_no_frame_of_a_better_one(self) -> None:
        # 0.5 belongs to the peak of 1.0, though the peak of 0.6 would reach it as well.
        assert found([1.0, 0.5, 0.45, 0.6], [0, 3]) == [Moment(0, 0, 1), Moment(2, 3, 3)]

    @given(
        st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40),
        st.floats(-1, 1),
        st.sets(st.integers(0, 39)),
        st.sets(st.integers(0, 39), min_size=1),
    )
    def test_moments_do_not_overlap_and_hold_every_peak(
        self, scores: list[float], level: float, films: set[int], peaks: set[int]
    ) -> None:
        n = len(scores)
        starts = sorted({0, *(film % n for film in films)})
        asked = sorted({peak % n for peak in peaks})
        answer = found(scores, asked, level, starts)
        covered = [at for moment in answer for at in range(moment.first, moment.last + 1)]
        assert len(covered) == len(set(covered))
        assert set(asked) <= set(covered)
        for moment in answer:
            assert moment.first <= moment.best <= moment.last
            assert not any(moment.first < start <= moment.last for start in starts)
        best = [scores[moment.best] for moment in answer]
        assert best == sorted(best, reverse=True)


# Cosines of the frames of three films, a second each, with the one query there is; a film has to be looked at anew
# where another was removed between its frames.
FILMS = {
    "calm.mp4": [0.05, 0.0, 0.1, 0.05],
    "dogs.mp4": [0.1, 0.7, 0.9, 0.6, 0.1, 0.1, 0.8, 0.75, 0.2],
    "more dogs.mp4": [0.65, 0.66, 0.1],
}
PICTURES = {"dog.jpg": 0.85, "sky.jpg": 0.02}
QUERY = np.eye(1, DIM, dtype=np.float32)


def scoring(cosines: Sequence[float]) -> NDArray[np.float32]:
    """(n, dim) unit rows with these cosines to QUERY, each else in a direction of its own."""
    rows = np.zeros((len(cosines), DIM), np.float32)
    for at, cosine in enumerate(cosines):
        rows[at, 0], rows[at, 1 + at] = cosine, np.sqrt(1 - cosine**2)
    return rows


def frame(film: str, second: int) -> Item:
    return an_item(film, kind=Kind.FRAME, part=f"{second}.500", t_start_s=float(second), t_end_s=second + 1.0)


class OneQuery(FakeEncoder):
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.repeat(QUERY, len(texts), axis=0)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("films")
    items = [frame(film, second) for film, cosines in FILMS.items() for second in range(len(cosines))]
    items += [an_item(name) for name in PICTURES]
    with LibraryWriter(folder, SPEC) as writer:
        writer.add(items, scoring([*(c for cosines in FILMS.values() for c in cosines), *PICTURES.values()]))
    return Searcher(folder, encoder=OneQuery())


def told(hits: Hits) -> list[tuple[str, float | None, float | None, float]]:
    return [(hit.item.path, hit.t_start_s, hit.t_end_s, round(hit.score, 2)) for hit in hits]


class TestLibrary:
    def test_neighbouring_frames_are_one_hit_with_its_stretch_and_best_frame(self, searcher: Searcher) -> None:
        hits = searcher.query("dogs", kind="frame", k=3)
        assert told(hits) == [
            ("dogs.mp4", 1.0, 4.0, 0.9),
            ("dogs.mp4", 6.0, 8.0, 0.8),
            ("more dogs.mp4", 0.0, 2.0, 0.66),
        ]
        assert [hit.item.part for hit in hits] == ["2.500", "6.500", "1.500"]

    def test_a_moment_is_whole_when_few_hits_are_asked_for(self, searcher: Searcher) -> None:
        assert told(searcher.query("dogs", kind="frame", k=1)) == [("dogs.mp4", 1.0, 4.0, 0.9)]

    def test_films_are_ranked_by_their_best_moment(self, searcher: Searcher) -> None:
        assert told(searcher.query("dogs", kind="frame", k=10, group="film")) == [
            ("dogs.mp4", 1.0, 4.0, 0.9),
            ("more dogs.mp4", 0.0, 2.0, 0.66),
            ("calm.mp4", 2.0, 3.0, 0.1),
        ]

    def test_without_grouping_every_frame_is_a_hit(self, searcher: Searcher) -> None:
        hits = searcher.query("dogs", kind="frame", k=100, group="none")
        assert [score for *_, score in told(hits)] == sorted((c for film in FILMS.values() for c in film), reverse=True)
        assert told(hits)[0] == ("dogs.mp4", 2.0, 3.0, 0.9)

    def test_pictures_stand_among_the_moments(self, searcher: Searcher) -> None:
        hits = searcher.query("dogs", k=3)
        assert [(path, score) for path, _, _, score in told(hits)] == [
            ("dogs.mp4", 0.9),
            ("dog.jpg", 0.85),
            ("dogs.mp4", 0.8),
        ]
        assert hits[1].t_start_s is None

    def test_k_moments_come_back_as_long_as_there_are_k(self, searcher: Searcher) -> None:
        everything = searcher.query("dogs", kind="frame", k=100)
        for k in range(1, len(everything) + 1):
            assert told(searcher.query("dogs", kind="frame", k=k)) == told(everything)[:k]

    def test_the_answer_to_a_batch_is_that_to_each(self, searcher: Searcher) -> None:
        both = searcher.query_batch(["dogs", "dogs again"], kind="frame", k=2)
        assert [told(hits) for hits in both] == [told(searcher.query("dogs", kind="frame", k=2))] * 2

    def test_rows_are_found_as_they_are_through_the_low_door(self, searcher: Searcher) -> None:
        assert searcher.search(QUERY, Modality.TEXT, k=2, kinds=[Kind.FRAME]).rows.tolist() == [[6, 10]]

    def test_a_removed_frame_parts_a_moment(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([frame("dogs.mp4", second) for second in range(6)], scoring([0.8, 0.9, 0.85, 0.8, 0, 0]))
            writer.bury([1])
        hits = Searcher(tmp_path, encoder=OneQuery()).query("dogs", k=2)
        assert told(hits) == [("dogs.mp4", 2.0, 4.0, 0.85), ("dogs.mp4", 0.0, 1.0, 0.8)]

    def test_another_group_is_refused_with_those_there_are(self, searcher: Searcher) -> None:
        with pytest.raises(QueryError, match="no group 'scene'") as raised:
            searcher.query("dogs", group="scene")
        assert raised.value.remedy == "groups are moment, film, none"
