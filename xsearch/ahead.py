"""Work that goes on a bounded way ahead of who takes it."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Ahead(Generic[_T]):
    """Runs an iterator in a thread of its own, at most `bound` steps ahead of the one that iterates, until `close`.

    What the iterator raises is raised here in its turn.
    """

    def __init__(self, steps: Iterator[_T], bound: int) -> None:
        self._steps = steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._waiting: deque[Future[_T | None]] = deque()
        while len(self._waiting) < bound:
            self._go_on()

    def close(self) -> None:
        """End the thread; the iterator is left where it is."""
        self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        step = self._waiting.popleft().result()
        if step is None:
            self._waiting.clear()
            raise StopIteration
        self._go_on()
        return step

    def _go_on(self) -> None:
        self._waiting.append(self._thread.submit(next, self._steps, None))


def usable_cores() -> int:
    """Return the cores that this process may use, which in a container or under taskset are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
