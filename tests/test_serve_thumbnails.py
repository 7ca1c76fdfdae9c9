"""The cache of thumbnails: what is in it, and that nothing which happens to it does harm."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import FakeEncoder
from tests.films import fields
from tests.serving import items_of, make_library
from xsearch.errors import Undecodable
from xsearch.serve.models import Refused
from xsearch.serve.thumbnails import DIGEST_BYTES, FOLDER, KEPT_SHARE, SIDES_PX, Thumbnails, etag
from xsearch.types import Item

ROOMY = 1 << 30


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_library(tmp_path_factory.mktemp("thumbnails"), FakeEncoder())


@pytest.fixture(scope="module")
def items(library: Path) -> dict[str, Item]:
    return items_of(library)


def opened(jpeg: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    return picture


def files(data: Path) -> list[Path]:
    return sorted((data / FOLDER).glob("*/*"))


def test_pictures_are_upright_and_as_small_as_asked(tmp_path: Path, items: dict[str, Item]) -> None:
    thumbnails = Thumbnails(tmp_path, ROOMY)
    sideways = opened(thumbnails.get(items["sideways.jpg"], 160, {}))
    assert sideways.size == (60, 120)  # none is made larger
    red, black = np.asarray(sideways)[20, 30], np.asarray(sideways)[100, 30]
    assert red[0] > 200 > 50 > black[0]
    assert opened(thumbnails.get(items["film.mp4"], 100, {})).size == (160, 120)


def test_a_frame_is_that_of_its_time(tmp_path: Path, items: dict[str, Item]) -> None:
    shown = np.asarray(opened(Thumbnails(tmp_path, ROOMY).get(items["film.mp4"], 160, {})), np.float32)
    assert np.abs(shown - fields(1)).mean() < 10
    assert np.abs(shown - fields(2)).mean() > 40


def test_a_picture_in_an_archive_is_shown(tmp_path: Path, items: dict[str, Item]) -> None:
    assert opened(Thumbnails(tmp_path, ROOMY).get(items["one"], 160, {})).size == (32, 32)


def test_a_side_is_rounded_up_to_one_of_few(tmp_path: Path, items: dict[str, Item]) -> None:
    thumbnails = Thumbnails(tmp_path, ROOMY)
    for px in (1, 100, 160):
        thumbnails.get(items["1.png"], px, {})
    assert len(files(tmp_path)) == 1
    for px in range(1, SIDES_PX[-1] + 1):
        thumbnails_of = etag(items["1.png"], px)
        assert thumbnails_of == etag(items["1.png"], min(side for side in SIDES_PX if side >= px))
    assert len({etag(items["1.png"], side) for side in SIDES_PX}) == len(SIDES_PX)


def test_what_is_stored_is_given_again_also_without_the_original(tmp_path: Path) -> None:
    data = make_library(tmp_path, FakeEncoder())
    one = items_of(data)["1.png"]
    first = Thumbnails(data, ROOMY).get(one, 160, {})
    one.file.unlink()
    assert Thumbnails(data, ROOMY).get(one, 160, {}) == first
    with pytest.raises(Refused, match="is not there any more"):
        Thumbnails(data, ROOMY).get(one, 320, {})


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "a folder"])
def test_a_damaged_file_is_made_again(tmp_path: Path, items: dict[str, Item], damage: str) -> None:
    thumbnails = Thumbnails(tmp_path, ROOMY)
    whole = thumbnails.get(items["1.png"], 160, {})
    (file,) = files(tmp_path)
    stored = bytearray(file.read_bytes())
    assert len(stored) == len(whole) + DIGEST_BYTES
    if damage == "cut":
        file.write_bytes(stored[:-100])
    elif damage == "flipped":
        stored[len(stored) // 2] ^= 1
        file.write_bytes(stored)
    elif damage == "emptied":
        file.write_bytes(b"")
    else:
        file.unlink()
        file.mkdir()
    assert thumbnails.get(items["1.png"], 160, {}) == whole
    if damage != "a folder":
        assert file.read_bytes()[:-DIGEST_BYTES] == whole


def test_a_library_that_cannot_be_written_works_too(tmp_path: Path, items: dict[str, Item]) -> None:
    (tmp_path / FOLDER).write_text("a file, where the folder would be")
    for _ in range(2):
        assert opened(Thumbnails(tmp_path, ROOMY).get(items["1.png"], 160, {})).size == (32, 32)


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, items: dict[str, Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert opened(Thumbnails(tmp_path, ROOMY).get(items["1.png"], 160, {})).size == (32, 32)
    assert files(tmp_path) == []


def test_the_cache_keeps_within_its_bound_and_what_was_used_last(tmp_path: Path, items: dict[str, Item]) -> None:
    pictures = [items[f"{n}.png"] for n in range(6)]
    sizes = [len(Thumbnails(tmp_path / "sizes", ROOMY).get(one, 160, {})) + DIGEST_BYTES for one in pictures]
    bound = sum(sizes) - 1
    thumbnails = Thumbnails(tmp_path / "bounded", bound)
    for one in pictures[:5]:
        thumbnails.get(one, 160, {})
    for age_s, file in enumerate(files(tmp_path / "bounded")):
        os.utime(file, (1e9 - age_s, 1e9 - age_s))
    thumbnails.get(pictures[0], 160, {})  # used now
    thumbnails.get(pictures[5], 160, {})
    left = files(tmp_path / "bounded")
    assert sum(file.stat().st_size for file in left) <= KEPT_SHARE * bound
    assert len(left) >= 3
    names = {file.stem for file in left}
    assert {etag(pictures[0], 160), etag(pictures[5], 160)} <= names


def test_threads_may_make_the_same(tmp_path: Path, items: dict[str, Item]) -> None:
    thumbnails = Thumbnails(tmp_path, ROOMY)
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: thumbnails.get(items["1.png"], 160, {}), range(32)))
    assert len(made) == 1
    assert len(files(tmp_path)) == 1


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    data = make_library(tmp_path, FakeEncoder())
    one = items_of(data)["1.png"]
    status = one.file.stat()
    one.file.write_bytes(b"<html>".ljust(status.st_size))
    os.utime(one.file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(Undecodable, match="not a picture"):
        Thumbnails(data, ROOMY).get(one, 160, {})
