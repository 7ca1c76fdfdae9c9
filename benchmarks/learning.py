"""What `xsearch train` brings with 100, 1,000 and all pairs, and how good captions are that are chosen.

    python benchmarks/learning.py --data-dir DIR [--pairs 100 1000 10000]

DIR holds Parquet files with the columns image (encoded bytes) and captions: heads are trained on pairs of
`train-flickr8k.parquet` and measured on `dev-*`. The built-in encoder was trained on these very pairs, so there is
little left to learn; a kind of picture that it does not know are photographic negatives of the same photographs, to
train on and to measure on. Captions are chosen for the pictures of `dev-flickr8k` among the texts of the training set.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from report import report

from xsearch.encoders import get_encoder
from xsearch.learning.captioning import CANDIDATES, consensus
from xsearch.learning.evaluate import evaluate
from xsearch.learning.metrics import corpus_bleu
from xsearch.learning.pairs import PairSet, take_pairs
from xsearch.media.images import jpeg

TRAINING, MEASURED = "train-flickr8k", ("dev-flickr8k", "dev-coco")
TRAIN = """
import json, resource, sys
from xsearch.cli import main
sys.argv = ["xsearch", "train", *sys.argv[1:], "--json"]
try:
    main()
finally:
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 1_000, 10_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        rows = [row for kind in ("photographs", "negatives") for row in _heads(options, home / kind, kind)]
        captions = _captions(options.data_dir, home)
    report("learning", rows, captions=captions)


def _heads(options: argparse.Namespace, home: Path, kind: str) -> list[dict[str, Any]]:
    home.mkdir()
    tables = {name: _written(options.data_dir, home, name, kind) for name in (TRAINING, *MEASURED)}
    before = _recalls(tables, home / "base", "builtin")
    rows = [{"pictures": kind, "pairs": 0} | before]
    everything = pq.read_table(tables[TRAINING])
    order = np.random.default_rng(0).permutation(len(everything))
    for n in options.pairs:
        some = home / f"{n}.parquet"
        pq.write_table(everything.take(order[:n]), some)
        out = home / f"tuned-{n}"
        # Encoding is told apart: the second run finds the vectors, and so would one with other options.
        told, seconds, _ = _train(some, out)
        told, again_s, peak_mb = _train(some, out)
        row = {"pictures": kind, "pairs": min(n, len(everything))} | _recalls(tables, home / f"with-{n}", str(out))
        rows.append(row | {"share": told["share"], "epochs": told["epochs"]})
        rows[-1] |= {"seconds": seconds, "without_encoding_s": again_s, "peak_mb": peak_mb}
    return rows


def _train(pairs: Path, out: Path) -> tuple[dict[str, Any], float, float]:
    start_s = time.perf_counter()
    command = [sys.executable, "-c", TRAIN, str(pairs), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start_s
    return json.loads(done.stdout), seconds, json.loads(done.stderr.splitlines()[-1]) / 1024


def _recalls(tables: dict[str, Path], home: Path, model: str) -> dict[str, float]:
    encoder = get_encoder(model)
    recalls = {}
    for name in MEASURED:
        record = evaluate(take_pairs([tables[name]], home / name, encoder), encoder).record()
        for direction, short in (("text_to_image", "t2i"), ("image_to_text", "i2t")):
            recalls |= {f"{name} {short}@{k}": record[direction][f"recall@{k}"] for k in (1, 10)}
    return recalls


def _written(data_dir: Path, home: Path, name: str, kind: str) -> Path:
    """Write a set with its pictures as they are, or as negatives."""
    table = pq.read_table(data_dir / f"{name}.parquet", columns=["key", "image", "captions"])
    if kind == "negatives":
        negatives = [_negative(image) for image in table["image"].to_pylist()]
        table = table.set_column(1, "image", pa.array(negatives))
    pq.write_table(table, home / f"{name}.parquet")
    return home / f"{name}.parquet"


def _negative(image: bytes) -> bytes:
    with Image.open(BytesIO(image)) as picture:
        return jpeg(np.asarray(ImageOps.invert(picture.convert("RGB"))))


def _captions(data_dir: Path, home: Path) -> dict[str, float]:
    """Return BLEU-4 of captions that are chosen, of the nearest text alone, and of any text."""
    encoder = get_encoder()
    known = take_pairs([data_dir / f"{TRAINING}.parquet"], home / "known", encoder)
    asked = take_pairs([data_dir / "dev-flickr8k.parquet"], home / "asked", encoder)
    sentences = asked.sentences
    references = [[sentences[text] for text in np.flatnonzero(asked.owner == n)] for n in range(len(asked.images))]
    drawn = np.random.default_rng(0).integers(len(known.texts), size=len(references))
    ways = {"chosen": _chosen(known, asked, CANDIDATES), "nearest": _chosen(known, asked, 1), "random": drawn.tolist()}
    said = known.sentences
    return {way: corpus_bleu([said[text] for text in texts], references) for way, texts in ways.items()}


def _chosen(known: PairSet, asked: PairSet, candidates: int) -> list[int]:
    chosen = []
    for vector in asked.image_vectors:
        scores = known.text_vectors @ vector
        near = np.argsort(-scores)[:candidates]
        chosen.append(int(near[consensus(scores[near], known.text_vectors[near])]))
    return chosen


if __name__ == "__main__":
    main()
