"""The index file of a library: opened, and built, calibrated and kept in step with the shards."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.errors import LibraryDamaged
from xsearch.index.plan import IndexKind, IndexPlan, plan_index
from xsearch.library import IndexEntry, Library, LibraryWriter
from xsearch.library.files import file_sha256
from xsearch.probes import probe_texts
from xsearch.types import Embeddings, Kind, Modality
from xsearch.vectors import l2_normalize

if TYPE_CHECKING:
    from xsearch.index.ivfpq import IvfPq

# An index file up to this size is checked against its checksum whenever it is opened, a larger one by `xsearch verify`.
CHECKED_ON_OPEN_BYTES = 256 << 20

# Rows that came after the index was built are scanned exactly, until they are this share of all, or so many that the
# scan takes some twenty milliseconds.
TAIL_SHARE = 0.2
TAIL_ROWS = 100_000
CALIBRATION_QUERIES = 1_000
PICTURES = (Kind.IMAGE, Kind.FRAME)

RETRAIN_GROWTH = 2
"""Centroids trained on half of the rows still suit all; lists grow no longer than twice what was planned."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The recall@10 against exact search that an index is set to meet, for each modality of query."""

    text: float = 0.95
    image: float = 0.98

    def of(self, modality: Modality) -> float:
        return self.text if modality is Modality.TEXT else self.image


def open_index(library: Library, *, check: bool = False, writable: bool = False) -> "IvfPq | None":
    """Open a library's index file, None where it has none. Raises LibraryDamaged if it is missing or altered.

    `check` compares the checksum also of a large file; to a `writable` one rows can be added, in memory.
    """
    entry = library.manifest.index
    if entry is None:
        return None
    from xsearch.index.ivfpq import IvfPq

    path = library.folder / "index" / entry.file
    if not path.exists() or path.stat().st_size != entry.bytes:
        raise LibraryDamaged(f"the index file {path} is missing or cut")
    if (check or entry.bytes <= CHECKED_ON_OPEN_BYTES) and file_sha256(path) != entry.sha256:
        raise LibraryDamaged(f"the index file {path} was altered")
    return IvfPq.open(path, writable=writable)


def keep_index(
    writer: LibraryWriter,
    encoder: Encoder,
    *,
    kind: IndexKind | None = None,
    targets: Targets | None = None,
    anew: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> None:
    """Bring the library's index file up to date, if it needs one, with its rows and with what is asked of it.

    `kind` forces one, or AUTO by size; what was asked for once holds until something else is. New rows are added to
    the index there is; it is trained `anew` when the library has doubled since it was, when it is damaged, and when
    with the new rows it misses its targets.
    """
    library = Library.open(writer.folder)
    entry, wanted = library.manifest.index, library.manifest.index_wanted
    before = Targets(**wanted.get("targets", {}))
    targets = targets or before
    kind = kind or IndexKind(wanted.get("kind", IndexKind.AUTO))
    writer.want_index({"kind": kind.value, "targets": asdict(targets)})
    living = sum(library.counts().values())
    plan = plan_index(living, library.manifest.fingerprint.dim, target_recall=targets.text, kind=kind)
    if plan.kind is IndexKind.EXACT or not living:
        writer.drop_index()
        return
    suits = entry is not None and targets == before and living <= RETRAIN_GROWTH * entry.details["trained_rows"]
    if entry is not None and suits and not anew and not _is_damaged(library):
        newer = len(library) - entry.rows
        if newer <= min(TAIL_SHARE * len(library), TAIL_ROWS):
            return
        on_stage(f"adding {newer:,} vectors to the index")
        if _add(writer, library, entry, plan, encoder, targets):
            return
    on_stage(f"building the index of {living:,} vectors")
    _build(writer, library, plan, encoder, targets)


def _is_damaged(library: Library) -> bool:
    try:
        open_index(library)
    except LibraryDamaged:
        return True
    return False


def _add(
    writer: LibraryWriter, library: Library, entry: IndexEntry, plan: IndexPlan, encoder: Encoder, targets: Targets
) -> bool:
    """Add the rows that the index lacks, unless it then misses its targets: return whether they were added."""
    try:
        index = open_index(library, check=True, writable=True)
    except LibraryDamaged:
        return False
    assert index is not None
    index.add(library.vectors, allowed=library.alive)
    settings, met = _calibrated(index, library, encoder, targets)
    if met:
        details = {**entry.details, "hot_bytes": plan.hot_bytes, "settings": settings}
        writer.set_index(index.rows, details, index.save)
    return met


def _build(writer: LibraryWriter, library: Library, plan: IndexPlan, encoder: Encoder, targets: Targets) -> None:
    from xsearch.index.ivfpq import IvfPq

    start_s = time.monotonic()
    index = IvfPq.build(library.vectors, plan, allowed=library.alive)
    build_s = time.monotonic() - start_s
    settings, _ = _calibrated(index, library, encoder, targets)
    details = {
        "kind": plan.kind.value,
        "nlist": plan.nlist,
        "hot_bytes": plan.hot_bytes,
        "build_s": round(build_s, 1),
        "trained_rows": int(np.count_nonzero(library.alive)),
    }
    writer.set_index(index.rows, details | {"settings": settings}, index.save)


def measured_among(library: Library) -> NDArray[np.bool_] | None:
    """Return (rows,) those among which an index's settings are measured, removed ones included; None means all.

    Pictures where there are any: it is they that texts and pictures ask for.
    """
    if not library.of_kinds(PICTURES).any():
        return None
    pictures = library.ever_of_kinds(PICTURES)
    return None if pictures.all() else pictures


def _calibrated(
    index: "IvfPq", library: Library, encoder: Encoder, targets: Targets
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Return the settings for each modality with the recall that they showed, and whether all meet their targets."""
    from xsearch.index.calibrate import calibrate

    settings, met = {}, True
    measured = measured_among(library)
    shown = library.alive if measured is None else library.alive & measured
    for modality in Modality:
        queries = _calibration_queries(library, encoder, modality, shown)
        found = calibrate(index, library.vectors, queries, targets.of(modality), allowed=shown)
        settings[modality.value] = asdict(found.settings) | {
            "recall": found.recall,
            "recall_low": found.recall_low,
            "queries": found.n_queries,
            "target": targets.of(modality),
        }
        met &= found.met
    return settings, met


def _calibration_queries(
    library: Library, encoder: Encoder, modality: Modality, shown: NDArray[np.bool_]
) -> Embeddings:
    """Return (q, dim) queries like those that people will ask.

    Texts of the library, or generic ones where it has few. For pictures, what lies midway between two of those `shown`:
    a picture itself is too easy a query where it has near copies, as each frame of a film has, and settings found by it
    miss what others ask for (each of 12,000 pictures ten times, a little changed: said .996, of new pictures .953).
    """
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(shown)
    if modality is Modality.TEXT:
        rows = np.flatnonzero(library.of_kinds([Kind.TEXT]) & ~shown)
        if len(rows) < CALIBRATION_QUERIES:
            return encoder.encode_texts(probe_texts(CALIBRATION_QUERIES))
    sample = rng.choice(rows, min(len(rows), CALIBRATION_QUERIES), replace=False)
    vectors = library.vectors.take(sample)
    return vectors if modality is Modality.TEXT else l2_normalize(vectors + np.roll(vectors, 1, axis=0))
