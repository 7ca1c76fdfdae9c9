"""Use case: why a picture answers to a text, where in it and by which words; and pictures in order by that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.errors import QueryError
from xsearch.media.images import PictureSource, open_image
from xsearch.probes import probe_texts
from xsearch.ranking.attention import (
    TypedWord,
    attention,
    heat,
    late_interaction,
    relevance,
    typed_words,
    word_vectors,
)
from xsearch.types import Embeddings, Fingerprint, RGBImage

GENERIC_TEXTS = 100
UNLIKE_TEXTS = 70
"""Of the generic ones, so many count as others, as `ranking.attention.heat` says why."""

COSINE_SHARE = 0.75
"""In a re-ranked score; the rest is late interaction. Chosen on half of the captions of benchmarks/explain.py."""

# Encoding them takes longer than all else of an explanation, and they are the same for every picture.
_generic_vectors: dict[Fingerprint, Embeddings] = {}


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of a picture that the encoder saw, in shares of the picture's height and width.

    Less than the picture where its edges are cut off, more where they are padded.
    """

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Where in a picture a text and its words are seen. Regions are row-major over `grid` = (rows, columns) of `frame`.

    `score` is the cosine of text and picture; `weights` (words,) what each word adds to it: the score less that of the
    text without the word (representation erasure, Li et al. 2016, arXiv 1612.08220), negative where the word does not
    fit. `relevance` and `attention` (words, regions) are e and alpha of `ranking.attention`; `heat` (regions,) and
    `word_heat` (words, regions) in 0..1 say where the text, and each word by itself, is seen more than other texts.
    """

    text: str
    score: float
    grid: tuple[int, int]
    frame: Frame
    words: tuple[str, ...]
    weights: NDArray[np.float64]
    relevance: NDArray[np.float64]
    attention: NDArray[np.float64]
    heat: NDArray[np.float64]
    word_heat: NDArray[np.float64]


def explain(encoder: Encoder, text: str, picture: PictureSource, *, against: Sequence[str] = ()) -> Explanation:
    """Return where a picture (path, bytes, Pillow image or array) shows what a text says.

    Heat is told against other texts: `against`, by default generic ones. For two photographs side by side and the
    caption of one, the built-in encoder points at its half in 96 of 100, as the cosine alone does, but with .87 of the
    heat in place of .79; against the caption of the other in 99 of 100 (benchmarks/explain.py).

    Raises QueryError, Undecodable, and EncoderUnavailable for a model without vectors of regions or words.
    """
    if isinstance(picture, str | Path) and not Path(picture).is_file():
        # A device or a pipe may have no end.
        raise QueryError(f"{picture} is not a file", remedy="name a picture")
    words, vectors = _words(encoder, text)
    pixels = open_image(picture, encoder.spec.image_px)
    typed = text.split()
    without = [" ".join(typed[: word.at] + typed[word.at + 1 :]) for word in words]
    said = encoder.encode_texts([text, *without])
    others = encoder.encode_texts(against) if against else _generic(encoder)
    scores = (said @ encoder.encode_images([pixels])[0]).astype(np.float64)
    patches = encoder.encode_patches([pixels])
    regions, logit_scale = patches.vectors[0], encoder.spec.logit_scale
    e = relevance(vectors, regions, logit_scale)
    unlike = None if against else UNLIKE_TEXTS
    text_heat, *word_heat = heat(np.vstack([said[:1], vectors]), regions, others, logit_scale, unlike=unlike)
    return Explanation(
        text=text,
        score=float(scores[0]),
        grid=patches.grid,
        frame=seen_frame(encoder.spec.fingerprint.preprocessing, *pixels.shape[:2]),
        words=tuple(word.text for word in words),
        weights=scores[0] - scores[1:],
        relevance=e,
        attention=attention(e),
        heat=text_heat,
        word_heat=np.stack(word_heat),
    )


def reranked(
    encoder: Encoder, text: str, pictures: Iterable[RGBImage], cosines: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (n,) scores of pictures for a text, higher is better: late interaction beside the cosines (n,) so far.

    COSINE_SHARE * cosine + (1 - COSINE_SHARE) * `late_interaction`, in batches as the pictures come. With the built-in
    encoder late interaction alone loses (recall@1 of 500 photographs .29 against .40 of the cosine) and the mixture
    neither gains nor loses (benchmarks/explain.py). Raises as `explain` does.
    """
    _, vectors = _words(encoder, text)
    best = [np.empty(0, np.float32)]
    coming = iter(pictures)
    while batch := list(islice(coming, encoder.batch_size)):
        best.append(late_interaction(vectors, encoder.encode_patches(batch).vectors))
    mixed: NDArray[np.float32] = COSINE_SHARE * cosines + (1 - COSINE_SHARE) * np.concatenate(best)
    return mixed


def seen_frame(preprocessing: str, height: int, width: int) -> Frame:
    """Return what is seen of a picture of height x width pixels by an encoder with this fingerprint of preprocessing.

    It begins with the mode and the pixels of a side, or rows x columns, as open_clip names them: `shortest-224x224-...`
    cuts the middle out, `longest-...` pads both edges, and all others squash the whole picture.
    """
    mode, _, rest = preprocessing.partition("-")
    if mode not in ("shortest", "longest"):
        return Frame(0, 0, 1, 1)
    rows, _, columns = rest.partition("-")[0].partition("x")
    per_row, per_column = height / int(rows), width / int(columns or rows)
    scale = min(per_row, per_column) if mode == "shortest" else max(per_row, per_column)
    seen_height, seen_width = scale / per_row, scale / per_column
    return Frame((1 - seen_height) / 2, (1 - seen_width) / 2, seen_height, seen_width)


def _generic(encoder: Encoder) -> Embeddings:
    fingerprint = encoder.spec.fingerprint
    if fingerprint not in _generic_vectors:
        _generic_vectors[fingerprint] = encoder.encode_texts(probe_texts(GENERIC_TEXTS))
    return _generic_vectors[fingerprint]


def _words(encoder: Encoder, text: str) -> tuple[list[TypedWord], NDArray[np.float32]]:
    """Return the words of a text and their vectors (m, dim). Raises QueryError if there are none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # the shell's undecodable bytes, or half of a pair of surrogates
        raise QueryError("the text is not UTF-8", remedy="type it again in a UTF-8 terminal") from error
    (found,) = encoder.encode_words([text])
    words = typed_words(text, found.tokens)
    if not words:
        raise QueryError("the text holds no words", remedy='say what to find: `xsearch explain "a cat" cat.jpg`')
    return words, word_vectors(words, found.vectors)
