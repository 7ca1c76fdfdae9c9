"""What `docs/scale.md` reckons with: memory of a process that answers, and how fast rows are brought to their lists.

    python benchmarks/capacity.py --data-dir DIR --work DIR [--items 1000000]

DIR holds Parquet files with the columns image (encoded bytes) and captions. A library of a tenth of the items and one
of all, made up as in `index_peers.py`, are each opened by a fresh process that answers a caption: its own memory,
mapped pages left out, tells what stands once and what an item costs. Then, on one thread, rows of 192 dimensions are
brought to the likeliest of 16,384 and 65,536 lists, compared with all and through HNSW; lists are at rows of their own.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from index_peers import enlarged, real_vectors
from index_scale import made_up_items, status_kb
from report import report

from xsearch import Searcher
from xsearch.encoders import get_encoder
from xsearch.index.ivfpq import ADDING_EF
from xsearch.index.plan import HNSW_LINKS
from xsearch.library import LibraryWriter
from xsearch.types import Embeddings
from xsearch.vectors import l2_normalize

REDUCED_DIM = 192
LISTS = (16_384, 65_536)
ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="takes 900 bytes an item")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer is not None:
        Searcher(options.answer).query("a dog runs on a beach")
        print(status_kb("RssAnon"))
        return
    pictures = real_vectors(options.data_dir, options.work)["pictures"]
    few, many = (_memory_bytes(pictures, n, options) for n in (options.items // 10, options.items))
    an_item = (many - few) / (options.items - options.items // 10)
    report(
        "capacity",
        _assignments(pictures),
        items=options.items,
        memory={"once_mb": (many - an_item * options.items) / 1e6, "bytes_an_item": an_item},
    )


def _memory_bytes(pictures: Embeddings, n: int, options: argparse.Namespace) -> int:
    folder = options.work / f"capacity-{n}"
    if not folder.exists():
        with LibraryWriter(folder, get_encoder().spec) as writer:
            first = 0
            for block in enlarged(pictures, n, np.random.default_rng(0)):
                writer.add(made_up_items(first, len(block)), block)
                first += len(block)
    script = [sys.executable, __file__, *sys.argv[1:], "--answer", str(folder)]
    return 1024 * int(subprocess.run(script, stdout=subprocess.PIPE, check=True, text=True).stdout)


def _assignments(pictures: Embeddings) -> list[dict[str, Any]]:
    faiss.omp_set_num_threads(1)
    _, axes = np.linalg.eigh(pictures.T @ pictures)
    reduced = np.concatenate(
        [
            l2_normalize(np.ascontiguousarray(block @ axes[:, -REDUCED_DIM:]))
            for block in enlarged(pictures, len(pictures) + max(LISTS) + ROWS, np.random.default_rng(1))
        ]
    )[len(pictures) :]
    rows, rest = reduced[:ROWS], reduced[ROWS:]
    found = []
    for n in LISTS:
        flat = faiss.IndexFlatIP(REDUCED_DIM)
        hnsw = faiss.IndexHNSWFlat(REDUCED_DIM, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        hnsw.hnsw.efSearch = ADDING_EF
        true = None
        for name, index in (("all", flat), ("HNSW", hnsw)):
            index.add(rest[:n])
            start_s = time.process_time()
            lists = index.search(rows, 1)[1]
            rate = ROWS / (time.process_time() - start_s)
            true = lists if true is None else true
            found.append(
                {"lists": n, "by": name, "rows_a_cpu_second": rate, "the nearest": float(np.mean(lists == true))}
            )
    return found


if __name__ == "__main__":
    main()
