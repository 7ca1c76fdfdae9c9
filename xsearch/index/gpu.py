"""What FAISS computes on GPUs, where its build knows any: which centroid is nearest, for training and for adding.

The lists themselves stay on the CPU: FastScan's codes have no form for GPUs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from xsearch.index.live import gpu_count

LEAST_ROWS = 200_000
"""Fewer are assigned before CUDA has started."""


def flat_on_gpus(dim: int) -> "faiss.Index | None":
    """Return an empty index of greatest products that shares its queries among all GPUs, None where there is none."""
    return faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(dim)) if gpu_count() else None


@contextmanager
def assigning_on_gpus(ivf: "faiss.IndexIVF", rows: int) -> Iterator[None]:
    """While so many rows are added to an index, let GPUs find their lists, and compare with each centroid exactly.

    What is near a vector the GPUs say; the centroid itself, from which its residual is taken, comes from a copy here,
    as `IndexRefine` has it: from a GPU it would be fetched for each vector singly.
    """
    nearest = flat_on_gpus(ivf.d) if rows >= LEAST_ROWS else None
    if nearest is None:
        yield
        return
    own = ivf.quantizer
    centroids: NDArray[np.float32] = faiss.downcast_index(own).reconstruct_n(0, own.ntotal)
    here = faiss.IndexFlatIP(ivf.d)
    for index in (nearest, here):
        index.add(centroids)
    both = faiss.IndexRefine(nearest, here)  # named, as FAISS keeps no reference to what it is handed
    ivf.quantizer = both
    try:
        yield
    finally:
        ivf.quantizer = own
