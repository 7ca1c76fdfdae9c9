"""Use case: what a library holds more than once, as a report. Nothing is ever deleted."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import pairwise
from stat import S_ISREG
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import LibraryDamaged, SourceError, Undecodable, repair_command
from xsearch.index.plan import SearchSettings
from xsearch.index.search import search
from xsearch.index_file import open_index
from xsearch.library import Library
from xsearch.media.images import brightness
from xsearch.media.phash import LEAST_CONTRAST, SAME_PHOTOGRAPH, SIDE_PX, distances, hashes
from xsearch.originals import read_original
from xsearch.types import Hit, Item, Kind, Modality, Skipped

if TYPE_CHECKING:
    from xsearch.index.ivfpq import IvfPq

LOOKS_ALIKE = 0.5
"""Pictures of at least this cosine are compared by their pixels, so near copies are found where the encoder sees them.

By `benchmarks/duplicates.py`, built-in encoder, 304 photographs with 15 copies of each among 7,090 others:

    cosine at least          .5    .6    .7    .8    .9
    copies that have it      .99   .96   .92   .85   .73
    pictures to be read      .99   .86   .51   .18   .02

What is lost are thumbnails: of photographs of 500 px and more all copies at 2/3 of the size are found, .98 of those at
1/3, .88 of those at 100 px. The threshold is so low because the hash needs no help to tell photographs apart: of 5,097
copies that are reported there none is wrong.
"""

NEIGHBOURS = 32
"""Each picture is compared with so many of those that are most like it."""

BURST_S = 3
SAME_SCENE = 0.75
"""Each picture of a burst was taken within so many seconds of the one before, and has at least this cosine with it."""

_OnProgress: TypeAlias = Callable[[str, int, int], None]

_BLOCK = 1024
_READ_AHEAD = 256  # pictures: so many at most are still read when a person has had enough


class Likeness(StrEnum):
    """How the items of a group are alike.

    exact: the same bytes. near: the same photograph in another size, compression, brightness or crop. burst: pictures
    that one camera took within seconds, and that look alike.
    """

    EXACT = "exact"
    NEAR = "near"
    BURST = "burst"


@dataclass(frozen=True, slots=True)
class Group:
    """Items that are alike. If one of them is to be kept, then `hits[0]`.

    That is the one of most pixels, then with its date still, of most bytes, the oldest. Scores are cosines with it. Of
    a film there is a frame, of a text a passage.
    """

    likeness: Likeness
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups, exact ones first; and what may belong to one and could not be looked at, with the reason.

    The one to keep of a group stands for it in groups of the next likeness; all others are in one group at most.
    """

    groups: tuple[Group, ...]
    uncompared: tuple[Skipped, ...]


def duplicates(
    library: Library,
    likenesses: Collection[Likeness] = tuple(Likeness),
    *,
    on_progress: _OnProgress = lambda stage, done, total: None,
    on_warning: Callable[[str], None] = lambda message: None,
) -> Duplicates:
    """Return what a library holds more than once, of the likenesses that are asked for.

    Exact copies are pictures, films and texts of one content hash; of these, what follows knows only the one to keep.
    Near ones are pictures whose vectors are alike (LOOKS_ALIKE; found through the index where there is one), and then
    their pixels too, by the perceptual hash of `media.phash`: each of a group agrees with the first. Pictures that were
    taken at different times are different ones, however alike. Bursts are found among the rest.

    Two names of one file (links) are no copies, and what is not there any more, or not as it was indexed, is in no
    group. Captions go with their pictures, frames with their films. `on_progress` is told a stage, how many of its
    steps are done, and of how many; `on_warning` when the index cannot be used, which takes longer. Memory grows by
    about 12 kB with each picture that looks like another. Each of these is read once; inside a compressed tar, or a
    Parquet file of large row groups, every such reading takes longer. Raises LibraryDamaged.
    """
    files = _Files(library)
    same = list(_same_bytes(library))
    found = {Likeness.EXACT: files.there(same)}
    if not {Likeness.NEAR, Likeness.BURST}.isdisjoint(likenesses):
        single = library.of_kinds([Kind.IMAGE]).copy()
        single[_all_but_first(same, found[Likeness.EXACT])] = False
        pairs = _alike(library, single, _index(library, on_warning), on_progress)
        found[Likeness.NEAR] = _same_photographs(files, pairs, on_progress)
        # Copies keep the time of the original, and are no burst.
        single[_all_but_first(found[Likeness.NEAR], found[Likeness.NEAR])] = False
        found[Likeness.BURST] = files.there(_bursts(library, single))
    groups = [
        Group(likeness, files.hits(rows))
        for likeness in Likeness
        if likeness in likenesses
        for rows in found[likeness]
        if len(rows) > 1
    ]
    return Duplicates(tuple(groups), tuple(files.uncompared.values()))


class _Files:
    """The files of items by row, looked at as they are now. What is missed is told in `uncompared`."""

    def __init__(self, library: Library) -> None:
        self.items: dict[int, Item] = {}
        self.uncompared: dict[int, Skipped] = {}
        self._library = library
        self._read = partial(read_original, image_columns=library.manifest.image_columns)

    def there(self, groups: Iterable[Sequence[int]]) -> list[list[int]]:
        """Return the rows of each group whose files are as they were indexed, the best first.

        A file of several names comes once: who deletes what a link leads to loses both.
        """
        wanted = [list(rows) for rows in groups]
        new = np.array(sorted({row for rows in wanted for row in rows} - self.items.keys()), np.int64)
        self.items.update(zip(new.tolist(), self._library.items(new), strict=True))
        return [self._once(sorted(rows, key=self._worth)) for rows in wanted]

    def levels(self, row: int) -> NDArray[np.uint8] | Skipped:
        """Return (SIDE_PX, SIDE_PX) the brightness of a picture, or why it is not to be had. For several threads."""
        try:
            return brightness(self._read(self.items[row]), SIDE_PX).astype(np.uint8)
        except (Undecodable, SourceError, OSError) as error:
            reason = error.reason if isinstance(error, Undecodable) else "unreadable"
            return self._skipped(row, reason, str(error))

    def hits(self, rows: Sequence[int]) -> tuple[Hit, ...]:
        vectors = self._library.vectors.take(np.array(rows, np.int64))
        # A float16 row may be a little longer than 1, and no cosine is.
        scores = np.minimum(vectors @ vectors[0], 1).tolist()
        return tuple(
            Hit(rank, score, self.items[row], self._read)
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
        )

    def _worth(self, row: int) -> tuple[int, bool, int, int, str]:
        """Most pixels first, then what has its metadata still, most bytes (often the sharpest of a burst), oldest."""
        item = self.items[row]
        return (
            -(item.width or 0) * (item.height or 0),
            item.taken_at is None,
            -item.bytes,
            item.mtime_ns,
            str(item.file),
        )

    def _once(self, rows: Iterable[int]) -> list[int]:
        identities: dict[Hashable, int] = {}
        for row in rows:
            looked = self._look(row)
            if isinstance(looked, Skipped):
                self.uncompared[row] = looked
            else:
                identities.setdefault(looked, row)
        return list(identities.values())

    def _look(self, row: int) -> Hashable:
        """Return what tells the file from all others, or a Skipped if it is not what was indexed."""
        item = self.items[row]
        if item.kind is Kind.IMAGE and item.part:
            return item.id  # in a container, which may be no file, and has no links inside
        try:
            status = item.file.stat()
        except (OSError, ValueError) as error:  # ValueError: an imported path with a NUL
            return self._skipped(row, "gone", str(error))
        # Embeddings may be imported with a path and nothing else.
        is_known = item.mtime_ns != 0
        if not S_ISREG(status.st_mode) or (
            is_known and (status.st_size, status.st_mtime_ns) != (item.bytes, item.mtime_ns)
        ):
            return self._skipped(row, "changed", "it is not what was indexed: index it again")
        return status.st_dev, status.st_ino

    def _skipped(self, row: int, reason: str, detail: str) -> Skipped:
        return Skipped(Hit(1, 1.0, self.items[row], self._read).path, reason, detail)


def _all_but_first(groups: Iterable[Sequence[int]], kept: Iterable[Sequence[int]]) -> list[int]:
    """Return the rows of `groups`, but the first of each of `kept`."""
    first = {rows[0] for rows in kept if rows}
    return [row for rows in groups for row in rows if row not in first]


def _same_bytes(library: Library) -> Iterator[list[int]]:
    """Yield rows of one content hash, two or more; one row stands for all of its film or text."""
    columns = [library.column(name).to_numpy() for name in ("content_hash", "root", "path", "part", "pair")]
    are_pictures = library.of_kinds([Kind.IMAGE])
    by_hash: dict[str, dict[tuple[str, str, str], int]] = defaultdict(dict)
    for row in np.flatnonzero(library.alive).tolist():
        content_hash, root, path, part, pair = (column[row] for column in columns)
        if pair is None:
            by_hash[content_hash].setdefault((root, path, part if are_pictures[row] else ""), row)
    return (list(files.values()) for files in by_hash.values() if len(files) > 1)


def _index(library: Library, on_warning: Callable[[str], None]) -> "IvfPq | None":
    try:
        return open_index(library)
    except LibraryDamaged as error:
        on_warning(
            f"{error.message}: comparing without it, which is slower; {repair_command(library.folder)} makes it anew"
        )
        return None


def _alike(
    library: Library, pictures: NDArray[np.bool_], index: "IvfPq | None", on_progress: _OnProgress
) -> NDArray[np.int64]:
    """Return (n, 2) pairs of rows whose vectors are alike, each once, in order."""
    entry = library.manifest.index
    of_index = entry.details["settings"][Modality.IMAGE] if entry is not None else None
    settings = SearchSettings(of_index["nprobe"], of_index["depth"]) if of_index is not None else None
    rows = np.flatnonzero(pictures)
    pairs = [np.empty(0, np.int64)]
    for low in range(0, len(rows), _BLOCK):
        here = rows[low : low + _BLOCK]
        vectors = library.vectors.take(here)
        # + 1: a picture is its own nearest neighbour.
        found = search(library.vectors, index, vectors, NEIGHBOURS + 1, settings=settings, allowed=pictures)
        query, rank = np.nonzero((found.scores >= LOOKS_ALIKE) & (found.rows != here[:, None]))
        a, b = here[query], found.rows[query, rank]
        pairs.append(np.minimum(a, b) * len(library) + np.maximum(a, b))  # one number a pair: quick to sort
        on_progress("comparing vectors", min(low + _BLOCK, len(rows)), len(rows))
    return np.stack(np.divmod(np.unique(np.concatenate(pairs)), max(1, len(library))), axis=1)


def _same_photographs(files: _Files, pairs: NDArray[np.int64], on_progress: _OnProgress) -> list[list[int]]:
    """Return groups of pictures whose pixels agree too, the best of each first."""
    (best_first,) = files.there([np.unique(pairs).tolist()])
    pairs = _of_one_time(files, pairs, best_first)
    levels = _levels(files, np.unique(pairs).tolist(), on_progress)
    seen = np.array(sorted(levels), np.int64)
    pairs = np.searchsorted(seen, pairs[np.isin(pairs, seen).all(axis=1)])
    wholes = np.array([hashes(levels[row])[0] for row in seen.tolist()])
    both_ways = np.concatenate([pairs, pairs[:, ::-1]])
    both_ways = both_ways[np.argsort(both_ways[:, 0], kind="stable")]
    starts = np.searchsorted(both_ways[:, 0], np.arange(len(seen) + 1))
    copies: dict[int, set[int]] = defaultdict(set)
    for at, row in enumerate(seen.tolist()):
        others = both_ways[starts[at] : starts[at + 1], 1]
        agree = distances(hashes(levels[row]), wholes[others]) <= SAME_PHOTOGRAPH
        for other in seen[others[agree]].tolist():
            copies[row].add(other)
            copies[other].add(row)
        on_progress("comparing pixels", at + 1, len(seen))
    return list(_around_best(best_first, copies))


def _of_one_time(files: _Files, pairs: NDArray[np.int64], rows: Sequence[int]) -> NDArray[np.int64]:
    """Return the pairs of these rows but for those of two pictures that say they were taken at different times."""
    known = np.array(sorted(rows), np.int64)
    pairs = pairs[np.isin(pairs, known).all(axis=1)]
    # The local time alone: some write their offset from UTC beside it, some do not.
    times = np.array([(files.items[row].taken_at or "")[:19] for row in known.tolist()], "U19")
    a, b = times[np.searchsorted(known, pairs)].T
    kept: NDArray[np.int64] = pairs[(a == b) | (a == "") | (b == "")]
    return kept


def _levels(files: _Files, rows: Sequence[int], on_progress: _OnProgress) -> dict[int, NDArray[np.uint8]]:
    """Return the brightness of each picture by row, but for those that cannot be had or say nothing."""
    found: dict[int, NDArray[np.uint8]] = {}
    with ThreadPoolExecutor() as pool:
        for low in range(0, len(rows), _READ_AHEAD):
            block = rows[low : low + _READ_AHEAD]
            for row, looked in zip(block, pool.map(files.levels, block), strict=True):
                if isinstance(looked, Skipped):
                    files.uncompared[row] = looked
                elif looked.std() >= LEAST_CONTRAST:
                    found[row] = looked
            on_progress("reading pictures", low + len(block), len(rows))
    return found


def _around_best(rows: Sequence[int], copies: dict[int, set[int]]) -> Iterator[list[int]]:
    """Yield groups: the best row that is left, with all that are its copies and are left. `rows` are in order."""
    order = {row: position for position, row in enumerate(rows)}
    taken: set[int] = set()
    for row in rows:
        group = [row, *sorted(copies.get(row, set()) - taken, key=order.__getitem__)]
        if row not in taken and len(group) > 1:
            taken.update(group)
            yield group


def _bursts(library: Library, pictures: NDArray[np.bool_]) -> list[list[int]]:
    """Return rows of pictures that one camera took in a row, each alike the one before."""
    cameras, times = (library.column(name).to_numpy() for name in ("camera", "taken_at"))
    known = sorted(
        (cameras[row], time, row)
        for row in np.flatnonzero(pictures).tolist()
        if cameras[row] and (time := _local_time(times[row])) is not None
    )
    bursts = [[row] for *_, row in known[:1]]
    for (earlier_camera, earlier, before), (camera, time, row) in pairwise(known):
        soon = camera == earlier_camera and (time - earlier).total_seconds() <= BURST_S
        if not (soon and np.dot(*library.vectors.take(np.array([before, row]))) >= SAME_SCENE):
            bursts.append([])
        bursts[-1].append(row)
    return [rows for rows in bursts if len(rows) > 1]


def _local_time(taken_at: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(taken_at[:19]).replace(tzinfo=None) if taken_at else None
    except ValueError:  # imported from elsewhere
        return None
