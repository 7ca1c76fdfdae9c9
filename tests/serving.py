"""A library of every kind of item, and applications over it, to ask as a browser or a program does."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from tests.fakes import picture
from tests.films import write_film
from xsearch.encoders import Encoder
from xsearch.indexer import index
from xsearch.library import Library
from xsearch.serve.app import create_app
from xsearch.types import Item, Kind

N_PICTURES = 6
HOSTILE = "<script>alert(document.domain)</script> is what the note says."


def make_library(folder: Path, encoder: Encoder) -> Path:
    """Index pictures, one of them lying on its side, a film, a note that is HTML, and an archive."""
    sources = folder / "sources"
    for seed in range(N_PICTURES):
        picture(sources / f"{seed}.png", seed)
    half = np.zeros((60, 120, 3), np.uint8)
    half[:, :60] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise to be shown: 60 x 120, red on top
    exif[0x0132] = "2023:06:01 12:00:00"
    Image.fromarray(half).save(sources / "sideways.jpg", exif=exif, quality=95)
    write_film(sources / "film.mp4", [(1, 1.0), (2, 1.0), (3, 1.0)], size=(160, 120), keys_s=0.2)
    (sources / "note.md").write_text(HOSTILE)
    (sources / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    with tarfile.open(sources / "samples.tar", "w") as tar:
        for name, data in (("one.png", picture(folder / "one.png", 99).read_bytes()), ("one.txt", b"a caption")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    index([sources], folder / "data", encoder)
    return folder / "data"


def items_of(data: Path) -> dict[str, Item]:
    """Return the living items by the name of their file, of an archive by the key in it; of a film its first frame."""
    library = Library.open(data)
    found: dict[str, Item] = {}
    for item in library.items(np.flatnonzero(library.alive)):
        in_archive = item.path.endswith(".tar")
        found.setdefault(item.part if in_archive and item.kind is Kind.IMAGE else item.file.name, item)
    return found


def served(data: Path, encoder: Encoder, **options: Any) -> TestClient:
    """Return a client of an application over a library; entered, it follows new commits."""
    return TestClient(create_app(data, encoder=encoder, **options), base_url="http://localhost", follow_redirects=False)


def problem_of(response: Any, status: int) -> dict[str, Any]:
    """Return the problem that a response is."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert list(problem) == ["type", "title", "status", "detail", "remedy"]
    assert problem["status"] == status
    assert problem["detail"]
    return problem


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, ten seconds at most."""
    import time

    end_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end_s, "it does not come to hold"
        time.sleep(0.02)
