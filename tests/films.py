"""Films of known shots with known times, made with PyAV; animations with Pillow."""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels: TypeAlias = NDArray[np.uint8]
Shot: TypeAlias = tuple[int | tuple[int, int, int] | Pixels, float]
"""What is shown, and for how many seconds: the fields of a seed, an even colour, or pixels (h, w, 3)."""

SIZE = (160, 120)
CODECS = {".webm": "libvpx", ".avi": "mpeg4", ".mpg": "mpeg2video"}
QUICK = {
    "libx264": {"preset": "veryfast", "threads": "1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
}
_MS = Fraction(1, 1000)


def fields(seed: int, size: tuple[int, int] = SIZE) -> Pixels:
    """Return a picture of 4 x 4 fields in random colours, another for every seed."""
    width, height = size
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return colours[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width]


def shown(what: int | tuple[int, int, int] | Pixels, size: tuple[int, int] = SIZE) -> Pixels:
    if isinstance(what, int):
        return fields(what, size)
    if isinstance(what, tuple):
        return np.full((size[1], size[0], 3), what, np.uint8)
    return what


def write_film(
    path: Path,
    shots: Sequence[Shot],
    *,
    fps: int = 25,
    size: tuple[int, int] = SIZE,
    codec: str | None = None,
    pix_fmt: str = "yuv420p",
    dissolve_s: float = 0.0,
    keys_s: float | None = None,
    first_s: float = 0.0,
) -> Path:
    """Write shots one after the other; the suffix says the container, and the codec where none is named.

    For the last `dissolve_s` of each shot but the last, the next one is mixed in. A key frame comes every `keys_s`,
    else where the encoder wants it. The file counts its times from `first_s`.
    """
    pictures = [shown(what, size).astype(np.float32) for what, _ in shots]
    starts = np.cumsum([0] + [round(lasts_s * fps) for _, lasts_s in shots])
    blend_n = round(dissolve_s * fps)
    mixed = []
    for n in range(starts[-1]):
        shot = int(np.searchsorted(starts, n, "right")) - 1
        left = starts[shot + 1] - n
        share = 1 - left / (blend_n + 1) if left <= blend_n and shot + 1 < len(shots) else 0.0
        picture = pictures[shot] * (1 - share)
        if share:
            picture += pictures[shot + 1] * share
        mixed.append((first_s + n / fps, picture.astype(np.uint8)))
    options = {} if keys_s is None else {"g": str(round(keys_s * fps)), "sc_threshold": "0"}
    return write_pictures(path, mixed, fps=fps, codec=codec, pix_fmt=pix_fmt, options=options)


def write_pictures(
    path: Path,
    pictures: Iterable[tuple[float, Pixels]],
    *,
    fps: int = 25,
    codec: str | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Write each picture at its time: a film of variable frame rate. Pixels are (h, w, 3), or (h, w, 4) with alpha."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        codec = codec or CODECS.get(path.suffix, "libx264")
        stream = container.add_stream(codec, fps, options=QUICK.get(codec, {}) | (options or {}))
        stream.pix_fmt = pix_fmt
        for n, (t_s, pixels) in enumerate(pictures):
            if n == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, "rgba" if pixels.shape[2] == 4 else "rgb24")
            frame.time_base = Fraction(1, fps) if float(t_s * fps).is_integer() else _MS
            frame.pts = round(t_s / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_animation(path: Path, shots: Sequence[Shot], *, size: tuple[int, int] = SIZE) -> Path:
    """Write a GIF, WebP or animated PNG of one picture a shot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(shown(what, size)) for what, _ in shots]
    durations_ms = [round(1000 * lasts_s) for _, lasts_s in shots]
    kind = {".apng": "PNG"}.get(path.suffix)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, kind, save_all=True, append_images=others, duration=durations_ms, **lossless)
    return path


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """Write a film that has sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 48_000)
        wave = np.sin(np.arange(round(48_000 * seconds)) / 20).astype(np.float32)
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate = 48_000
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path, clockwise: int) -> Path:
    """Have an MP4 shown turned by 90, 180 or 270 degrees, as phones do: by the matrix of its track (ISO 14496-12)."""
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[clockwise]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + len(matrix)] = matrix
    path.write_bytes(data)
    return path
