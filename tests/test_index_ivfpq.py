import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

import xsearch.index.search as search_module
from xsearch.errors import LibraryDamaged
from xsearch.index import gpu
from xsearch.index.calibrate import ONE_SIDED_95, calibrate, wilson_low
from xsearch.index.candidates import Candidates
from xsearch.index.exact import search_exact
from xsearch.index.ivfpq import IvfPq
from xsearch.index.live import FaissBuild, live_faiss
from xsearch.index.plan import IndexKind, SearchSettings, plan_index
from xsearch.index.search import search
from xsearch.vectors import VectorTable, l2_normalize

N, DIM = 12_000, 128
ALL_LISTS = SearchSettings(nprobe=1 << 20, depth=400)


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """Pictures in 300 groups around one direction, texts about the same groups around another."""

    pictures: NDArray[np.float16]
    texts: NDArray[np.float32]


def make_world(n: int, dim: int, n_texts: int, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, dim + 1) ** -0.5
    spectrum /= np.linalg.norm(spectrum)
    groups = rng.standard_normal((300, dim)) * spectrum
    picture_cone, text_cone = np.linalg.qr(rng.standard_normal((dim, 2)))[0].T

    def content(count: int, jitter: float) -> NDArray[np.float32]:
        return l2_normalize(
            groups[rng.integers(len(groups), size=count)] + jitter * rng.standard_normal((count, dim)) * spectrum
        )

    pictures = l2_normalize(picture_cone + content(n, 0.7)).astype(np.float16)
    texts = l2_normalize(0.4 * picture_cone + 0.9 * text_cone + content(n_texts, 1.2))
    return World(pictures, texts)


def units(n: int, dim: int, seed: int = 0) -> NDArray[np.float16]:
    return l2_normalize(np.random.default_rng(seed).standard_normal((n, dim))).astype(np.float16)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(N, DIM, 2_000)


@pytest.fixture(scope="module")
def table(world: World) -> VectorTable:
    return VectorTable([world.pictures[:9_000], world.pictures[9_000:]], DIM)


@pytest.fixture(scope="module")
def index(table: VectorTable) -> IvfPq:
    return IvfPq.build(table, plan_index(N, DIM, kind=IndexKind.IVFPQ))


def recall(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found, expected, strict=True)]))


def test_calibrated_on_texts_it_reaches_the_target_on_other_texts(
    index: IvfPq, table: VectorTable, world: World
) -> None:
    calibration = calibrate(index, table, world.texts[:1_000], 0.95)
    assert calibration.met
    assert 0.95 <= calibration.recall_low < calibration.recall
    assert calibration.n_queries == 1_000

    exact = search_exact(table, world.texts, 10)
    found = search(table, index, world.texts, 10, settings=calibration.settings)
    assert recall(found.rows[1_000:], exact.rows[1_000:]) >= 0.95
    # What is promised is what a search then does.
    assert recall(found.rows[:1_000], exact.rows[:1_000]) == pytest.approx(calibration.recall, abs=1e-9)

    # A cheaper step in either direction would not have met it.
    cheaper = SearchSettings(calibration.settings.nprobe // 2, calibration.settings.depth)
    halved = recall(search(table, index, world.texts[:1_000], 10, settings=cheaper).rows, exact.rows[:1_000])
    assert wilson_low(halved, 1_000) < 0.95


def test_more_answers_are_found_as_surely(index: IvfPq, table: VectorTable, world: World) -> None:
    settings = calibrate(index, table, world.texts[:1_000], 0.95).settings
    exact = search_exact(table, world.texts[1_000:], 200).rows
    for k in (20, 50, 100, 200):
        found = search(table, index, world.texts[1_000:], k, settings=settings).rows
        assert recall(found, exact[:, :k]) >= 0.95
    # Candidates for something else need not be.
    candidates = search(table, index, world.texts[1_000:], 200, sure=10, settings=settings).rows
    assert recall(candidates, exact) < 0.95
    assert recall(candidates[:, :10], exact[:, :10]) >= 0.95


def test_too_few_queries_prove_nothing(index: IvfPq, table: VectorTable, world: World) -> None:
    calibration = calibrate(index, table, world.texts[:5], 0.95)
    assert not calibration.met
    assert calibration.recall == 1.0
    assert calibration.recall_low == pytest.approx(5 / (5 + ONE_SIDED_95**2))


@pytest.mark.parametrize(("share", "n"), [(0.96, 1000), (0.5, 7), (1.0, 20), (0.01, 300)])
def test_the_bound_solves_the_score_equation(share: float, n: int) -> None:
    low = wilson_low(share, n)
    assert share - low == pytest.approx(ONE_SIDED_95 * (low * (1 - low) / n) ** 0.5)
    assert wilson_low(0.0, n) == 0.0


def test_copies_tie_in_calibration() -> None:
    # 40 copies of each of 100 vectors: any ten of the nearest forty are right.
    pictures = np.repeat(units(100, DIM), 40, axis=0)
    table = VectorTable([pictures], DIM)
    index = IvfPq.build(table, plan_index(len(pictures), DIM, kind=IndexKind.IVFPQ))
    queries = units(200, DIM, seed=1).astype(np.float32)
    assert calibrate(index, table, queries, 0.95).recall >= 0.95


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 0.001, 0.0])
@pytest.mark.parametrize("selective_rows", [0, search_module.SELECTIVE_ROWS])
def test_every_filter_gives_all_it_can_and_only_what_it_allows(
    index: IvfPq,
    table: VectorTable,
    world: World,
    share: float,
    selective_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_module, "SELECTIVE_ROWS", selective_rows)
    allowed = np.random.default_rng(1).random(N) < share
    queries, k = world.texts[:40], 50
    found = search(table, index, queries, k, settings=SearchSettings(nprobe=8, depth=100), allowed=allowed)
    for row, scores in zip(found.rows, found.scores, strict=True):
        given = row[row >= 0]
        assert len(given) == min(k, np.count_nonzero(allowed)) == len(np.unique(given))
        assert allowed[given].all()
        assert (np.diff(scores[: len(given)]) <= 0).all()
        assert (scores[len(given) :] == -np.inf).all()
    exact = search_exact(table, queries, k, allowed=allowed)
    if 0 < np.count_nonzero(allowed) <= selective_rows:
        np.testing.assert_array_equal(found.rows, exact.rows)
    elif share:
        assert recall(found.rows, exact.rows) > 0.75


def test_the_filter_works_inside_the_index(index: IvfPq, table: VectorTable, world: World) -> None:
    allowed = np.random.default_rng(2).random(N) < 0.005
    found = index.search(world.texts[:20], 10, vectors=table, settings=ALL_LISTS, allowed=allowed)
    np.testing.assert_array_equal(found.rows, search_exact(table, world.texts[:20], 10, allowed=allowed).rows)


def test_lists_with_too_few_rows_are_made_up_for(index: IvfPq, table: VectorTable, world: World) -> None:
    settings = SearchSettings(nprobe=1, depth=1_000)
    queries = world.texts[:5]
    assert (index.search(queries, 1_000, vectors=table, settings=settings).rows[:, -1] == -1).all()
    found = search(table, index, queries, 1_000, settings=settings)
    np.testing.assert_array_equal(found.rows, search_exact(table, queries, 1_000).rows)


def test_scores_are_those_of_exact_search(index: IvfPq, table: VectorTable, world: World) -> None:
    found = search(table, index, world.texts[:50], 10, settings=ALL_LISTS)
    exact = search_exact(table, world.texts[:50], 10)
    same = found.rows == exact.rows
    assert same.mean() > 0.95
    np.testing.assert_array_equal(found.scores[same], exact.scores[same])


def test_rows_added_since_are_found(world: World, table: VectorTable) -> None:
    older = VectorTable([world.pictures[:9_000]], DIM)
    index = IvfPq.build(older, plan_index(9_000, DIM, kind=IndexKind.IVFPQ))
    assert index.rows == 9_000
    added = np.arange(9_000, N, 100)
    found = search(table, index, table.take(added), 3, settings=SearchSettings(4, 100))
    np.testing.assert_array_equal(found.rows[:, 0], added)
    exact = search_exact(table, world.texts[:100], 10).rows
    merged = search(table, index, world.texts[:100], 10, settings=ALL_LISTS).rows
    assert recall(merged, exact) > 0.97
    calibration = calibrate(index, table, world.texts[:300], 0.9)
    assert calibration.met


def test_rows_that_were_dead_at_the_build_are_not_in_the_index(world: World, table: VectorTable) -> None:
    live = np.random.default_rng(3).random(N) < 0.5
    steps: list[tuple[int, int]] = []
    plan = plan_index(N, DIM, kind=IndexKind.IVFPQ)
    index = IvfPq.build(table, plan, allowed=live, on_progress=lambda added, total: steps.append((added, total)))
    rows = index.scan(index.routes(world.texts[:100], index.nlist), ALL_LISTS.depth).rows
    assert (rows[:, :380] >= 0).all()
    assert live[rows[rows >= 0]].all()
    assert index.rows == N
    assert steps[-1] == (N, N)
    assert [added for added, _ in steps] == sorted({added for added, _ in steps})


def test_settings_travel_with_the_query(index: IvfPq, table: VectorTable, world: World) -> None:
    allowed = np.random.default_rng(4).random(N) < 0.6
    work = [
        (SearchSettings(1, 20), None),
        (SearchSettings(16, 200), None),
        (SearchSettings(128, 50), allowed),
        (SearchSettings(4, 800), ~allowed),
    ]

    def answer(i: int) -> NDArray[np.int64]:
        settings, mask = work[i % len(work)]
        return search(table, index, world.texts[:30], 10, settings=settings, allowed=mask).rows

    alone = [answer(i) for i in range(len(work))]
    assert not np.array_equal(alone[0], alone[1])
    with ThreadPoolExecutor(4) as pool:
        for i, together in enumerate(pool.map(answer, range(40))):
            np.testing.assert_array_equal(together, alone[i % len(work)])


def test_a_build_is_repeatable(table: VectorTable, index: IvfPq, world: World) -> None:
    again = IvfPq.build(table, plan_index(N, DIM, kind=IndexKind.IVFPQ))
    first, second = (one.scan(one.routes(world.texts[:50], 8), 50).rows for one in (index, again))
    assert recall(first, second) > 0.999


@pytest.mark.parametrize("hnsw", [False, True])
def test_a_saved_index_answers_the_same_even_when_its_file_is_gone(
    hnsw: bool, world: World, table: VectorTable, tmp_path: Path
) -> None:
    plan = dataclasses.replace(plan_index(N, DIM, kind=IndexKind.IVFPQ), hnsw=hnsw)
    built = IvfPq.build(table, plan)
    built.save(tmp_path / "1.faiss")
    opened = IvfPq.open(tmp_path / "1.faiss")
    (tmp_path / "1.faiss").unlink()
    assert (opened.rows, opened.dim, opened.nlist, opened.code_bytes) == (N, DIM, plan.nlist, plan.code_bytes)
    for settings in (SearchSettings(8, 100), SearchSettings(plan.nlist, 400)):
        before = built.search(world.texts[:50], 10, vectors=table, settings=settings)
        after = opened.search(world.texts[:50], 10, vectors=table, settings=settings)
        np.testing.assert_array_equal(before.rows, after.rows)
        np.testing.assert_array_equal(before.scores, after.scores)
    assert recall(after.rows, search_exact(table, world.texts[:50], 10).rows) > 0.97


def test_rows_added_through_hnsw_lie_where_their_query_looks(table: VectorTable) -> None:
    plan = dataclasses.replace(plan_index(N, DIM, kind=IndexKind.IVFPQ), nlist=2_048, hnsw=True)
    rows = np.arange(0, N, 6)
    index = IvfPq.build(table, plan)
    nearest_list = index.scan(index.routes(table.take(rows), nprobe=1), 200)
    assert np.mean((nearest_list.rows == rows[:, None]).any(axis=1)) > 0.999


def damaged_copies(whole: bytes) -> Iterator[bytes]:
    for size in (0, 1, 23, 24, 25, 1_000, len(whole) // 2, len(whole) - 1):
        yield whole[:size]
    yield b"not an index at all" * 100
    yield whole[:-24] + b"x" + whole[-24:]
    yield b"????" + whole[4:]  # the name of the index type


def test_a_damaged_file_is_an_error_not_a_crash(index: IvfPq, tmp_path: Path) -> None:
    index.save(tmp_path / "whole.faiss")
    for i, content in enumerate(damaged_copies((tmp_path / "whole.faiss").read_bytes())):
        path = tmp_path / f"{i}.faiss"
        path.write_bytes(content)
        with pytest.raises(LibraryDamaged, match=path.name):
            IvfPq.open(path)
    with pytest.raises(LibraryDamaged, match=r"missing\.faiss"):
        IvfPq.open(tmp_path / "missing.faiss")


@pytest.mark.parametrize("dim", [384, 100, 5, 1])
@pytest.mark.parametrize("n", [1, 5, 30, 300])
def test_a_forced_index_of_a_few_vectors(n: int, dim: int, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = VectorTable([units(n, dim)], dim)
    plan = plan_index(n, dim, kind=IndexKind.IVFPQ)
    IvfPq.build(table, plan).save(tmp_path / "few.faiss")
    index = IvfPq.open(tmp_path / "few.faiss")
    queries = units(4, dim, seed=1).astype(np.float32)
    found = search(table, index, queries, 10, settings=plan.settings)
    np.testing.assert_array_equal(found.rows, search_exact(table, queries, 10).rows)
    assert calibrate(index, table, queries, 0.9).n_queries == 4
    assert capfd.readouterr() == ("", "")


def test_an_index_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no vectors"):
        IvfPq.build(VectorTable([], 8), plan_index(0, 8, kind=IndexKind.IVFPQ))


def test_an_empty_library_gives_nothing() -> None:
    found = search(VectorTable([], 8), None, units(2, 8).astype(np.float32), 3)
    assert (found.rows == -1).all()
    assert (found.scores == -np.inf).all()


def test_wrong_queries_are_refused(table: VectorTable, index: IvfPq, world: World) -> None:
    query = world.texts[:1].copy()
    with pytest.raises(ValueError, match="128 dimensions"):
        search(table, index, query[:, :5], 3, settings=ALL_LISTS)
    with pytest.raises(ValueError, match="mask of shape"):
        search(table, index, query, 3, settings=ALL_LISTS, allowed=np.ones(5, np.bool_))
    with pytest.raises(ValueError, match="needs settings"):
        search(table, index, query, 3)
    query[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        search(table, index, query, 3, settings=ALL_LISTS)


def test_exact_search_loads_no_faiss() -> None:
    script = """
import sys
import numpy as np
import xsearch.index.calibrate, xsearch.index.live
from xsearch.index.search import search
from xsearch.vectors import VectorTable
print(search(VectorTable([np.eye(4, dtype=np.float16)], 4), None, np.eye(4, dtype=np.float32)[2:3], 1).rows)
print("faiss" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[[2]]", "False"]


def test_the_live_faiss_is_told() -> None:
    import faiss

    live = live_faiss()
    assert live.version == faiss.__version__
    assert live.distributions
    assert all(name.startswith("faiss") for name in live.distributions)
    assert live.conflict == (len(live.distributions) > 1)
    assert FaissBuild("1", ("faiss-cpu", "faiss-gpu"), 0).conflict


def test_candidates_that_tie_at_the_end_are_left_out_together() -> None:
    inf = np.float32(np.inf)
    scores = np.array([[9, 8, 8, 7], [9, 8, 8, 8], [8, 8, 8, 8], [9, 8, -inf, -inf]], np.float32)
    rows = np.where(scores > -inf, np.arange(16).reshape(4, 4), -1)
    candidates = Candidates(rows, scores)
    assert candidates.kept(3).tolist() == [3, 1, 0, 2]
    assert candidates.kept(2).tolist() == [1, 1, 0, 2]
    # Fewer than two are kept of the second and the third, and there are more.
    assert candidates.is_cut(3, candidates.kept(3), 2).tolist() == [False, True, True, False]
    assert candidates.is_cut(3, candidates.kept(3), 3).tolist() == [False, True, True, False]


@pytest.mark.parametrize("copies", [100, 3_000])
def test_of_many_copies_the_first_rows_are_found(copies: int) -> None:
    """Their codes tie. The search goes deeper, or scans all rows where that is cheaper."""
    pictures = units(20_000, DIM)
    pictures[5_000 : 5_000 + copies] = pictures[5_000]
    table = VectorTable([pictures], DIM)
    index = IvfPq.build(table, plan_index(len(pictures), DIM, kind=IndexKind.IVFPQ))
    query = pictures[5_000:5_001].astype(np.float32)
    found = search(table, index, query, 10, settings=SearchSettings(nprobe=4, depth=50))
    assert found.rows.tolist() == [list(range(5_000, 5_010))]
    deep = index.search(query, 10, vectors=table, settings=SearchSettings(nprobe=4, depth=50)).rows
    assert (deep[0] >= 0).all() == (copies == 100)


class Gpus:
    """Stands in for two GPUs: it hands back flat indexes of the CPU, and keeps them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.indexes: list[faiss.IndexFlatIP] = []
        monkeypatch.setattr(gpu, "gpu_count", lambda: 2)
        monkeypatch.setattr(gpu, "LEAST_ROWS", 1_000)
        monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", self.moved, raising=False)

    def moved(self, index: faiss.IndexFlatIP) -> faiss.IndexFlatIP:
        assert index.ntotal == 0
        self.indexes.append(index)
        return index


def quantizer_of(index: IvfPq) -> type:
    return type(faiss.downcast_index(index._ivf.quantizer))


@pytest.mark.parametrize("hnsw", [False, True])
def test_centroids_are_found_by_gpus_and_the_index_is_the_same(
    table: VectorTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hnsw: bool
) -> None:
    plan = dataclasses.replace(plan_index(N, DIM, kind=IndexKind.IVFPQ), hnsw=hnsw)
    first = VectorTable([table.take(np.arange(9_000)).astype(np.float16)], DIM)
    on_cpu = IvfPq.build(first, plan)
    gpus = Gpus(monkeypatch)
    on_gpus = IvfPq.build(first, plan)
    assert [index.ntotal for index in gpus.indexes] == [plan.nlist, plan.nlist]  # for training, and for adding
    assert quantizer_of(on_gpus) is (faiss.IndexHNSWFlat if hnsw else faiss.IndexFlatIP)
    meanwhile: list[type] = []
    on_gpus.add(table, on_progress=lambda added, total: meanwhile.append(quantizer_of(on_gpus)))
    assert set(meanwhile) == {faiss.IndexRefine}
    if hnsw:
        # HNSW errs now and then where GPUs compare with every centroid.
        assert on_gpus.rows == N
        return
    on_cpu.add(table)
    for index, name in ((on_cpu, "cpu"), (on_gpus, "gpus")):
        index.save(tmp_path / name)
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "gpus").read_bytes()


def test_an_addition_that_fails_leaves_the_index_its_own_centroids(
    index: IvfPq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.save(tmp_path / "index")
    writable = IvfPq.open(tmp_path / "index", writable=True)
    Gpus(monkeypatch)
    more = VectorTable([units(N + 2_000, DIM)], DIM)

    def give_up(added: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writable.add(more, on_progress=give_up)
    assert quantizer_of(writable) is faiss.IndexFlatIP


def test_few_rows_are_added_before_a_gpu_has_started(
    index: IvfPq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.save(tmp_path / "index")
    gpus = Gpus(monkeypatch)
    IvfPq.open(tmp_path / "index", writable=True).add(VectorTable([units(N + 999, DIM)], DIM))
    assert gpus.indexes == []


@pytest.mark.gpu
def test_an_index_built_on_a_gpu_finds_what_that_of_a_cpu_does(table: VectorTable, world: World) -> None:
    if not gpu.gpu_count():
        pytest.skip("this FAISS finds no GPU: it needs faiss-gpu and an NVIDIA GPU")
    built = IvfPq.build(table, plan_index(N, DIM, kind=IndexKind.IVFPQ))
    found = built.search(world.texts[:200], 10, vectors=table, settings=ALL_LISTS)
    assert recall(found.rows, search_exact(table, world.texts[:200], 10).rows) > 0.99
