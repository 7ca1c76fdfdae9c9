"""Whether the recall that an index says it has is the recall that real captions get.

    python benchmarks/recall.py --data-dir DIR [--limit N]

DIR holds Parquet files with the columns image (encoded bytes) and captions: `train-*` are indexed, with `--index ivfpq`
forced, and `dev-*` ask: their captions as text queries and their pictures as image queries, none of which the index has
seen. Beside them stands what the index measured itself, with templated texts and with what lies midway between
pictures of its own. Answers are ten and a hundred; a second library holds near copies, as frames of films are.
"""

import argparse
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from index_scale import made_up_items
from PIL import Image
from report import report

from xsearch.encoders import Encoder, get_encoder
from xsearch.index.exact import search_exact
from xsearch.index.plan import IndexKind, SearchSettings
from xsearch.index_file import Targets, keep_index, open_index
from xsearch.library import Library, LibraryWriter
from xsearch.types import Embeddings, Modality
from xsearch.vectors import l2_normalize

ANSWERS = (10, 100)
COPIED, COPIES, CHANGE = 12_000, 10, 0.2  # so many pictures, each so often, as far from itself: a cosine of .98


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="pictures of each file to index, all by default")
    options = parser.parse_args()
    encoder = get_encoder()
    indexed = np.concatenate(
        [_pictures(path, encoder, options.limit) for path in sorted(options.data_dir.glob("train-*.parquet"))]
    )
    asking = {Modality.TEXT: [], Modality.IMAGE: []}
    for path in sorted(options.data_dir.glob("dev-*.parquet")):
        captions = [text for row in pq.read_table(path, columns=["captions"])["captions"].to_pylist() for text in row]
        asking[Modality.TEXT].append(encoder.encode_texts(captions))
        asking[Modality.IMAGE].append(_pictures(path, encoder, None))
    libraries = {"pictures": indexed, "near copies": _near_copies(indexed[:COPIED])}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for library, vectors in libraries.items():
            found = _measure(Path(name, library), vectors, {m: np.concatenate(v) for m, v in asking.items()}, encoder)
            rows += [{"library": library, "vectors": len(vectors)} | row for row in found]
    report("recall", rows)


def _near_copies(vectors: Embeddings) -> Embeddings:
    rng = np.random.default_rng(0)
    copies = np.repeat(vectors, COPIES, axis=0)
    return l2_normalize(copies + CHANGE * l2_normalize(rng.standard_normal(copies.shape, np.float32)))


def _measure(
    data: Path, indexed: Embeddings, asking: dict[Modality, Embeddings], encoder: Encoder
) -> list[dict[str, object]]:
    with LibraryWriter(data, encoder.spec) as writer:
        writer.add(made_up_items(0, len(indexed)), indexed)
        keep_index(writer, encoder, kind=IndexKind.IVFPQ, targets=Targets())
    library = Library.open(data)
    index, entry = open_index(library), library.manifest.index
    if index is None or entry is None:
        raise RuntimeError("no index was built")
    rows = []
    for modality, queries in asking.items():
        said = entry.details["settings"][modality.value]
        exact = search_exact(library.vectors, queries, max(ANSWERS)).rows
        for k in ANSWERS:
            settings = SearchSettings(said["nprobe"], said["depth"]).reaching(k)
            found = index.search(queries, k, vectors=library.vectors, settings=settings).rows
            recall = np.mean([np.isin(true[:k], one).mean() for one, true in zip(found, exact, strict=True)])
            rows.append(
                {
                    "queries": f"{modality} of dev sets",
                    "n": len(queries),
                    "answers": k,
                    "recall": float(recall),
                    "said_of_10": said["recall"],
                    "said_at_least": said["recall_low"],
                    "target": said["target"],
                    "nprobe": settings.nprobe,
                    "depth": settings.depth,
                    "nlist": entry.details["nlist"],
                }
            )
    return rows


def _pictures(path: Path, encoder: Encoder, limit: int | None) -> Embeddings:
    parts = [np.empty((0, encoder.spec.dim), np.float32)]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(256, columns=["image"]):
            pictures = [np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in batch["image"].to_pylist()]
            parts.append(encoder.encode_images(pictures))
            if limit is not None and sum(map(len, parts)) >= limit:
                break
    return np.concatenate(parts)[:limit]


if __name__ == "__main__":
    main()
