"""The bank of generic texts: encoded once for a library, and what hits are sure of by it."""

from pathlib import Path

import numpy as np
import pytest

from tests.fakes import DIM, FakeEncoder, picture
from xsearch.bank import FILE, read_bank
from xsearch.indexer import index
from xsearch.probes import probe_texts
from xsearch.ranking.confidence import BANK_SIZE, GOOD_MATCH
from xsearch.searcher import Searcher


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed in range(30):
        picture(tmp_path / "photos" / f"{seed}.png", seed)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    return tmp_path / "data"


def test_it_is_encoded_once(data: Path, tmp_path: Path) -> None:
    again = FakeEncoder()
    index([tmp_path / "photos"], data, again)
    assert again.texts_encoded == []
    asking = FakeEncoder()
    Searcher(data, encoder=asking).query("a dog", kind="image")
    assert asking.texts_encoded == ["a dog"]
    expected = FakeEncoder().encode_texts(probe_texts(BANK_SIZE)).astype(np.float16)
    np.testing.assert_array_equal(read_bank(data, asking), expected.astype(np.float32))


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY damaged", b"\0" * 100])
def test_missing_or_damaged_it_is_encoded_anew(content: bytes | None, data: Path) -> None:
    sure = [hit.confidence for hit in Searcher(data, encoder=FakeEncoder()).query("a dog")]
    (data / FILE).unlink()
    if content is not None:
        (data / FILE).write_bytes(content)
    asking = FakeEncoder()
    np.testing.assert_allclose(
        [hit.confidence for hit in Searcher(data, encoder=asking).query("a dog")], sure, atol=1e-3
    )
    assert len(asking.texts_encoded) == 1 + BANK_SIZE


def test_one_of_another_shape_is_not_used(data: Path) -> None:
    np.save(data / FILE, np.zeros((BANK_SIZE, DIM + 1), np.float16))
    assert read_bank(data, FakeEncoder()).shape == (BANK_SIZE, DIM)


def test_a_picture_is_sure_of_itself_and_of_no_other(data: Path, tmp_path: Path) -> None:
    hits = Searcher(data, encoder=FakeEncoder()).query(image=tmp_path / "photos" / "7.png", k=30)
    assert hits.good_match
    assert hits[0].path.endswith("7.png")
    assert hits[0].confidence is not None
    assert hits[0].confidence > 0.9
    sure = [hit.confidence for hit in hits]
    assert sure == sorted(sure, reverse=True)


def test_where_nothing_is_like_it_no_match_is_good(data: Path) -> None:
    hits = Searcher(data, encoder=FakeEncoder()).query("random words", k=30)  # drawn at random, as those of the bank
    assert not hits.good_match
    assert all(hit.confidence is not None and 0 <= hit.confidence < GOOD_MATCH for hit in hits)


def test_a_library_of_one_answers_with_a_confidence_too(tmp_path: Path) -> None:
    file = picture(tmp_path / "photos" / "one.png", 1)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    searcher = Searcher(tmp_path / "data", encoder=FakeEncoder())
    for hits in (searcher.query("a dog"), searcher.query(image=file)):
        assert [0 <= (hit.confidence or 0) <= 1 for hit in hits] == [True]
