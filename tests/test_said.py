"""Pictures that are found by what is written about them: texts that belong to them, words in those and in names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import SPEC, FakeEncoder, an_item, unit_rows
from xsearch.library import Library, LibraryWriter
from xsearch.library.pairs import Pairs
from xsearch.library.words import keep_words
from xsearch.query import Query
from xsearch.searcher import Hits, Searcher
from xsearch.types import Embeddings, Item, Kind, item_id
from xsearch.vectors import l2_normalize

N = 300
WHAT = ("beach", "dog", "people", "sunset")
TEXTS = FakeEncoder().encode_texts(WHAT)


def pictures(n: int = N) -> tuple[list[Item], Embeddings]:
    """Return pictures, each a little like some of `WHAT`."""
    shares = np.random.default_rng(3).random((n, len(WHAT))) ** 3
    return [an_item(f"IMG_{1000 + at}.jpg") for at in range(n)], l2_normalize(unit_rows(n, seed=4) + shares @ TEXTS)


def caption(of: str, text: str) -> Item:
    return an_item("captions.csv", kind=Kind.TEXT, part=f"{of} {text}", pair=item_id(Path("/photos", of)), text=text)


def library(folder: Path, items: Sequence[Item], vectors: Embeddings, bury: Sequence[int] = ()) -> Searcher:
    with LibraryWriter(folder, SPEC) as writer:
        writer.add(list(items), vectors)
        writer.bury(bury)
        keep_words(writer)
    return Searcher(folder, encoder=FakeEncoder())


def names(hits: Hits) -> list[str]:
    return [hit.item.path for hit in hits]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """Pictures that nothing is written about."""
    return library(tmp_path_factory.mktemp("bare"), *pictures())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """The same, with captions of every tenth."""
    items, vectors = pictures()
    rng = np.random.default_rng(5)
    captions = [caption(item.path, str(rng.choice(WHAT)) + f" {at}") for at, item in enumerate(items[::10])]
    near = l2_normalize(
        FakeEncoder().encode_texts([str(item.text).split()[0] for item in captions]) * 4 + unit_rows(30)
    )
    return library(tmp_path_factory.mktemp("told"), [*items, *captions], np.concatenate([vectors, near]))


def test_a_name_is_found(bare: Searcher) -> None:
    hits = bare.query("IMG_1207", k=5)
    assert names(hits)[0] == "IMG_1207.jpg"
    assert hits.good_match
    assert hits[0].confidence is not None
    assert hits[0].confidence >= 0.9
    assert names(hits)[1:] == names(bare.query("IMG_1207", k=5, words=False))[: len(hits) - 1]


def test_names_change_nothing_where_they_hold_no_word(bare: Searcher) -> None:
    assert bare.query("dog", k=N).hits == bare.query("dog", k=N, words=False).hits


def test_a_word_of_a_caption_is_found_at_its_picture(tmp_path: Path) -> None:
    items, vectors = pictures()
    searcher = library(
        tmp_path, [*items, caption("IMG_1007.jpg", "Anna at the lake")], np.vstack([vectors, unit_rows(1)])
    )
    for kind in ("any", "image"):
        hits = searcher.query("Anna", k=3, kind=kind)
        assert names(hits)[0] == "IMG_1007.jpg"
    assert searcher.query("Anna", k=1, kind="text")[0].text == "Anna at the lake"
    assert [hit.kind for hit in searcher.query("Anna", k=N + 1, group="none")].count(Kind.TEXT) == 1


@given(
    text=st.sampled_from([*WHAT, "nothing", "beach dog people sunset", "IMG_1001", "x" * 300]),
    seed=st.integers(0, 100),
    asked=st.sampled_from([*WHAT, "a dog on the beach"]),
    place=st.integers(0, 9),
)
@settings(deadline=None, max_examples=40)
def test_adding_text_never_hides_a_picture(
    tmp_path_factory: pytest.TempPathFactory, bare: Searcher, text: str, seed: int, asked: str, place: int
) -> None:
    before = names(bare.query(asked, k=10))
    items, vectors = pictures()
    vector = FakeEncoder().encode_texts([text]) if seed % 2 else unit_rows(1, seed=seed)
    folder = tmp_path_factory.mktemp("one")
    searcher = library(folder, [*items, caption(before[place], text)], np.vstack([vectors, vector]))
    after = names(searcher.query(asked, k=10))
    assert after.index(before[place]) <= place
    assert [name for name in after if name != before[place]] == [name for name in before if name != before[place]]


def test_a_picture_and_its_caption_are_one_hit(told: Searcher) -> None:
    found = names(told.query("dog", k=N + 30))
    assert sorted(found) == sorted(item.path for item in pictures()[0])
    assert len(told.query("dog", k=N + 30, group="none")) == N + 30
    assert len(told.query("dog", k=N, kind="text")) == 30


def test_what_stands_out_of_the_texts_is_shown_and_lifts_its_picture(told: Searcher, bare: Searcher) -> None:
    hits, without = told.query("dog", k=N, words=True), bare.query("dog", k=N)
    spoken = {hit.item.path: hit.text for hit in hits if hit.text is not None}
    assert spoken
    assert all(str(text).startswith("dog") for text in spoken.values())
    rank, rank_without = ({name: at for at, name in enumerate(names(found))} for found in (hits, without))
    assert all(rank[name] <= rank_without[name] for name in spoken)
    others = [name for name in names(hits) if name not in spoken]
    assert others == [name for name in names(without) if name not in spoken]


def test_a_condition_is_one_on_pictures(told: Searcher) -> None:
    found = told.query("dog", k=5, where="name = 'IMG_1010.jpg'")
    assert names(found) == ["IMG_1010.jpg"]


def test_what_is_called_by_an_excluded_text_is_left_out(bare: Searcher, told: Searcher) -> None:
    first = names(bare.query("dog", k=1))[0]
    asked = Query(text="dog") - first.removesuffix(".jpg")
    assert first in names(bare.query(asked, k=N, words=False))
    assert first not in names(bare.query(asked, k=N))
    said = {hit.item.path for hit in told.query(Query(text="dog") - "beach", k=N)}
    of_beach = {item.path for item in pictures()[0][::10]} - said
    assert of_beach
    items = told.library.items(np.arange(N, N + 30))
    assert of_beach >= {f"IMG_{1000 + 10 * at}.jpg" for at, item in enumerate(items) if "beach" in str(item.text)}


def test_damaged_words_are_told_and_done_without(tmp_path: Path) -> None:
    library(tmp_path, *pictures(20))
    (tmp_path / "words" / "meta.json").write_text("{}")
    warnings: list[str] = []
    searcher = Searcher(tmp_path, encoder=FakeEncoder(), on_warning=warnings.append)
    assert len(searcher.query("IMG_1003", k=20)) == 20
    assert len(warnings) == 1
    assert "index of words" in warnings[0]


def test_pairs_against_a_plain_look(told: Searcher, tmp_path: Path) -> None:
    items, vectors = pictures(20)
    captions = [caption(f"IMG_{1000 + at}.jpg", f"text {n}") for n, at in enumerate([3, 5, 3, 7, 999])]
    searcher = library(tmp_path, [*items, *captions], np.vstack([vectors, unit_rows(5)]), bury=[7, 22])
    pairs = Pairs(searcher.library)
    assert len(pairs) == 2
    assert {row: int(item) for row, item in enumerate(pairs.item_of) if item >= 0} == {20: 3, 21: 5}
    texts, position = pairs.texts_of(np.array([5, 3, 4]))
    assert (texts.tolist(), position.tolist()) == ([21, 20], [0, 1])
    assert len(Pairs(Library.open(told.library.folder))) == 30
