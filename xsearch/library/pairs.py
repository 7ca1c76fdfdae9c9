"""Which texts belong to which pictures, by row: captions, and what was read in a picture."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsearch.library.library import Library

_HEX_DIGITS = 16  # of an id


class Pairs:
    """The living texts of a library that belong to a living item of it. `item_of` (rows,) is its row, -1 elsewhere."""

    def __init__(self, library: Library) -> None:
        self.item_of = np.full(len(library), -1, np.int64)
        paired, pairs = _numbers(library.column("pair"))
        if len(paired):
            rows, ids = _numbers(library.column("id"))
            rows, ids = rows[library.alive[rows]], ids[library.alive[rows]]
            order = np.argsort(ids)
            at = np.minimum(np.searchsorted(ids, pairs, sorter=order), len(ids) - 1)
            known = (ids[order[at]] == pairs) & library.alive[paired] if len(ids) else np.zeros(len(pairs), np.bool_)
            self.item_of[paired[known]] = rows[order[at[known]]]
        texts = np.flatnonzero(self.item_of >= 0)
        self._texts = texts[np.argsort(self.item_of[texts], kind="stable")]
        self._items = self.item_of[self._texts]

    def __len__(self) -> int:
        return len(self._texts)

    def texts_of(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (m,) rows of all texts of these (n,) items, and for each the position of its item among them."""
        first = np.searchsorted(self._items, items, side="left")
        counts = np.searchsorted(self._items, items, side="right") - first
        position = np.repeat(np.arange(len(items)), counts)
        within = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._texts[first[position] + within], position


def _numbers(ids: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return (n,) rows that have an id and (n,) their ids as numbers, read out of Arrow's memory."""
    rows, numbers = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    start = 0
    for chunk in ids.chunks:
        if chunk.null_count < len(chunk):
            _, offsets, written = chunk.buffers()
            ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            digits = np.frombuffer(written, np.uint8)[ends[0] : ends[-1]].reshape(-1, _HEX_DIGITS)
            rows.append(start + np.flatnonzero(np.diff(ends)))
            nibbles = (digits & 15) + 9 * (digits >> 6)  # "0" is 0x30, "a" is 0x61
            octets = np.ascontiguousarray(16 * nibbles[:, ::2] + nibbles[:, 1::2])
            numbers.append(octets.view(">u8").ravel().astype(np.uint64))
        start += len(chunk)
    return np.concatenate(rows), np.concatenate(numbers)
