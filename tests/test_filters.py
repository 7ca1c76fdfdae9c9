"""Filtered search through a library: what comes back is what brute force finds, for filters of any selectivity."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import xsearch.index.search as search_module
from tests.fakes import SPEC, an_item
from xsearch.index.calibrate import Calibration, calibrate
from xsearch.index.exact import Found
from xsearch.index.ivfpq import IvfPq
from xsearch.index.plan import IndexKind, SearchSettings, plan_index
from xsearch.index.search import search
from xsearch.library import Library, LibraryWriter
from xsearch.library.where import matching
from xsearch.types import Embeddings
from xsearch.vectors import VectorTable, l2_normalize

N, DIM, SUBJECTS = 24_000, 64, 100
TARGET = 0.95
CALIBRATING, ASKING = 1_000, 300

# `bytes` counts the items in an order that has nothing to do with what they show.
SELECTIVITIES = {1.0: "true", 0.1: "bytes % 10 = 3", 0.01: "bytes % 100 = 42", 0.001: "bytes % 1000 = 7"}


@dataclass(frozen=True, slots=True)
class World:
    """A library of pictures of SUBJECTS subjects, its index, and texts, each about one of `subjects`."""

    library: Library
    index: IvfPq
    calibration: Calibration
    texts: Embeddings
    subjects: NDArray[np.int64]

    def ask(self, allowed: NDArray[np.bool_], k: int = 10, *, rows: slice = slice(None)) -> Found:
        return search(
            self.library.vectors, self.index, self.texts[rows], k, settings=self.calibration.settings, allowed=allowed
        )

    def brute_force(self, allowed: NDArray[np.bool_], k: int = 10) -> Found:
        """Return the answers by sorting the scores of all allowed rows, summed in float64."""
        rows = np.flatnonzero(allowed)
        pictures = self.library.vectors.take(rows).astype(np.float64)
        scores = (self.texts.astype(np.float64) @ pictures.T).astype(np.float32)
        found = Found.nothing(len(self.texts), k)
        for i, of_text in enumerate(scores):
            best = np.lexsort((rows, -of_text))[:k]
            found.rows[i, : len(best)] = rows[best]
            found.scores[i, : len(best)] = of_text[best]
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, DIM + 1) ** -0.5
    spectrum /= np.linalg.norm(spectrum)
    centres = rng.standard_normal((SUBJECTS, DIM)) * spectrum
    picture_cone, text_cone = np.linalg.qr(rng.standard_normal((DIM, 2)))[0].T

    def about(subjects: NDArray[np.int64], jitter: float) -> Embeddings:
        return l2_normalize(centres[subjects] + jitter * rng.standard_normal((len(subjects), DIM)) * spectrum)

    shown = rng.integers(SUBJECTS, size=N)
    pictures = l2_normalize(picture_cone + about(shown, 0.7))
    asked = rng.integers(SUBJECTS, size=CALIBRATING + ASKING)
    texts = l2_normalize(0.4 * picture_cone + 0.9 * text_cone + about(asked, 1.2))

    folder = tmp_path_factory.mktemp("library")
    numbers = rng.permutation(N)
    items = [an_item(f"{shown[i]:02d}/{i}.jpg", bytes=int(numbers[i])) for i in range(N)]
    with LibraryWriter(folder, replace(SPEC, fingerprint=replace(SPEC.fingerprint, dim=DIM))) as writer:
        for rows in (slice(0, 16_000), slice(16_000, 22_000), slice(22_000, N)):
            writer.add(items[rows], pictures[rows])
        writer.bury(range(5, N, 40))
    library = Library.open(folder)
    assert len(library.manifest.shards) > 1
    index = IvfPq.build(library.vectors, plan_index(N, DIM, kind=IndexKind.IVFPQ))
    calibration = calibrate(index, library.vectors, texts[:CALIBRATING], TARGET, allowed=library.alive)
    assert calibration.met
    return World(library, index, calibration, texts[CALIBRATING:], asked[CALIBRATING:])


def recall(found: Found, expected: Found) -> float:
    shares = [
        np.isin(true[true >= 0], one).mean()
        for one, true in zip(found.rows, expected.rows, strict=True)
        if true[0] >= 0
    ]
    return float(np.mean(shares))


def assert_all_that_match(found: Found, allowed: NDArray[np.bool_], k: int) -> None:
    """k different allowed rows for each query, or as many as there are, best first."""
    here = min(k, int(np.count_nonzero(allowed)))
    assert allowed[found.rows[:, :here]].all()
    assert (found.rows[:, here:] == -1).all()
    assert (found.scores[:, here:] == -np.inf).all()
    assert (np.diff(found.scores[:, :here], axis=1) <= 0).all()
    assert all(len(np.unique(rows[:here])) == here for rows in found.rows)


@pytest.mark.parametrize("share", SELECTIVITIES)
def test_a_share_of_the_library_through_the_index(world: World, share: float) -> None:
    allowed = matching(world.library, SELECTIVITIES[share])
    living = np.count_nonzero(world.library.alive)
    assert np.count_nonzero(allowed) == pytest.approx(share * living, rel=0.2)
    for k in (1, 10, 100):
        found, expected = world.ask(allowed, k), world.brute_force(allowed, k)
        assert_all_that_match(found, allowed, k)
        assert recall(found, expected) >= TARGET
        same = found.rows == expected.rows
        np.testing.assert_array_equal(found.scores[same], expected.scores[same])


@pytest.mark.parametrize("share", SELECTIVITIES)
def test_a_share_of_the_library_exactly(world: World, share: float) -> None:
    allowed = matching(world.library, SELECTIVITIES[share])
    found = search(world.library.vectors, None, world.texts, 50, allowed=allowed)
    expected = world.brute_force(allowed, 50)
    assert_all_that_match(found, allowed, 50)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize(
    "where",
    ["path LIKE '%/_5/%'", "path NOT LIKE '%/_5/%'", "path LIKE '%/1_/%' OR path LIKE '%/2_/%'", "path LIKE '%/77/%'"],
)
def test_a_filter_on_what_the_pictures_show(world: World, where: str) -> None:
    # It leaves whole lists empty, and those nearest to some of the texts.
    allowed = matching(world.library, where)
    found, expected = world.ask(allowed), world.brute_force(allowed)
    assert_all_that_match(found, allowed, 10)
    assert recall(found, expected) >= TARGET


def test_texts_about_what_the_filter_leaves_out(world: World) -> None:
    # With the settings as they were measured, without a filter, the index finds less.
    allowed = world.library.alive.copy()
    gone = np.unique(world.subjects)[:40]
    for subject in gone:
        allowed &= ~matching(world.library, f"path LIKE '%/{subject:02d}/%'")
    asking = np.isin(world.subjects, gone)
    found, expected = world.ask(allowed), world.brute_force(allowed)
    asked = Found(found.rows[asking], found.scores[asking])
    true = Found(expected.rows[asking], expected.scores[asking])
    assert recall(asked, true) >= TARGET
    as_measured = world.index.search(
        world.texts[asking], 10, vectors=world.library.vectors, settings=world.calibration.settings, allowed=allowed
    )
    assert recall(as_measured, true) < TARGET


def test_work_grows_only_while_it_is_less_than_that_of_a_scan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, SearchSettings]] = []
    through_the_index = IvfPq.search

    def spy(self: IvfPq, queries: NDArray[np.float32], k: int, *, settings: SearchSettings, **rest: object) -> Found:
        steps.append((len(queries), settings))
        return through_the_index(self, queries, k, settings=settings, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(IvfPq, "search", spy)
    calibrated = world.calibration.settings
    world.ask(matching(world.library, "bytes % 2 = 0"))
    # Each search asks twice as much as the one before, for the texts whose answers that one changed.
    asked = [texts for texts, _ in steps]
    assert asked[:2] == [ASKING, ASKING]
    assert asked[2:] == sorted(asked[2:], reverse=True)
    assert [settings for _, settings in steps] == [
        SearchSettings(calibrated.nprobe << i, calibrated.depth << i) for i in range(len(steps))
    ]
    assert len(steps) >= 2

    steps.clear()
    world.ask(np.ones(N, np.bool_))
    assert steps == [(ASKING, calibrated)]

    steps.clear()
    few = matching(world.library, "bytes % 100 = 42")
    np.testing.assert_array_equal(world.ask(few).rows, world.brute_force(few).rows)
    assert steps == []


def test_a_few_removed_rows_cost_one_search(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = np.random.default_rng(7).random(N) < 0.02
    allowed = world.library.alive & ~removed
    expected = world.brute_force(allowed)
    masks: list[NDArray[np.bool_] | None] = []
    through_the_index = IvfPq.search

    def spy(self: IvfPq, *args: Any, allowed: NDArray[np.bool_] | None = None, **rest: Any) -> Found:
        masks.append(allowed)
        return through_the_index(self, *args, allowed=allowed, **rest)

    monkeypatch.setattr(IvfPq, "search", spy)
    found = world.ask(allowed)
    assert masks == [None]
    assert_all_that_match(found, allowed, 10)
    assert recall(found, expected) >= TARGET

    # What a text asks for was removed: its answers lie farther off than was measured, and are looked for anew.
    masks.clear()
    allowed = world.library.alive.copy()
    allowed[world.brute_force(allowed, 30).rows[0]] = False
    found = world.ask(allowed, rows=slice(0, 1))
    assert len(masks) >= 3
    assert masks[0] is None
    assert np.isin(world.brute_force(allowed).rows[0], found.rows[0]).mean() >= TARGET


def test_empty_lists_are_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first search finds nothing, and so does one twice as wide: that is no reason to be content, nor to scan all.
    measured = world.calibration.settings
    nearest = world.index.scan(world.index.routes(world.texts[:1], 3 * measured.nprobe), N).rows
    allowed = world.library.alive.copy()
    allowed[nearest[nearest >= 0]] = False
    assert np.count_nonzero(allowed) > N / 4
    expected = world.brute_force(allowed)
    monkeypatch.delattr(search_module, "search_exact")
    found = world.ask(allowed, rows=slice(0, 1))
    assert_all_that_match(found, allowed, 10)
    assert np.isin(expected.rows[0], found.rows[0]).mean() >= TARGET


def test_a_text_that_stays_unsettled_is_answered_exactly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_twice_the_same(self: IvfPq, queries: NDArray[np.float32], k: int, **rest: object) -> Found:
        return Found(
            np.random.default_rng().integers(N, size=(len(queries), k)), np.zeros((len(queries), k), np.float32)
        )

    monkeypatch.setattr(IvfPq, "search", nothing_twice_the_same)
    allowed = matching(world.library, "bytes % 2 = 0")
    np.testing.assert_array_equal(world.ask(allowed).rows, world.brute_force(allowed).rows)


def test_rows_that_came_after_the_index(world: World) -> None:
    library, covered = world.library, 3 * N // 4
    older = IvfPq.build(
        VectorTable([library.vectors.take(np.arange(covered)).astype(np.float16)], DIM),
        plan_index(covered, DIM, kind=IndexKind.IVFPQ),
    )
    for where in ("bytes % 3 = 0", "bytes % 100 = 42", "true"):
        allowed = matching(library, where)
        found = search(library.vectors, older, world.texts, 10, settings=world.calibration.settings, allowed=allowed)
        assert_all_that_match(found, allowed, 10)
        assert recall(found, world.brute_force(allowed)) >= TARGET
