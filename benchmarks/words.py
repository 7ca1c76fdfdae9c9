"""What captions and words bring where every other picture has one caption, and what they cost the others.

    python benchmarks/words.py --data-dir DIR [--model NAME]

DIR holds the Parquet files of `exclusion.py`. The first caption of every other picture is in the library; other
captions of the pictures that the encoder has not seen are asked for, 600 of them, and one picture is right. `words` is
what `Searcher` does by itself, `vectors` is with `words=False`, and the others put together the same two or three
lists, of pictures, of words and of captions as texts, by reciprocal ranks. `all words` is the share of pictures that
show a concept (another caption names it) among those whose caption in the library has all words of it.
"""

import argparse
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from exclusion import CHUNK, CONCEPTS, LIBRARIES
from numpy.typing import NDArray
from report import report

from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.library import LibraryWriter
from xsearch.library.words import keep_words, open_words
from xsearch.media.images import decode_image
from xsearch.ranking.fusion import reciprocal_ranks
from xsearch.retrieve import ALL_WORDS
from xsearch.searcher import Searcher
from xsearch.types import Item, Kind, item_id

QUERIES = 600
DEPTH = 100
FOLDER = "/pictures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    encoder = get_encoder(options.model)
    paths = [path for pattern in LIBRARIES.values() for path in sorted(options.data_dir.glob(pattern))]
    if not paths:
        parser.error(f"{' and '.join(LIBRARIES.values())} must be in {options.data_dir}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        captions, unseen = _filled(Path(folder), paths, encoder)
        searcher = Searcher(folder, encoder=encoder)
        rows = _rows(searcher, captions, unseen)
        right = _right_by_all_words(searcher, captions)
    report(
        "words", rows, model=encoder.spec.name, pictures=len(captions), all_words=float(right.mean()), judged=len(right)
    )


def _filled(folder: Path, paths: Sequence[Path], encoder: Encoder) -> tuple[list[list[str]], int]:
    """Return the captions of all pictures, and how many of the pictures, the first ones, the encoder has not seen."""
    captions: list[list[str]] = []
    unseen = 0
    with LibraryWriter(folder, encoder.spec) as writer:
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(CHUNK, columns=["image", "captions"]):
                records = batch.to_pylist()
                start = len(captions)
                captions += [record["captions"] for record in records]
                pixels = [decode_image(record["image"], encoder.spec.image_px)[0] for record in records]
                writer.add([_picture(start + at) for at in range(len(records))], encoder.encode_images(pixels))
                told = [at for at in range(start, len(captions)) if at % 2 == 0]
                texts = [captions[at][0] for at in told]
                writer.add([_caption(*one) for one in zip(told, texts, strict=True)], encoder.encode_texts(texts))
            unseen += len(captions) - unseen if path.name.startswith("dev") else 0
        keep_words(writer)
    return captions, unseen


def _picture(at: int) -> Item:
    name = f"{at}.jpg"
    return Item(item_id(Path(FOLDER, name)), Kind.IMAGE, FOLDER, name, 1, 1, str(at))


def _caption(at: int, text: str) -> Item:
    identity = item_id(Path(FOLDER, "captions.csv"), str(at))
    pair = item_id(Path(FOLDER, f"{at}.jpg"))
    return Item(identity, Kind.TEXT, FOLDER, "captions.csv", 1, 1, f"c{at}", str(at), pair, text=text)


def _rows(searcher: Searcher, captions: Sequence[Sequence[str]], unseen: int) -> list[dict[str, object]]:
    asked = [(at, text) for at in range(unseen) for text in captions[at][1:]]
    chosen = [asked[i] for i in np.random.default_rng(0).permutation(len(asked))[:QUERIES]]
    found: dict[str, list[int]] = {}
    for at, text in chosen:
        for method, ranked in _ranked(searcher, text):
            found.setdefault(method, []).append(ranked.index(at) + 1 if at in ranked else DEPTH + 1)
    is_told = np.array([at % 2 == 0 for at, _ in chosen])
    return [
        {"method": method}
        | {
            f"{who} @{k}": float((np.array(ranks)[which] <= k).mean())
            for who, which in (("with a caption", is_told), ("without", ~is_told))
            for k in (1, 10)
        }
        for method, ranks in found.items()
    ]


def _ranked(searcher: Searcher, text: str) -> Iterator[tuple[str, list[int]]]:
    """Yield for each method the numbers of pictures, best first."""
    by_vector = [_number(hit.item.path) for hit in searcher.query(text, k=DEPTH, kind="image", words=False)]
    yield "vectors", by_vector
    yield "words", [_number(hit.item.path) for hit in searcher.query(text, k=DEPTH, kind="image")]
    index = open_words(searcher.library)
    assert index is not None
    rows = index.search(text, DEPTH, allowed=searcher.library.of_kinds([Kind.IMAGE])).rows
    by_word = [_number(item.path) for item in searcher.library.items(rows)]
    by_text = [int(hit.item.part) for hit in searcher.query(text, k=DEPTH, kind="text", words=False)]
    yield "reciprocal ranks of pictures and words", _fused(by_vector, by_word)
    yield "of pictures, words and captions", _fused(by_vector, by_word, by_text)


def _fused(*lists: list[int]) -> list[int]:
    everything = sorted({one for ranked in lists for one in ranked})
    scores = [[-float(ranked.index(one)) if one in ranked else -np.inf for one in everything] for ranked in lists]
    fused = reciprocal_ranks(scores, [1.0] * len(lists))
    return [everything[at] for at in np.argsort(-fused, kind="stable")]


def _number(path: str) -> int:
    return int(path.removesuffix(".jpg"))


def _right_by_all_words(searcher: Searcher, captions: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    index = open_words(searcher.library)
    assert index is not None
    pictures = searcher.library.of_kinds([Kind.IMAGE])
    right: list[bool] = []
    for concept, words in CONCEPTS.items():
        named = re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
        found = index.search(concept, len(captions), allowed=pictures)
        items = searcher.library.items(found.rows[found.shares >= ALL_WORDS])
        right += [any(named.search(text) for text in captions[_number(item.path)][1:]) for item in items]
    return np.array(right)


if __name__ == "__main__":
    main()
