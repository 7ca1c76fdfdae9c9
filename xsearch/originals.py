"""The original of an item: the file as it is, the picture inside an archive or data set, or the frame of a film."""

from collections.abc import Mapping
from functools import lru_cache

from xsearch.sources.containers import open_samples
from xsearch.sources.samples import SampleSource
from xsearch.types import Item, Kind

FULL_SIZE_PX = 1 << 16


def read_original(item: Item, image_columns: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of the item's file, of the picture that it is inside its container, or of its frame as JPEG.

    `image_columns` are those that were named for containers (`Manifest.image_columns`). Raises OSError, SourceError or
    Undecodable if it is not there any more.
    """
    if item.kind is Kind.FRAME:
        from xsearch.media import images, video  # Pillow and PyAV, which no query needs

        return images.jpeg(video.frame_at(item.file, float(item.part), FULL_SIZE_PX))
    if item.kind is Kind.IMAGE and item.part:
        name = str(item.file)
        return _container(name, (image_columns or {}).get(name)).read(item.part)
    return item.file.read_bytes()


@lru_cache(maxsize=64)  # a container knows where its pictures lie once it has looked
def _container(name: str, image_column: str | None) -> SampleSource:
    (source,) = open_samples(name, image_column=image_column)
    return source
