"""Exact search over rows that lie in the memory of a GPU, as float16: it scans a library at the speed of that memory.

torch computes here, not FAISS, whose flat index on a GPU grows by copying itself, so takes twice the memory, and is in
no package that also runs without a GPU. Importing this module loads torch: do so only for who names a device.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import XSearchError
from xsearch.index.exact import Found, search_exact
from xsearch.index.plan import SearchSettings
from xsearch.vectors import VectorTable

try:
    import torch
except ImportError as error:
    raise XSearchError(f"a package is missing here ({error.name})", remedy="pip install 'xsearch[clip]'") from error

if TYPE_CHECKING:
    from torch import Tensor

STAGED_BYTES = 64 << 20
"""So much is read from the shards, and then copied, at once."""

SCORES_BYTES = 256 << 20
"""Scores that are on the GPU at once; this and a little more is needed beside the rows."""

MOST_VALUES = 2**31 - 1
"""Of rows in one product: in places, those who multiply count in 32 bits."""

SLACK = 2.0**-9
"""No estimate of a score is farther from it, for a query of length 1: a rounding to float16 errs by 2^-11 of the value,
and there is one of the query, one of the score, and where the GPU adds up in float16 those of partial sums."""

LEAST_DEPTH = 256
MAX_DEPTH = 1 << 16


class Resident:
    """The rows of one commit in a GPU's memory. May be shared between threads.

    Answers are those of `search_exact`, bit for bit. The GPU proposes candidates by scores in float16; these are scored
    as documented on the stored vectors; and where a row that was not proposed could belong to the answer, by the bound
    on what its score in float16 may be off, more are proposed.
    """

    def __init__(self, vectors: VectorTable, device: str = "cuda") -> None:
        """Copy the rows to `device`. Raises XSearchError if they do not fit, or there is no such device."""
        self._vectors = vectors
        needed = 2 * len(vectors) * vectors.dim + SCORES_BYTES
        try:
            self._device = torch.device(device)
            free = torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else needed
            if needed > free:
                gb, free_gb = needed / 1e9, free / 1e9
                raise XSearchError(
                    f"{len(vectors):,} vectors take {gb:.1f} GB on {device}, which has {free_gb:.1f} GB free",
                    remedy="leave --device out: the index needs no GPU",
                )
            self._rows = torch.empty((len(vectors), vectors.dim), dtype=torch.float16, device=self._device)
        except (RuntimeError, AssertionError) as error:  # as torch says that there is no CUDA, and no such device
            raise XSearchError(f"there is no device {device} here", remedy="name cuda, or leave it out") from error
        pinned = self._device.type == "cuda"
        staged_rows = max(1, STAGED_BYTES // (2 * vectors.dim))
        staged = torch.empty((staged_rows, vectors.dim), dtype=torch.float16, pin_memory=pinned)
        for first, halves in vectors.halves(staged_rows):
            part = staged[: len(halves)]
            part.numpy()[...] = halves
            self._rows[first : first + len(halves)].copy_(part)

    def __call__(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        sure: int | None = None,
        settings: SearchSettings | None = None,
        allowed: NDArray[np.bool_] | None = None,
        measured: NDArray[np.bool_] | None = None,
    ) -> Found:
        """Return the k best rows for each of (q, dim) float32 queries.

        `allowed` (rows,) says which rows may be found; None means all. What else a search through an index is told
        says nothing here: all answers are exact.
        """
        found = Found.nothing(len(queries), k)
        waiting = np.arange(len(queries))
        depth = max(LEAST_DEPTH, 4 * k)
        while len(waiting) and depth <= MAX_DEPTH:
            rows, estimates = self._propose(queries[waiting], depth, allowed)
            settled = [
                self._settle(found, query, rows[at], estimates[at], queries[query])
                for at, query in enumerate(waiting.tolist())
            ]
            waiting = waiting[~np.array(settled)]
            depth *= 8
        if len(waiting):
            unsettled = np.isin(np.arange(len(queries)), waiting)
            found.put(unsettled, search_exact(self._vectors, queries[unsettled], k, allowed=allowed))
        return found

    def _propose(
        self, queries: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return (q, <= depth) rows with their scores in float16, best first; -inf is for rows that are not allowed."""
        with torch.inference_mode():
            asked = torch.from_numpy(queries).to(self._device, torch.float16)
            best: Tensor | None = None
            places: Tensor | None = None
            step = max(1, min(SCORES_BYTES // (2 * len(queries)), MOST_VALUES // self._vectors.dim))
            for low in range(0, len(self._rows), step):
                scores = asked @ self._rows[low : low + step].T
                if allowed is not None:
                    hidden = torch.from_numpy(~allowed[low : low + step]).to(self._device)
                    scores.masked_fill_(hidden, -torch.inf)
                top = scores.topk(min(depth, scores.shape[1]))
                values, at = top.values, top.indices + low
                if best is not None and places is not None:
                    values, at = torch.cat([best, values], 1), torch.cat([places, at], 1)
                    merged = values.topk(min(depth, values.shape[1]))
                    values, at = merged.values, at.gather(1, merged.indices)
                best, places = values, at
            if best is None or places is None:
                return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
            return places.cpu().numpy(), best.float().cpu().numpy()

    def _settle(
        self,
        found: Found,
        query: int,
        rows: NDArray[np.int64],
        estimates: NDArray[np.float32],
        vector: NDArray[np.float32],
    ) -> bool:
        """Score what was proposed for a query, and return whether no other row can belong to the answer."""
        proposed = np.sort(rows[np.isfinite(estimates)])  # in file order, for what is not in memory yet
        answer = Found(found.rows[query : query + 1], found.scores[query : query + 1])
        answer.rows[...], answer.scores[...] = -1, -np.inf
        answer.improve(vector[None], proposed, self._vectors.take(proposed))
        if len(proposed) < len(rows) or len(rows) == len(self._vectors):
            return True  # all that may be found was proposed
        slack = SLACK * max(1.0, float(np.linalg.norm(vector)))
        return bool(answer.scores[0, -1] > estimates[-1] + slack)
