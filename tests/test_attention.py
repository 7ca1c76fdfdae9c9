"""Relevance, attention, heat and late interaction against their formulas, and words against tokens of every kind."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import unit_rows
from xsearch.ranking.attention import (
    TypedWord,
    attention,
    heat,
    late_interaction,
    relevance,
    typed_words,
    word_vectors,
)

WORDS, REGIONS, OTHERS = unit_rows(5, seed=1), unit_rows(12, seed=2), unit_rows(20, seed=3)
LOGIT_SCALE = 10.0


def test_relevance_is_the_scaled_cosine_of_each_word_and_region() -> None:
    words = np.array([[1, 0], [0.6, 0.8]], np.float32)
    regions = np.array([[0, 1], [1, 0], [-1, 0]], np.float32)
    np.testing.assert_allclose(relevance(words, regions, 10), [[0, 10, -10], [8, 6, -6]], atol=1e-6)


def test_attention_is_a_softmax_over_the_words_of_a_region() -> None:
    e = np.log([[1.0, 2.0], [3.0, 2.0], [4.0, 4.0]])
    np.testing.assert_allclose(attention(e), [[1 / 8, 1 / 4], [3 / 8, 1 / 4], [4 / 8, 1 / 2]])
    np.testing.assert_array_equal(attention(e[:1]), [[1, 1]])
    assert attention(np.empty((0, 7))).shape == (0, 7)


@given(st.integers(1, 8), st.integers(1, 9), st.floats(0.1, 1000), st.integers(0, 2**32 - 1))
def test_attention_sums_to_one_and_does_not_mind_order_or_what_all_words_share(
    n_words: int, n_regions: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    e = scale * rng.uniform(-1, 1, (n_words, n_regions))
    alpha = attention(e)
    assert alpha.min() >= 0
    np.testing.assert_allclose(alpha.sum(axis=0), 1, rtol=1e-12)
    words, regions = rng.permutation(n_words), rng.permutation(n_regions)
    np.testing.assert_allclose(attention(e[words][:, regions]), alpha[words][:, regions], rtol=1e-9)
    np.testing.assert_allclose(attention(e + rng.uniform(-50, 50, n_regions)), alpha, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(alpha.argmax(axis=0), e.argmax(axis=0))


def test_heat_is_the_probability_of_a_text_among_the_others() -> None:
    e, rivals = LOGIT_SCALE * WORDS @ REGIONS.T, LOGIT_SCALE * OTHERS @ REGIONS.T
    expected = np.exp(e) / (np.exp(e) + np.exp(rivals).sum(axis=0))
    np.testing.assert_allclose(heat(WORDS, REGIONS, OTHERS, LOGIT_SCALE), expected, rtol=1e-5)
    together = heat(WORDS, REGIONS, OTHERS, LOGIT_SCALE)
    alone = [heat(word[None], REGIONS, OTHERS[::-1], LOGIT_SCALE)[0] for word in WORDS]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_heat_against_itself_is_a_half_and_against_nothing_one() -> None:
    np.testing.assert_allclose(heat(WORDS[:1], REGIONS, WORDS[:1], LOGIT_SCALE), np.full((1, 12), 0.5))
    np.testing.assert_array_equal(heat(WORDS, REGIONS, OTHERS[:0], LOGIT_SCALE), np.ones((5, 12)))


def test_heat_counts_the_texts_that_are_least_alike() -> None:
    for word in WORDS:
        apart = np.argsort(OTHERS @ word)[:8]
        expected = heat(word[None], REGIONS, OTHERS[apart], LOGIT_SCALE)
        np.testing.assert_allclose(heat(word[None], REGIONS, OTHERS, LOGIT_SCALE, unlike=8), expected, rtol=1e-6)
    # The text itself among the others would halve the heat of regions that show nothing else.
    others = np.concatenate([OTHERS, WORDS[:1]])
    hidden, shown = heat(WORDS[:1], WORDS[:1], others, 100), heat(WORDS[:1], WORDS[:1], others, 100, unlike=20)
    assert hidden == pytest.approx(0.5, abs=1e-3)
    assert shown == pytest.approx(1, abs=1e-3)


def test_heat_does_not_overflow() -> None:
    facing = heat(WORDS, WORDS, -WORDS, 5000)
    assert np.isfinite(facing).all()
    np.testing.assert_allclose(facing.diagonal(), 1)


def test_late_interaction_is_the_mean_over_words_of_the_best_region() -> None:
    pictures = unit_rows(6 * 12, seed=4).reshape(6, 12, -1)
    expected = [np.mean([max(float(word @ region) for region in picture) for word in WORDS]) for picture in pictures]
    scores = late_interaction(WORDS, pictures)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(late_interaction(WORDS[::-1], pictures[:, ::-1]), scores, atol=1e-6)
    np.testing.assert_allclose(late_interaction(WORDS, pictures[::-1]), scores[::-1], atol=1e-6)
    held = np.concatenate([WORDS, REGIONS])[None]
    np.testing.assert_allclose(late_interaction(WORDS, held), [1], atol=1e-6)
    with pytest.raises(ValueError, match="no words"):
        late_interaction(WORDS[:0], pictures)


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("A dog, on skateboards!", "a dog , on skate ##boards !", "A:0 dog:1 on:3 skateboards:4,5"),
        ("skateboarding cats", "skate boarding cat s", "skateboarding:0,1 cats:2,3"),
        ("a black-and-white cat", "a black - and - white cat", "a:0 black-and-white:1,3,5 cat:6"),
        ("the dog's “Ball”", "the dog ' s “ ball ”", "the:0 dog's:1,3 Ball:5"),
        ("Café Zoë", "cafe zoe", "Café:0 Zoë:1"),
        ("Café Zoë", "caf � � zo � �", "Café:0,1,2 Zoë:3,4,5"),
        ("猫 on grass", "[UNK] on grass", "猫:0 on:1 grass:2"),
        ("a 🐈 cat", "a � � cat", "a:0 🐈:1,2 cat:3"),
        ("cat 🐈", "cat [UNK]", "cat:0 🐈:1"),
        ("cats - dogs & birds", "cats dogs birds", "cats:0 dogs:1 birds:2"),
        ("a cat and a dog", "a cat and", "a:0 cat:1 and:2"),
        ("a  a\ta\n", "a a a", "a:0 a:1 a:2"),
        ("cat", "cat [UNK]", "cat:0,1"),
        ("...!?", ". . . ! ?", ""),
        ("", "", ""),
    ],
)
def test_words_are_what_was_typed(text: str, tokens: str, expected: str) -> None:
    found = typed_words(text, tokens.split())
    assert " ".join(f"{word.text}:{','.join(map(str, word.tokens))}" for word in found) == expected
    for word in found:
        assert word.text in text.split()[word.at]


LETTERS = st.text(st.sampled_from("abcdeéxyzЖ1"), min_size=1, max_size=8)


@given(st.lists(st.tuples(LETTERS, st.sampled_from(["", ",", "!", "..."])), max_size=8), st.randoms())
def test_every_token_belongs_to_the_word_that_it_is_a_piece_of(typed: list[tuple[str, str]], random: Random) -> None:
    tokens, expected = [], []
    for at, (word, mark) in enumerate(typed):
        cuts = [0, *(cut for cut in range(1, len(word)) if random.random() < 0.4), len(word)]
        places = tuple(range(len(tokens), len(tokens) + len(cuts) - 1))
        expected.append(TypedWord(word, at, places))
        tokens += [f"{'##' if low else ''}{word[low:high]}" for low, high in pairwise(cuts)]
        tokens += mark
    assert typed_words(" ".join(word + mark for word, mark in typed), tokens) == expected


def test_the_vector_of_a_word_is_the_direction_of_its_tokens() -> None:
    words = [TypedWord("skateboards", 0, (0, 2)), TypedWord("dog", 1, (4,))]
    found = word_vectors(words, WORDS)
    both = WORDS[0] + WORDS[2]
    np.testing.assert_allclose(found, [both / np.linalg.norm(both), WORDS[4]], atol=1e-6)
    assert word_vectors([], WORDS).shape == (0, WORDS.shape[1])
