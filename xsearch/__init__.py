"""xsearch finds pictures, moments in films and texts by meaning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xsearch.searcher import Searcher

__all__ = ["Searcher", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `xsearch --help` imports this package too, and shall not wait for numpy and pyarrow.
    if name == "Searcher":
        from xsearch.searcher import Searcher

        return Searcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
