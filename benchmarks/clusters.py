"""Clusters against classes: how many there are, whether they are alike, and whether titles are right; and large ones.

    python benchmarks/clusters.py --data-dir DIR [--model NAME]

DIR holds `train-classes.parquet`, pictures named "a photo of a ...". Of each set: the number of clusters that is
chosen; `purity`, the share of pictures whose cluster has most of their class; `ari`, the adjusted Rand index (Hubert &
Arabie 1985); the mean cosine to the centres, and that of the k-means of FAISS with as many. `titled` is the share of
clusters that have a title that fits when the names of the classes are offered, `right` the share of these titles that
most pictures of the cluster bear; `foreign` the share that have one when the classes of `OTHERS` are offered, which
none shows. Libraries of any size are made of Gaussian clouds: seconds, and the peak of what was allocated.
"""

import argparse
import re
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from report import report

from xsearch.cluster import clusters
from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.library import Library, LibraryWriter
from xsearch.media.images import decode_image
from xsearch.ranking.clusters import spherical_kmeans
from xsearch.types import Embeddings, Item, Kind, item_id
from xsearch.vectors import l2_normalize

SETS = ("sea_animals", "tf_flowers", "intel_scenes", "caltech101", "fruits_vegetables", "weather")
OTHERS = ("tractor", "wedding dress", "invoice", "submarine", "chess board", "laptop", "birthday cake", "violin")
SIZES = (10_000, 100_000, 1_000_000)
CLOUDS = 200
CHUNK = 64
WRITTEN = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    file = options.data_dir / "train-classes.parquet"
    if not file.exists():
        parser.error(f"there is no {file}")
    encoder = get_encoder(options.model)
    rows = [_set(file, name, encoder) for name in SETS] + [_large(n, encoder) for n in SIZES]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    report("clusters", [{column: row.get(column) for column in columns} for row in rows], model=encoder.spec.name)


def _set(file: Path, name: str, encoder: Encoder) -> dict[str, Any]:
    rows = pq.read_table(file, columns=["image", "captions"], filters=[("set", "=", name)]).to_pylist()
    blocks = [rows[low : low + CHUNK] for low in range(0, len(rows), CHUNK)]
    vectors = np.concatenate(
        [encoder.encode_images([decode_image(r["image"], encoder.spec.image_px)[0] for r in block]) for block in blocks]
    )
    classes = [re.sub(r"^a photo of (an? |the )?", "", row["captions"][0]) for row in rows]
    names = sorted(set(classes))
    with tempfile.TemporaryDirectory() as folder:
        library = _library(Path(folder), encoder, [vectors])
        start_s = time.perf_counter()
        found = clusters(library, encoder, shown=len(vectors), titles=names)
        took_s = time.perf_counter() - start_s
        foreign = clusters(library, encoder, titles=OTHERS)
    of_clusters = [[classes[int(hit.item.path)] for hit in cluster.hits] for cluster in found]
    most = [Counter(of_one).most_common(1)[0] for of_one in of_clusters]
    titled = [(cluster.title, of_most) for cluster, (of_most, _) in zip(found, most, strict=True) if cluster.fits]
    group = np.empty(len(vectors), np.int64)
    for number, cluster in enumerate(found):
        group[[int(hit.item.path) for hit in cluster.hits]] = number
    theirs = faiss.Kmeans(
        vectors.shape[1], len(found), niter=50, nredo=4, spherical=True, seed=0, min_points_per_centroid=1
    )
    theirs.train(vectors)
    return {
        "library": name,
        "pictures": len(vectors),
        "classes": len(names),
        "clusters": len(found),
        "purity": sum(count for _, count in most) / len(vectors),
        "ari": _rand(group, np.unique(classes, return_inverse=True)[1]),
        "cosine": _mean_cosine(vectors, spherical_kmeans(vectors, len(found))),
        "of FAISS": _mean_cosine(vectors, theirs.centroids),
        "titled": len(titled) / len(found),
        "right": sum(title == of_most for title, of_most in titled) / max(1, len(titled)),
        "foreign": sum(cluster.fits for cluster in foreign) / len(foreign),
        "seconds": took_s,
    }


def _large(n: int, encoder: Encoder) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    centres = l2_normalize(rng.standard_normal((CLOUDS, encoder.spec.dim)))

    def cloud(size: int) -> Embeddings:
        noise = rng.standard_normal((size, encoder.spec.dim), np.float32) / encoder.spec.dim**0.5
        return l2_normalize(centres[rng.integers(CLOUDS, size=size)] + noise)

    with tempfile.TemporaryDirectory() as folder:
        library = _library(Path(folder), encoder, (cloud(min(WRITTEN, n)) for _ in range(0, n, WRITTEN)))
        tracemalloc.start()
        start_s = time.perf_counter()
        found = clusters(library, encoder)
        took_s, peak = time.perf_counter() - start_s, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {
        "library": f"{CLOUDS} clouds",
        "pictures": n,
        "clusters": len(found),
        "seconds": took_s,
        "peak MB": peak / 1e6,
    }


def _library(folder: Path, encoder: Encoder, blocks: Any) -> Library:
    """Return a library of these vectors, each the picture of its number."""
    number = 0
    with LibraryWriter(folder, encoder.spec) as writer:
        for vectors in blocks:
            names = [str(number + at) for at in range(len(vectors))]
            items = [Item(item_id(Path(name)), Kind.IMAGE, "/", name, 1, 1, name) for name in names]
            writer.add(items, vectors)
            number += len(vectors)
    return Library.open(folder)


def _mean_cosine(vectors: Embeddings, centres: Embeddings) -> float:
    return float((vectors @ centres.T).max(axis=1).mean())


def _rand(a: NDArray[np.int64], b: Sequence[int] | NDArray[np.int64]) -> float:
    """Return the adjusted Rand index of two partitions."""
    table = np.zeros((a.max() + 1, np.max(b) + 1), np.int64)
    np.add.at(table, (a, b), 1)

    def pairs(counts: NDArray[np.int64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, of_a, of_b, every = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0)), pairs(np.array(len(a)))
    chance = of_a * of_b / every
    return (both - chance) / ((of_a + of_b) / 2 - chance)


if __name__ == "__main__":
    main()
