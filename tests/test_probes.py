import numpy as np

from xsearch.probes import TEMPLATES, probe_texts


def test_texts_are_distinct_and_a_longer_bank_begins_with_a_shorter_one() -> None:
    texts = probe_texts(5_000)
    assert len(set(texts)) == 5_000
    assert probe_texts(10) == texts[:10]
    assert probe_texts(0) == []


def test_texts_read_as_captions() -> None:
    texts = probe_texts(3_000)
    assert texts[:4] == [
        "a windmill",
        "a low-angle shot of a bicycle",
        "a surfer in a library",
        "a duck pushing a cart at a market",
    ]
    for text in texts:
        assert "{" not in text
        assert text == " ".join(text.split())
        assert not any(f" a {vowel}" in f" {text}" for vowel in "aeio"), text


def test_lengths_vary_and_some_texts_join_three_topics() -> None:
    texts = probe_texts(3_000)
    words = [len(text.split()) for text in texts]
    assert min(words) <= 2
    assert max(words) >= 15
    assert np.std(words) > 3
    joined = [text for text in texts if ", " in text and " and " in text]
    assert len(joined) >= 3_000 / len(TEMPLATES)
