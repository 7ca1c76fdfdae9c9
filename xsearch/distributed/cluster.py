"""A Ray cluster: joined or started, what it has, and what it says of its troubles in one line."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from xsearch.errors import ClusterError

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers a cluster has room for, and what each of them takes."""

    count: int
    cpus: int
    gpus: int


def import_ray() -> ModuleType:
    """Return the module `ray`. Raises ClusterError where it is missing."""
    # It reads these when it is imported. The second: of what is wrong on a node it would print pages among our answers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed here", remedy="pip install 'xsearch[ray]'") from error
    return ray  # type: ignore[no-any-return]


@contextmanager
def joined(address: str | None, *, cpus: int | None = None) -> Iterator[ModuleType]:
    """Join the cluster at `address`, or at RAY_ADDRESS; in the end leave it. One joined before stays so.

    Where neither is given, one is started on this machine, with so many `cpus` as Ray counts them, which may be more
    than there are. Raises ClusterError if there is none.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address not in (None, "auto"):  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_S).close()
        with _silent_stderr():
            ray.init(
                address=address or "local",
                num_cpus=None if address else cpus,
                include_dashboard=None if address else False,
                log_to_driver=False,  # what workers print is not for whoever waits for ours
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises plain ones, too
        raise ClusterError(
            f"{f'there is no Ray cluster at {address}' if address else 'Ray cannot be started here'} "
            f"({' '.join(str(error).split())[:200]})",
            remedy="start one: `ray start --head` there; where it wants a token: RAY_AUTH_MODE=token",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what is written to standard error: Ray tells there of each try to connect, whatever its settings are."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def room_for_workers(ray: ModuleType) -> Workers:
    """Plan one worker a GPU where there are GPUs, else one a node: an encoder keeps all cores of a machine busy.

    Raises ClusterError if no node has a core.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return plan_workers([(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive])


def plan_workers(nodes: list[tuple[int, int]]) -> Workers:
    """Plan workers that are alike for nodes of so many (CPUs, GPUs). Raises ClusterError if no node has a core."""
    with_gpus = [(cpus // gpus, gpus) for cpus, gpus in nodes if gpus and cpus >= gpus]
    if with_gpus:
        return Workers(sum(gpus for _, gpus in with_gpus), min(cpus for cpus, _ in with_gpus), 1)
    with_cpus = [cpus for cpus, _ in nodes if cpus]
    if not with_cpus:
        raise ClusterError("the Ray cluster has no node with a core to spare", remedy="`ray start --num-cpus N` on one")
    each = min(with_cpus)
    return Workers(sum(cpus // each for cpus in with_cpus), each, 0)
