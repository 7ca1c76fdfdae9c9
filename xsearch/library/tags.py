"""Tags: what labels each picture and frame has, beside the shards.

`tags/labels.npz` holds the labels as vectors. `tags/<shard>.parquet` has a row for each of a shard, in its order, and
follows from the two: it is a cache. One that is missing (of a shard that is newer), damaged or of other labels is
worked out from the vectors whenever it is asked for. So tags are right whatever becomes of the shards.
"""

import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xsearch.errors import LibraryDamaged
from xsearch.labels import Labels
from xsearch.library.files import replacing
from xsearch.library.library import Library
from xsearch.library.shards import KINDS, Shard
from xsearch.library.writer import LibraryWriter
from xsearch.types import Kind
from xsearch.vectors import VectorTable

TAGS = "tags"
LABELS = "labels.npz"

COLUMN = pa.field("tags", pa.list_(pa.string()))
"""Labels of a picture, the most probable first; null for a text, which is never asked."""

_SCHEMA = pa.schema([pa.field("id", pa.string()), COLUMN, pa.field("scores", pa.list_(pa.float32()))])
_DIGEST = b"xsearch.labels"
_PICTURES = [KINDS.index(Kind.IMAGE), KINDS.index(Kind.FRAME)]
_BLOCK_ROWS = 4096


def read_labels(library: Library) -> Labels | None:
    """Return the labels of a library, None where it has none. Raises LibraryDamaged if they were altered."""
    path = library.folder / TAGS / LABELS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            names, vectors, generic, numbers = (stored[name] for name in ("names", "vectors", "generic", "numbers"))
        if not len(names) == len(vectors) or {vectors.shape[1], generic.shape[1]} != {library.vectors.dim}:
            raise ValueError("its vectors are not of this library")
        return Labels(tuple(names.tolist()), vectors, generic, *numbers.tolist())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise LibraryDamaged(f"{path} cannot be read ({error})", remedy="`xsearch tag --labels FILE` again") from error


def write_labels(writer: LibraryWriter, labels: Labels) -> None:
    """Replace the labels of a library in one step; `keep_tags` then brings the tags after them."""
    folder = writer.folder / TAGS
    folder.mkdir(exist_ok=True)
    numbers = np.array([labels.logit_scale, labels.threshold])
    with replacing(folder / LABELS) as temporary, temporary.open("wb") as file:
        np.savez(file, names=np.array(labels.names), vectors=labels.vectors, generic=labels.generic, numbers=numbers)


def keep_tags(writer: LibraryWriter) -> None:
    """Write the tags of shards that have none of these labels, and remove those of shards that are gone.

    Does nothing in a library without labels, or with damaged ones: whoever asks for tags is told. Raises LibraryDamaged
    for a damaged shard.
    """
    library = Library.open(writer.folder)
    try:
        labels = read_labels(library)
    except LibraryDamaged:
        return
    if labels is None:
        return
    live = {_path(library, shard) for shard in library._shards}
    for path in set((library.folder / TAGS).glob("*.parquet")) - live:
        path.unlink(missing_ok=True)
    for shard in library._shards:
        if _stored(library, shard, labels) is None:
            table = _tagged(shard, labels, library.vectors.dim).replace_schema_metadata({_DIGEST: labels.digest})
            with replacing(_path(library, shard)) as temporary:
                pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def tags_of(library: Library, shard: Shard, labels: Labels) -> pa.Table:
    """Return `id`, `tags` and `scores` of the rows of a shard, dead ones included."""
    stored = _stored(library, shard, labels)
    return _tagged(shard, labels, library.vectors.dim) if stored is None else stored


def counts(library: Library, labels: Labels) -> tuple[Mapping[str, int], int]:
    """Return how many living items have each label, and how many have any."""
    by_label, first, tagged = Counter(dict.fromkeys(labels.names, 0)), 0, 0
    for shard in library._shards:
        alive = library.alive[first : first + shard.entry.rows]
        first += shard.entry.rows
        found = tags_of(library, shard, labels)["tags"].filter(pa.array(alive))
        by_label.update(label.as_py() for label in found.combine_chunks().flatten())
        tagged += sum(len(tags) > 0 for tags in found.drop_null().to_pylist())
    return by_label, tagged


def _path(library: Library, shard: Shard) -> Path:
    return library.folder / TAGS / f"{shard.entry.id}.parquet"


def _stored(library: Library, shard: Shard, labels: Labels) -> pa.Table | None:
    """Return the tags in the file of a shard, None if it has none that are of these labels and whole."""
    try:
        table = pq.read_table(_path(library, shard), page_checksum_verification=True, use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        return None
    fits = len(table) == shard.entry.rows and (table.schema.metadata or {}).get(_DIGEST) == labels.digest.encode()
    return table if fits and table.schema.remove_metadata() == _SCHEMA else None


def _tagged(shard: Shard, labels: Labels, dim: int) -> pa.Table:
    are_pictures = np.isin(shard.kinds, _PICTURES)
    names, ids, blocks = np.array(labels.names, dtype=object), shard.column("id"), []
    for first, vectors in VectorTable(shard.segments, dim).blocks(rows=_BLOCK_ROWS):
        found = labels.probabilities(vectors)
        of_texts = ~are_pictures[first : first + len(vectors)]
        row, label = np.nonzero((found >= labels.threshold) & ~of_texts[:, None])
        order = np.lexsort((-found[row, label], row))
        row, label = row[order], label[order]
        starts = pa.array(np.searchsorted(row, np.arange(len(vectors) + 1)).astype(np.int32))
        tags, scores = pa.array(names[label], pa.string()), pa.array(found[row, label])
        columns = [pa.ListArray.from_arrays(starts, values, mask=pa.array(of_texts)) for values in (tags, scores)]
        blocks.append(pa.table([ids.slice(first, len(vectors)), *columns], _SCHEMA))
    return pa.concat_tables(blocks)
