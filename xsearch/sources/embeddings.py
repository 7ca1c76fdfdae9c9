"""Ready-made embeddings: rows of an .npy file beside rows of metadata, as clip-retrieval writes them; and exports.

Layout: https://github.com/rom1504/clip-retrieval, `img_emb/img_emb_0.npy` and `metadata/metadata_0.parquet`.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xsearch.errors import SourceError
from xsearch.sources.formats import ExportFormat
from xsearch.sources.samples import one_line
from xsearch.types import Skipped

BLOCK_ROWS = 8192
VECTOR = "vector"

_NPY_NAME = "img_emb_{}.npy"
_META_NAME = "metadata_{}.parquet"


@dataclass(frozen=True, slots=True)
class EmbeddingBlock:
    """Vectors (n, dim), float16, float32 or float64 as they are stored, with n rows of metadata."""

    vectors: NDArray[np.floating[Any]]
    metadata: pa.Table


@dataclass(frozen=True, slots=True)
class EmbeddingFiles:
    """A file of vectors and the file of what they are of, row by row."""

    vectors: Path
    metadata: Path


def embedding_files(vectors: Path, metadata: Path | None = None) -> list[EmbeddingFiles]:
    """Return the pairs of files that two files, two folders, or one folder in clip-retrieval's layout hold.

    Raises SourceError if there are none, or if one of a pair is missing.
    """
    if not vectors.is_dir():
        if metadata is None:
            raise SourceError(f"what the vectors of {vectors} are of is not said", remedy="name it with --meta")
        return [EmbeddingFiles(vectors, metadata)]
    npy = _numbered(vectors, "img_emb", _NPY_NAME)
    meta = _numbered(metadata or vectors, "metadata", _META_NAME)
    alone = sorted(npy.keys() ^ meta.keys())
    if alone:
        missing = [(_META_NAME if number in npy else _NPY_NAME).format(number) for number in alone]
        raise SourceError(f"{vectors} lacks {', '.join(missing)}: embeddings and metadata come in pairs")
    if not npy:
        raise SourceError(f"{vectors} holds no {_NPY_NAME.format(0)}, nor others of that name")
    return [EmbeddingFiles(npy[number], meta[number]) for number in sorted(npy)]


def read_embeddings(vectors: Path, metadata: Path) -> Iterator[EmbeddingBlock | Skipped]:
    """Yield all rows in order, some thousands at a time; the vectors are mapped, not loaded.

    A row without a direction, all zero or not finite, is a Skipped. Raises SourceError if a file cannot be read, is not
    a two-dimensional array of floats, or has another number of rows than the other.
    """
    try:
        mapped = np.load(vectors, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"{vectors} cannot be read as vectors ({one_line(error)})") from error
    if not isinstance(mapped, np.ndarray) or mapped.ndim != 2 or mapped.dtype.kind != "f":
        what = f"{mapped.dtype} {mapped.shape}" if isinstance(mapped, np.ndarray) else "an archive of arrays"
        raise SourceError(f"{vectors} holds no rows of floats, but {what}")
    try:
        with pq.ParquetFile(metadata) as file:
            if file.metadata.num_rows != len(mapped):
                raise SourceError(
                    f"{vectors} has {len(mapped)} rows, {metadata} has {file.metadata.num_rows}: one each is wanted"
                )
            first = 0
            for batch in file.iter_batches(BLOCK_ROWS):
                yield from _sound_rows(mapped[first : first + len(batch)], pa.table(batch), vectors, first)
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{metadata} cannot be read as Parquet ({one_line(error)})") from error


def write_export(path: Path, form: ExportFormat, blocks: Iterable[EmbeddingBlock]) -> int:
    """Write vectors as float16 with their metadata, a block at a time, and return how many.

    PARQUET, CSV and LANCE have them in the column `vector`: a list of fixed size, in Parquet of float32, as not every
    reader knows float16 (packed, so that it takes no more room); a JSON list in CSV. NPY is clip-retrieval's layout,
    which `embedding_files` reads. All give back the float16 values exactly. What is there is written over; a LANCE
    folder must not be there. Raises SourceError if there is nothing to write, or a package is missing; OSError.
    """
    remaining = iter(blocks)
    first = next(remaining, None)
    if first is None:
        raise SourceError("there is nothing to export")
    rows = 0

    def counted() -> Iterator[EmbeddingBlock]:
        nonlocal rows
        for block in chain([first], remaining):
            rows += len(block.vectors)
            yield EmbeddingBlock(np.asarray(block.vectors, np.float16), block.metadata)

    _WRITERS[form](path, first, counted())
    return rows


def _numbered(folder: Path, subfolder: str, name: str) -> dict[int, Path]:
    pattern = re.compile(name.format(r"(\d+)"))
    files = chain.from_iterable(place.glob(name.format("*")) for place in (folder, folder / subfolder))
    return {int(match[1]): file for file in files if (match := pattern.fullmatch(file.name))}


def _sound_rows(
    stored: NDArray[np.floating[Any]], metadata: pa.Table, name: Path, first: int
) -> Iterator[EmbeddingBlock | Skipped]:
    vectors = np.array(stored, stored.dtype.newbyteorder("="))
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    sound = finite & np.asarray(vectors.any(axis=1))
    for row in np.flatnonzero(~sound):
        yield Skipped(f"{name} row {first + row + 1}", "no vector", "all zero" if finite[row] else "not finite")
    if sound.all():
        yield EmbeddingBlock(vectors, metadata)
    elif sound.any():
        yield EmbeddingBlock(vectors[sound], metadata.filter(pa.array(sound)))


def _write_parquet(path: Path, first: EmbeddingBlock, blocks: Iterator[EmbeddingBlock]) -> None:
    schema = _with_vector(first, pa.float32()).schema
    # Of a float16 in a float32 the last byte is zero and the one before nearly so: apart, they compress to nothing.
    element = f"{VECTOR}.list.element"
    text_columns = [name for name in schema.names if name != VECTOR]
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=text_columns, use_byte_stream_split=[element]
    ) as writer:
        for block in blocks:
            writer.write_table(_with_vector(block, pa.float32()))


def _write_npy(path: Path, first: EmbeddingBlock, blocks: Iterator[EmbeddingBlock]) -> None:
    vectors, metadata = path / "img_emb" / _NPY_NAME.format(0), path / "metadata" / _META_NAME.format(0)
    vectors.parent.mkdir(parents=True, exist_ok=True)
    metadata.parent.mkdir(parents=True, exist_ok=True)
    rows, dim = 0, first.vectors.shape[1]
    with vectors.open("wb") as file, pq.ParquetWriter(metadata, first.metadata.schema) as writer:
        _write_npy_header(file, rows, dim)
        for block in blocks:
            file.write(np.ascontiguousarray(block.vectors).data)
            writer.write_table(block.metadata)
            rows += len(block.vectors)
        # NumPy leaves room in the header for any number of rows, so the true one fits in place.
        file.seek(0)
        _write_npy_header(file, rows, dim)


def _write_npy_header(file: Any, rows: int, dim: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)})


def _write_csv(path: Path, first: EmbeddingBlock, blocks: Iterator[EmbeddingBlock]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*first.metadata.schema.names, VECTOR])
        for block in blocks:
            columns = [column.to_pylist() for column in block.metadata.columns]
            # Five digits tell all float16 numbers apart.
            vectors = (f"[{','.join(f'{value:.5g}' for value in vector)}]" for vector in block.vectors.tolist())
            writer.writerows(zip(*columns, vectors, strict=True))


def _write_lance(path: Path, first: EmbeddingBlock, blocks: Iterator[EmbeddingBlock]) -> None:
    try:
        import lance
    except ImportError as error:
        raise SourceError(
            f"a package of Lance is missing here ({error.name})", remedy="pip install 'xsearch[lance]'"
        ) from error
    batches = (batch for block in blocks for batch in _with_vector(block, pa.float16()).to_batches())
    lance.write_dataset(batches, str(path), schema=_with_vector(first, pa.float16()).schema)


def _with_vector(block: EmbeddingBlock, kind: pa.DataType) -> pa.Table:
    dim = block.vectors.shape[1]
    flat = pa.array(np.asarray(block.vectors, kind.to_pandas_dtype()).reshape(-1), kind)
    return block.metadata.append_column(VECTOR, pa.FixedSizeListArray.from_arrays(flat, dim))


_WRITERS: dict[ExportFormat, Callable[[Path, EmbeddingBlock, Iterator[EmbeddingBlock]], None]] = {
    ExportFormat.PARQUET: _write_parquet,
    ExportFormat.NPY: _write_npy,
    ExportFormat.CSV: _write_csv,
    ExportFormat.LANCE: _write_lance,
}
