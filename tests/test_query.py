"""The query language: what is a sign, a weight, a picture, a quote; and back to text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from xsearch.errors import QueryError
from xsearch.query import MAX_CHARS, MAX_TERMS, Picture, Query, Term


def text(content: str, weight: float = 1.0) -> Term:
    return Term(content, weight)


def image(source: str, weight: float = 1.0) -> Term:
    return Term(Picture(source), weight)


def no(content: str, weight: float = 1.0) -> Term:
    return Term(content, weight, excluded=True)


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        ("a beach at sunset", [text("a beach at sunset")]),
        ("  a  cat\ton grass \n", [text("a  cat\ton grass")]),
        ("a beach + ./dog.jpg - people", [text("a beach"), image("./dog.jpg"), no("people")]),
        (
            '2:"golden retriever" + ./pool.jpg - 0.5:fruit',
            [text("golden retriever", 2), image("./pool.jpg"), no("fruit", 0.5)],
        ),
        # A shell has taken the quotes away.
        (
            "2:golden retriever + ./pool.jpg - 0.5:fruit",
            [text("golden retriever", 2), image("./pool.jpg"), no("fruit", 0.5)],
        ),
        ("- people", [no("people")]),
        ("-people - cars", [no("people"), no("cars")]),
        ('-"people"', [no("people")]),
        ("-0.5:fruit", [no("fruit", 0.5)]),
        ("+ ./dog.jpg", [image("./dog.jpg")]),
        ("dog\n-\tcat", [text("dog"), no("cat")]),
    ],
)
def test_terms_are_joined_by_signs_that_stand_alone(typed: str, terms: list[Term]) -> None:
    assert Query.parse(typed) == Query(terms)


@pytest.mark.parametrize(
    "sentence",
    [
        "a black-and-white photo of a t-shirt",
        "C++ and A+ grades",
        "-5 degrees",
        "it is -5 degrees",
        "+1 button",
        "Sonnenauf- und -untergang",
        "16:9 monitor",
        "12:30 clock",
        "2: the return",
        "ratio 2:cat",
        "1/2 cup and/or milk",
        "'tis the season of rock 'n' roll",
        '"stop" sign',
        'a 7" single and a 12" record',
        r"¯\_(ツ)_/¯",
        "image: a dog",
        "what is https://example.org",
    ],
)
def test_a_plain_sentence_is_one_text_as_it_was_typed(sentence: str) -> None:
    assert Query.parse(sentence) == Query(text=sentence)


@pytest.mark.parametrize(
    ("typed", "term"),
    [
        ("2:cat", text("cat", 2)),
        (".5:猫", text("猫", 0.5)),
        ('3:"16:9 monitor"', text("16:9 monitor", 3)),
        ("0.25:./cat.jpg", image("./cat.jpg", 0.25)),
        ("1e-3:https://example.org/a.jpg", image("https://example.org/a.jpg", 0.001)),
        ('2:image:"cat.jpg"', image("cat.jpg", 2)),
    ],
)
def test_a_weight_stands_directly_before_its_term(typed: str, term: Term) -> None:
    assert Query.parse(typed) == Query([term])


@pytest.mark.parametrize(
    "source",
    [
        "./dog.jpg",
        "../my dogs/+1.jpg",
        "/photos/dog.jpg",
        "~/dog.jpg",
        r"C:\photos\new\dog.jpg",
        "d:/dog.jpg",
        r".\dog.jpg",
        "https://example.org/a-b.jpg?x=1+2",
        "HTTP://127.0.0.1:8000/dog.jpg",
    ],
)
def test_a_path_or_address_is_a_picture_and_taken_as_typed(source: str) -> None:
    assert Query.parse(f"{source} - cat") == Query([image(source), no("cat")])


def test_only_an_address_is_a_url() -> None:
    assert Picture("HTTPS://example.org/a.jpg").is_url
    assert not Picture("./https.jpg").is_url
    assert not Picture(b"http://").is_url


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        ('"a + b" - "./c.jpg"', [text("a + b"), no("./c.jpg")]),
        ("'a - b'", [text("a - b")]),
        ("'the boys' toys' + 'n'", [text("the boys' toys"), text("n")]),
        ('" cat "', [text(" cat ")]),
        (r'"a \"big\" cat\\dog"', [text(r'a "big" cat\dog')]),
        ('a sign that says "A + B" - dog', [text('a sign that says "A + B"'), no("dog")]),
        ('2:"a + b" cat', [text('"a + b" cat', 2)]),
        (r"black \+ white", [text("black + white")]),
        (r"\"stop\" - \'go", [text('"stop"'), no("'go")]),
        (r"2\:cat", [text("2:cat")]),
        ('image:"dog + cat.jpg"', [image("dog + cat.jpg")]),
    ],
)
def test_quotes_and_backslashes_take_signs_literally(typed: str, terms: list[Term]) -> None:
    assert Query.parse(typed) == Query(terms)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "the query is empty"),
        (" \n", "the query is empty"),
        ('""', "empty at column 1"),
        ('a + " "', "empty at column 5"),
        ("+", "missing at column 2"),
        ("a + - b", "missing at column 5"),
        ("a dog -", "missing at column 8"),
        ('a + "cat', "quote at column 5 is not closed"),
        ('image:"a.jpg" cat', "quote at column 7 is not closed"),
        ("a + 0:cat", "0 is no weight at column 5"),
        ("1e999:cat", "inf is no weight at column 1"),
        ("https://example.org/a.jpg on grass", "address at column 1 holds white space"),
        ("a + caf\udce9", "not UTF-8 at column 5"),
        ("a" * (MAX_CHARS + 1), "200,001 characters"),
        (" + ".join("a" * (MAX_TERMS + 1)), "65 terms"),
    ],
)
def test_an_error_tells_where_and_what_mends_it(typed: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        Query.parse(typed)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_the_limits_themselves_are_allowed() -> None:
    assert len(Query.parse(" + ".join("a" * MAX_TERMS)).terms) == MAX_TERMS
    assert Query.parse("a" * MAX_CHARS) == Query(text="a" * MAX_CHARS)


def test_operators_build_what_is_typed() -> None:
    beach = Query(text="a beach")
    assert beach + Path("dog.jpg") - "people" == Query([text("a beach"), image("dog.jpg"), no("people")])
    assert 2 * beach == beach * 2 == Query.parse("2:a beach")
    assert beach + "./dog.jpg - cat" == Query([text("a beach"), text("./dog.jpg - cat")])
    assert Query(text="a", image="b.jpg") == Query([text("a"), image("b.jpg")])


def test_taking_a_query_away_turns_its_signs() -> None:
    difference = Query(text="a") - 0.5 * Query.parse("b - 4:c")
    assert difference == Query([text("a"), no("b", 0.5), text("c", 2)])
    assert difference.wanted == (text("a"), text("c", 2))
    assert difference.excluded == (no("b", 0.5),)


def test_pixels_and_bytes_are_carried_along() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    with Image.new("RGB", (2, 2)) as opened:
        query = Query(text="a") + pixels - opened + b"\xff\xd8"
        assert [term.content.source for term in query.terms[1:] if isinstance(term.content, Picture)] == [
            pixels,
            opened,
            b"\xff\xd8",
        ]
        assert str(query) == "a + image:<ndarray> - image:<Image> + image:<bytes>"
    assert Picture(pixels) == Picture(pixels) != Picture(pixels.copy())
    assert len({Picture("a"), Picture("a"), Picture(pixels), Picture(pixels)}) == 2


@pytest.mark.parametrize("nothing", [3, None, ["./a.jpg"]])
def test_what_is_no_picture_is_refused(nothing: object) -> None:
    with pytest.raises(TypeError, match="a picture is a path"):
        Picture(nothing)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_are_finite_and_above_zero(weight: float) -> None:
    with pytest.raises(QueryError, match="is no weight"):
        weight * Query(text="a")


def test_a_query_of_nothing_is_refused() -> None:
    with pytest.raises(QueryError, match="empty"):
        Query()


# Made of what means something in the grammar, so that collisions are frequent.
_PIECES = st.sampled_from(
    ["+", "-", " ", '"', "'", "\\", ":", "2:", "./", "/", "C:\\", "image:", "https://", "a", "é", "5"]
)
_WRITTEN = (st.text(max_size=12) | st.lists(_PIECES, min_size=1, max_size=8).map("".join)).filter(str.strip)
_CONTENTS = _WRITTEN | _WRITTEN.map(Picture)
_WEIGHTS = st.just(1.0) | st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
_TERMS = st.builds(Term, _CONTENTS, _WEIGHTS, st.booleans())


@given(st.lists(_TERMS, min_size=1, max_size=5))
@example([text("'tis + x"), text("boys'")])
@example([text("9 cats", 2), no("-x"), image("a b.jpg", 1e-300)])
def test_the_canonical_form_parses_to_the_same_query(terms: list[Term]) -> None:
    query = Query(terms)
    assert Query.parse(str(query)) == query


@given(st.lists(_PIECES, max_size=12).map("".join) | st.text(max_size=30))
def test_any_text_is_a_query_or_a_query_error(typed: str) -> None:
    try:
        query = Query.parse(typed)
    except QueryError:
        return
    assert Query.parse(str(query)) == query


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyzéß猫,.!?", min_size=2), min_size=1).map(" ".join))
def test_words_alone_are_one_text(sentence: str) -> None:
    assert Query.parse(f" {sentence}\n") == Query(text=sentence)
