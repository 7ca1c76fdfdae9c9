"""Hugging Face data sets: of the hub, streamed; in a local folder of any layout; saved with `save_to_disk`.

The owner of datasets. Importing this module where it is missing raises SourceError.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from xsearch.errors import SourceError
from xsearch.sources.folder import FoundFile
from xsearch.sources.rows import (
    Columns,
    choose_columns,
    keys_of_rows,
    picture_in,
    row_of_key,
    row_samples,
    unique_keys,
)
from xsearch.sources.samples import REREAD, Sample, container_file, one_line, read_picture
from xsearch.types import Skipped

try:
    import datasets
    import fsspec
    from huggingface_hub import HfApi
except ImportError as error:
    raise SourceError(
        f"a package of Hugging Face data sets is missing here ({error.name or error})",
        remedy="pip install 'xsearch[datasets]'",
    ) from error

PREFIX = "hf:"
HUB_TIMEOUT_S = 10

_Split: TypeAlias = "datasets.Dataset | datasets.IterableDataset"


class HuggingFaceSamples:
    """One split of a data set. Columns that are not named are found by name and type (`rows.choose_columns`).

    The key of a sample is its row number, from 1; of a data set saved with `save_to_disk` it is its value in a column
    of KEY_COLUMNS if no two rows share one there. `folder` is where a local data set lies.
    """

    def __init__(
        self, split: _Split, name: str, folder: Path | None, image_column: str | None, text_columns: Sequence[str]
    ) -> None:
        # Only the bytes: decoding is not this room's.
        images = [column for column, feature in (split.features or {}).items() if isinstance(feature, datasets.Image)]
        for column in images:
            split = split.cast_column(column, datasets.Image(decode=False))
        self._rows = split.with_format("arrow")
        self._name = name
        self._folder = folder
        self._image_column = image_column
        self._text_columns = tuple(text_columns)

    @property
    def name(self) -> str:
        return self._name

    @property
    def files(self) -> Sequence[FoundFile]:
        if self._folder is None:
            return ()
        return tuple(container_file(file) for file in sorted(self._folder.rglob("*")) if file.is_file())

    def samples(self) -> Iterator[Sample | Skipped]:
        columns, keys = self._columns, self._keys
        first = 0
        try:
            # One at a time is as fast, and of a stream that breaks, all that came before is there.
            for row in self._rows.iter(batch_size=1):
                yield from row_samples(row, columns, self.name, first + 1, keys_of_rows(keys, first, 1), self._find)
                first += 1
        except Exception as error:  # whatever the readers of its format and the HTTP library raise
            yield Skipped(f"{self.name} from row {first + 1}", "unreadable rest", one_line(error))

    def read(self, key: str) -> bytes:
        """As SampleSource says; of a streamed data set all shards before the one that holds the row are looked at."""
        row = row_of_key(self._keys, key)
        try:
            image = picture_in(self._cell(row), self._find) if row >= 0 else None
        except Exception as error:  # as above
            raise SourceError(f"row {key} of {self.name} cannot be read ({one_line(error)})") from error
        if image is None:
            raise SourceError(f"{self.name} holds no picture {key}", remedy=REREAD)
        return read_picture(image)

    def _cell(self, row: int) -> object:
        """Return what the column of pictures has in a row, None if there is no such row."""
        if isinstance(self._rows, datasets.Dataset):
            found = self._rows[row : row + 1]
        else:
            found = next(self._rows.skip(row).iter(batch_size=1), None)
        return found.column(self._columns.image)[0].as_py() if found else None

    def _find(self, path: str) -> bytes | Path:
        if "://" in path:  # as streamed folders and archives of pictures have it: zip://dog.jpg::https://...
            with fsspec.open(path, "rb") as file:
                data: bytes = file.read()
                return data
        file = (self._folder or Path()) / path
        if self._folder is None or not file.is_file():
            raise FileNotFoundError(f"{path} is not there")
        return file

    @cached_property
    def _columns(self) -> Columns:
        features = self._rows.features
        try:
            schema = next(self._rows.iter(batch_size=1)).schema if features is None else features.arrow_schema
        except Exception as error:  # as above
            raise SourceError(f"{self.name} cannot be read ({one_line(error)})") from error
        return choose_columns(schema, self.name, self._image_column, self._text_columns)

    @cached_property
    def _keys(self) -> pa.ChunkedArray | None:
        """(rows,) the keys as strings, or None where row numbers serve: of a stream nobody knows what is to come."""
        if self._columns.key is None or not isinstance(self._rows, datasets.Dataset):
            return None
        return unique_keys(self._rows.select_columns([self._columns.key])[:].column(0))


def open_saved(
    folder: Path, split: str | None, *, image_column: str | None = None, text_columns: Sequence[str] = ()
) -> list[HuggingFaceSamples]:
    """Return the splits, or one of them, of a data set that `save_to_disk` wrote. Raises SourceError."""
    try:
        content = datasets.load_from_disk(folder)
    except Exception as error:  # whatever a damaged folder makes of it
        raise SourceError(f"{folder} cannot be read as a data set ({one_line(error)})") from error
    if isinstance(content, datasets.Dataset):
        if split not in (None, str(content.split)):
            raise SourceError(f"{folder} is one data set, it has no split {split}")
        return [HuggingFaceSamples(content, str(folder), folder, image_column, text_columns)]
    return [
        HuggingFaceSamples(content[name], str(folder / name), folder / name, image_column, text_columns)
        for name in _chosen(content, split, str(folder))
    ]


def open_streamed(
    name: str, split: str | None, *, image_column: str | None = None, text_columns: Sequence[str] = ()
) -> list[HuggingFaceSamples]:
    """Return the splits, or one of them, of a data set of the hub, or of a folder laid out like one of the hub.

    Nothing is loaded before it is read, and nothing is kept. Raises SourceError, also where the hub cannot be reached.
    """
    folder = Path(name) if Path(name).is_dir() else None
    revision = None if folder else _newest_revision(name)
    try:
        content = datasets.load_dataset(name, revision=revision, streaming=True)
    except Exception as error:  # whatever the readers of its format and the HTTP library raise
        raise SourceError(f"the data set {name} cannot be opened ({one_line(error)})") from error
    return [
        HuggingFaceSamples(content[chosen], f"{PREFIX}{name}:{chosen}", folder, image_column, text_columns)
        for chosen in _chosen(content, split, name)
    ]


def _newest_revision(name: str) -> str | None:
    """Return the commit that the hub has. Left alone, its client logs and retries for half a minute if it has none."""
    try:
        revision: str | None = HfApi().dataset_info(name, timeout=HUB_TIMEOUT_S).sha
    except Exception as error:  # whatever the HTTP library of this release of the client raises
        raise SourceError(
            f"the data set {name} could not be fetched from the hub ({one_line(error)})",
            remedy="check the name and the network, or give a local folder",
        ) from error
    return revision


def _chosen(content: Mapping[str, Any], split: str | None, name: str) -> list[str]:
    if split is not None and split not in content:
        raise SourceError(f"{name} has no split {split}; its splits: {', '.join(content)}")
    return list(content) if split is None else [split]
