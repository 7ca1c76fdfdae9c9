"""The original of an item: the file as it is, or the picture inside an archive or data set."""

from functools import lru_cache

from xsearch.sources.containers import open_samples
from xsearch.sources.samples import SampleSource
from xsearch.types import Item, Kind


def read_original(item: Item) -> bytes:
    """Return the bytes of the item's file, or of the picture that it is inside its container.

    Raises OSError or SourceError if it is not there any more.
    """
    if item.kind is Kind.IMAGE and item.part:
        return _container(str(item.file)).read(item.part)
    return item.file.read_bytes()


@lru_cache(maxsize=64)  # a container knows where its pictures lie once it has looked
def _container(name: str) -> SampleSource:
    (source,) = open_samples(name)
    return source
