"""Pictures as a viewer shows them, against values known from how each file was made."""

import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational

from xsearch.errors import Undecodable
from xsearch.media import images
from xsearch.media.images import MAX_PIXELS, MIN_SIDE_PX, ImageMeta, decode_image, open_image, thumbnail

# pytest sets filters of its own; that ours keep stderr clean is tested in a process apart.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
CORNERS = [RED, GREEN, BLUE, GREY]  # top left, top right, bottom left, bottom right


def encoded(picture: Image.Image, fmt: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, fmt, **options)
    return file.getvalue()


def four_corners(width: int = 24, height: int = 16) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    half_w, half_h = width // 2, height // 2
    for color, at in zip(CORNERS, [(0, 0), (half_w, 0), (0, half_h), (half_w, half_h)], strict=True):
        picture.paste(color, (*at, at[0] + half_w, at[1] + half_h))
    return picture


def photo_like(width: int, height: int) -> Image.Image:
    """Smooth shapes with some grain, so that codecs have work to do and compare well."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x * x), np.sin(14 * x * y + 1)]
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(128 + 90 * np.stack(waves, -1) + grain, 0, 255).astype(np.uint8))


def corners_of(pixels: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in pixels[y, x]) for y in (1, -2) for x in (1, -2)]


def png(width: int, height: int, depth: int, color_type: int, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG file by its specification: what Pillow cannot write (bombs, 16-bit colour)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "WEBP": {"lossless": True},
    "JPEG2000": {},
    "GIF": {},
}


@pytest.mark.parametrize("fmt", LOSSLESS)
def test_lossless_formats_give_exact_pixels(fmt: str) -> None:
    source = four_corners()
    pixels, meta = decode_image(encoded(source, fmt, **LOSSLESS[fmt]), 224)
    np.testing.assert_array_equal(pixels, np.asarray(source))
    assert pixels.dtype == np.uint8
    assert meta == ImageMeta(24, 16)


@pytest.mark.parametrize(("fmt", "options"), [("AVIF", {"quality": 95}), ("HEIF", {"quality": 95}), ("JPEG", {})])
def test_lossy_formats_give_near_pixels(fmt: str, options: dict[str, Any]) -> None:
    source = photo_like(120, 80)
    if fmt == "HEIF":
        file = BytesIO()
        pillow_heif.from_pillow(source).save(file, **options)
        data = file.getvalue()
    else:
        data = encoded(source, fmt, **options)
    pixels, meta = decode_image(data, 224)
    assert pixels.shape == (80, 120, 3)
    assert (meta.width, meta.height) == (120, 80)
    assert np.abs(pixels.astype(float) - np.asarray(source)).mean() < 4


# What a picture must look like, stored under each flag, so that it is upright when shown (EXIF 2.32, tag 0x0112).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_shown_upright(fmt: str, orientation: int) -> None:
    upright = np.asarray(four_corners())
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": exif} if fmt == "TIFF" else {"exif": exif, **LOSSLESS[fmt]}
    data = encoded(stored, fmt, **options)
    pixels, meta = decode_image(data, 224)
    np.testing.assert_array_equal(pixels, upright)
    assert (meta.width, meta.height) == (24, 16)
    with Image.open(BytesIO(data)) as lazy:
        np.testing.assert_array_equal(open_image(lazy, 224), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_jpeg_is_upright_and_keeps_its_full_size_in_the_metadata(orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(four_corners(1200, 800)))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, meta = decode_image(encoded(stored, "JPEG", exif=exif, quality=95), 50)
    assert pixels.shape == (100, 150, 3)
    assert (meta.width, meta.height) == (1200, 800)
    assert np.abs(np.array(corners_of(pixels)) - CORNERS).max() <= 3


@pytest.mark.parametrize("orientation", [6, 3])
def test_avif_and_heif_turned_by_their_containers_are_upright(orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(four_corners(96, 64)))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    heif = BytesIO()
    with_flag = pillow_heif.from_pillow(stored)
    with_flag.info["exif"] = exif.tobytes()
    with_flag.save(heif, quality=95)
    for data in (heif.getvalue(), encoded(stored, "AVIF", exif=exif, quality=95)):
        pixels, meta = decode_image(data, 224)
        assert (meta.width, meta.height) == (96, 64)
        assert np.abs(np.array(corners_of(pixels)) - CORNERS).max() <= 12


def test_transparency_is_shown_over_white() -> None:
    rgba = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (8, 0, 16, 8))
    rgba.paste((0, 0, 0, 128), (8, 8, 16, 16))
    pixels, _ = decode_image(encoded(rgba, "PNG"), 224)
    assert corners_of(pixels) == [(255, 255, 255), (0, 0, 255), (255, 255, 255), (127, 127, 127)]
    pixels, _ = decode_image(encoded(rgba.convert("LA"), "PNG"), 224)
    assert corners_of(pixels) == [(255, 255, 255), (29, 29, 29), (255, 255, 255), (127, 127, 127)]


def test_reducing_does_not_let_hidden_colour_bleed_through() -> None:
    rgba = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 64, 31))  # the edge falls inside an averaged block
    pixels, _ = decode_image(encoded(rgba, "PNG"), 8)
    assert pixels.shape == (16, 16, 3)
    assert corners_of(pixels) == [(0, 0, 255), (0, 0, 255), (255, 255, 255), (255, 255, 255)]
    assert (pixels[7, :, 2] == 255).all()  # three blue rows and one transparent: pale blue, no red in the dark
    assert (pixels[7, :, 0] == 64).all()


@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(fmt: str) -> None:
    picture = Image.new("P", (16, 16), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.paste(1, (8, 0, 16, 8))
    picture.paste(2, (8, 8, 16, 16))
    pixels, _ = decode_image(encoded(picture, fmt, transparency=0), 224)
    assert corners_of(pixels) == [(255, 255, 255), GREEN, (255, 255, 255), BLUE]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint16)[:, None] * 257, 16, axis=1)
    expected = np.repeat(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 16, axis=1)[..., None], 3, axis=2)
    big_endian = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    for data in (
        png(16, 256, 16, 0, big_endian),
        encoded(Image.fromarray(levels), "TIFF"),
        encoded(Image.fromarray(levels), "PPM"),
        encoded(Image.fromarray(levels.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(levels.astype(np.float32) / 65535), "TIFF"),
    ):
        np.testing.assert_array_equal(decode_image(data, 224)[0], expected)


def test_sixteen_bit_colour_png() -> None:
    row = b"\0" + struct.pack(">HHH", 65535, 0x8042, 0) * 8
    pixels, _ = decode_image(png(8, 8, 16, 2, row * 8), 224)
    np.testing.assert_array_equal(pixels, np.full((8, 8, 3), (255, 128, 0)))


def test_measured_data_is_shown_from_least_to_greatest() -> None:
    heights_m = np.linspace(-100, 410, 256, dtype=np.float32).reshape(16, 16)
    heights_m[0, 0] = np.nan
    pixels, _ = decode_image(encoded(Image.fromarray(heights_m), "TIFF"), 224)
    expected = np.arange(256).reshape(16, 16)
    expected[0, :2] = 0  # the least that is a number is black, and so is what is none
    np.testing.assert_allclose(pixels[..., 0], expected, atol=1)
    flat, _ = decode_image(encoded(Image.fromarray(np.full((16, 16), 7.5, np.float32)), "TIFF"), 224)
    assert (flat == 0).all()


def test_one_bit() -> None:
    picture = Image.new("1", (16, 16), 0)
    picture.paste(1, (8, 0, 16, 16))
    for fmt in ("PNG", "TIFF", "BMP"):
        assert corners_of(decode_image(encoded(picture, fmt), 224)[0]) == [(0, 0, 0), (255, 255, 255)] * 2
    assert decode_image(encoded(picture.resize((512, 512)), "PNG"), 8)[0].shape == (16, 16, 3)


def test_cmyk_jpeg_as_adobe_writes_it() -> None:
    cmyk = Image.new("CMYK", (32, 16), (0, 0, 0, 0))
    cmyk.paste((0, 255, 255, 0), (16, 0, 32, 16))
    data = encoded(cmyk, "JPEG", quality=100)
    assert b"Adobe" in data  # whose convention is to store ink inverted
    pixels, _ = decode_image(data, 224)
    np.testing.assert_allclose(pixels[8, 4], (255, 255, 255), atol=2)
    np.testing.assert_allclose(pixels[8, 28], RED, atol=2)
    np.testing.assert_array_equal(decode_image(encoded(cmyk, "TIFF"), 224)[0][8, 28], RED)


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and blue exchanged: its effect is known exactly."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be"))


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF"])
def test_an_embedded_profile_is_applied(fmt: str) -> None:
    source = Image.new("RGB", (64, 64), (200, 120, 40))
    plain, _ = decode_image(encoded(source, fmt), 8)
    pixels, _ = decode_image(encoded(source, fmt, icc_profile=swapped_profile()), 8)
    np.testing.assert_allclose(pixels, plain[..., ::-1], atol=2)
    np.testing.assert_allclose(plain[0, 0], (200, 120, 40), atol=2)


def test_srgb_by_another_name_leaves_the_pixels_alone() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = srgb.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    pixels, _ = decode_image(encoded(source, "PNG", icc_profile=renamed), 8)
    np.testing.assert_array_equal(pixels, np.asarray(source))
    assert images._srgb_transform(renamed, "RGB") is None
    assert images._srgb_transform(swapped_profile(), "RGB") is not None


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P"])
def test_a_profile_for_other_colours_or_a_broken_one_is_ignored(mode: str) -> None:
    source = four_corners().convert(mode)
    fmt = "TIFF" if mode == "CMYK" else "PNG"
    plain, _ = decode_image(encoded(source, fmt), 224)
    broken, _ = decode_image(encoded(source, fmt, icc_profile=b"no profile at all"), 224)
    np.testing.assert_array_equal(broken, plain)
    if mode in ("L", "CMYK"):
        other, _ = decode_image(encoded(source, fmt, icc_profile=swapped_profile()), 224)
        np.testing.assert_array_equal(other, plain)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(fmt: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in (GREEN, RED, BLUE)]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    with Image.open(BytesIO(data)) as animation:
        assert animation.n_frames == 3
    np.testing.assert_array_equal(decode_image(data, 224)[0], np.asarray(frames[0]))


def test_jpeg_at_reduced_scale_is_the_full_picture_averaged() -> None:
    source = photo_like(2400, 1600)
    data = encoded(source, "JPEG", quality=92)
    pixels, meta = decode_image(data, 100)
    with Image.open(BytesIO(data)) as full:
        expected = np.asarray(full.reduce(8))
    assert pixels.shape == expected.shape == (200, 300, 3)
    assert np.abs(pixels.astype(float) - expected).mean() < 1
    assert (meta.width, meta.height) == (2400, 1600)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
@given(width=st.integers(MIN_SIDE_PX, 300), height=st.integers(MIN_SIDE_PX, 300), min_px=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_sides_are_bounded_and_the_shape_is_kept(fmt: str, width: int, height: int, min_px: int) -> None:
    pixels, meta = decode_image(encoded(Image.new("RGB", (width, height)), fmt), min_px)
    assert (meta.width, meta.height) == (width, height)
    h, w = pixels.shape[:2]
    assert min(w, h) >= min(min_px * 2, width, height)
    assert min(w, h) <= 4 * min_px
    assert abs(w / width - h / height) < 1 / min(width, height) + 1 / max(width, height)


def camera_exif(ifd0: dict[int, Any], exif: dict[int, Any], gps: dict[int, Any]) -> bytes:
    tags = Image.Exif()
    tags.update(ifd0)
    tags.get_ifd(0x8769).update(exif)
    tags.get_ifd(0x8825).update(gps)
    return tags.tobytes()


def meta_of(ifd0: dict[int, Any], exif: dict[int, Any] | None = None, gps: dict[int, Any] | None = None) -> ImageMeta:
    return decode_image(encoded(four_corners(), "JPEG", exif=camera_exif(ifd0, exif or {}, gps or {})), 224)[1]


GPS_RIO = {1: "S", 2: (22.0, 54.0, 30.0), 3: "W", 4: (43.0, 12.0, IFDRational(711, 20))}


def test_what_the_camera_wrote_is_read() -> None:
    raw = camera_exif(
        {0x010F: "Canon\0\0", 0x0110: "Canon  EOS 5D "},
        {0x9003: "2019:07:04 18:30:05", 0x9011: "-03:00"},
        GPS_RIO,
    )
    for fmt in ("JPEG", "PNG", "WEBP", "AVIF"):
        meta = decode_image(encoded(four_corners(96, 64), fmt, exif=raw), 224)[1]
        assert (meta.taken_at, meta.camera) == ("2019-07-04T18:30:05-03:00", "Canon EOS 5D"), fmt
        assert meta.gps_lat == pytest.approx(-(22 + 54 / 60 + 30 / 3600))
        assert meta.gps_lon == pytest.approx(-(43 + 12 / 60 + 35.55 / 3600))


@pytest.mark.parametrize(
    ("ifd0", "exif", "taken_at"),
    [
        ({}, {0x9004: "2001:02:03 04:05:06"}, "2001-02-03T04:05:06"),
        ({0x0132: "2001:02:03 04:05:06"}, {}, "2001-02-03T04:05:06"),
        ({0x0132: "2001:02:03 04:05:06"}, {0x9003: "0000:00:00 00:00:00"}, "2001-02-03T04:05:06"),
        ({}, {0x9003: "2001:02:31 04:05:06"}, None),
        ({}, {0x9003: "    :  :     :  :  "}, None),
        ({}, {0x9003: "2001:02:03 04:05:06", 0x9011: "+05:30"}, "2001-02-03T04:05:06+05:30"),
        ({}, {0x9003: "2001:02:03 04:05:06", 0x9011: "   :  "}, "2001-02-03T04:05:06"),
        ({}, {0x9003: "2001:02:03 04:05:06", 0x9010: "+05:30"}, "2001-02-03T04:05:06"),
    ],
)
def test_dates(ifd0: dict[int, Any], exif: dict[int, Any], taken_at: str | None) -> None:
    assert meta_of(ifd0, exif).taken_at == taken_at


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("NIKON", "D70", "NIKON D70"),
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("NIKON CORPORATION", "nikon corporation D1", "nikon corporation D1"),
        ("", "Pixel 8", "Pixel 8"),
        ("Apple", "", "Apple"),
        ("\0\0", " ", None),
    ],
)
def test_camera(make: str, model: str, camera: str | None) -> None:
    assert meta_of({0x010F: make, 0x0110: model}).camera == camera


@pytest.mark.parametrize(
    "damage",
    [
        {2: (91.0, 0.0, 0.0)},
        {4: (180.0, 1.0, 0.0)},
        {2: (IFDRational(0, 0), IFDRational(0, 0), IFDRational(0, 0))},
        {1: "X"},
        {3: ""},
    ],
)
def test_a_place_that_is_not_on_earth_is_no_place(damage: dict[int, Any]) -> None:
    meta = meta_of({}, {0x9003: "2001:02:03 04:05:06"}, {**GPS_RIO, **damage})
    assert (meta.gps_lat, meta.gps_lon) == (None, None)
    assert meta.taken_at == "2001-02-03T04:05:06"


@given(at=st.integers(0, 10_000), value=st.integers(0, 255), length=st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_broken_metadata_never_loses_the_picture(at: int, value: int, length: int) -> None:
    raw = bytearray(camera_exif({0x010F: "Maker", 0x0112: 1}, {0x9003: "2001:02:03 04:05:06"}, GPS_RIO))
    at = 6 + at % (len(raw) - 6)
    raw[at : at + length] = bytes([value]) * len(raw[at : at + length])
    pixels, _ = decode_image(encoded(four_corners(), "PNG", exif=bytes(raw)), 224)
    assert sorted(corners_of(pixels)) == sorted(CORNERS)  # the orientation may be what broke
    jpeg, _ = decode_image(encoded(four_corners(32, 32), "JPEG", exif=bytes(raw)), 224)
    assert jpeg.shape == (32, 32, 3)


GIF_BOMB = b"GIF89a" + struct.pack("<HH", 30_000, 30_000) + encoded(four_corners(), "GIF")[10:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0", "not a picture"),
        (b"a text that somebody named cat.jpg", "not a picture"),
        (b"%PDF-1.7\n", "not a picture"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "damaged picture"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "damaged picture"),
        (b"\xff\xd8\xff", "damaged picture"),
        (png(30_000, 30_000, 8, 2), "too large"),
        (png(1, MAX_PIXELS + 1, 8, 0), "too large"),
        (GIF_BOMB, "too large"),
        (b"P6\n30000 30000\n255\n", "too large"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "too small"),
        (encoded(Image.new("RGB", (500, MIN_SIDE_PX - 1)), "JPEG"), "too small"),
    ],
)
def test_bad_files_say_why(data: bytes, reason: str) -> None:
    for read in (lambda: decode_image(data, 224), lambda: open_image(data, 224), lambda: thumbnail(data, 64)):
        with pytest.raises(Undecodable) as caught:
            read()
        assert caught.value.reason == reason


def test_sizes_are_named_in_the_detail() -> None:
    with pytest.raises(Undecodable, match=r"^too large: 30000 x 30000 pixels$"):
        decode_image(png(30_000, 30_000, 8, 2), 224)
    with pytest.raises(Undecodable, match=r"^too small: 1 x 1 pixels$"):
        decode_image(encoded(Image.new("RGB", (1, 1)), "GIF"), 224)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    misnamed = tmp_path / "really a bitmap.png"
    misnamed.write_bytes(encoded(four_corners(), "BMP"))
    np.testing.assert_array_equal(open_image(misnamed, 224), np.asarray(four_corners()))
    np.testing.assert_array_equal(open_image(str(misnamed), 224), np.asarray(four_corners()))


FILES: dict[str, bytes] = {
    "JPEG": encoded(photo_like(160, 120), "JPEG"),
    "progressive JPEG": encoded(photo_like(160, 120), "JPEG", progressive=True),
    "PNG": encoded(photo_like(60, 40), "PNG"),
    "GIF": encoded(photo_like(60, 40), "GIF"),
    "WEBP": encoded(photo_like(160, 120), "WEBP"),
    "BMP": encoded(photo_like(20, 20), "BMP"),
    "TIFF": encoded(photo_like(20, 20), "TIFF"),
    "LZW TIFF": encoded(photo_like(20, 20), "TIFF", compression="tiff_lzw"),
    "JPEG2000": encoded(photo_like(60, 40), "JPEG2000"),
    "AVIF": encoded(photo_like(60, 40), "AVIF"),
    "PPM": encoded(photo_like(20, 20), "PPM"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_refused_or_whole(name: str) -> None:
    """A cut may fall behind the last pixel; half a picture never passes for one."""
    data = FILES[name]
    whole, _ = decode_image(data, 8)
    cuts = {*range(1, 64), *np.linspace(64, len(data) - 1, 60).astype(int).tolist(), *range(len(data) - 8, len(data))}
    refused = 0
    for cut in sorted(cuts):
        try:
            pixels, _ = decode_image(data[:cut], 8)
        except Undecodable:
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, whole)
    assert refused > len(cuts) // 2


@pytest.mark.parametrize("name", FILES)
@given(
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6), head=st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_altered_bytes_give_a_picture_or_undecodable(name: str, flips: list[tuple[int, int]], head: bool) -> None:
    data = bytearray(FILES[name])
    reach = min(len(data), 200) if head else len(data)  # most of what a parser believes stands in front
    for at, value in flips:
        data[at % reach] = value
    try:
        pixels, meta = decode_image(bytes(data), 8)
    except Undecodable:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert min(meta.width, meta.height) >= MIN_SIDE_PX
    assert meta.width * meta.height <= MAX_PIXELS


def test_a_jpeg_whose_download_stopped_and_left_zeros_is_refused() -> None:
    data = FILES["JPEG"]
    with pytest.raises(Undecodable, match="damaged picture"):
        decode_image(data[: len(data) // 2] + bytes(len(data) // 2), 8)


def test_arrays_and_pillow_images_are_taken_as_they_are() -> None:
    rgb = np.asarray(four_corners())
    grey = rgb[..., 1]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 0, np.uint8)])
    for given_array, expected in (
        (rgb, rgb),
        (rgb[:, ::-1], rgb[:, ::-1]),
        (rgb.astype(np.float32) / 255, rgb),
        (rgb.astype(np.float64) / 255, rgb),
        (grey, as_rgb),
        (grey[..., None], as_rgb),
        (rgba, np.full_like(rgb, 255)),
    ):
        np.testing.assert_array_equal(open_image(given_array, 224), expected)
    np.testing.assert_array_equal(open_image(Image.fromarray(rgb), 224), rgb)
    assert open_image(np.zeros((400, 600, 3), np.uint8), 100).shape == (200, 300, 3)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((16, 16, 2), np.uint8), "not a picture"),
        (np.zeros(16, np.uint8), "not a picture"),
        (np.zeros((16, 16, 3), np.int64), "not a picture"),
        (np.full((16, 16), 1.5), "not a picture"),
        (np.full((16, 16), np.nan), "not a picture"),
        (np.zeros((0, 16, 3), np.uint8), "too small"),
        (np.zeros((2, 2, 3), np.uint8), "too small"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, reason: str) -> None:
    with pytest.raises(Undecodable) as caught:
        open_image(array, 224)
    assert caught.value.reason == reason


def test_a_path_is_named_in_what_went_wrong(tmp_path: Path) -> None:
    missing, empty, text = tmp_path / "missing.jpg", tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("words")
    for path, message in (
        (missing, f"unreadable: {missing}: No such file or directory"),
        (tmp_path, f"unreadable: {tmp_path}: Is a directory"),
        (empty, f"empty file: {empty}"),
        (text, f"not a picture: {text}"),
    ):
        with pytest.raises(Undecodable) as caught:
            open_image(path, 224)
        assert str(caught.value) == message


def test_thumbnail_is_a_small_upright_jpeg_without_the_comment() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(four_corners(600, 400)))))
    with Image.open(BytesIO(thumbnail(encoded(stored, "JPEG", exif=exif, comment=b"private"), 90))) as small:
        assert (small.format, small.size) == ("JPEG", (90, 60))
        assert np.abs(np.array(corners_of(np.asarray(small))) - CORNERS).max() <= 12
        assert "comment" not in small.info
    with Image.open(BytesIO(thumbnail(encoded(four_corners(), "PNG"), 90))) as unchanged:
        assert unchanged.size == (24, 16)


def test_many_threads_agree_with_one() -> None:
    files = [*FILES.values(), encoded(four_corners(), "PNG", icc_profile=swapped_profile())] * 4
    alone = [decode_image(data, 16)[0] for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode_image(data, 16)[0], files))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_import_is_light_and_odd_files_leave_no_trace(tmp_path: Path) -> None:
    """A fresh process: heavy modules are loaded when needed, nothing is printed, Pillow's limit is as it was."""
    cut_exif = camera_exif({0x010F: "x" * 50}, {}, GPS_RIO)[:40]  # Pillow alone would warn
    (tmp_path / "odd.jpg").write_bytes(encoded(four_corners(), "JPEG", exif=cut_exif))
    (tmp_path / "large.png").write_bytes(
        png(12_000, 8_000, 1, 0, bytes(1501 * 8_000))  # 96 megapixels: here too
    )
    script = """
import sys
from pathlib import Path
import xsearch.media.images as images
assert not {"pillow_heif", "PIL.ImageCms", "PIL.JpegImagePlugin"} & sys.modules.keys()
from PIL import Image
limit = Image.MAX_IMAGE_PIXELS
folder = Path(sys.argv[1])
assert images.open_image(folder / "large.png", 224).shape == (500, 750, 3)
assert images.open_image(folder / "odd.jpg", 224).shape == (16, 24, 3)
assert (limit, "pillow_heif" in sys.modules) == (Image.MAX_IMAGE_PIXELS, False)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
