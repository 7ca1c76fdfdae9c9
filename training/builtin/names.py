"""Texts that name things: those of ImageNet's classes, with WordNet's synonyms, and the prompts they are put into."""

import random
from collections import Counter
from collections.abc import Iterable

from timm.data import ImageNetInfo

NAMED = "a photo of "
PROMPTS = ("a photo of {}", "{}", "a picture of {}", "a close-up of {}", "a photograph showing {}")
CLASSES = 1000


def class_texts() -> dict[str, int]:
    """Return the text of each name of ImageNet's classes and the class. Names of two classes are left out."""
    info = ImageNetInfo()
    names = [info.index_to_description(at, detailed=False).split(", ") for at in range(CLASSES)]
    texts = [(_named(name), at) for at, synonyms in enumerate(names) for name in synonyms]
    count = Counter(text.lower() for text, _ in texts)
    return {text: at for text, at in texts if count[text.lower()] == 1}


def other_class_texts(known: Iterable[str]) -> list[str]:
    """Return a text of each of ImageNet's classes of which no name is among the lower-case texts `known`."""
    texts, lower = class_texts(), set(known)
    told = {at for text, at in texts.items() if text.lower() in lower}
    return list({at: text for text, at in reversed(texts.items()) if at not in told}.values())


def prompted(text: str, rng: random.Random) -> str:
    """Return a text that names something in one of several prompts, and captions as they are."""
    name = text.removeprefix(NAMED)
    return text if name == text else rng.choice(PROMPTS).format(name)


def _named(name: str) -> str:
    return f"{NAMED}{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
