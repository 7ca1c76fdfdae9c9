"""The seam of data sets: pictures with their texts, read one after the other out of whatever holds them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xsearch.errors import SourceError
from xsearch.sources.folder import FoundFile, look
from xsearch.types import Skipped

REREAD = "it has changed since: index it again"
MORE_MAY_FOLLOW = frozenset({"damaged archive", "damaged row group", "unreadable rest"})
"""Reasons that leave open which samples a container holds: what is known of it is not gone because it was not seen."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture of a data set with its texts.

    `key` tells it from all others in its container and is the same at every reading: the `part` of its items. `image`
    is an encoded picture, or a file that holds one. `texts` are stripped, none is empty, none comes twice.
    """

    key: str
    image: bytes | Path
    texts: tuple[str, ...]


class SampleSource(Protocol):
    """One container of samples: a tar, a table, a split of a data set."""

    @property
    def name(self) -> str:
        """What a person calls it; the path of each Skipped of it starts with this."""

    @property
    def files(self) -> Sequence[FoundFile]:
        """What it is read from, to see a change by size and time; empty if that is not on this machine.

        Raises SourceError if a file is not there.
        """

    def samples(self) -> Iterator[Sample | Skipped]:
        """Yield all samples in their order, holding a few of them in memory; where one cannot be had, say why.

        Raises SourceError if the container as a whole cannot be read.
        """

    def read(self, key: str) -> bytes:
        """Return the encoded picture of a sample. Raises SourceError if it is not there any more."""


def container_file(path: Path) -> FoundFile:
    """Return what is known of a container without opening it. Raises SourceError."""
    looked = look(path.parent, path)
    if isinstance(looked, Skipped):
        raise SourceError(f"{path}: {looked.reason}", remedy="check the path, or mount the drive")
    return looked


def texts_of(cells: Iterable[object]) -> tuple[str, ...]:
    """Return the texts in cells that hold one text, a list of them, or nothing of use."""
    texts: dict[str, None] = {}
    for cell in cells:
        for text in cell if isinstance(cell, list) else [cell]:
            if isinstance(text, str):
                # JSON can spell half a surrogate pair, which no encoder and no file can.
                texts[text.encode("utf-8", "replace").decode("utf-8").strip()] = None
    return tuple(text for text in texts if text)


def read_picture(image: bytes | Path) -> bytes:
    """Return the encoded picture. Raises SourceError if its file cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise SourceError(f"{image}: {error.strerror}", remedy=REREAD) from error


def one_line(error: Exception) -> str:
    """Return what a foreign library says of an error, fit for a message of ours."""
    return " ".join(str(error).split()) or type(error).__name__
