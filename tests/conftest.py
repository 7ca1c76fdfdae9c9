"""What several test files share: real photographs, the real command, and the pictures with captions."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from demo.gather_photos import FILMS, TABLE, DownloadError, cache_folder, gather, read_table

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND_TIMEOUT_S = 120


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of the demo's photographs, `<package>/<name>`. Workers and runs share it: copy, never write."""
    return _gathered(TABLE)


@pytest.fixture(scope="session")
def films() -> Path:
    """The folder of the demo's films, `<package>/<name>`, shared as `photos` is."""
    return _gathered(FILMS)


def _gathered(table: Path) -> Path:
    cache = cache_folder()
    # Named after the table, so that a changed one never finds the pictures of an older one beside its own.
    folder = cache / f"{table.stem}-{hashlib.sha256(table.read_bytes()).hexdigest()[:12]}"
    try:
        gather(folder, read_table(table), cache)
    except DownloadError as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of pictures with captions: `$XSEARCH_TEST_DATA`, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("XSEARCH_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}: set XSEARCH_TEST_DATA to a folder that holds them")
    return folder


@pytest.fixture(scope="session")
def run_xsearch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command in a process of its own: `run_xsearch("query", "a cat", env={...}, cwd=folder)`.

    The settings of whoever runs the tests are kept out; `env` is added to the rest of the environment.
    """

    def run(
        *args: str | os.PathLike[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("XSEARCH_")}
        return subprocess.run(
            [sys.executable, "-m", "xsearch", *map(str, args)],
            env=inherited | dict(env or {}),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    return run
