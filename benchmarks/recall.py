"""Whether the recall that an index says it has is the recall that real captions get.

    python benchmarks/recall.py --data-dir DIR [--limit N]

DIR holds Parquet files with the columns image (encoded bytes) and captions: `train-*` are indexed, with `--index ivfpq`
forced, and `dev-*` ask: their captions as text queries and their pictures as image queries, none of which the index has
seen. Beside them stands what the index measured itself, with templated texts and with pictures of its own.
"""

import argparse
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from report import report

from xsearch.encoders import Encoder, get_encoder
from xsearch.index.exact import search_exact
from xsearch.index.plan import IndexKind, SearchSettings
from xsearch.index_file import Targets, keep_index, open_index
from xsearch.library import Library, LibraryWriter
from xsearch.types import Embeddings, Item, Kind, Modality, item_id

K = 10


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
    with tempfile.TemporaryDirectory() as name:
        rows = _measure(Path(name, "library"), indexed, {m: np.concatenate(v) for m, v in asking.items()}, encoder)
    report("recall", rows, vectors=len(indexed))


def _measure(
    data: Path, indexed: Embeddings, asking: dict[Modality, Embeddings], encoder: Encoder
) -> list[dict[str, object]]:
    with LibraryWriter(data, encoder.spec) as writer:
        items = [Item(item_id(Path(str(i))), Kind.IMAGE, "/", str(i), 0, 0, str(i)) for i in range(len(indexed))]
        writer.add(items, indexed)
        keep_index(writer, encoder, kind=IndexKind.IVFPQ, targets=Targets())
    library = Library.open(data)
    index, entry = open_index(library), library.manifest.index
    if index is None or entry is None:
        raise RuntimeError("no index was built")
    rows = []
    for modality, queries in asking.items():
        said = entry.details["settings"][modality.value]
        settings = SearchSettings(said["nprobe"], said["depth"])
        found = index.search(queries, K, vectors=library.vectors, settings=settings).rows
        exact = search_exact(library.vectors, queries, K).rows
        recall = np.mean([np.isin(one, true).mean() for one, true in zip(found, exact, strict=True)])
        rows.append(
            {
                "queries": f"{modality} of dev sets",
                "n": len(queries),
                "recall@10": float(recall),
                "said": said["recall"],
                "said_at_least": said["recall_low"],
                "target": said["target"],
                "nprobe": said["nprobe"],
                "depth": said["depth"],
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
