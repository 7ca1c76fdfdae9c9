"""Decoding in processes: the pixels of threads, whatever is killed meanwhile, and a run that goes on through it."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import FakeEncoder, living, picture
from xsearch import pipeline
from xsearch.encoders.framing import MAX_ASPECT, Framing
from xsearch.encoders.heads import HeadedEncoder
from xsearch.errors import Undecodable, XSearchError
from xsearch.indexer import index
from xsearch.library import Library
from xsearch.media import decoders
from xsearch.media.decoders import ProcessDecoder, ThreadDecoder
from xsearch.media.images import SUFFIXES, decode_image
from xsearch.types import RGBImage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows hands no open files to a process")

FRAMING = Framing(24, 40, "shortest", "bicubic", max_aspect=MAX_ASPECT)
PATIENCE_S = 30


@dataclass(frozen=True, slots=True)
class Deadly:
    """A framing that kills its process at a red picture: always, or once, if there is a file to remember it by."""

    height: int
    width: int
    memory: str = ""

    def pixels(self, image: RGBImage) -> RGBImage:
        if image[0, 0].tolist() == [255, 0, 0]:
            if not self.memory:
                os.kill(os.getpid(), signal.SIGKILL)
            with suppress(FileExistsError):
                Path(self.memory).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return np.full((self.height, self.width, 3), image[0, 0], np.uint8)


@dataclass(frozen=True, slots=True)
class Faulty:
    """A framing with a fault of ours."""

    height: int = 8
    width: int = 8

    def pixels(self, image: RGBImage) -> RGBImage:
        raise KeyError("a fault")


@dataclass(frozen=True, slots=True)
class Slow:
    """A framing that takes its time."""

    height: int = 8
    width: int = 8

    def pixels(self, image: RGBImage) -> RGBImage:
        time.sleep(0.5)
        return image[:8, :8]


class ApartEncoder(FakeEncoder):
    """The fake encoder as one that computes elsewhere: its pictures are framed by other processes."""

    def __init__(self, framing: object = FRAMING) -> None:
        super().__init__()
        self.framing_apart = framing
        self.seen: list[tuple[int, ...]] = []

    def encode_images(self, images: list[RGBImage]) -> np.ndarray:
        self.seen += [image.shape for image in images]
        return super().encode_images(images)


def plain(file: Path, colour: tuple[int, int, int]) -> bytes:
    """Write a PNG of one colour, and return its bytes."""
    from PIL import Image

    Image.new("RGB", (50, 30), colour).save(file, "PNG")
    return file.read_bytes()


def pids(decoder: ProcessDecoder) -> list[int]:
    return [worker._process.pid for worker in decoder._idle.queue if worker is not None]


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_pixels_of_real_pictures_are_those_of_threads(photos: Path) -> None:
    """In order, with all that the camera wrote; from more threads than there are processes."""
    contents = [file.read_bytes() for file in sorted(photos.rglob("*")) if file.suffix.lower() in SUFFIXES][:24]
    with ProcessDecoder(FRAMING, 40, processes=2) as decoder, ThreadPoolExecutor(decoder.at_once) as threads:
        found = list(threads.map(decoder.decode, contents))
        assert len(pids(decoder)) == 2
    with ThreadDecoder(40) as in_threads:
        expected = [in_threads.decode(content) for content in contents]
    for (pixels, meta), (whole, same) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(pixels, FRAMING.pixels(whole))
        assert meta == same
    assert len({pixels.tobytes() for pixels, _ in found}) == len(contents)


def test_what_cannot_be_decoded_is_told_as_by_threads() -> None:
    with ProcessDecoder(FRAMING, 40, processes=1) as decoder:
        for content in (b"", b"no picture", b"\xff\xd8\xff" + bytes(100)):
            with pytest.raises(Undecodable) as expected:
                decode_image(content, 40)
            with pytest.raises(Undecodable) as found:
                decoder.decode(content)
            assert (found.value.reason, found.value.detail) == (expected.value.reason, expected.value.detail)
        assert len(pids(decoder)) == 1


def test_processes_start_when_they_are_needed_and_end_with_the_decoder(tmp_path: Path) -> None:
    content = plain(tmp_path / "blue.png", (0, 0, 255))
    with ProcessDecoder(FRAMING, 40, processes=3) as decoder:
        assert pids(decoder) == []
        for _ in range(3):
            decoder.decode(content)
        (pid,) = pids(decoder)
        assert not has_ended(pid)
    assert has_ended(pid)


def test_a_picture_whose_process_is_killed_is_tried_again(tmp_path: Path) -> None:
    red = plain(tmp_path / "red.png", (255, 0, 0))
    deadly_once = Deadly(4, 6, str(tmp_path / "killed"))
    with ProcessDecoder(deadly_once, 16, processes=1) as decoder:
        np.testing.assert_array_equal(decoder.decode(red)[0], np.full((4, 6, 3), (255, 0, 0)))
    assert (tmp_path / "killed").exists()


def test_a_process_that_was_killed_while_it_waited_is_replaced(tmp_path: Path) -> None:
    blue = plain(tmp_path / "blue.png", (0, 0, 255))
    with ProcessDecoder(FRAMING, 40, processes=1) as decoder:
        decoder.decode(blue)
        (pid,) = pids(decoder)
        os.kill(pid, signal.SIGKILL)
        assert decoder.decode(blue)[0][0, 0].tolist() == [0, 0, 255]
        assert pids(decoder) != [pid]


def test_a_picture_that_kills_twice_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    red, blue = plain(tmp_path / "red.png", (255, 0, 0)), plain(tmp_path / "blue.png", (0, 0, 255))
    with ProcessDecoder(Deadly(4, 6), 16, processes=1) as decoder:
        with pytest.raises(Undecodable, match="decoder killed: twice, out of memory or by a fault in a codec"):
            decoder.decode(red)
        np.testing.assert_array_equal(decoder.decode(blue)[0], np.full((4, 6, 3), (0, 0, 255)))


def test_a_fault_of_ours_is_raised_where_it_would_be_in_a_thread(tmp_path: Path) -> None:
    with ProcessDecoder(Faulty(), 16, processes=1) as decoder, pytest.raises(KeyError, match="a fault"):
        decoder.decode(plain(tmp_path / "blue.png", (0, 0, 255)))


def test_processes_that_do_not_start_end_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decoders, "WORKER", (sys.executable, "-c", "raise SystemExit(1)"))
    picture(tmp_path / "photos/a.png", 1)
    with pytest.raises(XSearchError, match="a process that decodes pictures ended as it started; see what"):
        index([tmp_path / "photos"], tmp_path / "data", ApartEncoder())


def test_a_decoder_ends_when_the_run_is_killed(tmp_path: Path) -> None:
    """Nobody tells it: the pipe ends."""
    with ProcessDecoder(FRAMING, 40, processes=1) as decoder:
        decoder.decode(plain(tmp_path / "blue.png", (0, 0, 255)))
        worker = decoder._idle.get()
        assert worker is not None
        worker._link.close()
        assert worker._process.wait(PATIENCE_S) == 0
        decoder._idle.put(None)


def test_threads_that_wait_when_a_run_ends_are_let_go(tmp_path: Path) -> None:
    """As after Ctrl-C in the middle of a run: a thread that hung would keep Python from ending."""
    blue = plain(tmp_path / "blue.png", (0, 0, 255))
    with ThreadPoolExecutor(6) as threads:
        with ProcessDecoder(Slow(), 8, processes=2) as decoder:
            waiting = [threads.submit(decoder.decode, blue) for _ in range(6)]
            assert waiting[0].result(PATIENCE_S)[0].shape == (8, 8, 3)
        ended = [future.exception(PATIENCE_S) for future in waiting]
    assert {type(error) for error in ended} <= {type(None), ValueError}
    assert any(isinstance(error, ValueError) for error in ended)
    with pytest.raises(ValueError, match="the decoder is closed"):
        decoder.decode(blue)


def test_a_library_indexed_through_processes_is_that_of_threads(tmp_path: Path) -> None:
    """And what cannot be decoded, or kills whoever decodes it, is one row among what was skipped."""
    for seed in range(30):
        picture(tmp_path / f"photos/{seed:02}.png", seed)
    (tmp_path / "photos/broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    apart = Framing(32, 32, "squash", "bicubic")
    encoder = ApartEncoder(apart)
    report = index([tmp_path / "photos"], tmp_path / "apart", encoder)
    here = index([tmp_path / "photos"], tmp_path / "here", FakeEncoder())
    assert (report.seen, report.indexed, report.skipped) == (31, 30, {"damaged picture": 1})
    assert (report.seen, report.indexed, report.skipped) == (here.seen, here.indexed, here.skipped)
    assert encoder.seen == [(32, 32, 3)] * 30
    of_both = [Library.open(tmp_path / name) for name in ("apart", "here")]
    names = [[item.path for item in library.items(np.arange(len(library)))] for library in of_both]
    assert names[0] == names[1]
    vectors = [living(library) for library in of_both]
    for name, vector in vectors[1].items():
        np.testing.assert_array_equal(vectors[0][name], vector)


def test_a_run_goes_on_past_a_picture_that_kills(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        plain(tmp_path / f"photos/{seed:02}.png", (seed, 0, 0))
    plain(tmp_path / "photos/06-red.png", (255, 0, 0))
    report = index([tmp_path / "photos"], tmp_path / "data", ApartEncoder(Deadly(16, 16)))
    assert (report.seen, report.indexed, report.skipped) == (13, 12, {"decoder killed": 1})
    (skipped,) = Library.open(tmp_path / "data").skipped()
    assert Path(skipped.path).name == "06-red.png"


def test_only_an_encoder_that_computes_elsewhere_has_its_pictures_framed() -> None:
    assert isinstance(pipeline.decoder_for(FakeEncoder()), ThreadDecoder)
    apart = ApartEncoder()
    assert isinstance(pipeline.decoder_for(apart), ProcessDecoder)
    head = np.eye(apart.spec.dim, dtype=np.float32)
    assert isinstance(pipeline.decoder_for(HeadedEncoder(apart, head, head, apart.spec)), ProcessDecoder)
    assert isinstance(pipeline.decoder_for(HeadedEncoder(FakeEncoder(), head, head, apart.spec)), ThreadDecoder)


def test_ctrl_c_is_for_the_run_not_for_its_decoders(tmp_path: Path) -> None:
    with ProcessDecoder(FRAMING, 40, processes=1) as decoder:
        decoder.decode(plain(tmp_path / "blue.png", (0, 0, 255)))
        (pid,) = pids(decoder)
        assert os.getpgid(pid) != os.getpgid(0)
