"""A Ray cluster of three nodes, and what can go wrong at one of its workers."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.fakes import SPEC, FakeEncoder
from xsearch.distributed.worker import SharedFolder
from xsearch.errors import EncoderUnavailable
from xsearch.library.manifest import ShardEntry
from xsearch.types import Embeddings, RGBImage

_T = TypeVar("_T")

NODES = 3
WAIT_S = 120.0
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_log_monitor": False}


@contextmanager
def three_nodes() -> Iterator[Cluster]:
    """A cluster of three nodes with a core each, joined by this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = _patiently(partial(Cluster, initialize_head=True, head_node_args=NODE | {"include_dashboard": False}))
        try:
            for _ in range(NODES - 1):
                _patiently(partial(made.add_node, **NODE))
            ray.init(made.address, log_to_driver=False, logging_level="ERROR")
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def _patiently(start: Callable[[], _T]) -> _T:
    """Try once more: Ray gives a node 30 s to start, which are not enough where the machine has much else to do."""
    try:
        return start()
    except Exception as error:  # Ray raises a plain one
        if "timed out" not in str(error):
            raise
        return start()


class HeldEncoder(FakeEncoder):
    """Writes down every picture. On one node it never comes to an end of them, on others not before that one began."""

    def __init__(self, log: Path, held: str) -> None:
        super().__init__()
        self._log = log
        self._is_held = ray.get_runtime_context().get_node_id() == held

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        with self._log.open("a") as file:
            file.writelines("held\n" if self._is_held else "done\n" for _ in images)
        deadline_s = time.monotonic() + WAIT_S
        while (self._is_held or "held" not in self._log.read_text()) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return super().encode_images(images)


class DyingEncoder(FakeEncoder):
    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        os._exit(1)


class OtherVersion(FakeEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(SPEC, fingerprint=replace(SPEC.fingerprint, weights="1"))


class NoEncoder(FakeEncoder):
    def __init__(self) -> None:
        raise EncoderUnavailable("torch is missing here", remedy="pip install 'xsearch[clip]'")


class FullDisk(SharedFolder):
    def put(self, commit: int, tables: Any) -> ShardEntry:
        raise OSError(28, "No space left on device")


class Elsewhere(SharedFolder):
    """A folder of the worker's own where the shared one should be mounted."""

    def put(self, commit: int, tables: Any) -> ShardEntry:
        own = self.folder.parent / "elsewhere"
        own.mkdir(exist_ok=True)
        return SharedFolder(own).put(commit, tables)


class Altered(SharedFolder):
    def put(self, commit: int, tables: Any) -> ShardEntry:
        entry = SharedFolder(self.folder).put(commit, tables)
        path = self.folder / "shards" / f"{entry.id}.parquet"
        data = path.read_bytes()
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        return entry
