"""Sources: what a scan sees of real folders, and what tables of captions in the wild hold."""

import errno
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xsearch.errors import SourceError
from xsearch.sources.folder import FoundFile, scan
from xsearch.sources.tables import Caption, read_captions
from xsearch.survey import Survey, plan_run, survey
from xsearch.types import Skipped, item_id

NOWHERE = Path("/nowhere/library")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def found(source: Path, leave_out: Path = NOWHERE) -> list[str]:
    """The paths of the files, in order."""
    return [entry.path for entry in scan(source, leave_out=leave_out) if isinstance(entry, FoundFile)]


def skipped(source: Path, leave_out: Path = NOWHERE) -> dict[str, str]:
    """The reasons by path, relative to the source."""
    entries = [entry for entry in scan(source, leave_out=leave_out) if isinstance(entry, Skipped)]
    return {os.path.relpath(entry.path, source): entry.reason for entry in entries}


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may read everything: be nobody for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for below, _, _ in os.walk(folder):
            Path(below).chmod(0o755)


# Folders


def test_files_come_in_the_order_of_names_with_their_size_and_time(folder: Path) -> None:
    write(folder, "b.jpg", "a/z.txt", "a/b/c.png", "c.jpg", "B.jpg", "a.jpg")
    os.utime(folder / "b.jpg", ns=(1, 1_700_000_000_123_456_789))
    assert found(folder) == ["B.jpg", "a/b/c.png", "a/z.txt", "a.jpg", "b.jpg", "c.jpg"]
    entries = {entry.path: entry for entry in scan(folder, leave_out=NOWHERE) if isinstance(entry, FoundFile)}
    assert entries["b.jpg"] == FoundFile(str(folder), "b.jpg", 5, 1_700_000_000_123_456_789)
    assert entries["a/z.txt"].file == folder / "a" / "z.txt"


def test_an_empty_folder_holds_nothing(folder: Path) -> None:
    assert list(scan(folder, leave_out=NOWHERE)) == []


def test_hidden_files_and_folders_are_told_and_not_entered(folder: Path) -> None:
    write(folder, ".secret.jpg", ".git/a.jpg", "a.jpg")
    assert found(folder) == ["a.jpg"]
    assert skipped(folder) == {".secret.jpg": "hidden", ".git": "hidden"}


def test_a_hidden_folder_that_is_named_is_wanted(folder: Path) -> None:
    write(folder, ".album/a.jpg")
    assert found(folder / ".album") == ["a.jpg"]


def test_a_single_file_is_named_in_its_folder(folder: Path) -> None:
    write(folder, "a.jpg", "b.jpg")
    assert list(scan(folder / "a.jpg", leave_out=NOWHERE)) == [
        FoundFile(str(folder), "a.jpg", 5, (folder / "a.jpg").stat().st_mtime_ns)
    ]


@pytest.mark.parametrize("name", ["missing", "file.txt/below", "loop"])
def test_a_source_that_is_not_there_is_an_error_that_names_it(folder: Path, name: str) -> None:
    write(folder, "file.txt")
    (folder / "loop").symlink_to("loop")
    with pytest.raises(SourceError, match="check the path") as error:
        found(folder / name)
    assert str(folder / name) in error.value.message


def test_odd_names_are_names(folder: Path) -> None:
    names = [
        "\N{CAT FACE}.jpg",
        "a\nb.jpg",
        "a\x1b[31mb.jpg",
        'it\'s "q".jpg',
        "-rf.jpg",
        " .jpg",
        "%s\\n.jpg",
        "é.jpg",
    ]
    write(folder, *names)
    assert found(folder) == sorted(names)


def test_names_that_are_not_utf8_are_told_in_letters_that_can_be_stored(folder: Path) -> None:
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb"):  # noqa: PTH123
        pass
    os.mkdir(os.fsencode(folder) + b"/\xff")  # noqa: PTH102
    write(folder, "a.jpg")
    assert found(folder) == ["a.jpg"]
    told = skipped(folder)
    assert told == {r"caf\udce9.jpg": "name is not UTF-8", r"\udcff": "name is not UTF-8"}
    assert all(path.encode("utf-8") for path in told)


def test_a_source_whose_name_is_not_utf8_is_an_error_that_can_be_printed(folder: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))
    source.mkdir()
    with pytest.raises(SourceError, match="not UTF-8") as error:
        found(source)
    assert "caf\\udce9" in str(error.value)


def test_links_to_files_are_files_and_broken_ones_are_told(folder: Path) -> None:
    write(folder, "a.jpg")
    (folder / "alias.jpg").symlink_to("a.jpg")
    (folder / "broken.jpg").symlink_to("gone.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    assert found(folder) == ["a.jpg", "alias.jpg"]
    assert skipped(folder) == {"broken.jpg": "broken link", "itself.jpg": "broken link"}


def test_loops_of_links_end(folder: Path) -> None:
    write(folder, "sub/a.jpg")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "here").symlink_to(".")
    (folder / "x").symlink_to("y")
    (folder / "y").symlink_to("x")
    assert found(folder) == ["sub/a.jpg"]
    assert skipped(folder) == {
        "here": "folder already seen",
        "sub/up": "folder already seen",
        "x": "broken link",
        "y": "broken link",
    }


def test_a_linked_folder_outside_is_entered_once_and_after_all_real_ones(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside", "in/o.jpg")
    write(folder, "z.jpg", "real/r.jpg")
    (folder / "a_link").symlink_to(tmp_path / "outside")
    (folder / "b_link").symlink_to(tmp_path / "outside" / "in")
    (folder / "also_real").symlink_to("real")
    assert found(folder) == ["real/r.jpg", "z.jpg", "a_link/in/o.jpg"]
    assert skipped(folder) == {"also_real": "folder already seen", "b_link": "folder already seen"}


def test_a_link_to_a_folder_above_the_source_does_not_find_the_source_again(folder: Path, tmp_path: Path) -> None:
    write(folder, "a.jpg")
    write(tmp_path, "beside.jpg")
    (folder / "up").symlink_to(tmp_path)
    assert found(folder) == ["a.jpg", "up/beside.jpg"]
    assert skipped(folder) == {"up/source": "folder already seen"}


def test_pipes_sockets_and_devices_are_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        assert set(skipped(folder).items()) == {
            (name, "not a regular file") for name in ("pipe.jpg", "socket.jpg", "zero.jpg")
        }


def test_the_library_that_is_written_is_left_out(folder: Path) -> None:
    write(folder, "a.jpg", "index_data/shards/1.parquet", "index_data/thumbs/a.jpg")
    (folder / "way_in").symlink_to("index_data")
    assert found(folder, leave_out=folder / "index_data") == ["a.jpg"]
    assert skipped(folder, leave_out=folder / "index_data") == {
        "index_data": "the library itself",
        "way_in": "the library itself",
    }
    assert found(folder / "index_data", leave_out=folder / "way_in") == []


def test_other_libraries_are_left_out(folder: Path) -> None:
    write(folder, "a.jpg", "old_data/shards/1.parquet", "old_data/manifest.json", "old_data/lock")
    write(folder, "app/manifest.json", "app/icon.png")
    assert found(folder) == ["a.jpg", "app/icon.png", "app/manifest.json"]
    assert skipped(folder) == {"old_data": "another library"}


def test_what_may_not_be_read_is_told_and_the_rest_is_found(open_folder: Path) -> None:
    write(open_folder, "a.jpg", "closed/b.jpg", "names_only/c.jpg", "z.jpg")
    (open_folder / "link.jpg").symlink_to("closed/b.jpg")
    (open_folder / "closed").chmod(0o000)
    (open_folder / "names_only").chmod(0o444)
    with without_rights():
        entries = list(scan(open_folder, leave_out=NOWHERE))
    assert [entry.path for entry in entries if isinstance(entry, FoundFile)] == ["a.jpg", "z.jpg"]
    told = {Path(entry.path).name: entry for entry in entries if isinstance(entry, Skipped)}
    assert {name: entry.reason for name, entry in told.items()} == {
        "closed": "unreadable folder",
        "c.jpg": "unreadable file",
        "link.jpg": "broken link",
    }
    assert told["closed"].detail == os.strerror(errno.EACCES)


def test_a_source_below_a_closed_folder_is_an_error(open_folder: Path) -> None:
    write(open_folder, "closed/sub/a.jpg")
    (open_folder / "closed").chmod(0o000)
    with without_rights(), pytest.raises(SourceError, match=os.strerror(errno.EACCES)):
        found(open_folder / "closed" / "sub")


def test_a_folder_that_goes_away_meanwhile_is_told(folder: Path) -> None:
    write(folder, "a/a.jpg", "b/b.jpg")
    entries = scan(folder, leave_out=NOWHERE)
    first = next(entries)
    (folder / "b" / "b.jpg").unlink()
    (folder / "b").rmdir()
    assert isinstance(first, FoundFile)
    assert list(entries) == [Skipped(str(folder / "b"), "unreadable folder", os.strerror(errno.ENOENT))]


@contextmanager
def nested(folder: Path, levels: int) -> Iterator[None]:
    """Folders in one another, each called `d`, with a file in every hundredth: made and removed step by step, as
    neither a path nor a recursion reaches so deep."""
    here = os.open(folder, os.O_RDONLY)
    for level in range(levels):
        if level % 100 == 0:
            os.close(os.open("a.jpg", os.O_CREAT, dir_fd=here))
        os.mkdir("d", dir_fd=here)
        above, here = here, os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(above)
    try:
        yield
    finally:
        for _ in range(levels):
            below, here = here, os.open("..", os.O_RDONLY, dir_fd=here)
            os.close(below)
            os.rmdir("d", dir_fd=here)
            with suppress(FileNotFoundError):
                os.unlink("a.jpg", dir_fd=here)
        os.close(here)


def test_a_tree_deeper_than_the_stack_and_than_any_path(folder: Path) -> None:
    with nested(folder, levels=2_100):  # Python's stack holds 1,000 calls, a path 4,095 bytes
        entries = list(scan(folder, leave_out=NOWHERE))
        deepest = (4095 - len(f"{folder}/a.jpg")) // 2
    assert [entry.path for entry in entries if isinstance(entry, FoundFile)] == [
        "d/" * level + "a.jpg" for level in range(0, deepest + 1, 100)
    ]
    assert [entry.reason for entry in entries if isinstance(entry, Skipped)] == ["unreadable folder"]


# Tables


def table(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def told(path: Path) -> tuple[list[tuple[int, str, str]], list[str]]:
    """The captions as (row, picture, text), and which rows were skipped."""
    entries = list(read_captions(path))
    captions = [(e.row, e.picture, e.text) for e in entries if isinstance(e, Caption)]
    return captions, [f"{Path(e.path).name}: {e.reason}" for e in entries if isinstance(e, Skipped)]


def test_a_csv_with_all_that_csv_allows(folder: Path) -> None:
    path = table(
        folder,
        "captions.csv",
        "\ufeffid,Image_Path, Caption\r\n"
        '1,a.jpg,"a dog, ""Rex"",\r\non grass"\r\n'
        "\r\n"
        "2,b c.jpg,  zwei Hunde 🐕  \r\n"
        "3,c.jpg,one,too,many\r\n"
        "4,d.jpg\r\n"
        "5,,a text without a picture\r\n"
        '6,e.jpg,"  "\r\n',
    )
    assert told(path) == (
        [(1, "a.jpg", 'a dog, "Rex",\r\non grass'), (2, "b c.jpg", "zwei Hunde 🐕"), (3, "c.jpg", "one")],
        [f"captions.csv row {row}: incomplete row" for row in (4, 5, 6)],
    )


def test_a_tsv_is_split_at_tabs_alone(folder: Path) -> None:
    path = table(folder, "captions.TSV", "file\ttext\na.jpg\ta dog, a cat\n")
    assert told(path) == ([(1, "a.jpg", "a dog, a cat")], [])


def test_json_lines_go_on_after_a_bad_line(folder: Path) -> None:
    lines = [
        '{"file_name": "a.jpg", "captions": ["a dog", " a brown dog ", "", null, 7]}',
        "",
        '{"file_name": "b.jpg", "captions": "a cat"',
        '["b.jpg", "a cat"]',
        '{"file_name": "c.jpg"}',
        '{"captions": "no picture"}',
        '{"file_name": 7, "captions": "a number"}',
        "[" * 100_000,
        '{"file_name": "d.jpg", "captions": "\\ud83d half an emoji"}',
        '{"file_name": "\\u0000.jpg", "captions": "a NUL"}',
        '{"file_name": "\\udce9.jpg", "captions": "no such letter"}',
    ]
    path = table(folder, "captions.jsonl", "\ufeff" + "\n".join(lines))
    assert told(path) == (
        [(1, "a.jpg", "a dog"), (1, "a.jpg", "a brown dog"), (8, "d.jpg", "? half an emoji")],
        [f"captions.jsonl row {row}: incomplete row" for row in (2, 3, 4, 5, 6, 7, 9, 10)],
    )


def test_parquet_with_lists_of_captions_read_in_batches(folder: Path) -> None:
    rows = [{"image_path": f"{i}.jpg", "captions": [f"first {i}", f"second {i}"], "pixels": b"x"} for i in range(300)]
    rows[7] = {"image_path": None, "captions": ["lost"], "pixels": b""}
    rows[8] = {"image_path": "8.jpg", "captions": None, "pixels": b""}
    pq.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet", row_group_size=100)
    captions, skips = told(folder / "captions.parquet")
    expected = [(i + 1, f"{i}.jpg", f"{nth} {i}") for i in range(300) for nth in ("first", "second") if i not in (7, 8)]
    assert captions == expected
    assert skips == [f"captions.parquet row {row}: incomplete row" for row in (8, 9)]


def test_columns_are_found_by_the_most_telling_name(folder: Path) -> None:
    path = table(folder, "captions.csv", "image,title,FilePath,Caption\nwrong,wrong,a.jpg,a dog\n")
    assert told(path) == ([(1, "a.jpg", "a dog")], [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "picture,caption\n1,2\n", "no column of picture paths; its columns: picture, caption"),
        ("a.csv", "path;caption\n1;2\n", "no column of picture paths; its columns: path;caption"),
        ("a.tsv", "path,caption\n1,2\n", "no column of picture paths; its columns: path,caption"),
        ("a.csv", "path,words\n", "no column of texts; its columns: path, words"),
        ("a.csv", "", "no column of picture paths; its columns: none"),
        ("a.jsonl", "\n\n", "no column of picture paths; its columns: none"),
        ("a.jsonl", '{"path": "a.jpg", "words": "x"}', "no column of texts; its columns: path, words"),
        ("a.jsonl", "not JSON", "no column of picture paths; its columns: none"),
        ("a.parquet", "", "cannot be read as a table"),
        ("a.parquet", "path,text\n", "cannot be read as a table"),
        ("a.csv", "path,text\na.jpg,Caf\xe9\n".encode("latin-1"), "cannot be read as a table"),
        ("a.csv", "path,text\na.jpg,x\n".encode("utf-16"), "cannot be read as a table"),
    ],
)
def test_what_is_no_table_of_captions_is_an_error_that_says_why(
    folder: Path, name: str, content: str | bytes, message: str
) -> None:
    path = table(folder, name, content)
    with pytest.raises(SourceError) as error:
        list(read_captions(path))
    assert message in error.value.message
    assert error.value.message.startswith(str(path))
    assert "\n" not in error.value.message


def test_a_parquet_table_without_the_columns_names_those_it_has(folder: Path) -> None:
    pq.write_table(pa.table({"img_id": [1], "caption": ["a dog"]}), folder / "a.parquet")
    with pytest.raises(SourceError, match=r"no column of picture paths; its columns: img_id, caption$"):
        list(read_captions(folder / "a.parquet"))


def test_a_parquet_table_with_two_columns_of_one_name_is_an_error(folder: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["path", "path", "text"])
    pq.write_table(twice, folder / "a.parquet")
    with pytest.raises(SourceError, match="cannot be read as a table"):
        list(read_captions(folder / "a.parquet"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def test_binary_garbage_is_an_error_and_nothing_else(folder: Path, suffix: str) -> None:
    for seed in range(20):
        path = table(folder, f"garbage{suffix}", random.Random(seed).randbytes(3000))
        with pytest.raises(SourceError):
            list(read_captions(path))


def test_a_damaged_parquet_table_is_an_error_and_nothing_else(folder: Path) -> None:
    rows = {"path": [f"{i}.jpg" for i in range(50)], "text": [[f"text {i}"] for i in range(50)]}
    pq.write_table(pa.table(rows), folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    assert len(told(folder / "whole.parquet")[0]) == 50
    dice = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path = table(folder, "damaged.parquet", bytes(damaged[: dice.choice([len(whole), len(whole) // 2])]))
        try:
            list(read_captions(path))
        except SourceError:
            refused += 1
    assert refused > 100


def test_a_cell_as_long_as_a_picture_in_base64(folder: Path) -> None:
    path = table(folder, "captions.csv", f"path,data,text\na.jpg,{'x' * 300_000},a dog\nb.jpg,,{'y' * 200_000}\n")
    assert told(path) == ([(1, "a.jpg", "a dog"), (2, "b.jpg", "y" * 200_000)], [])


# Sources together


def surveyed(*sources: Path) -> Survey:
    return survey(sources, {}, leave_out=NOWHERE)


def picture(path: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)


def test_a_table_takes_pictures_wherever_they_lie_and_tells_those_that_are_missing(
    folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    for path in (folder / "a.jpg", outside / "b.jpg", outside / "c.jpg"):
        picture(path)
    path = table(
        folder,
        "captions.csv",
        f"path,text\na.jpg,first\na.jpg,second\n../elsewhere/b.jpg,outside\n{outside / 'c.jpg'},absolute\n"
        f"gone.jpg,missing\n{'n' * 300}.jpg,too long a name\na.jpg/b.jpg,below a file\n.,a folder\na.jpg,first\n",
    )
    seen = surveyed(path)
    assert [str(file) for file in seen.files] == [
        str(folder / "a.jpg"),
        str(outside / "b.jpg"),
        str(outside / "c.jpg"),
    ]
    captions = {(caption.text, caption.pair, caption.file) for caption in seen.captions.values()}
    assert captions == {
        ("first", item_id(folder / "a.jpg"), path),
        ("second", item_id(folder / "a.jpg"), path),
        ("outside", item_id(outside / "b.jpg"), path),
        ("absolute", item_id(outside / "c.jpg"), path),
    }
    assert [(Path(entry.path).name, entry.reason) for entry in seen.skipped] == [
        ("gone.jpg", "missing file"),
        (f"{'n' * 300}.jpg", "unreadable file"),
        ("b.jpg", "unreadable file"),
        ("source", "not a regular file"),
    ]
    assert seen.skipped[0].detail == f"named in {path} row 5"


def test_a_table_may_name_links_loops_and_pictures_without_a_suffix(folder: Path) -> None:
    picture(folder / "real.jpg")
    (folder / "0123abcd").write_bytes((folder / "real.jpg").read_bytes())
    (folder / "alias.jpg").symlink_to("real.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")
    Path(odd).write_bytes((folder / "real.jpg").read_bytes())
    (folder / "to_odd.jpg").symlink_to(odd)
    names = ["alias.jpg", "loop.jpg", "to_odd.jpg", "0123abcd", "sub/../real.jpg"]
    path = table(folder, "captions.csv", "path,text\n" + "".join(f"{name},of {name}\n" for name in names))
    seen = surveyed(path)
    assert [file.name for file in seen.files] == ["alias.jpg", "to_odd.jpg", "0123abcd", "real.jpg"]
    assert [(Path(entry.path).name, entry.reason) for entry in seen.skipped] == [("loop.jpg", "broken link")]
    assert {caption.pair for caption in seen.captions.values()} == {item_id(file) for file in seen.files}


def test_a_picture_in_the_folder_and_in_its_table_is_one(folder: Path) -> None:
    picture(folder / "z.jpg")
    table(folder, "captions.jsonl", '{"path": "z.jpg", "text": "a dog"}')
    seen = surveyed(folder)
    assert list(seen.files) == [folder / "z.jpg"]
    assert seen.files[folder / "z.jpg"].root == str(folder)
    assert [caption.pair for caption in seen.captions.values()] == [item_id(folder / "z.jpg")]


def test_a_table_that_cannot_be_read_is_told_and_the_rest_is_taken(folder: Path) -> None:
    picture(folder / "a.jpg")
    table(folder, "bad.parquet", b"PAR1")
    table(folder, "notes.csv", "day,weather\n1,rain\n")
    seen = surveyed(folder)
    assert list(seen.files) == [folder / "a.jpg"]
    assert [(Path(entry.path).name, entry.reason) for entry in seen.skipped] == [
        ("bad.parquet", "unreadable table"),
        ("notes.csv", "unreadable table"),
    ]


def test_sources_that_overlap_are_seen_once(folder: Path) -> None:
    (folder / "sub").mkdir()
    picture(folder / "sub" / "a.jpg")
    assert list(surveyed(folder, folder / "sub", folder / "sub" / "a.jpg").files) == [folder / "sub" / "a.jpg"]


def test_a_text_belongs_to_the_picture_it_is_named_after(folder: Path) -> None:
    for name in ("dog.jpg", "cat.JPG", "owl.png"):
        picture(folder / name)
    write(folder, "dog.txt", "cat.txt", "owl.png.txt", "alone.txt", "README.md")
    plan = plan_run(surveyed(folder), {})
    assert {work.file.path: work.pair for work in plan.files if work.file.path.endswith((".txt", ".md"))} == {
        "dog.txt": item_id(folder / "dog.jpg"),
        "cat.txt": item_id(folder / "cat.JPG"),
        "owl.png.txt": item_id(folder / "owl.png"),
        "alone.txt": None,
        "README.md": None,
    }
