"""What there is in a library to choose from: folders, months, places, kinds, each with how many items it has."""

from collections import Counter
from pathlib import PurePath

import numpy as np

from xsearch.library import Library
from xsearch.library.where import matching
from xsearch.serve.models import Facets, FolderCount, MonthCount, PlaceCount

MAX_FOLDERS = 1_000
MAX_PLACES = 500

_GRIDS_DEGREES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def facets(library: Library) -> Facets:
    """Return the facets of the living items. Folders are those with most items, months in order."""
    alive = library.alive
    roots, paths, taken = (library.column(name).to_pylist() for name in ("root", "path", "taken_at"))
    living = np.flatnonzero(alive).tolist()
    # By the names as they are stored first, as a path object for every item would take most of the time.
    counts = Counter((roots[row], paths[row].rpartition("/")[0]) for row in living)
    folders: Counter[str] = Counter()
    for (root, folder), count in counts.items():
        folders[str(PurePath(root, folder))] += count
    months = Counter(taken[row][:7] for row in living if taken[row])
    return Facets(
        folders=[FolderCount(path=path, count=count) for path, count in folders.most_common(MAX_FOLDERS)],
        months=[MonthCount(month=month, count=count) for month, count in sorted(months.items())],
        places=_places(library),
        kinds=library.counts(),
    )


def _places(library: Library) -> list[PlaceCount]:
    """Count the items with a position by field of a grid: the finest on which they take at most MAX_PLACES fields."""
    rows = np.flatnonzero(matching(library, "gps_lat IS NOT NULL AND gps_lon IS NOT NULL"))
    if not len(rows):
        return []
    items = library.items(rows)
    positions = np.array([(item.gps_lat, item.gps_lon) for item in items], np.float64)
    for degrees in _GRIDS_DEGREES:
        _, first, field_of, counts = np.unique(
            np.floor(positions / degrees), axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        if len(counts) <= MAX_PLACES:
            break
    lat, lon = (np.bincount(field_of.ravel(), positions[:, axis]) / counts for axis in (0, 1))
    return [
        PlaceCount(lat=float(lat[at]), lon=float(lon[at]), count=int(counts[at]), item_id=items[first[at]].id)
        for at in np.argsort(-counts, kind="stable").tolist()
    ]
