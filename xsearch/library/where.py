"""Which items a condition on their metadata lets through: SQL, read and evaluated by DuckDB. The owner of duckdb.

A condition may come from a stranger, so it is held three times: its syntax tree may hold only what is listed here, none
of which reaches outside; the connection is private, in memory, and locked with files, network and extensions switched
off; and time and memory are bounded.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsearch.errors import QueryError
from xsearch.labels import Labels
from xsearch.library.library import Library
from xsearch.library.shards import METADATA
from xsearch.library.tags import COLUMN, read_labels, tags_of

if TYPE_CHECKING:
    import duckdb

EXAMPLE = "taken_at >= '2023-06-01' AND camera LIKE '%Pixel%'"

_FILE = "CASE WHEN path = '' THEN root ELSE concat(rtrim(root, '/'), '/', path) END"
_AS_STORED = (
    *("id", "kind", "root", "part", "pair", "bytes", "text", "width", "height"),
    *("camera", "gps_lat", "gps_lon", "t_start_s", "t_end_s", COLUMN.name),
)
COLUMNS = {name: (name, (name,)) for name in _AS_STORED} | {
    "path": (
        f"concat({_FILE}, CASE WHEN kind = 'image' AND part <> '' THEN concat('#', part) END)",
        ("root", "path", "kind", "part"),
    ),
    "name": (f"split_part({_FILE}, '/', -1)", ("root", "path")),
    # The cast passes over an offset from UTC: local time stays.
    "taken_at": ("TRY_CAST(taken_at AS TIMESTAMP)", ("taken_at",)),
    "mtime": ("CAST(make_timestamptz(mtime_ns // 1000) AS TIMESTAMP)", ("mtime_ns",)),
}
"""What a condition may name: the SQL of each, and the columns of the shards that it is made of."""

FUNCTIONS = (
    *("near", "lower", "upper", "length", "contains", "starts_with", "ends_with", "abs", "round", "least", "greatest"),
    "list_contains",
    *("year", "month", "day", "hour", "minute", "dayofweek", "date_part", "date_trunc", "today", "now"),
)
"""None of these makes a long text of a short one or takes more than linear time: regular expressions would."""

_OPERATORS = {"+", "-", "*", "/", "//", "%", "~~", "!~~", "~~*", "!~~*"} | {
    f"{name}like_escape" for name in ("", "i", "not_", "not_i")
}
# What DuckDB's parser makes of INTERVAL 3 DAYS.
_INTERVALS = {"trunc", *(f"to_{unit}" for unit in ("years", "months", "weeks", "days", "hours", "minutes", "seconds"))}
_CALLABLE = {*FUNCTIONS, *_OPERATORS, *_INTERVALS}
_SYNTAX = {"CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN", "CASE", "CAST"}
_TYPES = {"BOOLEAN", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "TEXT", "DATE", "TIMESTAMP", "INTERVAL"}

# Haversines, sin^2(angle / 2), are compared in place of angles: they rise together, and no inverse function is needed.
# 6371.0088 km is the mean radius of the Earth (IUGG).
_NEAR = """CREATE MACRO near(lat, lon, km) AS
    km >= 0
    AND sin(radians(gps_lat - lat) / 2) ** 2
        + cos(radians(lat)) * cos(radians(gps_lat)) * sin(radians(gps_lon - lon) / 2) ** 2
        <= sin(least(km / 6371.0088 / 2, pi() / 2)) ** 2"""

_SETTINGS: dict[str, Any] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "memory_limit": "1GB",
    "threads": 1,
    "lock_configuration": True,
}

# The parser takes time with the square of the brackets that are open, and cannot be interrupted.
MAX_CHARS = 10_000
MAX_BRACKETS = 200

BATCH_ROWS = 65_536
"""Metadata held in memory at once."""

TIMEOUT_S = 10.0
TIMEOUT_ROWS = 1_000_000
"""A condition has `TIMEOUT_S`, and as much for every so many rows of a large library: 20 times what one needs."""


@dataclass(frozen=True, slots=True)
class Near:
    """A circle on the globe: degrees, north and east positive, and kilometres."""

    lat: float
    lon: float
    km: float

    @classmethod
    def parse(cls, text: str) -> "Near":
        """Read `LAT,LON,KM`. Raises QueryError."""
        try:
            lat, lon, km = (float(part) for part in text.split(","))
        except ValueError as error:
            raise QueryError(
                f"{text!r} is not LAT,LON,KM", remedy="give three numbers with commas between, as in 48.137,11.575,5"
            ) from error
        for name, value, low, high in (("latitude", lat, -90, 90), ("longitude", lon, -180, 180)):
            if not low <= value <= high:
                raise QueryError(f"there is no {name} {value:g}", remedy=f"it lies between {low} and {high} degrees")
        if not 0 < km < np.inf:
            raise QueryError(f"{km:g} km is not a radius", remedy="give a number above 0")
        return cls(lat, lon, km)

    @property
    def where(self) -> str:
        """The same as a condition."""
        return f"near({self.lat!r}, {self.lon!r}, {self.km!r})"


def matching(library: Library, where: str) -> NDArray[np.bool_]:
    """Return (rows,) True where a row is alive and meets the condition `where`, the expression of a SQL WHERE clause.

    It may name these columns; where something is not known of an item, it is NULL and no comparison with it holds:

    - id, kind ('image', 'frame', 'text'), pair (the id of the item that it belongs to), part
    - path (as hits print it), name (of the file), root (the folder that was indexed), bytes
    - text, width, height, t_start_s, t_end_s (seconds in a film)
    - taken_at (the camera's local time), mtime (local time); both compare with '2023-06-01' and '2023-06-01 12:30'
    - camera, gps_lat, gps_lon (degrees)
    - tags (the labels of `xsearch tag`): 'dog' IN tags; length(tags) = 0 where none of them fits

    It may use comparisons, AND, OR, NOT, BETWEEN, IN, IS NULL, LIKE, ILIKE, CASE, CAST to plain types, arithmetic,
    INTERVAL, and `FUNCTIONS`. near(lat, lon, km) holds within so many kilometres on the great circle, and never for an
    item without a position (haversine formula: R. W. Sinnott, Sky & Telescope 68, 1984).

    Raises QueryError for whatever else is in it, and if it takes too long; LibraryDamaged if a shard was altered.
    """
    import duckdb

    limit_s = TIMEOUT_S * max(1.0, len(library) / TIMEOUT_ROWS)
    matches = np.zeros(len(library), np.bool_)
    with closing(duckdb.connect(":memory:", config=_SETTINGS)) as connection, _interrupted_after(limit_s, connection):
        try:
            stored = _prepared(connection, where)
            for table in _tables(library, stored):
                connection.register("stored", table)
                matches[connection.execute(_query(where)).fetchnumpy()["row"]] = True
        except duckdb.InterruptException as error:
            raise QueryError(f"the condition takes longer than {limit_s:.0f} s", remedy="make it simpler") from error
        except duckdb.Error as error:
            raise _refusal(str(error).split(": ", 1)[-1]) from error
    return matches & library.alive


def _query(where: str) -> str:
    # The closing bracket on a line of its own: the condition may end in a comment.
    return f"SELECT row FROM items WHERE ({where}\n)"


def _prepared(connection: "duckdb.DuckDBPyConnection", where: str) -> list[str]:
    """Make the view `items` that the condition asks, over a table `stored`; return the columns which that must have."""
    used = _columns(_syntax_tree(connection, where))
    stored = sorted({name for column in used for name in COLUMNS[column][1]})
    schema = METADATA.append(COLUMN)
    connection.execute(_NEAR)
    connection.register("stored", _numbered(pa.Table.from_batches([], schema).select(stored), 0))
    items = ", ".join(["row", *(f"{COLUMNS[column][0]} AS {column}" for column in used)])
    connection.execute(f"CREATE TEMP VIEW items AS SELECT {items} FROM stored")
    ((_, kind, *_),) = connection.execute(f"SELECT ({where}\n) FROM items").description
    if kind != "BOOLEAN":
        raise _refusal(f"it gives {kind}, not true or false")
    return stored


def _syntax_tree(connection: "duckdb.DuckDBPyConnection", where: str) -> Any:
    """Return what DuckDB's parser makes of one condition."""
    if not where.strip():
        raise _refusal("it is empty")
    if len(where) > MAX_CHARS or where.count("(") > MAX_BRACKETS:
        raise _refusal(f"it has more than {MAX_CHARS:,} characters or {MAX_BRACKETS} brackets")
    try:
        size = len(_query(where).encode())
        statement, plain = (_parsed(connection, _query(condition)) for condition in (where, "true"))
    except UnicodeEncodeError as error:
        raise _refusal("it is not UTF-8") from error
    except RecursionError as error:
        raise _refusal("it is nested too deeply") from error
    if statement["error"]:
        at_end = statement.get("position") == str(size - 1)
        raise _refusal("it ends too early, or closes a bracket too many" if at_end else statement["error_message"])
    condition, _ = (tree["statements"][0]["node"].pop("where_clause", None) for tree in (statement, plain))
    if statement != plain:  # `true) LIMIT (1` changes more than the condition
        raise _refusal("it is more than one condition")
    return condition


def _parsed(connection: "duckdb.DuckDBPyConnection", sql: str) -> Any:
    ((tree,),) = connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
    return json.loads(tree)


def _columns(condition: Any) -> list[str]:
    """Return the columns that a condition names. Raises QueryError for all that it may not hold."""
    used = set()
    for node in _nodes(condition):
        match node["class"]:
            case "COLUMN_REF":
                name = ".".join(node["column_names"]).lower()
                if name not in COLUMNS:
                    raise QueryError(
                        f"there is no column {name!r}",
                        remedy=f"columns are {', '.join(sorted(COLUMNS))}; text stands in single quotes",
                    )
                used.add(name)
            case "FUNCTION":
                name = node["function_name"].lower()
                if name not in _CALLABLE:
                    raise QueryError(f"a condition cannot use {name!r}", remedy=f"functions are {', '.join(FUNCTIONS)}")
                if name == "near":
                    used |= {"gps_lat", "gps_lon"}
            case "TYPE":
                if node["type_name"].upper() not in _TYPES:
                    raise QueryError(
                        f"a condition cannot use the type {node['type_name']!r}",
                        remedy=f"types are {', '.join(sorted(_TYPES))}",
                    )
            case other:
                if other not in _SYNTAX:
                    raise _refusal(f"it holds a {other.lower().replace('_', ' ')}")
    return sorted(used)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all expressions in a syntax tree."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "class" in part:
                yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _tables(library: Library, names: list[str]) -> Iterator[pa.Table]:
    """Yield these columns of all rows, dead ones included, with their numbers as `row`, BATCH_ROWS at most at once."""
    labels = _labels(library) if COLUMN.name in names else None
    stored = [name for name in names if name != COLUMN.name]
    first = 0
    for shard in library._shards:
        start, tags = first, tags_of(library, shard, labels) if labels is not None else None
        with shard._reading():
            reader = shard._parquet_file(metadata=shard._file.metadata)
            for batch in reader.iter_batches(BATCH_ROWS, columns=stored, use_threads=False):
                table = _numbered(pa.Table.from_batches([batch]), first)
                if tags is not None:
                    table = table.append_column(COLUMN, tags[COLUMN.name].slice(first - start, len(batch)))
                yield table
                first += len(batch)


def _labels(library: Library) -> Labels:
    labels = read_labels(library)
    if labels is None:
        raise QueryError("the library has no tags", remedy="give it some: `xsearch tag --labels FILE`")
    return labels


def _numbered(table: pa.Table, first: int) -> pa.Table:
    rows = np.arange(first, first + len(table))
    # Not `pa.array(rows)`, which imports pandas where that is installed.
    return table.append_column("row", pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)]))


@contextmanager
def _interrupted_after(limit_s: float, connection: "duckdb.DuckDBPyConnection") -> Iterator[None]:
    done = Event()

    def watch() -> None:
        wait_s = limit_s
        while not done.wait(wait_s):
            connection.interrupt()
            wait_s = 0.1  # once more: between two statements there was nothing to interrupt

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _refusal(what: str) -> QueryError:
    """Return the error that says so in one line; DuckDB adds lines of its own query."""
    return QueryError(f"the condition cannot be used: {what.splitlines()[0]}", remedy=f'write one such as "{EXAMPLE}"')
