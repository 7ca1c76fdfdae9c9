"""Pictures: the bytes of a file of any common format to upright sRGB pixels, with what the camera wrote beside them.

The only owner of Pillow and pillow_heif. All functions may be called from several threads at once; Pillow
releases the GIL while it decodes.
"""

import importlib
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xsearch.errors import Undecodable
from xsearch.types import RGBImage

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform
    from PIL.ImageFile import ImageFile
    from PIL.ImageFont import FreeTypeFont

    _Reader: TypeAlias = Callable[[IO[bytes]], ImageFile]

# Pillow complains of odd metadata on stderr, where a progress bar lives. Appended, not prepended: any filter or handler
# of the host program, also one that makes errors of these warnings, comes first and wins.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
logging.getLogger("PIL").addHandler(logging.NullHandler())

PictureSource: TypeAlias = str | Path | bytes | Image.Image | NDArray[Any]

MAX_PIXELS = 2**28
"""More is refused before decoding: 16,384 x 16,384, which Pillow holds in 1 GiB. (Of TIFF and WebP it refuses more
than 179 million itself.)"""

MIN_SIDE_PX = 8
"""Less is a spacer, a tracking pixel or a ruled line: not one block of a JPEG, so no shape survives in it."""

OVERSAMPLING = 2
"""Both sides of a reduced picture stay at least so many times what the encoder sees.

Cosine of the built-in encoder's vector with that of the full decode, over 43 photographs of 1 to 24 megapixels:

    JPEG decoded at reduced scale, above 2x     mean .9994   least .997
    box average by a power of two, above 2x     mean .9993   least .990
    box average by any whole number, above 2x   mean .9984   least .990
    the first, then box average to above 1x     mean .9951   least .958
    the first, then bicubic to 1x               mean .9978   least .980
"""

_SIGNATURES: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(magic, re.DOTALL), module, reader)
    for magic, module, reader in (
        (rb"\xff\xd8\xff", "PIL.JpegImagePlugin", "JpegImageFile"),
        (rb"\x89PNG\r\n\x1a\n", "PIL.PngImagePlugin", "PngImageFile"),
        (rb"RIFF....WEBP", "PIL.WebPImagePlugin", "WebPImageFile"),
        (rb"GIF8[79]a", "PIL.GifImagePlugin", "GifImageFile"),
        (rb"BM", "PIL.BmpImagePlugin", "BmpImageFile"),
        (rb"II[*+]\0|MM\0[*+]", "PIL.TiffImagePlugin", "TiffImageFile"),
        (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
        (rb"P[1-6]\s", "PIL.PpmImagePlugin", "PpmImageFile"),
    )
)
_HEAD_BYTES = 256  # where a file says what it is
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})

_COMMON_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp"})
_OTHER_SUFFIXES = frozenset(
    {".tif", ".tiff", ".heic", ".heif", ".hif", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"}
)
SUFFIXES: frozenset[str] = _COMMON_SUFFIXES | _OTHER_SUFFIXES
"""Lower-case suffixes of files that are taken as pictures. What they hold is decided by content."""

MOVING_SUFFIXES: frozenset[str] = frozenset({".gif", ".webp", ".png", ".apng"})
"""Of those, what may also hold a film."""

_MOVING_FORMATS = frozenset({"GIF", "WEBP", "PNG"})

# What the parsers of Pillow and pillow_heif, written in Python over untrusted bytes, raise on damaged files.
_PARSER_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)

_MAKE, _MODEL, _ORIENTATION, _EXIF_IFD, _GPS_IFD = 0x010F, 0x0110, 0x0112, 0x8769, 0x8825
_GPS_LAT, _GPS_LON = 2, 4  # the letter of the hemisphere stands in the tag before
# DateTimeOriginal, DateTimeDigitized, DateTime, each with the tag of its offset from UTC.
_DATES = ((0x9003, 0x9011), (0x9004, 0x9012), (0x0132, 0x9010))
_DATE = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d:\d\d:\d\d)")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})

_FONT_PX, _LINE_PX, _GAP_PX, _LEAST_CELL_PX = 15, 20, 12, 180
# Pillow's own knows little beyond ASCII. Linux twice, macOS, Windows; Pillow finds them where these keep theirs.
_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")


@dataclass(frozen=True, slots=True)
class ImageMeta:
    """What is known of a picture beside its pixels; None where the file does not say, or not credibly.

    `width` and `height` are as shown, at full size. `taken_at` is the camera's local time, ISO 8601, with its offset
    from UTC where the camera wrote one. GPS is in degrees, north and east positive.
    """

    width: int
    height: int
    taken_at: str | None = None
    camera: str | None = None
    gps_lat: float | None = None
    gps_lon: float | None = None


def decode_image(data: bytes, min_px: int) -> tuple[RGBImage, ImageMeta]:
    """Return the pixels of a picture file as a viewer shows them, upright, sRGB, transparency over white.

    Both sides are at least OVERSAMPLING * `min_px` unless the picture is smaller; a larger one is decoded at reduced
    scale where the format allows, else box-averaged, until the shorter side is less than twice that. The array may be
    read-only. Of an animation or several pages the first counts. Raises Undecodable: "empty file", "not a picture",
    "damaged picture", "too large", "too small".
    """
    picture, meta = _decode(data, min_px)
    return np.asarray(picture), meta


def open_image(source: PictureSource, min_px: int) -> RGBImage:
    """Return the pixels of a picture that a person hands over, by the rules of `decode_image`.

    A path, the bytes of a file, a Pillow image, or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8 or float
    in 0..1. Raises Undecodable, with the path in its detail, also for a file that cannot be read ("unreadable").
    """
    if isinstance(source, bytes):
        return decode_image(source, min_px)[0]
    if isinstance(source, str | Path):
        return _decode_file(Path(source), min_px)
    picture = source if isinstance(source, Image.Image) else _from_array(source)
    _refuse_extremes(picture.size)
    with _parsing():
        picture.load()
    return np.asarray(_present(picture, _orientation(_exif_tags(picture)), min_px))


def thumbnail(data: bytes, side_px: int) -> bytes:
    """Return a small upright JPEG whose longer side is at most `side_px`. Raises Undecodable."""
    picture, _ = _decode(data, side_px // OVERSAMPLING)
    picture.thumbnail((side_px, side_px))
    return _jpeg(picture)


def brightness(data: bytes, side_px: int) -> NDArray[np.float32]:
    """Return (side_px, side_px) the brightness of a picture file, 0..255, squashed to a square. Raises Undecodable."""
    picture, _ = _decode(data, side_px)
    return np.asarray(picture.convert("L").resize((side_px, side_px), Image.Resampling.BOX), np.float32)


def is_animated(path: Path) -> bool:
    """Whether a file is a GIF, WebP or PNG of more than one picture. Nothing is decoded. False if it cannot be read."""
    try:
        with path.open("rb") as file:
            reader = _reader(file.read(_HEAD_BYTES))
            if reader is None:
                return False
            file.seek(0)
            with _parsing():
                picture = reader(file)
                return picture.format in _MOVING_FORMATS and bool(getattr(picture, "is_animated", False))
    except (OSError, Undecodable):  # whoever decodes it tells why
        return False


def animation(path: Path) -> Iterator[tuple[float, float, NDArray[np.uint8]]]:
    """Yield from and to when a picture of an animated WebP is shown, in seconds, and its pixels (h, w, 4) uint8, RGBA.

    Raises Undecodable as `decode_image`, and OSError.
    """
    with path.open("rb") as file, _parsing():
        picture = _load_class("PIL.WebPImagePlugin", "WebPImageFile")(file)
        _refuse_extremes(picture.size)
        t_s = 0.0
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()
            # What browsers do: a picture that is shown for 10 ms or less is shown for 100.
            lasts_ms = picture.info["duration"]
            end_s = t_s + (lasts_ms if lasts_ms > 10 else 100) / 1000
            yield t_s, end_s, np.asarray(picture.convert("RGBA"))
            t_s = end_s


def jpeg(pixels: RGBImage) -> bytes:
    """Return a picture as a JPEG to look at."""
    return _jpeg(Image.fromarray(pixels))


def _jpeg(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", quality=80, comment=b"")  # Pillow would copy the comment of the original
    return file.getvalue()


def picture_grid(pictures: Sequence[RGBImage], captions: Sequence[Sequence[str]], columns: int) -> bytes:
    """Return a PNG of pictures in rows, each over the lines of its caption, which are cut to its width.

    A line is drawn with Pillow's own font, or with that of this machine's _FONTS which knows more of its letters; those
    that it does not know become question marks.
    """
    from PIL import ImageDraw

    shown = [Image.fromarray(pixels) for pixels in pictures]
    picture_h = max(one.height for one in shown)
    step_x = max(_LEAST_CELL_PX, *(one.width for one in shown)) + _GAP_PX
    step_y = picture_h + _LINE_PX * max(map(len, captions)) + _GAP_PX
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * step_x + _GAP_PX, rows * step_y + _GAP_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for position, (picture, lines) in enumerate(zip(shown, captions, strict=True)):
        x, y = _GAP_PX + position % columns * step_x, _GAP_PX + position // columns * step_y
        sheet.paste(picture, (x, y))
        for number, line in enumerate(lines):
            font, text = _drawable(line, step_x - _GAP_PX)
            baseline = y + picture_h + number * _LINE_PX + _FONT_PX
            pen.text((x, baseline), text, "black", font, anchor="ls")
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _drawable(line: str, width_px: int) -> "tuple[FreeTypeFont, str]":
    """Return a font, and what of the line can be drawn with it on so much room."""
    font = max(_fonts(), key=lambda font: sum(_knows(font, letter) for letter in line))
    text = "".join(letter if _knows(font, letter) else "?" for letter in line)
    while len(text) > 1 and font.getlength(text) > width_px:
        text = text[:-2] + "…"
    return font, text


@lru_cache(maxsize=1)
def _fonts() -> "list[FreeTypeFont]":
    from PIL import ImageFont

    fonts = [cast("FreeTypeFont", ImageFont.load_default(_FONT_PX))]
    for name in _FONTS:
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name, _FONT_PX))
    return fonts


@lru_cache(maxsize=4096)
def _knows(font: "FreeTypeFont", letter: str) -> bool:
    """Whether a font has a letter: what it draws for U+FFFF, which is none, it draws for all that it has not."""
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


def _decode_file(path: Path, min_px: int) -> RGBImage:
    try:
        return decode_image(path.read_bytes(), min_px)[0]
    except OSError as error:
        raise Undecodable("unreadable", f"{path}: {error.strerror}") from error
    except Undecodable as error:
        raise Undecodable(error.reason, f"{path}: {error.detail}" if error.detail else str(path)) from error


def _decode(data: bytes, min_px: int) -> tuple[Image.Image, ImageMeta]:
    if not data:
        raise Undecodable("empty file")
    reader = _reader(data)
    if reader is None:
        raise Undecodable("not a picture")
    # The reader's class itself, not Image.open: that has a limit of its own, global to the process, and warns.
    with _parsing():
        picture = reader(BytesIO(data))
    _refuse_extremes(picture.size)
    width, height = picture.size
    with _parsing():
        if picture.format == "JPEG":
            # Not for HEIF: its draft is the embedded thumbnail, which is another picture if an editor forgot it.
            picture.draft(None, (OVERSAMPLING * min_px, OVERSAMPLING * min_px))
        picture.load()
    if picture.format != "JPEG":
        width, height = picture.size  # a HEIF may say its true size only now
    tags = _exif_tags(picture)
    orientation = _orientation(tags)
    if orientation in _SIDEWAYS:
        width, height = height, width
    return _present(picture, orientation, min_px), _metadata(tags, width, height)


def _reader(data: bytes) -> "_Reader | None":
    """Return the class that reads such content, imported now: most runs need one or two, and pillow_heif is heavy."""
    if data[4:8] == b"ftyp":
        box_bytes = min(int.from_bytes(data[:4], "big"), _HEAD_BYTES)
        brands = {data[at : at + 4] for at in range(8, box_bytes, 4)}
        if brands & _AVIF_BRANDS:
            return _load_class("PIL.AvifImagePlugin", "AvifImageFile")
        return _load_class("pillow_heif", "HeifImageFile") if brands & _HEIF_BRANDS else None
    for magic, module, reader in _SIGNATURES:
        if magic.match(data):
            return _load_class(module, reader)
    return None


def _load_class(module: str, name: str) -> "_Reader":
    return cast("_Reader", getattr(importlib.import_module(module), name))


@contextmanager
def _parsing() -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise Undecodable("too large", str(error)) from error
    except _PARSER_ERRORS as error:
        raise Undecodable("damaged picture", str(error) or type(error).__name__) from error


def _refuse_extremes(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise Undecodable("too large", f"{width} x {height} pixels")
    if min(width, height) < MIN_SIDE_PX:
        raise Undecodable("too small", f"{width} x {height} pixels")


def _present(picture: Image.Image, orientation: int, min_px: int) -> Image.Image:
    """Return RGB pixels as a viewer shows them. Reduces as early as it can: all that follows costs by the pixel."""
    with _parsing():
        shown = _eight_bit(picture)
        factor = min(shown.size) // (OVERSAMPLING * min_px)
        if factor > 1:
            shown = shown.reduce(1 << (factor.bit_length() - 1))  # a power of two, as JPEG's own scales are
        if shown.mode == "RGBA":
            paper = Image.new("RGB", shown.size, "white")
            paper.paste(shown, mask=shown)
            shown = paper
        icc = picture.info.get("icc_profile")
        to_srgb = _srgb_transform(icc, shown.mode) if isinstance(icc, bytes) else None
        if to_srgb is not None:
            shown = to_srgb.apply(shown)
        elif shown.mode != "RGB":
            shown = shown.convert("RGB")
        return shown.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else shown


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Return L, RGB, RGBA or CMYK: the modes in which pixels can be averaged."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return Image.fromarray(_grey_levels(np.asarray(picture)))
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode in ("L", "RGB", "CMYK"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _grey_levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (h, w) uint8. Black to white is 0..65535 of integers and 0..1 of floats.

    Where a value lies outside, as in measured data, it is the least to the greatest. What is not finite is black.
    """
    if values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    finite = np.isfinite(values)
    known = values[finite]
    low, high = 0.0, 1.0 if values.dtype.kind == "f" else 65535.0
    if known.size and (known.min() < low or known.max() > high):
        low, high = float(known.min()), float(known.max())
    share = (np.where(finite, values, low).astype(np.float64) - low) / ((high - low) or 1.0)
    return np.round(255 * share).astype(np.uint8)


@lru_cache(maxsize=16)  # the pictures of one camera share one profile, and a transform takes milliseconds to build
def _srgb_transform(icc: bytes, mode: str) -> "ImageCmsTransform | None":
    """Return the transform from a profile to sRGB, None where the profile is sRGB, broken, or for other colours."""
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        if "sRGB" in (profile.profile.profile_description or ""):
            return None
        # NOCACHE: lcms remembers the last pixel inside the transform, and threads share this one.
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE
        )
        # Many profiles are sRGB by another name, half of those in the demo's photographs, and applying one costs as
        # much as decoding.
        return None if mode == "RGB" and _moves_little(transform) else transform
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _moves_little(transform: "ImageCmsTransform") -> bool:
    """Whether no colour of a grid over the RGB cube moves by more than two levels, which nobody sees."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(grid)))
    return int(np.abs(moved.astype(np.int16) - grid).max()) <= 2


def _from_array(array: NDArray[Any]) -> Image.Image:
    levels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if levels.ndim != 2 and not (levels.ndim == 3 and levels.shape[2] in (3, 4)):
        raise Undecodable("not a picture", f"an array of shape {array.shape}")
    if levels.size == 0:
        raise Undecodable("too small", f"an array of shape {array.shape}")
    if levels.dtype.kind == "f":
        if not (levels.min() >= 0 and levels.max() <= 1):
            raise Undecodable("not a picture", "an array of float outside 0..1")
        levels = np.round(levels * 255).astype(np.uint8)
    if levels.dtype != np.uint8:
        raise Undecodable("not a picture", f"an array of {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(levels))


def _exif_tags(picture: Image.Image) -> dict[int, Any]:
    """Return the tags of the main, the Exif and the GPS directory in one mapping; their numbers do not meet.

    Metadata never loses a picture: of a broken directory there is what was read before the break.
    """
    tags: dict[int, Any] = {}
    with suppress(*_PARSER_ERRORS):
        exif = picture.getexif()
        tags.update(exif)
        for directory in (_EXIF_IFD, _GPS_IFD):
            with suppress(*_PARSER_ERRORS):
                tags.update(exif.get_ifd(directory))
    return tags


def _orientation(tags: Mapping[int, Any]) -> int:
    value = tags.get(_ORIENTATION)
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _metadata(tags: Mapping[int, Any], width: int, height: int) -> ImageMeta:
    lat, lon = _degrees(tags, _GPS_LAT, "NS", 90), _degrees(tags, _GPS_LON, "EW", 180)
    if lat is None or lon is None:
        lat = lon = None
    return ImageMeta(width, height, _taken_at(tags), _camera(tags), lat, lon)


def _taken_at(tags: Mapping[int, Any]) -> str | None:
    """Return ISO 8601 of the first date that exists in the calendar: cameras without a set clock write 0000:00:00."""
    for date_tag, offset_tag in _DATES:
        found = _DATE.match(_text(tags.get(date_tag)))
        if found is None:
            continue
        year, month, day, time = found.groups()
        local = f"{year}-{month}-{day}T{time}"
        for moment in (local + _text(tags.get(offset_tag)), local):
            with suppress(ValueError):
                return datetime.fromisoformat(moment).isoformat(timespec="seconds")
    return None


def _camera(tags: Mapping[int, Any]) -> str | None:
    make, model = _text(tags.get(_MAKE)), _text(tags.get(_MODEL))
    if model.lower().startswith(make.lower().partition(" ")[0]):  # "NIKON CORPORATION", "NIKON D70"
        make = ""
    return f"{make} {model}".strip() or None


def _text(value: object) -> str:
    """Return what a person would read of a tag, "" where it is no text: up to a NUL, printable, single spaces."""
    if not isinstance(value, str):
        return ""
    visible = "".join(char if char.isprintable() else " " for char in value.partition("\0")[0])
    return " ".join(visible.split())


def _degrees(tags: Mapping[int, Any], tag: int, hemispheres: str, limit: float) -> float | None:
    """Return signed degrees of (degrees, minutes, seconds) and the letter in the tag before, N or E positive."""
    letter, parts = _text(tags.get(tag - 1)), tags.get(tag)
    if letter not in tuple(hemispheres) or not isinstance(parts, tuple):
        return None
    try:
        degrees = float(sum(float(part) / 60**power for power, part in enumerate(parts)))
    except (ArithmeticError, TypeError, ValueError):
        return None
    if not 0 <= degrees <= limit:  # NaN as well: a camera without a fix writes 0/0
        return None
    return degrees if letter == hemispheres[0] else -degrees
