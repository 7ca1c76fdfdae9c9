"""Which reader opens what: from the words of a person to sources of samples."""

import glob
from collections.abc import Sequence
from pathlib import Path

from xsearch.errors import SourceError
from xsearch.sources import tars
from xsearch.sources.coco import CocoCaptions
from xsearch.sources.samples import SampleSource, container_file

COCO_PREFIX = "coco:"
HUB_PREFIX = "hf:"


def holds_samples(path: Path) -> bool:
    """Whether a file or folder is a container of samples, by its name and, of Parquet, its schema."""
    if path.is_dir():
        return _is_saved_data_set(path)
    return path.name.lower().endswith(tars.SUFFIXES) or _is_parquet_of_pictures(path)


def open_samples(
    spec: str, *, image_column: str | None = None, text_columns: Sequence[str] = (), root: Path | None = None
) -> list[SampleSource]:
    """Return a source for each container that `spec` names, in order; pictures are not read yet.

    `spec` is `coco:FILE`, with the pictures in `root`; `hf:NAME` or `hf:NAME:SPLIT`, NAME being of the hub or a folder;
    a folder saved by `save_to_disk`; a tar; a Parquet file that holds pictures; or a pattern of such (`*.tar`).
    Raises SourceError if there is no such thing, or it needs a package or a hub that is not there.
    """
    if spec.startswith(COCO_PREFIX):
        file = Path(spec.removeprefix(COCO_PREFIX))
        container_file(file)
        return [CocoCaptions(file, root)]
    if spec.startswith(HUB_PREFIX):
        return _open_hugging_face(spec.removeprefix(HUB_PREFIX), image_column, text_columns)
    # Path.glob takes no absolute pattern.
    matches = [spec] if Path(spec).exists() else sorted(glob.glob(spec, recursive=True))  # noqa: PTH207
    paths = [Path(match) for match in matches]
    if not paths:
        raise SourceError(f"{spec} is not there", remedy="check the path, or mount the drive")
    return [source for path in paths for source in _open_path(path, image_column, text_columns)]


def _open_path(path: Path, image_column: str | None, text_columns: Sequence[str]) -> Sequence[SampleSource]:
    if path.is_dir() and _is_saved_data_set(path):
        return _open_hugging_face(str(path), image_column, text_columns)
    if path.name.lower().endswith(tars.SUFFIXES):
        return [tars.TarSamples(path, text_columns=text_columns)]
    if path.suffix.lower() == ".parquet":
        from xsearch.sources.parquet import ParquetSamples

        return [ParquetSamples(path, image_column=image_column, text_columns=text_columns)]
    raise SourceError(f"{path} is no tar, no Parquet file, and no folder that `save_to_disk` wrote")


def _open_hugging_face(name: str, image_column: str | None, text_columns: Sequence[str]) -> list[SampleSource]:
    from xsearch.sources import hf

    split = None
    if not Path(name).exists() and ":" in name:
        name, _, split = name.rpartition(":")
    if Path(name).exists():
        name = str(Path(name).absolute())  # so that a source's name opens it in any working folder
    if _is_saved_data_set(Path(name)):
        return [*hf.open_saved(Path(name), split, image_column=image_column, text_columns=text_columns)]
    return [*hf.open_streamed(name, split, image_column=image_column, text_columns=text_columns)]


def _is_saved_data_set(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _is_parquet_of_pictures(path: Path) -> bool:
    if path.suffix.lower() != ".parquet":
        return False
    from xsearch.sources.parquet import holds_pictures

    return holds_pictures(path)
