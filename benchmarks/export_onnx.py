"""Pictures a second and milliseconds a text of a model of open_clip: torch against ONNX Runtime, on the CPU.

    python benchmarks/export_onnx.py [--architecture ViT-B-32] [--photos DIR] [--rounds 5]

The weights are random: speed does not depend on them. What 8 bits cost in recall does, and `xsearch export-onnx --int8`
prints it for a real model. Runs of all are interleaved, so that what else the machine does falls on each alike; the
medians are told. bfloat16 is torch's autocast; ONNX Runtime computes in it on no x86 CPU. A text is encoded alone, as
queries are.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import open_clip
import torch
from report import report

from xsearch.encoders import Encoder, get_encoder
from xsearch.encoders.openclip import OpenClipEncoder
from xsearch.learning.export import export_onnx
from xsearch.media.images import SUFFIXES, open_image
from xsearch.probes import probe_texts

PICTURES = 32
TEXTS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="as `make demo` gathers them")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)[:PICTURES]
    if len(files) < PICTURES:
        parser.error(f"there are too few pictures in {options.photos}: run `make demo` first, or name some")
    with tempfile.TemporaryDirectory() as folder:
        _measure(options.architecture, files, options.rounds, Path(folder))


def _measure(architecture: str, files: list[Path], rounds: int, folder: Path) -> None:
    torch.manual_seed(0)
    checkpoint = folder / "random.pt"
    torch.save(open_clip.create_model(architecture).state_dict(), checkpoint)
    torch_float32 = OpenClipEncoder.open(f"openclip:{architecture}/{checkpoint}", device="cpu")
    torch_bfloat16 = OpenClipEncoder.open(f"openclip:{architecture}/{checkpoint}", device="cpu")
    # By itself it uses bfloat16 only where the CPU has matrices of it.
    torch_float32.__dict__["_bfloat16_images"] = False
    torch_bfloat16.__dict__["_bfloat16_images"] = torch_bfloat16.__dict__["_bfloat16_texts"] = True
    pictures = [open_image(file, torch_float32.spec.image_px) for file in files]
    texts = probe_texts(TEXTS)
    exports = {int8: export_onnx(torch_float32, folder / f"int8-{int8}", pictures, int8=int8) for int8 in (False, True)}
    encoders: dict[tuple[str, str], Encoder] = {
        ("torch", "float32"): torch_float32,
        ("torch", "bfloat16"): torch_bfloat16,
        ("onnxruntime", "float32"): get_encoder(f"onnx:{exports[False].folder}"),
        ("onnxruntime", "int8"): get_encoder(f"onnx:{exports[True].folder}"),
    }
    bytes_of = {"torch": checkpoint.stat().st_size, "float32": exports[False].bytes, "int8": exports[True].bytes}
    picture_s: dict[tuple[str, str], list[float]] = {key: [] for key in encoders}
    text_s: dict[tuple[str, str], list[float]] = {key: [] for key in encoders}
    for number in range(rounds + 1):
        for key, encoder in encoders.items():
            took = (
                _seconds(lambda encoder=encoder: encoder.encode_images(pictures)) / len(pictures),
                _seconds(lambda encoder=encoder: [encoder.encode_texts([text]) for text in texts]) / len(texts),
            )
            if number:  # the first round opens towers
                picture_s[key].append(took[0])
                text_s[key].append(took[1])
    shown = torch_float32.encode_images(pictures)
    report(
        "export_onnx",
        [
            {
                "runtime": runtime,
                "precision": precision,
                "pictures_per_s": round(1 / median(picture_s[runtime, precision]), 1),
                "text_ms": round(1000 * median(text_s[runtime, precision]), 1),
                "mb": round(bytes_of["torch" if runtime == "torch" else precision] / 1e6),
                "least_cosine": float((shown * encoder.encode_images(pictures)).sum(axis=1).min()),
            }
            for (runtime, precision), encoder in encoders.items()
        ],
        architecture=architecture,
        weights="random",
        pictures=len(pictures),
        rounds=rounds,
        torch=torch.__version__,
    )


def _seconds(run: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
