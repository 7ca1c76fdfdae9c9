"""The index file of a library: opened, and built, calibrated and kept in step with the shards."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsearch.encoders import Encoder
from xsearch.errors import LibraryDamaged
from xsearch.index.plan import IndexKind, IndexPlan, plan_index
from xsearch.library import IndexEntry, Library, LibraryWriter
from xsearch.library.files import file_sha256
from xsearch.probes import probe_texts
from xsearch.types import Embeddings, Kind, Modality

if TYPE_CHECKING:
    from xsearch.index.ivfpq import IvfPq

# An index file up to this size is checked against its checksum whenever it is opened, a larger one by `xsearch verify`.
CHECKED_ON_OPEN_BYTES = 256 << 20

# Rows that came after the index was built are scanned exactly, until they are this share of all.
TAIL_SHARE = 0.2
CALIBRATION_QUERIES = 1_000


@dataclass(frozen=True, slots=True)
class Targets:
    """The recall@10 against exact search that an index is set to meet, for each modality of query."""

    text: float = 0.95
    image: float = 0.98

    def of(self, modality: Modality) -> float:
        return self.text if modality is Modality.TEXT else self.image


def open_index(library: Library, *, check: bool = False) -> "IvfPq | None":
    """Open a library's index file, None where it has none. Raises LibraryDamaged if it is missing or altered.

    `check` compares the checksum also of a large file.
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
    return IvfPq.open(path)


def keep_index(
    writer: LibraryWriter,
    encoder: Encoder,
    *,
    kind: IndexKind | None = None,
    targets: Targets | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> None:
    """Build the library's index file anew if it needs one and has none that is whole, in step, and set to the targets.

    `kind` forces one. None plans by size, and keeps an index and targets that are there.
    """
    library = Library.open(writer.folder)
    entry = library.manifest.index
    before = _targets(entry) if entry is not None else Targets()
    targets = targets or before
    if kind is None and entry is not None:
        kind = IndexKind.IVFPQ
    living = sum(library.counts().values())
    plan = plan_index(living, library.manifest.fingerprint.dim, target_recall=targets.text, kind=kind)
    if plan.kind is IndexKind.EXACT or not living:
        writer.drop_index()
    elif (
        entry is None
        or targets != before
        or len(library) - entry.rows > TAIL_SHARE * len(library)
        or _is_damaged(library)
    ):
        on_stage(f"building the index of {living:,} vectors")
        _build(writer, library, plan, encoder, targets)


def _targets(entry: IndexEntry) -> Targets:
    return Targets(**{name: of_modality["target"] for name, of_modality in entry.details["settings"].items()})


def _is_damaged(library: Library) -> bool:
    try:
        open_index(library)
    except LibraryDamaged:
        return True
    return False


def _build(writer: LibraryWriter, library: Library, plan: IndexPlan, encoder: Encoder, targets: Targets) -> None:
    from xsearch.index.calibrate import calibrate
    from xsearch.index.ivfpq import IvfPq

    start_s = time.monotonic()
    index = IvfPq.build(library.vectors, plan, allowed=library.alive)
    build_s = time.monotonic() - start_s
    settings = {}
    for modality in Modality:
        queries, own_rows = _calibration_queries(library, encoder, modality)
        found = calibrate(
            index, library.vectors, queries, targets.of(modality), allowed=library.alive, own_rows=own_rows
        )
        settings[modality.value] = asdict(found.settings) | {
            "recall": found.recall,
            "recall_low": found.recall_low,
            "queries": found.n_queries,
            "target": targets.of(modality),
        }
    details = {"kind": plan.kind.value, "nlist": plan.nlist, "hot_bytes": plan.hot_bytes, "build_s": round(build_s, 1)}
    writer.set_index(index.rows, details | {"settings": settings}, index.save)


def _calibration_queries(
    library: Library, encoder: Encoder, modality: Modality
) -> tuple[Embeddings, NDArray[np.int64] | None]:
    """Return (q, dim) queries like those that people will ask, and the rows they are, where they are rows.

    For pictures a sample of the library's own; for texts generic captions, which were never indexed.
    """
    if modality is Modality.TEXT:
        return encoder.encode_texts(probe_texts(CALIBRATION_QUERIES)), None
    rows = np.flatnonzero(library.of_kinds([Kind.IMAGE, Kind.FRAME]))
    if not len(rows):
        rows = np.flatnonzero(library.alive)
    sample = np.sort(np.random.default_rng(0).choice(rows, min(len(rows), CALIBRATION_QUERIES), replace=False))
    return library.vectors.take(sample), sample
