"""The FAISS index: a linear reduction, spherical IVF, 4-bit PQ FastScan; then an exact re-rank on the stored vectors.

Importing this module loads FAISS: do so only where there is an index file to build or to open.
"""

import struct
from collections.abc import Callable
from math import ceil
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from xsearch.errors import LibraryDamaged
from xsearch.index.candidates import Candidates, Routes, deepened, packed
from xsearch.index.exact import Found
from xsearch.index.gpu import assigning_on_gpus, flat_on_gpus
from xsearch.index.plan import CENTROIDS, HNSW_LINKS, IndexPlan, SearchSettings
from xsearch.vectors import BLOCK_ROWS, VectorTable

ADDING_EF = 64
"""How far HNSW looks for the list of a new row: of 8,192 lists it finds the nearest for .997 of the rows, with FAISS's
own 16 for .980."""

_TRAILER = struct.Struct("<8sQQ")  # magic, rows covered, bytes before the trailer
_MAGIC = b"xsindex1"


class IvfPq:
    """An index over the first `rows` rows of a library. Searches change nothing in it: share it between threads."""

    def __init__(self, index: "faiss.IndexPreTransform", rows: int) -> None:
        self._index = index
        self._ivf = faiss.extract_index_ivf(index)
        self._reduction = index.chain.at(0)
        self._quantizer = faiss.downcast_index(self._ivf.quantizer)
        self._hnsw = isinstance(self._quantizer, faiss.IndexHNSW)
        self.rows = rows

    @property
    def dim(self) -> int:
        return int(self._index.d)

    @property
    def nlist(self) -> int:
        return int(self._ivf.nlist)

    @property
    def code_bytes(self) -> int:
        return int(self._ivf.code_size)

    @classmethod
    def build(
        cls,
        vectors: VectorTable,
        plan: IndexPlan,
        *,
        allowed: NDArray[np.bool_] | None = None,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "IvfPq":
        """Train on a sample and add all rows, block by block; `on_progress(added, total)` follows the adding.

        Rows that are not `allowed` (len(vectors),) are left out for good. The sample is the only part of the
        vectors that is held in memory, reduced.
        """
        live = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
        if len(live) == 0:
            raise ValueError("there are no vectors to index")
        rng = np.random.default_rng(seed)
        sampled = np.sort(rng.choice(live, min(plan.train_rows, len(live)), replace=False))
        reduction = _rotation(plan.reduced_dim, rng) @ _principal_subspace(vectors, sampled, plan.reduced_dim)
        transform = faiss.LinearTransform(plan.dim, plan.reduced_dim, False)
        faiss.copy_array_to_vector(reduction.ravel(), transform.A)
        transform.is_trained = True

        # FAISS wants a point for every centroid, of lists and of codes: a handful of vectors is repeated.
        train_rows = max(len(sampled), plan.nlist, CENTROIDS)
        sample = np.resize(_reduced(vectors, sampled, reduction), (train_rows, plan.reduced_dim))
        quantizer = _coarse_quantizer(sample, plan, seed)
        ivf = faiss.IndexIVFPQFastScan(
            quantizer, plan.reduced_dim, plan.nlist, plan.subquantizers, 4, faiss.METRIC_INNER_PRODUCT
        )
        quantizer.this.disown()
        ivf.own_fields = True
        ivf.by_residual = True
        ivf.pq.cp.min_points_per_centroid = 1
        ivf.pq.cp.seed = seed
        ivf.train(sample)

        index = faiss.IndexPreTransform(ivf)
        index.prepend_transform(transform)
        index.own_fields = True
        ivf.this.disown()
        transform.this.disown()
        trained = cls(index, rows=0)
        trained.add(vectors, allowed=allowed, on_progress=on_progress)
        return trained

    def add(
        self,
        vectors: VectorTable,
        *,
        allowed: NDArray[np.bool_] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Add the rows that the index does not cover yet, block by block, without training anew.

        An index that was opened from a file must be `writable`; nobody may search it meanwhile.
        """
        with assigning_on_gpus(self._ivf, len(vectors) - self.rows):
            for first, block in vectors.blocks(self.rows):
                end = first + len(block)
                rows = np.arange(first, end)
                if allowed is not None:
                    rows, block = rows[allowed[rows]], block[allowed[rows]]
                self._index.add_with_ids(block, rows)
                if on_progress is not None:
                    on_progress(end, len(vectors))
        self.rows = len(vectors)

    def save(self, path: Path) -> None:
        """Write one file: what FAISS writes, then a trailer that tells a whole file from a cut one."""
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:  # so FAISS tells of a full disk
            raise OSError(f"the index cannot be written: {error}") from error
        with path.open("ab") as file:
            file.write(_TRAILER.pack(_MAGIC, self.rows, file.tell()))

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> "IvfPq":
        """Open a saved index, which stays readable after the file is unlinked.

        FAISS maps what it can; of FastScan's lists that is nothing (1.15): they are in the memory of each process.

        A `writable` one is read into memory, so that rows can be added to it; the file stays as it is. Raises
        LibraryDamaged for a file that is missing, cut or not an index. Altered bytes inside are for the caller's
        checksum to find.
        """
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TRAILER.size))
                magic, rows, payload_bytes = _TRAILER.unpack(file.read())
            if magic != _MAGIC or payload_bytes != size - _TRAILER.size:
                raise LibraryDamaged(f"the index file {path} is incomplete")
            return cls(faiss.read_index(str(path), 0 if writable else faiss.IO_FLAG_MMAP), rows)
        except (OSError, struct.error, RuntimeError, MemoryError) as error:
            raise LibraryDamaged(f"the index file {path} cannot be read: {error}") from error

    def routes(self, queries: NDArray[np.float32], nprobe: int, *, allowed: NDArray[np.bool_] | None = None) -> Routes:
        """Return the `nprobe` lists for each of (q, dim) float32 queries.

        With a mask `allowed` (at least `rows` long) more, in proportion to what it leaves out, so that about as many
        vectors compete as without.
        """
        if allowed is not None:
            nprobe = ceil(nprobe * self.rows / max(1, int(np.count_nonzero(allowed[: self.rows]))))
        nprobe = min(nprobe, self.nlist)
        coarse = faiss.SearchParametersHNSW(efSearch=max(64, 2 * nprobe)) if self._hnsw else None
        reduced = self._reduction.apply(np.ascontiguousarray(queries))
        affinities, lists = self._quantizer.search(reduced, nprobe, params=coarse)
        return Routes(reduced, lists, affinities)

    def scan(self, routes: Routes, n: int, *, allowed: NDArray[np.uint8] | None = None) -> Candidates:
        """Return the n best rows of the routes' lists by their codes; `allowed` is a mask, `packed`."""
        selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
        parameters = faiss.SearchParametersIVF(nprobe=routes.lists.shape[1], sel=selector)
        q = len(routes.lists)
        rows, scores = np.empty((q, n), np.int64), np.empty((q, n), np.float32)
        inputs = [np.ascontiguousarray(array) for array in (routes.reduced, routes.lists, routes.affinities)]
        reduced, lists, affinities, *outputs = map(faiss.swig_ptr, (*inputs, scores, rows))
        # As FAISS has it in C++: its method for Python takes no parameters, and no number of lists but the index's own.
        self._ivf.search_preassigned_c(q, reduced, n, lists, affinities, *outputs, False, parameters)
        scores[rows < 0] = -np.inf
        return Candidates(rows, scores)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        vectors: VectorTable,
        settings: SearchSettings,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        """Return the k best of the candidates for each of (q, dim) float32 queries, scored on the stored vectors.

        Fewer than k where the probed lists hold fewer.
        """
        routes = self.routes(queries, settings.nprobe, allowed=allowed)
        bits = None if allowed is None else packed(allowed)

        def scanned(some: NDArray[np.intp], depth: int) -> tuple[Found, NDArray[np.bool_]]:
            candidates = self.scan(routes.of(some), depth + 1, allowed=bits)
            found, kept = Found.nothing(len(some), k), candidates.kept(depth)
            for i, (query, n) in enumerate(zip(some.tolist(), kept.tolist(), strict=True)):
                rows = np.sort(candidates.rows[i, :n])  # in file order, for what is not in memory yet
                one = Found(found.rows[i : i + 1], found.scores[i : i + 1])
                one.improve(queries[query : query + 1], rows, vectors.take(rows))
            return found, candidates.is_cut(depth, kept, k)

        return deepened(scanned, len(queries), k, settings.depth, self.rows)


def _principal_subspace(vectors: VectorTable, rows: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    """Return (dim, vectors.dim) orthonormal rows that keep most of the squared length of the sampled rows.

    Not centred: a bias would change the order of inner products.
    """
    moment = np.zeros((vectors.dim, vectors.dim))
    for low in range(0, len(rows), BLOCK_ROWS):
        block = vectors.take(rows[low : low + BLOCK_ROWS])
        moment += block.T @ block
    _, axes = np.linalg.eigh(moment)
    return np.ascontiguousarray(axes[:, : -dim - 1 : -1].T, dtype=np.float32)


def _rotation(dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a random (dim, dim) rotation, to spread the common direction of all vectors over all subquantizers.

    FastScan rounds the lookup tables of a query to 8 bits with one scale: left in one subquantizer, that direction
    sets the scale, and what tells vectors apart is lost (100k synthetic pictures, text recall@10 .73 instead of .98).
    """
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)


def _reduced(vectors: VectorTable, rows: NDArray[np.int64], reduction: NDArray[np.float32]) -> NDArray[np.float32]:
    reduced = np.empty((len(rows), len(reduction)), np.float32)
    for low in range(0, len(rows), BLOCK_ROWS):
        reduced[low : low + BLOCK_ROWS] = vectors.take(rows[low : low + BLOCK_ROWS]) @ reduction.T
    return reduced


def _coarse_quantizer(sample: NDArray[np.float32], plan: IndexPlan, seed: int) -> "faiss.Index":
    """Return the trained index of list centroids: k-means with unit centroids, which route inner products better."""
    clustering = faiss.Clustering(plan.reduced_dim, plan.nlist)
    clustering.spherical = True
    clustering.niter = 10
    clustering.seed = seed
    clustering.min_points_per_centroid = 1
    clustering.train(sample, flat_on_gpus(plan.reduced_dim) or faiss.IndexFlatIP(plan.reduced_dim))
    if plan.hnsw:
        quantizer = faiss.IndexHNSWFlat(plan.reduced_dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        quantizer.hnsw.efSearch = ADDING_EF
    else:
        quantizer = faiss.IndexFlatIP(plan.reduced_dim)
    quantizer.add(faiss.vector_to_array(clustering.centroids).reshape(plan.nlist, plan.reduced_dim))
    return quantizer
