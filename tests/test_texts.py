"""Text files as passages: what a person wrote, whole and in order, in pieces that an encoder takes in whole."""

import codecs
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsearch.errors import Undecodable
from xsearch.media.texts import PASSAGE_WORDS, captions, passages


def words(n: int, prefix: str = "w") -> str:
    return " ".join(f"{prefix}{i}" for i in range(n))


def test_a_short_text_is_one_passage() -> None:
    assert passages(b"A dog on grass.\n") == ["A dog on grass."]


def test_short_paragraphs_share_a_passage_and_the_next_begins_where_the_words_are_full() -> None:
    first, second, third = words(40, "a"), words(40, "b"), words(1, "c")
    assert passages(f"{first}\n\n{second}\n \t\n{third}\n".encode()) == [f"{first}\n{second}", third]


def test_a_paragraph_of_just_the_limit_is_not_cut() -> None:
    text = words(PASSAGE_WORDS - 1) + ".\nlast"
    assert passages(text.encode()) == [text]


def test_a_long_paragraph_is_cut_after_sentences() -> None:
    sentences = [words(30, prefix) + end for prefix, end in (("a", "."), ("b", "!"), ("c", "?"), ("d", ""))]
    assert passages(" ".join(sentences).encode()) == ["\n".join(sentences[:2]), "\n".join(sentences[2:])]


def test_a_giant_paragraph_without_sentences_is_cut_between_words() -> None:
    found = passages(words(1000).encode())
    assert [len(passage.split()) for passage in found] == [PASSAGE_WORDS] * 12 + [40]
    assert found[1].split()[0] == f"w{PASSAGE_WORDS}"


def test_a_word_without_end_is_one_passage() -> None:
    assert passages(b"x" * 1_000_000) == ["x" * 1_000_000]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße, 世界 🐈".encode(), "Grüße, 世界 🐈"),
        (codecs.BOM_UTF8 + "Grüße".encode(), "Grüße"),
        (codecs.BOM_UTF16_LE + "Grüße 🐈".encode("utf-16-le"), "Grüße 🐈"),
        (codecs.BOM_UTF16_BE + "Grüße 🐈".encode("utf-16-be"), "Grüße 🐈"),
        ("Grüße – „Café“".encode("cp1252"), "Grüße – „Café“"),
        (b"caf\xe9 \x81 undefined in cp1252", "café \N{REPLACEMENT CHARACTER} undefined in cp1252"),
    ],
    ids=["utf-8", "utf-8 with BOM", "utf-16 LE", "utf-16 BE", "cp1252", "none of them"],
)
def test_a_text_is_read_in_the_encoding_it_was_written_in(data: bytes, text: str) -> None:
    assert passages(data) == [text]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_paragraphs_are_found_whatever_ends_a_line(newline: str) -> None:
    first, second = words(50, "a"), words(50, "b")
    assert passages(f"{first}{newline}{newline}{second}".encode()) == [first, second]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b" \n\t\r\n \xc2\xa0", "empty file"),
        (codecs.BOM_UTF8, "empty file"),
        (codecs.BOM_UTF16_LE, "empty file"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "not a text"),
        ("without a BOM".encode("utf-16-le"), "not a text"),
        (codecs.BOM_UTF32_LE + "32 bits".encode("utf-32-le"), "not a text"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "not a text"),
    ],
)
def test_what_holds_no_text_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    for read in (passages, captions):
        with pytest.raises(Undecodable) as refused:
            read(data)
        assert refused.value.reason == reason


def test_captions_are_the_lines_that_say_something() -> None:
    assert captions(b"\xef\xbb\xbfa dog\r\n\r\n  two dogs \n") == ["a dog", "two dogs"]


def test_a_real_readme_keeps_its_words() -> None:
    text = Path(__file__).parents[1].joinpath("demo", "README.md").read_text("utf-8")
    assert " ".join(passages(text.encode())).split() == text.split()


# Few letters, so that blank lines, ends of sentences and odd white space are frequent.
texts = st.text(st.sampled_from("ab.!? \n\r\t\u00a0\u2028\x1cé猫"), max_size=2000) | st.text(
    st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])
)


@given(texts)
def test_no_word_is_lost_or_moved_and_no_passage_is_too_long(text: str) -> None:
    if not text.split():
        return
    found = passages(text.encode())
    assert [word for passage in found for word in passage.split()] == text.split()
    assert all(0 < len(passage.split()) <= PASSAGE_WORDS for passage in found)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20), st.sampled_from(["\n\n", ". ", " "]))
def test_long_texts_keep_their_words_and_fill_their_passages(lengths: list[int], joint: str) -> None:
    text = joint.join(words(length, f"p{i}x") for i, length in enumerate(lengths))
    found = passages(text.encode())
    assert " ".join(found).split() == text.split()
    counts = [len(passage.split()) for passage in found]
    assert max(counts) <= PASSAGE_WORDS
    # Two neighbours that would fit into one passage are one.
    assert all(a + b > PASSAGE_WORDS for a, b in pairwise(counts))
