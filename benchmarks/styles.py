"""Whether texts tell how a picture was made: photographs without colours, and drawings, from the others.

    python benchmarks/styles.py --data-dir DIR [--models builtin onnx:FOLDER ...]

The pictures of `dev-flickr8k.parquet` as they are, without their colours, and their outlines. A text that tells a style
and nothing else should stand above all pictures of other styles: AUROC. A caption that tells one should find its own
picture in that style first, of all 1,500.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from answerability import auroc
from PIL import Image, ImageFilter
from report import report

from xsearch.encoders import DEFAULT_MODEL, get_encoder
from xsearch.types import RGBImage

ASKED = {
    "in colour": ("a colour photograph", "a colourful photo"),
    "black and white": ("a black and white photograph", "an old black and white film", "a picture without colours"),
    "outlines": ("a drawing", "a pen and ink drawing", "a comic"),
}
"""Of each style what training says, if it says it, and what it does not."""
CAPTIONS = {"in colour": "{}", "black and white": "in black and white: {}", "outlines": "someone drew this: {}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=[DEFAULT_MODEL])
    options = parser.parse_args()
    table = pq.read_table(options.data_dir / "dev-flickr8k.parquet", columns=["image", "captions"]).to_pylist()
    pictures = [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in table]
    shown = [np.asarray(one) for one in pictures]
    shown += [np.asarray(one.convert("L").convert("RGB")) for one in pictures]
    shown += [_outlines(one) for one in pictures]
    style_of = np.repeat(np.arange(len(ASKED)), len(table))
    rows = []
    for model in options.models:
        encoder = get_encoder(model)
        name, vectors = encoder.spec.fingerprint.model, encoder.encode_images(shown)
        for at, (style, texts) in enumerate(ASKED.items()):
            meant = style_of == at
            for text, scores in zip(texts, encoder.encode_texts(texts) @ vectors.T, strict=True):
                told = auroc(scores, meant)
                rows.append({"encoder": name, "pictures": style, "asked": text, "AUROC": told, "own first": ""})
            form = CAPTIONS[style]
            scores = encoder.encode_texts([form.format(row["captions"][0]) for row in table]) @ vectors.T
            own = float((scores.argmax(axis=1) == np.flatnonzero(meant)).mean())
            rows.append({"encoder": name, "pictures": style, "asked": form, "AUROC": "", "own first": own})
    report("styles", rows)


def _outlines(picture: Image.Image) -> RGBImage:
    grey = picture.convert("L").filter(ImageFilter.SMOOTH_MORE).filter(ImageFilter.CONTOUR)
    return np.asarray(grey.convert("RGB"))


if __name__ == "__main__":
    main()
