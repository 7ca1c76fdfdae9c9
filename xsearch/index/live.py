"""Which FAISS is live: faiss-cpu and faiss-gpu are different packages that both own the module `faiss`."""

from dataclasses import dataclass
from importlib.metadata import packages_distributions


@dataclass(frozen=True, slots=True)
class FaissBuild:
    """The FAISS that runs. `distributions` are the installed packages that claim the module."""

    version: str
    distributions: tuple[str, ...]
    n_gpus: int

    @property
    def conflict(self) -> bool:
        """Whether several packages have written the module over one another."""
        return len(self.distributions) > 1


def faiss_build() -> str:
    """Return the version of FAISS and the instructions of the CPU that it uses: with others, sums may differ."""
    import faiss

    return f"{faiss.__version__} ({faiss.get_compile_options().strip()})"


def live_faiss() -> FaissBuild:
    """Load FAISS and tell which one it is. Raises ImportError where there is none."""
    import faiss

    distributions = sorted(set(packages_distributions().get("faiss", [])))
    return FaissBuild(faiss.__version__, tuple(distributions), gpu_count())


def gpu_count() -> int:
    """Return how many GPUs FAISS can use, 0 in a build for CPUs."""
    import faiss

    # CPU builds of some versions lack the function.
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0
