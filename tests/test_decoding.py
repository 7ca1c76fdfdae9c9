"""Words from a decoder, against the likeliest of all captions that a small vocabulary has."""

from itertools import product

import pytest

pytest.importorskip("torch", reason="needs the extra [clip]: torch")

import torch

from xsearch.encoders.decoding import MIN_WORDS, Decoder, beam_search, draw

START, END, WORDS, LONGEST = 0, 1, (2, 3, 4), 8


def a_decoder(pictures: int, seed: int = 0, sharpness: float = 2.0) -> Decoder:
    """Return a decoder whose next word hangs on the picture and on all words before."""
    table = torch.randn(pictures, LONGEST, 5, 5, generator=torch.Generator().manual_seed(seed)) * sharpness

    def decode(tokens: torch.Tensor) -> torch.Tensor:
        of = torch.arange(len(tokens)) // (len(tokens) // pictures)
        logits = sum(table[of, place, tokens[:, place]] for place in range(tokens.shape[1]))
        assert isinstance(logits, torch.Tensor)
        logits = logits.clone()
        logits[:, START] = -torch.inf
        return logits

    return decode


def mean_log_probability(decode: Decoder, pictures: int, picture: int, words: tuple[int, ...]) -> float:
    row, total = [START], 0.0
    for number, word in enumerate((*words, END)):
        logits = decode(torch.tensor([row] * pictures))[picture]
        if number < MIN_WORDS:
            logits[END] = -torch.inf
        total += float(logits.log_softmax(dim=-1)[word])
        row.append(word)
    return total / (len(words) + 1)


def test_many_beams_find_the_likeliest_of_all() -> None:
    pictures, longest = 2, 6
    for seed in range(4):
        decode = a_decoder(pictures, seed)
        found = beam_search(decode, pictures, 81, start=START, end=END, longest=longest)
        for picture in range(pictures):
            every = [words for n in range(MIN_WORDS, longest - 1) for words in product(WORDS, repeat=n)]
            best = max(every, key=lambda words: mean_log_probability(decode, pictures, picture, words))
            assert tuple(found[picture]) == best


def test_one_beam_takes_the_likeliest_word_each_time() -> None:
    decode = a_decoder(1, 3, sharpness=9.0)
    (found,) = beam_search(decode, 1, 1, start=START, end=END, longest=LONGEST)
    row = [START]
    for word in found:
        logits = decode(torch.tensor([row]))[0]
        logits[END] = -torch.inf
        assert word == int(logits.argmax())
        row.append(word)


def test_more_beams_are_never_worse_here() -> None:
    for seed in range(6):
        decode = a_decoder(1, seed)
        likely = []
        for beams in (1, 81):
            (found,) = beam_search(decode, 1, beams, start=START, end=END, longest=6)
            likely.append(mean_log_probability(decode, 1, 0, tuple(found)))
        assert likely[1] >= likely[0]


def test_a_caption_that_never_ends_is_cut() -> None:
    def endless(tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([-torch.inf, -torch.inf, 1.0, 0.0, -1.0]).expand(len(tokens), 5).clone()

    for beams in (1, 3):
        assert beam_search(endless, 2, beams, start=START, end=END, longest=6) == [[2, 2, 2, 2]] * 2
    assert [len(row) for row in draw(endless, 2, 0.5, start=START, end=END, longest=6)] == [4, 4]


def test_words_are_drawn_from_the_nucleus_alone() -> None:
    shares = torch.tensor([0.0, 0.05, 0.5, 0.3, 0.15])

    def decode(tokens: torch.Tensor) -> torch.Tensor:
        return shares.log().expand(len(tokens), 5).clone()

    torch.manual_seed(0)
    drawn = draw(decode, 500, 0.6, start=START, end=END, longest=6)
    words = torch.tensor(drawn).flatten()
    assert set(words.tolist()) == {2, 3}
    assert float((words == 2).float().mean()) == pytest.approx(0.5 / 0.8, abs=0.05)
    assert {word for row in draw(decode, 500, 1.0, start=START, end=END, longest=6) for word in row} == {2, 3, 4}
    assert {tuple(row) for row in draw(decode, 3, 1e-6, start=START, end=END, longest=6)} == {(2, 2, 2, 2)}
