"""Which regions of a picture answer to which words of a text.

Word vectors (m, dim) and region vectors (r, dim) are unit rows of one joint space. Maps are words x regions, row-major
over the picture's grid.
"""

import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xsearch.vectors import l2_normalize


@dataclass(frozen=True, slots=True)
class TypedWord:
    """A word as it was typed, without the punctuation around it.

    `at` is its place in `text.split()`, `tokens` are the places of its pieces among the tokens.
    """

    text: str
    at: int
    tokens: tuple[int, ...]


def relevance(words: NDArray[np.float32], regions: NDArray[np.float32], logit_scale: float) -> NDArray[np.float64]:
    """Return e (m, r): the cosine of each word and region times the model's inverse temperature."""
    return logit_scale * np.asarray(words @ regions.T, np.float64)


def attention(e: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return alpha (m, r): which word a region speaks for. Sums to 1 over the words of each region.

    For region i and word j, alpha_ij = exp(e_ij) / sum_k exp(e_ik): scaled dot-product attention (Vaswani et al. 2017)
    from regions to words, as cross-modal retrieval uses it (SCAN, Lee et al. 2018). It compares the words of one text:
    where all of them lie in the same place it does not say where that is. `heat` does.
    """
    shares: NDArray[np.float64] = np.exp(e - np.logaddexp.reduce(e, axis=0))
    return shares


def heat(
    said: NDArray[np.float32],
    regions: NDArray[np.float32],
    others: NDArray[np.float32],
    logit_scale: float,
    *,
    unlike: int | None = None,
) -> NDArray[np.float64]:
    """Return (m, r) in 0..1: how far each of m texts, by itself, is what a region shows, and not the others.

    `said` (m, dim) are texts or words, `others` (g, dim) texts, of which for each only the
    `unlike` of least cosine to it count, by default all: one that says nearly the same would put out the very regions
    where both are right.

    The attention that region i pays to text t among the others, exp(e_it) / (exp(e_it) + sum_g exp(e_ig)): the
    zero-shot probability of the text (CLIP, Radford et al. 2021) for a region in place of a picture. What any text
    would find there cancels.
    """
    e, rivals = relevance(said, regions, logit_scale), relevance(others, regions, logit_scale)
    counted = np.argsort(said @ others.T, axis=1)[:, :unlike]
    chances: NDArray[np.float64] = np.exp(e - np.logaddexp(e, np.logaddexp.reduce(rivals[counted], axis=1)))
    return chances


def late_interaction(words: NDArray[np.float32], regions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n,) for regions (n, r, dim) of n pictures: the mean over the words of the cosine with the best region.

    The sum of maximal similarities (ColBERT, Khattab & Zaharia 2020), divided by the number of words, so that it is on
    the scale of a cosine. Raises ValueError without words.
    """
    if len(words) == 0:
        raise ValueError("there are no words")
    scores: NDArray[np.float32] = (regions @ words.T).max(axis=1).mean(axis=1)
    return scores


def typed_words(text: str, tokens: Sequence[str]) -> list[TypedWord]:
    """Return the words of `text` that have tokens: what stands between blanks, unless it is punctuation alone.

    `tokens` are pieces of the text in order, as tokenizers show them: lower case, without accents, `##` before what
    goes on. Those of punctuation belong to no word. One that is not found, such as `[UNK]` or half of an emoji,
    belongs to the word that is due.
    """
    typed = text.split()
    letters = [_letters(word) for word in typed]
    stream = "".join(letters)
    owners = [at for at, word in enumerate(letters) for _ in word]
    pieces: dict[int, list[int]] = {}
    due, lost = 0, False
    for place, token in enumerate(tokens):
        piece = _letters(token)
        if not piece or not stream:
            continue
        # After one that is not found, how far it reaches is known only from the next.
        found = stream.find(piece, due, None if lost else due + len(piece))
        lost = found < 0
        start = min(due, len(stream) - 1) if lost else found
        pieces.setdefault(owners[start], []).append(place)
        due = due if lost else found + len(piece)
    return [TypedWord(_bare(typed[at]), at, tuple(places)) for at, places in sorted(pieces.items())]


def word_vectors(words: Sequence[TypedWord], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (m, dim) unit rows: of each word, the direction of the mean of its tokens' vectors (tokens, dim)."""
    means = [vectors[list(word.tokens)].mean(axis=0) for word in words]
    return l2_normalize(np.reshape(means, (len(words), vectors.shape[1])))


def _letters(word: str) -> str:
    """Return what tokenizers agree on: no case, no accents, no punctuation."""
    plain = unicodedata.normalize("NFKD", word).casefold()
    return "".join(char for char in plain if not _is_mark(char) and unicodedata.category(char)[0] != "M")


def _bare(word: str) -> str:
    return word.strip("".join(char for char in word if _is_mark(char)))


def _is_mark(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char)[0] in "PZC"
