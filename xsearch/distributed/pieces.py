"""A plan cut into pieces, each a plan that one worker does; their order is that of the rows."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from xsearch.media import video
from xsearch.survey import ContainerWork, FileWork, RunPlan
from xsearch.types import Item

PIECES_A_WORKER = 8
"""So many that a worker which is slow, or was lost, holds up the others by an eighth of its share."""
MIN_PIECE = 64
MAX_PIECE = 8_192
"""Files or captions. A piece is a shard, and is done again where its worker is lost."""


def cut(plan: RunPlan, workers: int) -> list[RunPlan]:
    """Return plans that together read what `plan` reads. A film is a piece, and so is an archive or data set.

    What is unchanged or vanished is in none of them. The order is the same whatever the machines are.
    """
    films: list[FileWork] = []
    files: list[FileWork] = []
    for work in plan.files:
        (films if video.is_film(work.file.file) else files).append(work)
    return [
        *(_piece(files=part) for part in _parts(files, workers)),
        *(_piece(files=(film,)) for film in films),
        *(_piece(captions=part) for part in _parts(plan.captions, workers)),
        *(_piece(containers=(container,)) for container in plan.containers),
    ]


_T = TypeVar("_T")


def _parts(works: Sequence[_T], workers: int) -> Iterator[tuple[_T, ...]]:
    share = -(-len(works) // (PIECES_A_WORKER * workers))
    size = max(MIN_PIECE, min(MAX_PIECE, share))
    for start in range(0, len(works), size):
        yield tuple(works[start : start + size])


def _piece(
    *,
    files: tuple[FileWork, ...] = (),
    captions: tuple[Item, ...] = (),
    containers: tuple[ContainerWork, ...] = (),
) -> RunPlan:
    return RunPlan(0, files, captions, containers, 0, ())
