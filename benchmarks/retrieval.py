"""Recall of encoders on captioned pictures, through the public API, beside an exact numpy oracle.

    python benchmarks/retrieval.py --data-dir DIR [--models NAME ...]

DIR holds Parquet files `dev-*.parquet` with the columns image (encoded bytes) and captions (list of texts). Each set is
written out as files, indexed as a user would, and queried with `Searcher`; the oracle multiplies all vectors with all.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from report import report

from xsearch import Searcher
from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.indexer import index
from xsearch.media.images import open_image

KS = (1, 5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=[DEFAULT_MODEL, "crops:builtin"])
    options = parser.parse_args()
    sets = sorted(options.data_dir.glob("dev-*.parquet"))
    if not sets:
        parser.error(f"there is no dev-*.parquet in {options.data_dir}")
    encoders = [get_encoder(model) for model in options.models]
    report("retrieval", [row for encoder in encoders for path in sets for row in _measure(path, encoder)])


def _measure(path: Path, encoder: Encoder) -> list[dict[str, object]]:
    table = pq.read_table(path, columns=["image", "captions"]).to_pylist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "set")
        folder.mkdir()
        pictures = [folder / f"{i:05}.jpg" for i in range(len(table))]
        for file, row in zip(pictures, table, strict=True):
            file.write_bytes(row["image"])
        captions = [(i, text) for i, row in enumerate(table) for text in row["captions"]]
        lines = [json.dumps({"path": pictures[i].name, "caption": text}) for i, text in captions]
        (folder / "captions.jsonl").write_text("\n".join(lines), "utf-8")
        index([folder], Path(name, "library"), encoder)
        searcher = Searcher(Path(name, "library"), encoder=encoder)

        texts = [text for _, text in captions]
        owner = np.array([i for i, _ in captions])
        # The library has the captions that are asked for: what is meant is found without their words.
        answers = searcher.query_batch(texts, k=max(KS), kind="image", words=False, group="none")
        found_pictures = [[hit.path for hit in hits] for hits in answers]
        text_to_image = [
            _recall([str(pictures[i]) in found[:k] for i, found in zip(owner, found_pictures, strict=True)]) for k in KS
        ]

        own_texts = [set(row["captions"]) for row in table]
        found_texts = [
            [hit.text for hit in searcher.query(image=file, k=max(KS), kind="text", group="none")] for file in pictures
        ]
        image_to_text = [
            _recall([not own.isdisjoint(found[:k]) for own, found in zip(own_texts, found_texts, strict=True)])
            for k in KS
        ]

        image_vectors = encoder.encode_images([open_image(file, encoder.spec.image_px) for file in pictures])
        similarity = encoder.encode_texts(texts) @ image_vectors.T
    t2i, i2t = _oracle(similarity, owner)
    directions = (("text to image", text_to_image, t2i), ("image to text", image_to_text, i2t))
    return [{"encoder": encoder.spec.fingerprint.model} | _row(path.stem, *of_one) for of_one in directions]


def _oracle(similarity: NDArray[np.float32], owner: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return recall@KS both ways for (texts, pictures) similarities; `owner` (texts,) is the picture of each text."""
    own = similarity[np.arange(len(owner)), owner][:, None]
    rank_of_picture = (similarity > own).sum(axis=1)
    ranks_of_text = []
    for picture in range(similarity.shape[1]):
        scores = similarity[:, picture]
        ranks_of_text.append((scores > scores[owner == picture].max()).sum())
    return (
        [_recall(rank_of_picture < k) for k in KS],
        [_recall(np.array(ranks_of_text) < k) for k in KS],
    )


def _recall(found: Sequence[bool] | NDArray[np.bool_]) -> float:
    return float(np.mean(found))


def _row(name: str, direction: str, measured: Sequence[float], oracle: Sequence[float]) -> dict[str, object]:
    row: dict[str, object] = {"set": name, "direction": direction}
    row |= {f"recall@{k}": value for k, value in zip(KS, measured, strict=True)}
    row |= {f"oracle@{k}": value for k, value in zip(KS, oracle, strict=True)}
    return row


if __name__ == "__main__":
    main()
