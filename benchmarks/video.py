"""How fast films are indexed, against decoding every frame of them.

    python benchmarks/video.py [--films DIR] [--photos DIR] [--rounds 3]

Each film is measured as it is. One more, 720p and a minute long, is made of all of them and of photographs that a
camera pans over, coded as H.264 with a key frame every 250 frames at most. Times of decoding and choosing are CPU
seconds of the process; those of indexing are seconds that passed, a whole run with the built-in encoder. Rounds
alternate between the three, medians count.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
from PIL import Image
from report import report

from xsearch.encoders import Encoder, get_encoder
from xsearch.indexer import index
from xsearch.media import images, video
from xsearch.pipeline import Progress
from xsearch.types import RGBImage

WIDTH, HEIGHT, FPS = 1280, 720, 25
LENGTH_S = 60
PAN_S = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=Path, default=Path("films"), help="real films, as `make demo` gathers them")
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="real photographs, likewise")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    films = sorted(path for path in options.films.rglob("*") if path.suffix.lower() in video.SUFFIXES)
    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in images.SUFFIXES)
    if not films or not photos:
        parser.error("there are no films or no photographs: run `make demo` first, or name some")
    encoder = get_encoder()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        composed = folder / "composed 720p.mp4"
        compose(composed, films, photos)
        rows = [_measured(film, encoder, folder, options.rounds) for film in (*films, composed)]
    report("video", rows)


def _measured(film: Path, encoder: Encoder, folder: Path, rounds: int) -> dict[str, object]:
    known = video.probe(film)
    bound_by: Counter[str] = Counter()
    decoding, choosing, indexing = [], [], []
    frames = []
    for attempt in range(rounds):
        decoding.append(_cpu_s(lambda: _decode_all(film)))
        choosing.append(_cpu_s(lambda: frames.append(sum(1 for _ in video.frames(film, encoder.spec.image_px)))))
        start_s = time.perf_counter()
        index([film], folder / f"{film.stem}-{attempt}", encoder, on_progress=lambda at: _note(at, bound_by))
        indexing.append(time.perf_counter() - start_s)
    return {
        "film": film.name,
        "seconds": known.duration_s,
        "size": f"{known.width} x {known.height}",
        "frames_chosen": frames[0],
        "decode_all_cpu_s": median(decoding),
        "choose_cpu_s": median(choosing),
        "choose_to_decode": median(c / d for c, d in zip(choosing, decoding, strict=True)),
        "chosen_per_cpu_s": frames[0] / median(choosing),
        "index_s": median(indexing),
        "times_real_time": known.duration_s / median(indexing),
        "bound_by": bound_by.most_common(1)[0][0],
    }


def _note(progress: Progress, bound_by: Counter[str]) -> None:
    if progress.done == progress.total:
        bound_by[progress.bound_by.value] += 1


def _cpu_s(work: Callable[[], object]) -> float:
    start_s = time.process_time()
    work()
    return time.process_time() - start_s


def _decode_all(film: Path) -> None:
    with av.open(str(film)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass


def compose(path: Path, films: Sequence[Path], photos: Sequence[Path]) -> None:
    """Write a film of LENGTH_S seconds: the films one after the other, then photographs, a camera moving over each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for at, pixels in enumerate(_pictures(films, photos)):
            if at == LENGTH_S * FPS:
                break
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(films: Sequence[Path], photos: Sequence[Path]) -> Iterator[RGBImage]:
    for film in films:
        with av.open(str(film)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24", width=WIDTH, height=HEIGHT)
    for photo in photos:
        with Image.open(photo) as picture:
            wide = picture.convert("RGB").resize((WIDTH * 5 // 4, HEIGHT * 5 // 4))
        for x in np.linspace(0, wide.width - WIDTH, PAN_S * FPS).astype(int).tolist():
            yield np.asarray(wide.crop((x, x // 2, x + WIDTH, x // 2 + HEIGHT)))


if __name__ == "__main__":
    main()
