"""Composed queries through `Searcher`, against numpy over the whole library: fusion, exclusion, filters, addresses."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import SPEC, FakeEncoder, an_item, picture, unit_rows
from xsearch.errors import QueryError
from xsearch.library import LibraryWriter
from xsearch.query import Query, Term
from xsearch.ranking.exclusion import SLOPE, VETO
from xsearch.ranking.feedback import moved
from xsearch.searcher import Hits, Searcher
from xsearch.sources import web
from xsearch.types import Kind, item_id
from xsearch.vectors import l2_normalize

N = 900  # all of them are the background, so that the oracle has the same
TOLERANCE = 2e-3  # of a standing, from vectors kept as float16


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    """Vectors that are a little like what `FakeEncoder` makes of some words, each of some others."""
    words = FakeEncoder().encode_texts(["beach", "dog", "people", "sunset"])
    shares = np.random.default_rng(3).random((N, 4)) ** 3
    return l2_normalize(unit_rows(N, seed=4) + shares @ words)


@pytest.fixture(scope="module")
def searcher(rows: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("composed")
    items = [an_item(f"{n}.jpg", width=n, camera="Pixel 7" if n % 10 == 0 else "X100") for n in range(N)]
    with LibraryWriter(folder, SPEC) as writer:
        writer.add(items, rows)
    return Searcher(folder, encoder=FakeEncoder())


def numbers(hits: Hits) -> list[int]:
    return [int(hit.item.path.removesuffix(".jpg")) for hit in hits]


def z(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return (scores - scores.mean(-1, keepdims=True)) / scores.std(-1, keepdims=True)


def assert_best(found: list[int], standing: NDArray[np.float32]) -> None:
    """The items found are those that stand highest, in this order but for what rounding may exchange."""
    best = np.sort(standing)[::-1][: len(found)]
    np.testing.assert_allclose(standing[found], best, atol=TOLERANCE)


BEACH_DOG = Query([Term("beach", 2.0), Term("dog")])


class TestFusion:
    def test_early_is_the_order_of_the_weighted_sum(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        beach, dog = FakeEncoder().encode_texts(["beach", "dog"])
        fused = l2_normalize((2 * beach + dog)[None])[0]
        hits = searcher.query(BEACH_DOG, k=20, fusion="early")
        assert_best(numbers(hits), rows @ fused)
        np.testing.assert_allclose([hit.score for hit in hits], (rows @ fused)[numbers(hits)], atol=TOLERANCE)

    @pytest.mark.parametrize("fusion", ["late", "hybrid"])
    def test_late_is_the_order_of_the_weighted_standings(
        self, fusion: str, searcher: Searcher, rows: NDArray[np.float32]
    ) -> None:
        each = z(FakeEncoder().encode_texts(["beach", "dog"]) @ rows.T)
        assert_best(numbers(searcher.query(BEACH_DOG, k=20, fusion=fusion)), 2 * each[0] + each[1])

    def test_rrf_is_the_order_of_the_reciprocal_ranks(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        each = FakeEncoder().encode_texts(["beach", "dog"]) @ rows.T
        ranks = (-each).argsort(1).argsort(1) + 1
        fused = 2 / (60 + ranks[0]) + 1 / (60 + ranks[1])
        found = numbers(searcher.query(BEACH_DOG, k=20, fusion="rrf"))
        best = np.sort(fused)[::-1][:20]
        np.testing.assert_allclose(fused[found], best, rtol=0.02)

    def test_max_is_the_order_of_the_term_that_an_item_stands_highest_for(
        self, searcher: Searcher, rows: NDArray[np.float32]
    ) -> None:
        cosines = FakeEncoder().encode_texts(["beach", "dog"]) @ rows.T
        each = z(cosines) * [[1.1], [1.0]]
        hits = searcher.query(Query([Term("beach", 1.1), Term("dog")]), k=20, fusion="max")
        found = numbers(hits)
        assert_best(found, each.max(axis=0))
        of_term = each[:, found].argmax(axis=0)
        assert set(of_term) == {0, 1}
        np.testing.assert_allclose([hit.score for hit in hits], cosines[of_term, found], atol=TOLERANCE)
        alone = {hit.item_id: hit for term in ("beach", "dog") for hit in searcher.query(term, k=20)}
        assert all(hit.confidence == pytest.approx(alone[hit.item_id].confidence) for hit in hits)

    def test_what_is_left_out_is_left_out_of_every_term_of_a_maximum(self, searcher: Searcher) -> None:
        query = BEACH_DOG - "people"
        each = [searcher.query(Query([term]) - "people", k=400) for term in BEACH_DOG.terms]
        found = set(numbers(searcher.query(query, k=20, fusion="max")))
        assert found <= {n for hits in each for n in numbers(hits)[:20]}
        assert searcher.query(Query(text="beach") - "people", k=9, fusion="max").hits[0].score == each[0][0].score

    def test_a_text_beside_a_picture(self, searcher: Searcher, tmp_path: Path) -> None:
        file = picture(tmp_path / "dog.png", 5)
        with_path = searcher.query(Query(text="beach") + file, k=5)
        assert numbers(with_path) == numbers(searcher.query("beach", image=file, k=5))
        assert numbers(with_path) == numbers(searcher.query(Query(text="beach") + file.read_bytes(), k=5))
        assert numbers(with_path) != numbers(searcher.query("beach", k=5))

    def test_one_term_has_its_cosines_whatever_the_fusion(self, searcher: Searcher) -> None:
        plain = [(hit.item_id, hit.score) for hit in searcher.query("beach", k=10)]
        for fusion in ("early", "late", "rrf", "hybrid", "max"):
            assert [(hit.item_id, hit.score) for hit in searcher.query("beach", k=10, fusion=fusion)] == plain

    def test_an_unknown_fusion_is_refused(self, searcher: Searcher) -> None:
        with pytest.raises(QueryError, match="no fusion 'sum'; fusions are early, late, rrf, hybrid, max"):
            searcher.query("beach", fusion="sum")


def standing_without(wanted: str, excluded: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) how high items stand for `wanted`, with what standing for `excluded` costs them."""
    keep, leave = FakeEncoder().encode_texts([wanted, excluded])
    freed = keep - (keep @ leave) * leave
    cost = z(rows @ leave)
    return np.where(cost > VETO, -np.inf, z(rows @ freed) - SLOPE * np.maximum(cost, 0))


class TestExclusion:
    @pytest.mark.parametrize("k", [1, 5, 50, 400])
    def test_it_is_a_projection_and_a_veto(self, k: int, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        found = numbers(searcher.query(Query.parse("beach - people"), k=k))
        assert len(found) == k
        assert_best(found, standing_without("beach", "people", rows))

    def test_what_stands_out_for_it_never_comes(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        vetoed = np.flatnonzero(np.isinf(standing_without("beach", "people", rows)))
        assert len(vetoed) > 20
        everything = numbers(searcher.query(Query.parse("beach - people"), k=N))
        assert sorted(everything) == sorted(set(range(N)) - set(vetoed.tolist()))

    def test_a_query_of_exclusions_alone_begins_with_what_is_least_like_them(
        self, searcher: Searcher, rows: NDArray[np.float32]
    ) -> None:
        (people,) = FakeEncoder().encode_texts(["people"])
        assert_best(numbers(searcher.query(Query.parse("- people"), k=10)), -(rows @ people))

    def test_to_leave_out_what_is_asked_for_is_refused(self, searcher: Searcher) -> None:
        with pytest.raises(QueryError, match="leaves out what it asks for"):
            searcher.query(Query.parse("beach - beach"))


class TestFilters:
    @pytest.mark.parametrize(("where", "matches"), [("width < 9", 9), ("camera LIKE 'Pixel%'", 90), ("width >= 0", N)])
    def test_the_best_of_those_that_match(
        self, where: str, matches: int, searcher: Searcher, rows: NDArray[np.float32]
    ) -> None:
        allowed = {"width < 9": range(9), "camera LIKE 'Pixel%'": range(0, N, 10)}.get(where, range(N))
        (beach,) = FakeEncoder().encode_texts(["beach"])
        best = sorted(allowed, key=lambda n: -float(rows[n] @ beach))
        hits = searcher.query("beach", k=50, where=where)
        assert len(hits) == min(50, matches)
        np.testing.assert_allclose((rows @ beach)[numbers(hits)], (rows @ beach)[best[:50]], atol=TOLERANCE)

    def test_with_exclusion_and_fusion(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        standing = standing_without("beach", "people", rows)
        standing[np.arange(N) % 10 != 0] = -np.inf
        found = numbers(searcher.query(Query.parse("beach - people"), k=10, where="camera = 'Pixel 7'"))
        assert_best(found, standing)

    def test_nothing_matches(self, searcher: Searcher) -> None:
        assert len(searcher.query("beach", where="width < 0")) == 0
        assert len(searcher.query("beach", where="kind = 'text'")) == 0

    def test_a_batch_is_answered_each_by_itself(self, searcher: Searcher) -> None:
        queries = [Query.parse(text) for text in ("beach", "beach - people", "2:dog + sunset")]
        batch = searcher.query_batch(queries, k=7, where="width > 100")
        assert [numbers(hits) for hits in batch] == [
            numbers(searcher.query(q, k=7, where="width > 100")) for q in queries
        ]
        assert {hit.kind for hits in batch for hit in hits} == {Kind.IMAGE}


class TestJudgedItems:
    def test_what_is_liked_turns_the_query(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        liked = [hit.item_id for hit in searcher.query("dog", k=2)]
        at = numbers(searcher.query("dog", k=2))
        cosines = rows @ moved(FakeEncoder().encode_texts(["beach"])[0], rows[at], rows[:0])
        cosines[at] = -np.inf  # they are known already
        assert_best(numbers(searcher.query("beach", k=20, more_like=liked)), cosines)

    def test_an_item_of_the_library_is_a_term(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        standing = z(rows[17:18] @ rows.T)[0] + 2 * z(FakeEncoder().encode_texts(["beach"]) @ rows.T)[0]
        standing[17] = -np.inf
        asked = Query.parse(f"2:beach + item:{item_id(Path('/photos/17.jpg'))}")
        assert_best(numbers(searcher.query(asked, k=20)), standing)
        with pytest.raises(QueryError, match="0123456789abcdef is not in the library"):
            searcher.query(Query.parse("beach + item:0123456789abcdef"))

    def test_alone_it_is_a_query(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        found = searcher.query(more_like=["/photos/17.jpg"], k=20)
        standing = rows @ rows[17]
        standing[17] = -np.inf
        assert_best(numbers(found), standing)

    def test_any_of_several_is_a_query_with_the_fusion_max(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        liked = [17, 30, 400]
        found = searcher.query(more_like=[f"/photos/{n}.jpg" for n in liked], k=20, fusion="max")
        standing = z(rows[liked] @ rows.T).max(axis=0)
        standing[liked] = -np.inf
        assert_best(numbers(found), standing)

    def test_what_is_not_liked_is_left_out_with_its_like(self, searcher: Searcher, rows: NDArray[np.float32]) -> None:
        (first, *_) = searcher.query("beach", k=1)
        hits = numbers(searcher.query("beach", k=50, less_like=[first.item_id]))
        at = numbers(searcher.query("beach", k=1))[0]
        assert at not in hits
        before = numbers(searcher.query("beach", k=51))[1:]
        assert (rows[hits] @ rows[at]).mean() < (rows[before] @ rows[at]).mean()

    def test_an_item_that_is_not_there_is_told(self, searcher: Searcher) -> None:
        with pytest.raises(QueryError, match="nonsense is not in the library"):
            searcher.query("beach", more_like=["nonsense"])


class Server(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        if self.path == "/picture.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.content)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    Server.content = picture(tmp_path / "served.png", 9).read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestPicturesByAddress:
    def test_it_is_as_good_as_a_file(self, searcher: Searcher, address: str, tmp_path: Path) -> None:
        by_address = searcher.query(Query.parse(f"{address}/picture.png"), k=5)
        assert numbers(by_address) == numbers(searcher.query(image=tmp_path / "served.png", k=5))

    def test_what_cannot_be_had_is_told_in_one_line(self, searcher: Searcher, address: str) -> None:
        for url, told in (
            (f"{address}/none.png", "404 Not Found; check the address"),
            ("http://127.0.0.1:1/a.png", "cannot be fetched"),
        ):
            with pytest.raises(QueryError) as raised:
                searcher.query(Query.parse(url))
            assert told in str(raised.value)
            assert "\n" not in str(raised.value)

    def test_size_and_time_are_bounded(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(web, "MAX_BYTES", 10)
            with pytest.raises(QueryError, match="name a smaller picture"):
                web.fetch(f"{address}/picture.png")
        monkeypatch.setattr(web, "TIMEOUT_S", 1e-9)
        with pytest.raises(QueryError, match="cannot be fetched"):
            web.fetch(f"{address}/picture.png")
