"""Whether explanations point at what a text says, and what re-ranking by late interaction gains or loses.

    python benchmarks/explain.py --data-dir DIR [--model NAME]

DIR holds Parquet files `dev-*.parquet` with the columns image (encoded bytes) and captions (list of texts).

Pointing (`results/explain.json`): each picture is set beside another one, both squashed to halves of a square. The map
of a caption, or of one of its content words, points if more of it lies on the half of its picture; `mass` is the mean
share that does. A column of regions that both halves share is left out. Cosines below zero count as zero.

Re-ranking (`results/rerank.json`): the first 50 pictures by cosine, for each caption. The share of the cosine in the
mixture is chosen on every other caption of all sets, and all is measured on the rest; so is the share that ships.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from report import report

from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.explain import COSINE_SHARE, GENERIC_TEXTS, UNLIKE_TEXTS
from xsearch.media.images import open_image
from xsearch.probes import probe_texts
from xsearch.ranking.attention import attention, heat, late_interaction, relevance, typed_words, word_vectors
from xsearch.types import Embeddings, RGBImage

CANDIDATES = 50
SHARES = np.linspace(0, 1, 21)
FUNCTION_WORDS = """
a an the of in on at with and or to from by for as into onto up down over under near next behind through across out off
around along is are was be being been has have his her its their it he she they this that there who which while some
other another one two three very
"""


@dataclass(frozen=True, slots=True)
class CaptionedSet:
    """Pictures as the encoder takes them, their texts, and the picture `owner` of each text."""

    name: str
    pictures: list[RGBImage]
    texts: list[str]
    owner: NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    encoder = get_encoder(options.model)
    sets = [_read(path, encoder.spec.image_px) for path in sorted(options.data_dir.glob("dev-*.parquet"))]
    if not sets:
        parser.error(f"there is no dev-*.parquet in {options.data_dir}")
    report("explain", [row for one in sets for row in _pointing(one, encoder)], model=encoder.spec.name)
    rankings = [_rankings(one, encoder) for one in sets]
    share = _best_share(rankings)
    rows = [row for one, ranking in zip(sets, rankings, strict=True) for row in _recalls(one.name, ranking, share)]
    report("rerank", rows, model=encoder.spec.name, cosine_share=share)


def _read(path: Path, min_px: int) -> CaptionedSet:
    rows = pq.read_table(path, columns=["image", "captions"]).to_pylist()
    texts = [(at, text) for at, row in enumerate(rows) for text in row["captions"]]
    return CaptionedSet(
        path.stem,
        [open_image(row["image"], min_px) for row in rows],
        [text for _, text in texts],
        np.array([at for at, _ in texts]),
    )


def _pointing(one: CaptionedSet, encoder: Encoder) -> Iterator[dict[str, Any]]:
    order = np.random.default_rng(0).permutation(len(one.pictures))
    pairs = list(zip(order, np.roll(order, -1), strict=True))
    first = [one.texts[np.flatnonzero(one.owner == at)[0]] for at in range(len(one.pictures))]
    composed = [_beside(one.pictures[left], one.pictures[right], encoder.spec.image_px) for left, right in pairs]
    patches = encoder.encode_patches(composed)
    generic = encoder.encode_texts(probe_texts(GENERIC_TEXTS))
    said = encoder.encode_texts(first)
    found: dict[tuple[str, str], list[float]] = {}

    def keep(what: str, maps: Mapping[str, NDArray[np.float64]], right: Sequence[bool]) -> None:
        for name, values in maps.items():
            share_of_right = _share_of_right(values, patches.grid)
            found.setdefault((what, name), []).extend(np.where(right, share_of_right, 1 - share_of_right).tolist())

    for (left, right), regions in zip(pairs, patches.vectors, strict=True):
        for side, (own, other) in enumerate(((left, right), (right, left))):
            words, content = _words(encoder, first[own])
            maps = _maps(encoder, said[[own]], regions, generic, said[[other]])
            keep("caption of one half", maps, [side == 1])
            maps = _maps(encoder, words, regions, generic, said[[other]])
            maps["attention"] = attention(relevance(words, regions, encoder.spec.logit_scale))
            keep("its words", {name: values[content] for name, values in maps.items()}, [side == 1] * len(content))
        beginning = first[left].rstrip(" .")
        words, content = _words(encoder, f"{beginning} and {first[right]}")
        maps = _maps(encoder, words, regions, generic)
        maps["attention"] = attention(relevance(words, regions, encoder.spec.logit_scale))
        of_right = [at >= len(_words(encoder, beginning)[0]) for at in content]
        keep("words of both captions", {name: values[content] for name, values in maps.items()}, of_right)

    for (what, name), shares in found.items():
        points = float(np.mean(np.array(shares) > 0.5))
        row = {"set": one.name, "pairs": len(pairs), "of": what, "map": name, "n": len(shares), "points": points}
        yield row | {"mass": float(np.mean(shares))}


def _maps(
    encoder: Encoder, said: Embeddings, regions: Embeddings, generic: Embeddings, other: Embeddings | None = None
) -> dict[str, NDArray[np.float64]]:
    logit_scale = encoder.spec.logit_scale
    maps = {
        "cosine": np.maximum(relevance(said, regions, 1), 0),
        "heat": heat(said, regions, generic, logit_scale, unlike=UNLIKE_TEXTS),
    }
    if other is not None:
        maps["heat against the other caption"] = heat(said, regions, other, logit_scale)
    return maps


def _beside(left: RGBImage, right: RGBImage, side_px: int) -> RGBImage:
    """Return a square picture, which no encoder squashes or crops any further."""
    return np.hstack([np.asarray(Image.fromarray(one).resize((side_px // 2, side_px))) for one in (left, right)])


def _words(encoder: Encoder, text: str) -> tuple[Embeddings, list[int]]:
    """Return the vectors of the words of a text, and which are content words."""
    (tokens,) = encoder.encode_words([text])
    words = typed_words(text, tokens.tokens)
    function_words = FUNCTION_WORDS.split()
    content = [at for at, word in enumerate(words) if word.text.lower() not in function_words]
    return word_vectors(words, tokens.vectors), content


def _share_of_right(maps: NDArray[np.float64], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return (m,) how much of each map (m, regions) >= 0 lies on the right half, 1/2 of one that is zero."""
    columns = maps.reshape(len(maps), *grid).sum(axis=1)
    half = grid[1] // 2
    left, right = columns[:, :half].sum(axis=1), columns[:, -half:].sum(axis=1)
    return np.divide(right, left + right, out=np.full(len(maps), 0.5), where=left + right > 0)


@dataclass(frozen=True, slots=True)
class Ranking:
    """For each of n captions, cosine and late interaction of the first c pictures, and the place of its own or -1."""

    cosine: NDArray[np.float32]
    late: NDArray[np.float32]
    own: NDArray[np.int64]


def _rankings(one: CaptionedSet, encoder: Encoder) -> Ranking:
    cosines = encoder.encode_texts(one.texts) @ encoder.encode_images(one.pictures).T
    patches = encoder.encode_patches(one.pictures).vectors
    best = np.argsort(-cosines, axis=1)[:, :CANDIDATES]
    late = np.stack(
        [late_interaction(_words(encoder, text)[0], patches[rows]) for text, rows in zip(one.texts, best, strict=True)]
    )
    is_own = best == one.owner[:, None]
    own = np.where(is_own.any(axis=1), is_own.argmax(axis=1), -1)
    return Ranking(np.take_along_axis(cosines, best, axis=1), late, own)


def _found(ranking: Ranking, share: float, k: int) -> NDArray[np.bool_]:
    scores = share * ranking.cosine + (1 - share) * ranking.late
    own = np.take_along_axis(scores, np.maximum(ranking.own, 0)[:, None], axis=1)
    return ((scores > own).sum(axis=1) < k) & (ranking.own >= 0)


def _best_share(rankings: Sequence[Ranking]) -> float:
    def recall(share: float) -> float:
        return float(sum(_found(one, share, k)[::2].mean() for one in rankings for k in (1, 10)))

    return float(max(SHARES, key=recall))


def _recalls(name: str, ranking: Ranking, share: float) -> Iterator[dict[str, Any]]:
    shares = {"cosine": 1.0, "late interaction": 0.0, "mixture": share, "as xsearch does": COSINE_SHARE}
    for method, cosine_share in shares.items():
        found = {f"recall@{k}": float(_found(ranking, cosine_share, k)[1::2].mean()) for k in (1, 10)}
        yield {"set": name, "captions": len(ranking.own[1::2]), "order": method} | found


if __name__ == "__main__":
    main()
