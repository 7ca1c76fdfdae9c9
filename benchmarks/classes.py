"""How many of ImageNet's 1,000 classes an encoder tells, by one picture of each and their names.

    python benchmarks/classes.py --pictures DIR --data-dir DIR [--models builtin onnx:FOLDER ...]

The files of PICTURES are named by WordNet's ids, `n01440764_tench.JPEG`, as those of
github.com/EliSchwartz/imagenet-sample-images are; nothing was trained on them, but they showed what version 2 of the
built-in encoder mends (its model card). DATA-DIR holds the Parquet files `train-*` of that encoder: classes of which
these have pictures are told apart from the others.
"""

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from report import report
from timm.data import ImageNetInfo

from xsearch.encoders import get_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["builtin"])
    options = parser.parse_args()
    info = ImageNetInfo()
    ids = info.label_names()
    names = [info.index_to_description(at, detailed=False).split(", ") for at in range(len(ids))]
    files = sorted(options.pictures.glob("n*_*"))
    own = np.array([ids.index(file.name.partition("_")[0]) for file in files])
    learned = _named_things(options.data_dir)
    shown = np.array([any(name.lower() in learned for name in names[at]) for at in own])
    rows = []
    for model in options.models:
        encoder = get_encoder(model)
        texts = encoder.encode_texts([f"a photo of a {synonyms[0]}" for synonyms in names])
        vectors = np.concatenate([encoder.encode_images([_pixels(file.read_bytes())]) for file in files])
        place = _places(vectors @ texts.T, own)
        for classes, of_them in (("all", shown | True), ("with pictures", shown), ("names alone", ~shown)):
            found = place[of_them]
            rows.append(
                {
                    "encoder": encoder.spec.fingerprint.model,
                    "classes": classes,
                    "n": len(found),
                    "top-1": float(np.mean(found < 1)),
                    "top-5": float(np.mean(found < 5)),
                }
            )
    report("classes", rows)


def _named_things(data_dir: Path) -> set[str]:
    """Return what the training pictures show that are named by one text, "a photo of a tench"."""
    texts = [
        own[0].lower()
        for path in sorted(data_dir.glob("train-*.parquet"))
        for own in pq.read_table(path, columns=["captions"])["captions"].to_pylist()
        if len(own) == 1
    ]
    return {text.removeprefix("a photo of ").removeprefix("an ").removeprefix("a ") for text in texts}


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def _places(scores: NDArray[np.float32], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n,) how many classes are told before the right one."""
    places: NDArray[np.int64] = (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)
    return places


if __name__ == "__main__":
    main()
