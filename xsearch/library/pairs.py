"""Which texts belong to which pictures, by row: captions, and what was read in a picture."""

import numpy as np
from numpy.typing import NDArray

from xsearch.library.ids import id_numbers
from xsearch.library.library import Library


class Pairs:
    """The living texts of a library that belong to a living item of it. `item_of` (rows,) is its row, -1 elsewhere."""

    def __init__(self, library: Library) -> None:
        self.item_of = np.full(len(library), -1, np.int64)
        paired, pairs = id_numbers(library.column("pair"))
        if len(paired):
            items = library.by_id.find(pairs)
            known = (items >= 0) & library.alive[paired]
            self.item_of[paired[known]] = items[known]
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
