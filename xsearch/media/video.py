"""Films: the file of any common container to the frames worth indexing, each with the stretch that it stands for.

The only owner of PyAV. Functions may be called from several threads at once; PyAV releases the GIL while it decodes.
All times are seconds from the start of the film, whatever the file counts from. No film is held in memory.
FFmpeg reads no animated WebP: Pillow hands it over as a film of PNGs.

What is decoded. Frames that no other frame needs are skipped by the decoder, which leaves the pixels of the others as
they are and takes a third off the time. Where key frames are dense, two neighbours look alike, and none of the packets
between them is large, nothing in between is decoded at all. Not skipped is the loop filter: that would save another
fifth, but errors add up over the frames, to a mean cosine of .96 between the built-in encoder's vectors.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import Undecodable
from xsearch.media import images
from xsearch.media.shots import THUMB_H, THUMB_W, Thumb, drift
from xsearch.media.stretches import SAME_TIME_S, Frame, FrameChooser, thinned
from xsearch.types import RGBImage

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["SUFFIXES", "Film", "Frame", "cut", "frame_at", "frames", "is_film", "probe"]

SUFFIXES: frozenset[str] = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv", ".asf"}
    | {".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".dv"}
)
"""Lower-case suffixes of files that are taken as films. What they hold is decided by content."""

MAX_PIXELS = 2**26
"""More a frame is refused: 8,192 x 8,192, twice what 8K has."""

MIN_SIDE_PX = 8
"""Less is no picture."""

SAMPLE_HZ = 15.0
"""Where every frame stands alone (Motion JPEG, ProRes, DV), so many a second are decoded."""

LOOK_HZ = 30.0
"""So many a second are looked at, of films with more."""

DENSE_KEYS_S = 3.0
"""Key frames farther apart do not vouch for what is between them."""

KEYS_ALIKE = 10.0
"""`drift` between two key frames, half of CHANGED, up to which what is between them is not looked at, unless there is a
large packet."""

LARGE_PACKET = 0.3
"""Of the size of a key frame. An encoder that meets a new picture has no better choice than to code it anew."""

CLIP_PX = 720
"""The shorter side of what `cut` writes is at most so long."""

_NONREF_FROM_HZ = 20.0  # below, every frame counts
_STEP_BACK_S = 1.0  # times that go back farther start anew, others are a disorder of the file
_MAX_ASPECT = 4.0  # of a sample; more is a damaged header

# FFmpeg's names. Without such a list a file may be a script or a playlist (concat, hls, dash), and so have other files
# of this machine, or of the network, read in its place.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg,mxf,dv,gif,apng,wtv,rm,nut,swf,ivf,wav,mp3,flac,aac"
# FFmpeg seeks by the bytes in these: it may land behind the key frame, and guesses the times of what comes first.
_LEADS_S = {"mpegts": 10.0, "mpeg": 10.0}
# Without B frames: with them, MP4 states wrong how long the last picture lasts if pictures last for different times.
_ENCODERS = (("libx264", {"crf": "20", "preset": "veryfast", "bf": "0"}), ("mpeg4", {"b": "4000000"}))
_TIME_BASE = Fraction(1, 30_000)  # exact for 24, 25, 30, 29.97 and 60 Hz; mpeg4 takes no finer
_THREADS = 2  # several films are decoded at once
_SPOOLED_BYTES = 2**24

_Shown: TypeAlias = tuple[float, float, NDArray[np.uint8]]
"""From and to when a picture is shown, and its pixels (h, w, 3 or 4)."""


@dataclass(frozen=True, slots=True)
class Film:
    """What is known of a film without decoding it. `width` and `height` are as shown, turned and with square pixels.

    `duration_s` is up to the end of the last packet, not what the file states. `fps` is the mean. Of recordings that
    were joined, each with times from 0, the longest counts.
    """

    duration_s: float
    width: int
    height: int
    fps: float
    codec: str


def is_film(path: Path) -> bool:
    """Whether a file is taken as a film: by its suffix, or as a GIF, WebP or PNG that moves."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in images.MOVING_SUFFIXES and images.is_animated(path))


def probe(path: Path) -> Film:
    """Return what is known of a film. Its first frame is decoded, its last stretch is read.

    Raises Undecodable (see `frames`) and OSError.
    """
    with _opened(path) as reel:
        first = next(reel.pictures(), None)
        if first is None:
            raise reel.nothing_decodes()
        width, height = reel.shown_size(first.frame)
        fps, codec = reel.fps, reel.codec
        end_s = reel.end_of_packets() if reel.seek(reel.stated_s) else None
    if end_s is None:
        with _opened(path) as reel:
            end_s = reel.end_of_packets()
    return Film(max(end_s or 0.0, first.end_s), width, height, fps, codec)


def frames(path: Path, min_px: int, *, fps: float | None = None, max_frames: int | None = None) -> Iterator[Frame]:
    """Yield the frames of a film that are worth indexing, in order, while it is decoded.

    Every shot gives one, and one more for each stretch of it that differs visibly (CHANGED); of the frames of a stretch
    the most central is taken. The stretches tile the film. With `fps`, frames are taken at even distances instead, each
    standing for the time up to the next. With `max_frames`, the neighbours with the shortest common stretch become one
    until there are no more than that; since this is known only at the end, so many frames are held and come then.

    Pixels are scaled in one go until the shorter side is `min_px`, or left as they are if the film is smaller. What was
    decoded of a film with a broken tail counts. Raises Undecodable: "empty file", "damaged film", "no pictures in it",
    "too large", "too small"; OSError if the file cannot be read; ValueError for `fps` or `max_frames` below or at 0.
    """
    if (fps is not None and fps <= 0) or (max_frames is not None and max_frames <= 0):
        raise ValueError("fps and max_frames are above 0")
    found = _frames(path, min_px, fps)
    return found if max_frames is None else thinned(found, max_frames)


def frame_at(path: Path, t_s: float, min_px: int) -> RGBImage:
    """Return the pixels that are seen at a time, by the rules of `frames`; after the end, the last. Raises as there."""
    with closing(_shown_from(path, t_s, min_px)) as shown:
        _, _, pixels = next(shown)
        return pixels


def cut(path: Path, stretches: Sequence[tuple[float, float]], out: Path) -> None:
    """Write the stretches of a film, each from and to a time in seconds, one after the other as an MP4 without sound.

    H.264 where the build of PyAV has libx264, else MPEG-4. `out` appears when it is whole. Raises Undecodable (see
    `frames`), also "no pictures in it" if the stretches hold none; OSError.
    """
    import av

    codec, options = next(named for named in _ENCODERS if named[0] in av.codecs_available)
    with _opened(path) as reel:
        fps = min(max(reel.fps, 1.0), 60.0)  # other rates are of slides, or of damaged headers
    part = out.with_name(out.name + ".part")
    try:
        with part.open("wb") as file:
            if not _write_film(file, _clip(path, stretches), codec, "yuv420p", fps, options):
                raise Undecodable("no pictures in it", f"{path} has none in these stretches")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """A decoded frame, not yet converted, and when it is shown."""

    t_s: float
    end_s: float
    frame: "VideoFrame"


def _frames(path: Path, min_px: int, fps: float | None) -> Iterator[Frame]:
    chooser = FrameChooser(fps)
    looked_s = -1.0
    with _opened(path) as reel:
        if fps is None or fps <= _NONREF_FROM_HZ / 4:
            reel.skip_unneeded()
        for picture in reel.telling_pictures() if fps is None else reel.pictures():
            if fps is None and picture.t_s < looked_s + 0.9 / LOOK_HZ:
                continue
            looked_s = picture.t_s
            pixels = partial(reel.pixels, picture.frame, min_px)
            yield from chooser.add(picture.t_s, reel.thumb(picture.frame), pixels)
        if looked_s < 0:
            raise reel.nothing_decodes()
        yield from chooser.finish(reel.end_s)


def _shown_from(path: Path, t_s: float, min_px: int) -> Generator[_Shown, None, None]:
    """Yield what is shown from a time on, at least one picture: after the end of the film it is the last."""
    for by_seeking in (True, False):  # there may be no way to seek, or a wrong one
        with _opened(path) as reel:
            if by_seeking and not reel.seek(t_s):
                continue
            pictures = reel.pictures()
            shown: _Picture | None = None
            for shown in pictures:
                if shown.end_s > t_s + SAME_TIME_S:
                    break
            if by_seeking and not (shown and shown.t_s <= t_s + SAME_TIME_S < shown.end_s):
                continue
            if shown is None:
                raise reel.nothing_decodes()
            for picture in chain((shown,), pictures):
                yield picture.t_s, picture.end_s, reel.pixels(picture.frame, min_px)
            return


def _clip(path: Path, stretches: Sequence[tuple[float, float]]) -> Iterator[_Shown]:
    begun_s = 0.0
    for start_s, end_s in stretches:
        ended_s = begun_s
        for shown_s, until_s, pixels in _shown_from(path, start_s, CLIP_PX):
            if shown_s >= end_s - SAME_TIME_S:
                break
            if until_s > start_s + SAME_TIME_S:
                from_s = begun_s + max(shown_s - start_s, 0.0)
                ended_s = begun_s + min(until_s, end_s) - start_s
                yield from_s, ended_s, pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]
        begun_s = ended_s


def _write_film(
    file: IO[bytes], pictures: Iterable[_Shown], codec: str, pix_fmt: str, fps: float, options: dict[str, str]
) -> bool:
    """Write pictures of one size as an MP4. Return False if there are none."""
    import av

    with av.open(file, "w", format="mp4") as container:
        stream: VideoStream | None = None
        for t_s, end_s, pixels in pictures:  # noqa: B007
            if stream is None:
                stream = container.add_stream(codec, Fraction(fps).limit_denominator(1001), options=options)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = _TIME_BASE
            frame = av.VideoFrame.from_ndarray(pixels, "rgba" if pixels.shape[2] == 4 else "rgb24")
            frame = frame.reformat(stream.width, stream.height, pix_fmt)
            frame.time_base = _TIME_BASE
            frame.pts = round(t_s / _TIME_BASE)
            container.mux(stream.encode(frame))
        if stream is None:
            return False
        # A picture lasts until the next, but the last 1 / fps: it is said again.
        again_pts = round((end_s - 1 / fps) / _TIME_BASE)
        if again_pts > frame.pts:
            frame.pts = again_pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return True


@contextmanager
def _opened(path: Path) -> Iterator["_Reel"]:
    import av

    try:
        with path.open("rb") as file, SpooledTemporaryFile(_SPOOLED_BYTES) as spare:
            head = file.read(12)
            if not head:
                raise Undecodable("empty file")
            is_webp = head.startswith(b"RIFF") and head.endswith(b"WEBP")
            playable = cast(IO[bytes], spare) if is_webp else file
            if is_webp:
                _write_film(playable, images.animation(path), "png", "rgba", 1000.0, {"compression_level": "1"})
            playable.seek(0)
            options = {"format_whitelist": _FORMATS}
            # The file, not its name: FFmpeg takes some names for addresses.
            with av.open(_Source(playable), "r", options=options, metadata_errors="ignore") as container:
                yield _Reel(container, codec="webp" if is_webp else "")
    except av.FFmpegError as error:
        raise Undecodable("damaged film", error.strerror or str(error)) from error


class _Source:
    """A file for FFmpeg to read. To seek to nowhere, as damaged files ask for, is an error to FFmpeg, not to Python."""

    def __init__(self, file: IO[bytes]) -> None:
        self.name, self.read, self.tell = file.name, file.read, file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


class _Reel:
    """An open film, and how far it was decoded. Each pass over it needs one of its own."""

    def __init__(self, container: "InputContainer", codec: str) -> None:
        from av.stream import Disposition
        from av.video.reformatter import VideoReformatter

        films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # covers of albums
        if not films:
            raise Undecodable("no pictures in it")
        self._container = container
        self._stream: VideoStream = films[0]
        self._decoder = self._stream.codec_context
        if self._decoder is None:
            raise Undecodable("damaged film", "there is no decoder for it")
        if self._decoder.width:  # else the frames will tell
            _refuse_extremes(self._decoder.width, self._decoder.height)
        self._decoder.thread_type, self._decoder.thread_count = "AUTO", _THREADS
        # Sizes may change on the way. Twice, because FFmpeg counts the margins of its buffers.
        self._decoder.options = {"max_pixels": str(2 * MAX_PIXELS)}
        self._time_base = self._stream.time_base or Fraction(1, 1000)
        self._start_s = (container.start_time or 0) / 1_000_000
        self._shift_s, self._last_s = -self._start_s, float("-inf")
        self._to_thumb, self._to_pixels = VideoReformatter(), VideoReformatter()
        self._read_any = False
        self._is_drained = False
        self._peeker: VideoCodecContext | None = None
        self._peeked: tuple[Packet | None, Thumb | None] = None, None
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.codec: str = codec or self._decoder.name
        self.stated_s = (container.duration or 0) / 1_000_000
        self.end_s = 0.0  # of what was decoded

    def skip_unneeded(self) -> None:
        """Have the decoder leave out frames that no other frame needs, if there are enough of them."""
        if self.fps >= _NONREF_FROM_HZ:
            self._decoder.skip_frame = "NONREF"

    def nothing_decodes(self) -> Undecodable:
        """Return what to raise where there was no picture."""
        return Undecodable("damaged film" if self._read_any else "no pictures in it", "not one picture of it decodes")

    def seek(self, t_s: float) -> bool:
        """Go to a key frame before a time. Return False where that cannot be done."""
        import av

        t_s -= _LEADS_S.get(self._container.format.name, 0.0)
        try:
            if t_s > 0:
                self._container.seek(int((t_s + self._start_s) / self._time_base), stream=self._stream)
        except (av.FFmpegError, OverflowError):
            return False
        return True

    def pictures(self) -> Iterator[_Picture]:
        """Decode all that comes. Each picture is shown up to the next."""
        last: _Picture | None = None
        for packet in chain(self._packets(), (None,)):
            for picture in self._decoded(packet):
                if last is not None:
                    yield replace(last, end_s=picture.t_s)
                last = picture
        if last is not None:
            yield last

    def telling_pictures(self) -> Iterator[_Picture]:
        """Decode what is needed to see all that happens."""
        if self._decoder.codec.intra_only:
            yield from self._standalone_pictures()
            return
        group: list[Packet] = []  # a key frame and what follows it
        for packet in self._packets():
            if packet.is_keyframe:
                yield from self._group_pictures(group, packet)
                group = [packet]
            elif group and self._span_s(group[0], packet) <= DENSE_KEYS_S:
                group.append(packet)
            else:
                yield from self._decoded(*group, packet)
                group = []
        yield from self._decoded(*group, None)

    def end_of_packets(self) -> float | None:
        """Return when the last packet ends, of those that were not yet read."""
        ends_s = [
            float((packet.pts + (packet.duration or 0)) * self._time_base) + (0.0 if packet.duration else 1 / self.fps)
            for packet in self._packets()
            if packet.pts is not None
        ]
        return max(ends_s) - self._start_s if ends_s else None

    def shown_size(self, frame: "VideoFrame") -> tuple[int, int]:
        """Return width and height as shown, at full size."""
        width, height = round(frame.width * self._aspect()), frame.height
        return (height, width) if _turn(frame)[0] else (width, height)

    def thumb(self, frame: "VideoFrame") -> Thumb:
        small = self._to_thumb.reformat(frame, THUMB_W, THUMB_H, "yuv444p", interpolation="AREA", threads=1)
        return np.asarray(small.to_ndarray(), np.float32)

    def pixels(self, frame: "VideoFrame", min_px: int) -> RGBImage:
        _refuse_extremes(frame.width, frame.height)
        width, height = frame.width * self._aspect(), float(frame.height)
        scale = min(1.0, min_px / min(width, height))
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        has_alpha = any(component.is_alpha for component in frame.format.components)
        layout = "rgba" if has_alpha else "rgb24"
        scaled = self._to_pixels.reformat(frame, *size, layout, interpolation="AREA", threads=1).to_ndarray()
        if has_alpha:
            alpha = scaled[..., 3:].astype(np.uint16)
            scaled = ((scaled[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        swap, flip_x, flip_y = _turn(frame)
        if swap:
            scaled = scaled.transpose(1, 0, 2)
        return np.ascontiguousarray(scaled[:: -1 if flip_y else 1, :: -1 if flip_x else 1])

    def _aspect(self) -> float:
        """Return how much wider than high a sample is."""
        aspect = float(self._stream.sample_aspect_ratio or 1)
        return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0

    def _packets(self) -> Iterator["Packet[VideoStream]"]:
        import av

        while True:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:  # the last is none
                        self._read_any = True
                        yield packet
            except IndexError:  # what PyAV says to a packet of a stream that comes up on the way; it is read by now
                continue
            except av.FFmpegError:  # a broken tail: what was read before counts
                pass
            return

    def _decoded(self, *packets: "Packet[VideoStream] | None") -> Iterator[_Picture]:
        """Yield what comes out when packets go in; None asks for what is left. A damaged packet gives nothing."""
        import av

        for packet in packets:
            if self._is_drained:
                self._decoder.flush_buffers()
            self._is_drained = packet is None
            with suppress(av.FFmpegError):
                yield from self._timed(self._decoder.decode(packet))

    def _timed(self, decoded: "Iterable[VideoFrame]") -> Iterator[_Picture]:
        """Give frames their times, which only go forward: recordings that were joined may count from 0 again."""
        for frame in decoded:
            t_s = self.end_s if frame.pts is None else float(frame.pts * self._time_base) + self._shift_s
            if t_s < self._last_s - _STEP_BACK_S:
                self._shift_s += self.end_s - t_s
                t_s = self.end_s
            elif t_s <= self._last_s:
                continue
            self._last_s = t_s
            t_s = max(t_s, 0.0)
            self.end_s = t_s + (float(frame.duration * self._time_base) if frame.duration else 1 / self.fps)
            yield _Picture(t_s, self.end_s, frame)

    def _standalone_pictures(self) -> Iterator[_Picture]:
        due_s = float("-inf")
        passed_over: Packet[VideoStream] | None = None
        for packet in self._packets():
            t_s = float("inf") if packet.pts is None else float(packet.pts * self._time_base)
            passed_over = packet if t_s < due_s else None
            if passed_over is None:
                yield from self._decoded(packet)
                due_s = t_s + 0.9 / SAMPLE_HZ
        if passed_over is not None:  # the last, which says when the film ends
            yield from self._decoded(passed_over)
        yield from self._decoded(None)

    def _group_pictures(self, group: "Sequence[Packet]", next_key: "Packet") -> Iterator[_Picture]:
        """Decode the key frame alone if it may stand for what follows it, else all."""
        if self._is_still(group, next_key):
            yield from self._decoded(None, group[0], None)
        else:
            yield from self._decoded(*group)

    def _is_still(self, group: "Sequence[Packet]", next_key: "Packet") -> bool:
        if len(group) < 2 or self._span_s(group[0], next_key) > DENSE_KEYS_S:
            return False
        if max(packet.size for packet in group[1:]) > LARGE_PACKET * group[0].size:
            return False
        here, there = self._peek(group[0]), self._peek(next_key)
        return here is not None and there is not None and drift(here, there) <= KEYS_ALIKE

    def _peek(self, key: "Packet") -> Thumb | None:
        """Decode a key frame on the side; the last one is remembered. Return None if that fails."""
        import av

        if self._peeked[0] is not key:
            self._peeked = key, None
            if self._peeker is None:
                self._peeker = av.CodecContext.create(self._decoder.codec, "r")
                self._peeker.extradata = self._decoder.extradata
                self._peeker.options = self._decoder.options
                self._peeker.width, self._peeker.height = self._decoder.width, self._decoder.height
            with suppress(av.FFmpegError):
                for frame in (*self._peeker.decode(key), *self._peeker.decode(None)):
                    self._peeked = key, self.thumb(frame)
            self._peeker.flush_buffers()
        return self._peeked[1]

    def _span_s(self, first: "Packet[VideoStream]", last: "Packet[VideoStream]") -> float:
        if first.pts is None or last.pts is None:
            return float("inf")
        return float((last.pts - first.pts) * self._time_base)


def _refuse_extremes(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Undecodable("too large", f"{width} x {height} pixels")
    if min(width, height) < MIN_SIDE_PX:
        raise Undecodable("too small", f"{width} x {height} pixels")


def _turn(frame: "VideoFrame") -> tuple[bool, bool, bool]:
    """Return how to show a frame: whether to exchange rows and columns, then to mirror x, and y.

    The display matrix [a b u; c d v; x y w] takes (p, q) to (a p + c q + x, b p + d q + y): ISO 14496-12, 6.2.2.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()
    swap = abs(b) > abs(a)
    return swap, (c if swap else a) < 0, (b if swap else d) < 0
