"""A condition finds what it says among the living rows of all shards, and can do nothing else."""

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fakes import SPEC, an_item, unit_rows
from xsearch.errors import LibraryDamaged, QueryError
from xsearch.labels import Labels
from xsearch.library import Library, LibraryWriter, Manifest
from xsearch.library import where as where_module
from xsearch.library.tags import write_labels
from xsearch.library.where import COLUMNS, FUNCTIONS, Near, matching
from xsearch.originals import read_original
from xsearch.types import Hit, Item, Kind

CAMERAS = ("Google Pixel 7", "Canon EOS 5D", "o'neill 100%_x", "Ünï 茶", None)
PLACES = ((48.137, 11.575), (52.52, 13.405), (0.0, 179.95), (0.0, -179.95), (90.0, 0.0), (None, None))
TAKEN = ("2023-05-31T23:59:59", "2023-06-01T00:00:00+14:00", "2001-02-03T04:05:06", "the day before", None)
KM_PER_RADIAN = 6371.0088


LABELS = Labels(("dog", "Tom's cat", "茶"), unit_rows(3, seed=1000), unit_rows(4, seed=1001), 10.0, 0.5)


def an_assorted_item(i: int) -> Item:
    lat, lon = PLACES[i % 6]
    return an_item(
        f"{'trip' if i % 3 else 'home'}/IMG_{i:04d}.jpg",
        root="/" if i % 11 == 0 else "/photos",
        kind=(Kind.IMAGE, Kind.TEXT, Kind.FRAME)[i % 3],
        part=f"key{i}" if i % 4 == 0 else "",
        bytes=1000 * i,
        mtime_ns=(1_600_000_000 + 86_400 * i) * 10**9 + 123_456_789,
        width=None if i % 5 == 0 else 100 * i,
        height=700,
        camera=CAMERAS[i % 5],
        taken_at=TAKEN[i % 5],
        gps_lat=lat,
        gps_lon=lon,
        text=f"a caption\nof {i}" if i % 2 else None,
        pair="p" if i % 2 else None,
        t_start_s=i / 2 if i % 3 == 2 else None,
        t_end_s=i / 2 + 0.5 if i % 3 == 2 else None,
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """90 rows in several shards, some of which were merged, a fifth of them dead in merged and in single ones."""
    folder = tmp_path_factory.mktemp("library")
    with LibraryWriter(folder, SPEC) as writer:
        start = 0
        for size in (40, 2, 1, 30, 9, 4, 3, 1):
            items = [an_assorted_item(i) for i in range(start, start + size)]
            bury = range(start - 1, 0, -7) if start else ()
            writer.add(items, unit_rows(size, seed=start), bury=list(bury)[:3])
            start += size
        write_labels(writer, LABELS)
    library = Library.open(folder)
    assert len(library.manifest.shards) > 2
    assert sum(bool(shard.dead) for shard in library.manifest.shards) >= 2
    assert 10 < np.count_nonzero(~library.alive) < 30
    return library


def expected(library: Library, holds: Callable[[Item], bool | None]) -> list[int]:
    """The rows that a condition is to find: those alive of which it is true, not false and not unknown."""
    items = library.items(np.arange(len(library)))
    return [row for row, item in enumerate(items) if library.alive[row] and holds(item) is True]


def found(library: Library, where: str) -> list[int]:
    mask = matching(library, where)
    assert mask.shape == (len(library),)
    assert mask.dtype == np.bool_
    return np.flatnonzero(mask).tolist()


def local(item: Item) -> datetime:
    return datetime.fromtimestamp(item.mtime_ns // 10**9)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("true", lambda i: True),
        ("false", lambda i: False),
        ("width > 2000", lambda i: i.width and i.width > 2000),
        ("NOT width > 2000", lambda i: i.width and not i.width > 2000),
        ("WIDTH*height / 1e6 BETWEEN 1 AND 2.5", lambda i: i.width and 1e6 <= i.width * 700 <= 2.5e6),
        ("width IS NULL OR camera IS NULL", lambda i: i.width is None or i.camera is None),
        ("camera LIKE '%Pixel%'", lambda i: i.camera and "Pixel" in i.camera),
        ("camera ILIKE 'canon%' -- and no more", lambda i: i.camera == "Canon EOS 5D"),
        ("camera LIKE 'o''neill 100!%!_x' ESCAPE '!'", lambda i: i.camera == "o'neill 100%_x"),
        ("camera NOT IN ('Ünï 茶', 'Canon EOS 5D')", lambda i: i.camera and i.camera[0] in "Go"),
        ("\"path\" LIKE '%/trip/%'", lambda i: "/trip/" in str(i.file)),
        ("root = '/'", lambda i: i.root == "/"),
        ("name = 'IMG_0007.jpg'", lambda i: i.file.name == "IMG_0007.jpg"),
        ("kind = 'image' AND part <> ''", lambda i: i.kind is Kind.IMAGE and i.part != ""),
        ("kind IN ('frame', 'text')", lambda i: i.kind is not Kind.IMAGE),
        ("pair = 'p' AND text LIKE '%\n%5'", lambda i: i.pair and i.path.endswith("5.jpg")),
        ("t_start_s >= 10 AND t_end_s < 20", lambda i: i.t_start_s and i.t_start_s >= 10 and i.t_end_s < 20),
        ("bytes % 7000 = 0", lambda i: i.bytes % 7000 == 0),
        ("taken_at >= '2023-06-01'", lambda i: (i.taken_at or "").startswith("2023-06")),
        ("taken_at < '2023-06-01 00:00' AND year(taken_at) > 2001", lambda i: i.taken_at == TAKEN[0]),
        ("taken_at::DATE = DATE '2001-02-03'", lambda i: i.taken_at == TAKEN[2]),
        ("taken_at IS NULL", lambda i: i.taken_at in TAKEN[3:]),
        ("taken_at + INTERVAL 30 YEARS > now()", lambda i: (i.taken_at or "").startswith("20")),
        ("mtime >= '2020-10-20'", lambda i: local(i) >= datetime(2020, 10, 20)),
        ("mtime < today()", lambda i: True),
        ("hour(mtime) < 12", lambda i: local(i).hour < 12),
        ("CASE WHEN width > 2000 THEN kind = 'text' END", lambda i: i.width and i.width > 2000 and i.kind is Kind.TEXT),
        ("gps_lat > 89 OR gps_lon < 0", lambda i: i.gps_lat is not None and (i.gps_lat > 89 or i.gps_lon < 0)),
        ("near(48.1, 11.6, 30) OR camera IS NULL", lambda i: i.gps_lat == 48.137 or i.camera is None),
        (
            "taken_at >= '2001-01-01' AND camera LIKE 'Canon%' AND width > 2000 AND path LIKE '%/trip/%'",
            lambda i: i.taken_at == TAKEN[1] and i.camera == CAMERAS[1] and i.width > 2000 and "trip/" in i.path,
        ),
    ],
)  # fmt: skip
def test_a_condition_finds_the_living_rows_of_which_it_is_true(
    library: Library, where: str, holds: Callable[[Item], Any]
) -> None:
    assert found(library, where) == expected(library, lambda item: bool(holds(item)))


def test_no_case_above_is_trivial(library: Library) -> None:
    # The items are so assorted that the conditions they are tried with hold of some and not of others.
    everything = len(expected(library, lambda item: True))
    for where in (
        "taken_at >= '2023-06-01'",
        "near(48.1, 11.6, 30)",
        "camera LIKE '%Pixel%'",
        "hour(mtime) < 12 OR part = ''",
    ):
        assert 0 < len(found(library, where)) < everything


def test_paths_are_those_of_hits(library: Library) -> None:
    items = library.items(np.flatnonzero(library.alive))
    paths = [Hit(1, 0.5, item, read_original).path for item in items]
    assert {path[:8] for path in paths} >= {"/photos/", "/trip/IM"}
    assert any("#key" in path for path in paths)
    rows = [found(library, f"path = '{path}'") for path in paths[::7]]
    assert rows == [[row] for row in np.flatnonzero(library.alive)[::7].tolist()]


def test_a_source_that_is_one_path(tmp_path: Path) -> None:
    with LibraryWriter(tmp_path, SPEC) as writer:
        writer.add([an_item("", root="hf:beans", part="train/3")], unit_rows(1))
    library = Library.open(tmp_path)
    assert found(library, "path = 'hf:beans#train/3' AND name = 'hf:beans'") == [0]


# What is known of an item, as a comparison in SQL and in Python, None where it is unknown.
COMPARISONS = [
    ("width > 4000", lambda i: None if i.width is None else i.width > 4000),
    ("camera = 'Canon EOS 5D'", lambda i: None if i.camera is None else i.camera == "Canon EOS 5D"),
    ("kind = 'image'", lambda i: i.kind is Kind.IMAGE),
    ("bytes <= 50000", lambda i: i.bytes <= 50000),
    ("text IS NULL", lambda i: i.text is None),
    ("gps_lat < 50", lambda i: None if i.gps_lat is None else i.gps_lat < 50),
]


def negated(one: tuple[str, Any]) -> tuple[str, Any]:
    return f"NOT ({one[0]})", lambda i: None if one[1](i) is None else not one[1](i)


def joined(word: str, decisive: bool) -> Callable[[tuple[str, Any], tuple[str, Any]], tuple[str, Any]]:
    def join(a: tuple[str, Any], b: tuple[str, Any]) -> tuple[str, Any]:
        def holds(item: Item) -> bool | None:
            values = [a[1](item), b[1](item)]
            if decisive in values:
                return decisive
            return None if None in values else not decisive

        return f"({a[0]}) {word} ({b[0]})", holds

    return join


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.sampled_from(COMPARISONS),
        lambda inner: st.one_of(
            inner.map(negated),
            st.builds(joined("AND", False), inner, inner),
            st.builds(joined("OR", True), inner, inner),
        ),
        max_leaves=6,
    )
)
def test_conditions_combine_by_the_logic_of_three_values(library: Library, condition: tuple[str, Any]) -> None:
    where, holds = condition
    assert found(library, where) == expected(library, holds)


def test_rows_keep_their_numbers_over_batches(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found(library, "width % 300 = 0")
    monkeypatch.setattr(where_module, "BATCH_ROWS", 4)
    assert found(library, "width % 300 = 0") == before != []


def test_each_function_works(library: Library) -> None:
    uses = {
        "near": "near(0, 180, 10) AND gps_lon IN (179.95, -179.95)",
        "lower": "lower(camera) = 'canon eos 5d'",
        "upper": "upper(camera) = 'CANON EOS 5D'",
        "length": "length(camera) = 5",
        "contains": "contains(camera, 'xel')",
        "starts_with": "starts_with(camera, 'o''')",
        "ends_with": "ends_with(name, '7.jpg')",
        "list_contains": "list_contains(tags, 'dog')",
        "abs": "abs(gps_lon) > 179",
        "round": "round(gps_lat) = 53",
        "least": "least(width, 500) = 500",
        "greatest": "greatest(width, 500) = 500",
        "year": "year(taken_at) = 2001",
        "month": "month(taken_at) = 2",
        "day": "day(taken_at) = 3",
        "hour": "hour(taken_at) = 4",
        "minute": "minute(taken_at) = 5",
        "dayofweek": "dayofweek(taken_at) = 6",  # 3 February 2001 was a Saturday
        "date_part": "date_part('second', taken_at) = 6",
        "date_trunc": "date_trunc('month', taken_at) = '2001-02-01'",
        "today": "taken_at < today() - INTERVAL 10 YEARS",
        "now": "taken_at < now() - INTERVAL '10 years'",
    }
    assert uses.keys() == set(FUNCTIONS)
    for name, where in uses.items():
        assert 0 < len(found(library, where)) < np.count_nonzero(library.alive), name


@pytest.mark.parametrize("batch_rows", [7, 65_536])
@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("'dog' IN tags", lambda t: t and "dog" in t),
        ("NOT 'Tom''s cat' IN tags AND '茶' IN tags", lambda t: t and "茶" in t and "Tom's cat" not in t),
        ("contains(tags, '茶') OR 'dog' NOT IN tags", lambda t: t is not None and ("茶" in t or "dog" not in t)),
        ("length(tags) = 0", lambda t: t == set()),
        ("tags IS NULL", lambda t: t is None),
    ],
)  # fmt: skip
def test_tags_are_the_labels_of_the_stored_vectors_and_unknown_for_texts(
    library: Library, where: str, holds: Callable[[Any], Any], batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where_module, "BATCH_ROWS", batch_rows)
    probable = LABELS.probabilities(library.vectors.take(np.arange(len(library)))) >= LABELS.threshold
    tags = {
        item.id: None if item.kind is Kind.TEXT else {LABELS.names[at] for at in np.flatnonzero(row)}
        for item, row in zip(library.items(np.arange(len(library))), probable, strict=True)
    }
    rows = found(library, where)
    assert rows == expected(library, lambda item: bool(holds(tags[item.id])))
    assert 0 < len(rows) < np.count_nonzero(library.alive)


def test_modification_times_are_those_of_the_clock_on_the_wall(library: Library) -> None:
    script = """
import sys
from pathlib import Path
from xsearch.library import Library
from xsearch.library.where import matching
print(matching(Library.open(Path(sys.argv[1])), "mtime = '2020-09-14 21:26:40.123456'").nonzero()[0].tolist())
"""
    # Row 1 is of 2020-09-14T12:26:40Z; in Tokyo clocks are nine hours ahead.
    for zone, rows in (("Asia/Tokyo", "[1]"), ("UTC", "[]")):
        done = subprocess.run(
            [sys.executable, "-c", script, str(library.folder)],
            env=os.environ | {"TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == rows


class TestNear:
    @pytest.mark.parametrize(
        ("a", "b", "km"),
        [
            ((48.8566, 2.3522), (51.5074, -0.1278), 343.557),  # Paris, London
            ((40.7128, -74.0060), (-33.8688, 151.2093), 15_988.778),  # New York, Sydney
            ((0.0, 179.9), (0.0, -179.9), 22.239),
            ((89.9, 0.0), (89.9, 180.0), 22.239),
            ((0.0, 0.0), (0.0, 180.0), 20_015.115),
        ],
    )
    def test_known_distances(self, a: tuple[float, float], b: tuple[float, float], km: float, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC) as writer:
            writer.add([an_item("b", gps_lat=b[0], gps_lon=b[1])], unit_rows(1))
        library = Library.open(tmp_path)
        assert found(library, Near(*a, km + 0.01).where) == [0]
        assert found(library, Near(*a, km - 0.01).where) == []

    @settings(max_examples=40, deadline=None)
    @given(lat=st.floats(-90, 90), lon=st.floats(-180, 180), km=st.floats(1e-3, 25_000))
    def test_equals_the_angle_between_vectors(self, library: Library, lat: float, lon: float, km: float) -> None:
        def vector(lat: float, lon: float) -> np.ndarray[Any, Any]:
            phi, theta = math.radians(lat), math.radians(lon)
            return np.array([math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)])

        def distance_km(item: Item) -> float:
            assert item.gps_lat is not None
            assert item.gps_lon is not None
            a, b = vector(lat, lon), vector(item.gps_lat, item.gps_lon)
            # Stable at every angle, unlike the arc cosine.
            return KM_PER_RADIAN * math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b))

        located = [item for item in library.items(np.arange(6)) if item.gps_lat is not None]
        assume(all(abs(distance_km(item) - km) > 1e-3 for item in located))
        assert found(library, Near(lat, lon, km).where) == expected(
            library, lambda item: item.gps_lat is not None and distance_km(item) <= km
        )

    def test_without_a_position_an_item_is_neither_near_nor_far(self, library: Library) -> None:
        everywhere = found(library, "near(0, 0, 30000)")
        assert everywhere == found(library, "gps_lat IS NOT NULL") != []
        assert found(library, "NOT near(0, 0, 30000)") == []
        assert found(library, "near(0, 180, -10)") == []

    def test_parse(self) -> None:
        assert Near.parse("48.137, 11.575,5") == Near(48.137, 11.575, 5.0)
        assert Near.parse("-90,180,1e-3") == Near(-90.0, 180.0, 0.001)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is not LAT,LON,KM"),
            ("1,2", "is not LAT,LON,KM"),
            ("1,2,3,4", "is not LAT,LON,KM"),
            ("1,2,near", "is not LAT,LON,KM"),
            ("90.01,0,1", "no latitude 90.01"),
            ("nan,0,1", "no latitude nan"),
            ("0,-181,1", "no longitude -181"),
            ("0,inf,1", "no longitude inf"),
            ("0,0,0", "0 km is not a radius"),
            ("0,0,-1", "-1 km is not a radius"),
            ("0,0,inf", "inf km is not a radius"),
            ("0,0,nan", "nan km is not a radius"),
        ],
    )
    def test_what_is_no_place_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(QueryError, match=message) as refused:
            Near.parse(text)
        assert refused.value.remedy

    @given(st.text(alphabet="0123456789.,-+einfa_ \n", max_size=20))
    def test_any_text_is_a_place_or_refused(self, text: str) -> None:
        try:
            near = Near.parse(text)
        except QueryError as error:
            refused = str(error)
            assert len(refused.splitlines()) == 1
        else:
            assert -90 <= near.lat <= 90
            assert -180 <= near.lon <= 180
            assert 0 < near.km < math.inf


def refusal(library: Library, where: str) -> str:
    with pytest.raises(QueryError) as refused:
        matching(library, where)
    message = str(refused.value)
    assert refused.value.remedy
    assert len(message.splitlines()) == 1
    return message


class TestRefusals:
    @pytest.mark.parametrize(
        ("where", "message"),
        [
            ("", "it is empty"),
            (" \n", "it is empty"),
            ("width >", "it ends too early"),
            ("width > 2)", "closes a bracket too many"),
            ("ünïcode = 'ü' AND ((width > 2)", "it ends too early"),
            ("width > 2 LIKE IN 3", "syntax error at or near"),
            ("'never closed", "unterminated"),
            ("/* never closed", "unterminated"),
            ("true) LIMIT (1", "more than one condition"),
            ("true) UNION SELECT row FROM items WHERE (true", "more than one condition"),
            ("true); SELECT (1", "more than one condition"),
            ("width", "it gives INTEGER, not true or false"),
            ("NULL", "not true or false"),
            ("camera > 3", "Cannot compare"),
            ("tags", r"it gives VARCHAR\[\], not true or false"),
            ("'dog' IN (tags)", "can't be cast"),
            ("3 IN tags", "Cannot deduce template type"),
            ("CAST(camera AS INTEGER) > 3", "Could not convert string"),
            ("taken_at > 'yesterday'", "invalid timestamp"),
            ("near(1, 2)", "near\\(\\) does not support the supplied arguments"),
            ("NOT " * 3000 + "true", "characters"),
            ("NOT " * 2000 + "true", "depth"),
            ("true" + " IS NULL" * 900, "too deeply"),
            ("(" * 5000 + "true" + ")" * 4000, "brackets"),
            ("width > 1\ud800", "not UTF-8"),
            ("width > 1\0", "syntax error"),
        ],
    )
    def test_what_cannot_be_read(self, library: Library, where: str, message: str) -> None:
        with pytest.raises(QueryError, match=message):
            matching(library, where)
        refusal(library, where)

    @pytest.mark.parametrize(
        "where", ["megapixels > 2", 'camera = "megapixels"', "items.megapixels = 1", "Megapixels()=1 OR megapixels"]
    )
    def test_a_column_that_is_not_there_is_told_with_those_that_are(self, library: Library, where: str) -> None:
        message = refusal(library, where)
        assert "megapixels" in message
        assert all(name in message for name in COLUMNS)
        assert "single quotes" in message

    def test_a_library_of_nothing_refuses_too(self, tmp_path: Path) -> None:
        with LibraryWriter(tmp_path, SPEC):
            pass
        library = Library.open(tmp_path)
        assert matching(library, "width > 2").shape == (0,)
        refusal(library, "width")
        refusal(library, "megapixels > 2")

    @pytest.mark.parametrize(
        "where",
        [
            "true) UNION SELECT row FROM items WHERE (true",
            "true) UNION SELECT content::INT FROM read_text('{file}') WHERE (true",
            "true) LIMIT (1",
            "true) ORDER BY (row",
            "true) GROUP BY (row",
            "true) QUALIFY (true",
            "true) USING SAMPLE (1",
            "true); DROP VIEW items; SELECT (1",
            "true); SET enable_external_access = true; SELECT (1",
            "true); COPY (SELECT 1) TO '{file}2'; SELECT (1",
            "true); ATTACH '{file}2' AS a; SELECT (1",
            "true); INSTALL httpfs; SELECT (1",
            "true); PRAGMA database_list; SELECT (1",
            "true; SELECT 1",
            "COPY items TO '{file}2'",
            "EXISTS (SELECT * FROM read_csv('{file}'))",
            "text IN (SELECT content FROM read_text('{file}'))",
            "text = (FROM '{file}')",
            "text = ANY (SELECT file FROM glob('/*'))",
            "EXISTS (FROM secret_frame)",
            "EXISTS (SELECT 1 FROM duckdb_settings())",
            "read_text('{file}') = 'secret'",
            "read_blob('{file}') IS NOT NULL",
            "getenv('HOME') <> ''",
            "current_setting('threads') = 1",
            "getvariable('x') = 1",
            "nextval('x') = 1",
            "query('SELECT 1') = 1",
            "main.read_text('{file}') = 'x'",
            "error('x') IS NULL",
            "write_log('x') IS NULL",
            "length(repeat(text, 1000000000)) > 1",
            "range(10000000000) IS NULL",
            "regexp_matches(text, '(((a*)*)*)*b')",
            "text SIMILAR TO '(a*)*b'",
            "text ~ '(a*)*b'",
            "replace(text, 'a', text) = 'x'",
            "text || text = text",
            "[x FOR x IN [1]] = [1]",
            "width::INTEGER[100000] IS NULL",
            "CAST(text AS secret)",
            "lower(camera) OVER () = 'x'",
            "count(*) > 1",
            "*",
            "COLUMNS('w.*') > 1",
            "COLUMNS(*) IS NULL",
            "#1 = 1",
            "? = 1",
            "$1 = 1",
            "row = 1",
            "rowid = 1",
            "stored.width > 1",
            "vector IS NULL",
            "content_hash = 'x'",
            "DEFAULT",
            "x -> x",
            "secret_frame = 1",
        ],
    )
    def test_what_may_not_be_asked(self, library: Library, where: str, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("1")
        secret_frame = pa.table({"a": [1]})  # what a scan of Python's variables would find
        refusal(library, where.format(file=secret) if "{file}" in where else where)
        assert secret_frame.num_rows == 1
        assert sorted(tmp_path.iterdir()) == [secret]

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT * FROM read_text('{file}')",
            "SELECT * FROM '{file}'",
            "SELECT * FROM glob('{file}*')",
            "COPY (SELECT 1) TO '{file}2'",
            "ATTACH '{file}2'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SELECT * FROM read_csv('http://127.0.0.1:1/x')",
            "SELECT * FROM secret_frame",
            "SET enable_external_access = true",
            "SET threads = 8",
            "SELECT getenv('HOME')",
        ],
    )
    def test_the_connection_could_not_do_it_either(self, statement: str, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("1")
        secret_frame = pa.table({"a": [1]})
        with duckdb.connect(":memory:", config=where_module._SETTINGS) as connection, pytest.raises(duckdb.Error):
            connection.execute(statement.format(file=secret))
        assert secret_frame.num_rows == 1
        assert sorted(tmp_path.iterdir()) == [secret]


WORDS = [
    *("width", "camera", "taken_at", "path", "gps_lat", "row", "items", "near", "lower", "read_text", "x"),
    *("AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "IS", "NULL", "CASE", "WHEN", "THEN", "END", "CAST", "AS", "DATE"),
    *("SELECT", "FROM", "WHERE", "UNION", "EXISTS", "INTERVAL", "DAYS", "OVER", "VALUES", "INTEGER", "true", "LIMIT"),
    *("(", ")", "[", "]", "{", "}", ",", ";", ":", "::", ".", "*", "+", "-", "/", "%", "=", "<>", "<", ">=", "||"),
    *("'a'", "'2023-06-01'", "1", "2.5", "1e999", "99999999999999999999999999", "$1", "?", "#1", "@", "->"),
    *("'", '"', "--", "/*"),
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), st.text(max_size=30)))
def test_any_text_is_a_condition_or_refused_in_one_line(library: Library, where: str) -> None:
    try:
        mask = matching(library, where)
    except QueryError as error:
        refused = str(error)
        assert len(refused.splitlines()) == 1
    else:
        assert mask.shape == (len(library),)
        assert not mask[~library.alive].any()


class TestBounds:
    def test_a_condition_that_takes_too_long_is_stopped(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = 3_000_000
        width = pa.array(np.arange(rows, dtype=np.int32))
        monkeypatch.setattr(where_module, "_tables", lambda *_: iter([pa.table({"width": width, "row": width})]))
        monkeypatch.setattr(where_module, "TIMEOUT_S", 0.05)
        terms = " OR ".join(f"(width * {i} + {i}) % 1000003 = -{i + 1}" for i in range(100))
        assert "takes longer than" in refusal(library, terms)

    def test_it_is_stopped_between_shards_as_well(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        def endless(library: Library, names: list[str]) -> Iterator[pa.Table]:
            while True:
                time.sleep(0.01)
                yield pa.table({"width": pa.array([1], pa.int32()), "row": [0]})

        monkeypatch.setattr(where_module, "_tables", endless)
        monkeypatch.setattr(where_module, "TIMEOUT_S", 0.05)
        assert "takes longer than" in refusal(library, "width > 2")

    def test_the_longest_conditions_are_read(self, library: Library) -> None:
        ids = [item.id for item in library.items(np.flatnonzero(library.alive))]
        listed = ", ".join(f"'{id_}'" for id_ in ids * 5)
        assert len(listed) > 5_000
        assert found(library, f"id IN ({listed})") == np.flatnonzero(library.alive).tolist()
        refusal(library, "(" * 200)


class TestTheLibrary:
    def test_threads_may_ask_at_once(self, library: Library) -> None:
        conditions = ["width > 2000", "camera LIKE '%Pixel%'", "near(0, 180, 10)", "path LIKE '%/trip/%'"]
        alone = [found(library, where) for where in conditions]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda i: found(library, conditions[i % 4]), range(40)))
        assert together == alone * 10

    def test_a_shard_that_a_writer_removed_is_still_read(self, library: Library, tmp_path: Path) -> None:
        shutil.copytree(library.folder, tmp_path / "copy")
        copy = Library.open(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")
        assert found(copy, "width > 2000") == found(library, "width > 2000")

    def test_an_altered_shard_is_told(self, library: Library, tmp_path: Path) -> None:
        shutil.copytree(library.folder, tmp_path / "copy")
        file = tmp_path / "copy" / "shards" / f"{Manifest.load(library.folder).shards[0].id}.parquet"
        chunk = next(
            column
            for at in range(len(COLUMNS))
            if (column := pq.read_metadata(file).row_group(0).column(at)).path_in_schema == "width"
        )
        content = bytearray(file.read_bytes())
        content[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = bytes(
            chunk.total_compressed_size
        )
        file.write_bytes(content)
        copy = Library.open(tmp_path / "copy")
        with pytest.raises(LibraryDamaged, match=file.name):
            matching(copy, "width > 2000")
        assert found(copy, "bytes >= 0") == np.flatnonzero(library.alive).tolist()

    def test_duckdb_is_loaded_for_a_condition_alone_and_pandas_never(self, library: Library) -> None:
        script = """
import sys
from pathlib import Path
import xsearch.searcher
from xsearch.library import Library
from xsearch.library.where import Near, matching
library = Library.open(Path(sys.argv[1]))
print("duckdb" in sys.modules)
matching(library, "width > 2000 AND taken_at > '2000-01-01'")
print("duckdb" in sys.modules, "pandas" in sys.modules)
"""
        done = subprocess.run(
            [sys.executable, "-c", script, str(library.folder)], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["False", "True", "False"]
        assert done.stderr == ""


def test_the_documentation_names_every_column() -> None:
    assert matching.__doc__ is not None
    words = set(matching.__doc__.replace(",", " ").split())
    assert words >= COLUMNS.keys()
