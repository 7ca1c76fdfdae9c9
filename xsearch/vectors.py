"""Arithmetic on vectors: the one place that normalises, and many arrays addressed as one."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xsearch.types import Embeddings

BLOCK_ROWS = 8192

ROWS_A_CALL = 4
"""To take rows of an array by one call of numpy costs as much as to take so many one by one."""


def l2_normalize(vectors: ArrayLike) -> Embeddings:
    """Return (n, dim) float32 with unit rows. A zero row stays zero; a row that is not finite raises ValueError."""
    array = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError("a vector is not finite (NaN or infinity)")
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    unit: Embeddings = np.divide(array, norms, out=np.zeros_like(array), where=norms > 0)
    return unit


def widened(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return finite float16 values as float32, exactly; a quarter of the time of `astype`, which goes through tables.

    Sign and bits are put where float32 has them, and the exponent is corrected by a product: with a power of two, so
    exact, also for subnormal numbers. NaN and infinity do not survive: vectors are finite (`l2_normalize`).
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.array(0x8FFFE000, np.uint32).view(np.int32)
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values


class VectorTable:
    """Several (n_i, dim) float16 arrays, mapped or in memory, addressed as the rows of one."""

    def __init__(self, segments: Sequence[NDArray[np.float16]], dim: int) -> None:
        self.dim = dim
        # As plain arrays: to take rows of a memmap costs several times as much, all of it under Python's lock.
        self._segments = [np.asarray(segment) for segment in segments]
        self._starts = np.concatenate([[0], np.cumsum([len(s) for s in self._segments])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return (len(rows), dim) float32, in the order asked for."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row out of range 0..{len(self) - 1}")
        taken = np.empty((len(rows), self.dim), np.float16)
        if len(rows) < ROWS_A_CALL * len(self._segments):
            segment_of = np.searchsorted(self._starts, rows, side="right") - 1
            places = zip(segment_of.tolist(), (rows - self._starts[segment_of]).tolist(), strict=True)
            for place, (at, row) in enumerate(places):
                taken[place] = self._segments[at][row]
            return widened(taken)
        if len(rows) < 2 or (rows[1:] >= rows[:-1]).all():
            ends = np.searchsorted(rows, self._starts).tolist()
            for low, high, first, segment in zip(ends, ends[1:], self._starts, self._segments, strict=False):
                if low < high:
                    taken[low:high] = segment[rows[low:high] - first]
            return widened(taken)
        segment_of = np.searchsorted(self._starts, rows, side="right") - 1
        for at in set(segment_of.tolist()):
            here = segment_of == at
            taken[here] = self._segments[at][rows[here] - self._starts[at]]
        return widened(taken)

    def halves(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, NDArray[np.float16]]]:
        """Yield first row and (m, dim) float16 with m <= rows, as they are stored, covering all rows once, in order."""
        return self._cut(0, rows, len(self))

    def blocks(
        self, start: int = 0, rows: int = BLOCK_ROWS, end: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first row, (m, dim) float32) with m <= rows, covering `start` to before `end` once, in order."""
        for first, block in self._cut(start, rows, len(self) if end is None else end):
            yield first, widened(block)

    def _cut(self, start: int, rows: int, end: int) -> Iterator[tuple[int, NDArray[np.float16]]]:
        for first, segment in zip(self._starts[:-1].tolist(), self._segments, strict=True):
            last = min(len(segment), end - first)
            for low in range(max(0, start - first), last, rows):
                yield first + low, segment[low : min(low + rows, last)]
