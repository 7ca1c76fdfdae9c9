"""What index to build for n vectors: arithmetic alone, no FAISS, no I/O."""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil, sqrt

EXACT_ROWS = 50_000
"""Up to here a scan of the mapped vectors answers within some ten milliseconds on one core."""

HNSW_ROWS = 10_000_000
"""From here comparing a query with every centroid costs as much as scanning the lists it leads to."""

TRAIN_ROWS_PER_LIST = 40
"""k-means gains little beyond this many points a centroid (FAISS warns below 39)."""

CENTROIDS = 16
"""Of each subquantizer: 4 bits, which FastScan keeps in registers."""

MIN_REDUCED_DIM = 64
"""Short vectors have no dimensions to spare."""

HNSW_LINKS = 32

MEASURED_K = 10
"""Recall is measured of so many answers."""

RERANK_CODES = 40
"""Re-ranking one row costs about as much as scanning so many codes (measured at 384 dimensions, one core)."""

_ID_BYTES = 8
_FASTSCAN_BLOCK = 32  # codes of a list are stored, and padded, by as many


class IndexKind(StrEnum):
    """How a library is searched; AUTO is what suits its size, and the kind of no plan."""

    AUTO = "auto"
    EXACT = "exact"
    IVFPQ = "ivfpq"


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What a query spends: `nprobe` lists to scan, `depth` candidates to re-rank on the stored vectors."""

    nprobe: int
    depth: int

    def reaching(self, k: int) -> "SearchSettings":
        """Return the settings of which k answers have the recall that MEASURED_K have of these.

        Deeper in proportion, and wider by its root: for captions among a million recall@100 is .72 with the settings
        for 10, .98 with ten times the depth, and .997 with three times the lists as well, which takes a seventh longer.
        """
        times = max(1, k / MEASURED_K)
        return SearchSettings(ceil(self.nprobe * sqrt(times)), ceil(self.depth * times))


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """The shape of an index. `hot_bytes` is what a query may touch apart from the re-ranked rows.

    `nlist` inverted lists (found through HNSW where `hnsw`), vectors reduced linearly from `dim` to
    `reduced_dim` and coded by `subquantizers` of 4 bits each; `train_rows` vectors are sampled for
    training. `settings` holds until the built index has been calibrated. An exact plan has no lists.
    """

    kind: IndexKind
    dim: int
    hot_bytes: int
    nlist: int = 0
    reduced_dim: int = 0
    subquantizers: int = 0
    train_rows: int = 0
    hnsw: bool = False
    settings: SearchSettings = SearchSettings(nprobe=0, depth=0)

    @property
    def code_bytes(self) -> int:
        return ceil(self.subquantizers / 2)


def plan_index(
    n: int,
    dim: int,
    *,
    budget_bytes: int | None = None,
    target_recall: float = 0.95,
    kind: IndexKind = IndexKind.AUTO,
) -> IndexPlan:
    """Plan the index of n vectors of `dim` dimensions; `kind` forces one.

    Exact while that is fast enough and the vectors fit in `budget_bytes`, IVF-PQ beyond. Codes are halved until
    the index fits the budget; where the shortest codes do not fit either, `hot_bytes` says what is needed.
    """
    if n < 0 or dim < 1:
        raise ValueError(f"cannot plan an index of {n} vectors of {dim} dimensions")
    if not 0 < target_recall < 1:
        raise ValueError(f"the target recall must lie between 0 and 1, not {target_recall}")
    exact = IndexPlan(IndexKind.EXACT, dim, hot_bytes=2 * n * dim)
    if kind is IndexKind.AUTO:
        fits = budget_bytes is None or exact.hot_bytes <= budget_bytes
        kind = IndexKind.EXACT if n <= EXACT_ROWS and fits else IndexKind.IVFPQ
    if kind is IndexKind.EXACT:
        return exact
    for width in (2, 4, 8, 16):
        plan = _plan_ivfpq(n, dim, width, target_recall)
        if budget_bytes is None or plan.hot_bytes <= budget_bytes:
            break
    return plan


def _plan_ivfpq(n: int, dim: int, width: int, target_recall: float) -> IndexPlan:
    """Plan IVF-PQ whose subquantizers each code `width` of the reduced dimensions."""
    nlist = _lists(n)
    reduced_dim, subquantizers = _reduction(dim, width)
    code_bytes = ceil(subquantizers / 2)
    hnsw = n > HNSW_ROWS
    list_bytes = 4 * reduced_dim + code_bytes * _FASTSCAN_BLOCK // 2
    if hnsw:
        list_bytes += 2 * HNSW_LINKS * 4
    return IndexPlan(
        IndexKind.IVFPQ,
        dim,
        hot_bytes=n * (code_bytes + _ID_BYTES) + nlist * list_bytes + 4 * reduced_dim * (dim + CENTROIDS),
        nlist=nlist,
        reduced_dim=reduced_dim,
        subquantizers=subquantizers,
        train_rows=min(n, max(TRAIN_ROWS_PER_LIST * nlist, 64 * CENTROIDS)),
        hnsw=hnsw,
        settings=_first_settings(nlist, target_recall),
    )


def _lists(n: int) -> int:
    """A power of two between 4 and 8 sqrt(n), fewer where lists would have too few vectors to be trained on."""
    wanted = 1 << ceil(4 * sqrt(n)).bit_length()
    trainable = max(1, n // TRAIN_ROWS_PER_LIST)
    return min(wanted, 1 << (trainable.bit_length() - 1))


def _reduction(dim: int, width: int) -> tuple[int, int]:
    """Return the reduced dimension, about dim/2, and into how many subquantizers of `width` it divides.

    FastScan looks subquantizers up in pairs, so their number is even wherever dim allows.
    """
    kept = max(dim // 2, min(dim, MIN_REDUCED_DIM))
    step = 2 * width
    reduced = ceil(kept / step) * step
    if reduced > dim:
        reduced = dim // step * step or dim // width * width
    if reduced == 0:
        return dim, 1
    return reduced, reduced // width


def _first_settings(nlist: int, target_recall: float) -> SearchSettings:
    """A guess that errs on the slow side: 1/30 of the lists and 400 candidates at .95, more as the target nears 1."""
    missed = 1 - target_recall
    nprobe = max(8, ceil(nlist * 0.0016 / missed))
    return SearchSettings(nprobe=min(nlist, nprobe), depth=ceil(20 / missed))
