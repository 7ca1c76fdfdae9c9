"""Write train-more.parquet: photographs with captions out of public repositories, for `train.py`.

    git clone https://github.com/Sarthak-Thareja/semantic-image-search
    git clone https://github.com/mateusrafael4/Atividade_programacao_pose_estimation
    git clone https://github.com/priyamtejaswin/devise-keras
    git clone https://github.com/ruizewang/evaluate
    for one in milkv-duo/tpu-mlir zzowenzz/COCO_Tiny lizhogn/tiny_coco_dataset Deci-AI/super-gradients \\
        Obmutescence/COCO-MINI mosjel/Tiny-COCO-Val-2017-CBIR-Test-Dataset; do git clone https://github.com/$one; done
    python training/builtin/gather.py --clones . --data-dir DIR --start DIR

The first has 2,000 photographs of COCO (train2017), of which each has one of its captions. DATA-DIR/text has the
captions of COCO's val2014, to which most of these belong: not of which picture, but those of one picture one after the
other, so that what tells the same as its neighbours finds the others (`Blocks`). The next two have the photographs and
the captions of UIUC Pascal Sentences (Rashtchian et al. 2010), as far as there are animals on them. `evaluate` has the
captions of COCO's val2017, and the last six have some photographs of COCO under their numbers. Left out is what a
development picture or one of DATA-DIR's training pictures is like, or has the caption of.
"""

import argparse
import csv
import gzip
import io
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pictures import chunks, decoded, is_name, read_pictures
from PIL import Image

from xsearch.encoders.onnx import OnnxEncoder
from xsearch.types import Embeddings

OUT = "train-more.parquet"
MOST_PX = 256
WEBP_QUALITY = 92
LIKE_DEVELOPMENT = 0.9  # a cosine of version 0 that two photographs of one scene by one hand reach
# Copies may have less, as files of another size or quality come out as other vectors. Their thumbnails differ by up to
# 2 of 255, those of other pictures by 12 and more.
COPY = 6.0
THUMBNAIL_PX = 16
NO_CAPTION = "unable to see"
CAPTIONS = Path("text/coco_val2014.txt.gz")
# Captions of one picture have a cosine above this as a rule, those of two seldom.
ALIKE = 0.35
# What is added where a picture has so many: mostly it has five, and loses one if another picture has the same.
BLOCKS = {1: -1.5, 2: -1.25, 3: -0.75, 4: -0.25, 5: 0.25, 6: -0.75, 7: -1.25}
AROUND = 13
# Repositories whose photographs of COCO have its numbers, and those of its captions that have them, too.
CAPTIONED = (
    ("evaluate", "annotations/captions_val2017.json"),
    ("tiny_coco_dataset", "tiny_coco/annotations/captions_train2017.json"),
    ("COCO-MINI", "annotations/captions_train2017.json"),
)
NUMBERED = {
    "evaluate": "1152656d3b8c66c48fc6a4357e159f5e21bd2d2d",
    "tpu-mlir": "7fe05c0b5e0801515101d97b97d6d08f4331a386",
    "COCO_Tiny": "e7a689f7d6d1a1908df287c3e79eccdadfdba1fe",
    "tiny_coco_dataset": "68523ddd6c27f9ba5d2f0caf7f6fe95cc2c99311",
    "super-gradients": "e0ccacf8868ffa1296fa4f8407c03d2bc227312c",
    "COCO-MINI": "644f29e7c1d2eefd9c4412d39bc5b0ee6fd0afd4",
    "Tiny-COCO-Val-2017-CBIR-Test-Dataset": "897c66de20df70068b1a4ca725f075182ff47422",
}


class Found(NamedTuple):
    key: str
    image: bytes
    captions: list[str]
    set: str


class Clone:
    """A repository as it was at a commit."""

    def __init__(self, clones: Path, name: str, commit: str) -> None:
        self._git, self._commit = ("git", "-C", str(clones / name)), commit

    def files(self, folder: str = ".") -> list[str]:
        return self._run("ls-tree", "-r", "--name-only", self._commit, folder).decode().splitlines()

    def read(self, file: str) -> bytes:
        return self._run("show", f"{self._commit}:{file}")

    def _run(self, *words: str) -> bytes:
        return subprocess.run([*self._git, *words], check=True, capture_output=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--clones", "--data-dir", "--start"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    known = {file.name: read_pictures(file) for file in sorted(options.data_dir.glob("*.parquet")) if file.name != OUT}
    development = [pictures for name, pictures in known.items() if name.startswith("dev-")]
    told = {_words(text) for pictures in development for texts in pictures.texts for text in texts}
    encoder = OnnxEncoder(options.start, name="start")
    every = (
        *coco_numbered(options.clones),
        *coco(options.clones, Blocks(options.data_dir / CAPTIONS, encoder.encode_texts)),
        *pascal_sentences(options.clones),
    )
    found = [one for one in every if _is_told(one, told)]
    images = [one.image for one in found]
    thumbnails = _thumbnails(images)
    new = ~np.tril(_differ(thumbnails, thumbnails) < COPY, -1).any(axis=1)
    for pictures in known.values():
        new &= (_differ(thumbnails, _thumbnails(pictures.images)) >= COPY).all(axis=1)
    vectors = _vectors(encoder, images)
    for pictures in development:
        new &= (vectors @ _vectors(encoder, pictures.images).T < LIKE_DEVELOPMENT).all(axis=1)
    rows = [one._asdict() | {"image": _small(one.image)} for one, kept in zip(found, new, strict=True) if kept]
    pq.write_table(pa.Table.from_pylist(rows), options.data_dir / OUT)


class Blocks:
    """Captions in a file, those of one picture one after the other: which are of the picture that one of them is of.

    By the sizes of blocks and the cosines within them, the likeliest division of the lines around it. Of 400 pictures
    of val2017, whose captions are known, it finds the whole block of 97 %, and 99 % of what it finds is of the picture.
    """

    def __init__(self, file: Path, encode: Callable[[Sequence[str]], Embeddings]) -> None:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            self._lines = [line.strip() for line in lines]
        self._place = {_words(line): at for at, line in enumerate(self._lines)}
        self._encode = encode

    def of(self, caption: str) -> list[str]:
        """Return the captions of a picture, of which one is given; only this where it is not in the file."""
        place = self._place.get(_words(caption))
        if place is None:
            return [caption]
        first = max(0, place - AROUND)
        around = self._lines[first : place + AROUND + 1]
        ends = divided(np.asarray(self._encode(around), np.float64))
        ((start, end),) = [(a, b) for a, b in pairwise(ends) if a <= place - first < b]
        return around[start:end]


def divided(vectors: NDArray[np.float64]) -> list[int]:
    """Return where the blocks of captions (n, dim) begin, and n: the division whose sum of scores is greatest."""
    n = len(vectors)
    above = np.triu(vectors @ vectors.T - ALIKE, 1)
    best, begins = [0.0], [0]
    for end in range(1, n + 1):
        sizes = [size for size in BLOCKS if size <= end]
        # Lines are cut out of the file anywhere: the first block may lack some of its captions.
        scores = [
            best[end - size] + above[end - size : end, end - size : end].sum() + (BLOCKS[size] if size < end else 0)
            for size in sizes
        ]
        chosen = int(np.argmax(scores))
        best.append(scores[chosen])
        begins.append(end - sizes[chosen])
    ends = [n]
    while ends[-1]:
        ends.append(begins[ends[-1]])
    return ends[::-1]


def coco(clones: Path, blocks: Blocks) -> Iterator[Found]:
    clone = Clone(clones, "semantic-image-search", "c654ed3e96fbfd2217a76deb5b3ac5b485ce3bdb")
    captions = defaultdict(list)
    for file, caption in csv.reader(io.StringIO(clone.read("data/captions.csv").decode())):
        captions[f"data/images/{file}"].append(caption.strip())
    for file in clone.files("data/images/"):
        if file in captions:
            told = [text for caption in captions[file] for text in blocks.of(caption)]
            yield Found(f"coco_train2017/{Path(file).stem}", clone.read(file), told, "coco_train2017")


def coco_numbered(clones: Path) -> Iterator[Found]:
    captions = defaultdict(list)
    for name, file in CAPTIONED:
        for one in json.loads(Clone(clones, name, NUMBERED[name]).read(file))["annotations"]:
            captions[one["image_id"]].append(one["caption"].strip())
    for name, commit in NUMBERED.items():
        clone = Clone(clones, name, commit)
        for file in clone.files():
            number = re.search(r"(?<!\d)(\d{12})\.jpg$", file)
            if number and (told := captions.pop(int(number[1]), None)):
                yield Found(f"coco/{number[1]}", clone.read(file), told, "coco_numbered")


def pascal_sentences(clones: Path) -> Iterator[Found]:
    pictures = Clone(clones, "Atividade_programacao_pose_estimation", "dab5c74036184926803e5edcf2082b71e0c85c86")
    texts = Clone(clones, "devise-keras", "542f84aa98ce0d5e2fed0c7cdf87bf25747e45fe")
    page = texts.read("SOURCE_PASCAL_SENTENCES_vision.cs.uiuc.edu.html").decode()
    there = set(pictures.files("images/"))
    for file, rest in re.findall(r'<img src="\w+/(\w+\.jpg)">(.*?)</table>', page, flags=re.DOTALL):
        if f"images/{file}" in there:
            captions = [unescape(one).strip() for one in re.findall("<td>([^<]+)</td>", rest)]
            yield Found(f"pascal1k/{Path(file).stem}", pictures.read(f"images/{file}"), captions, "pascal_sentences")


def _is_told(found: Found, elsewhere: set[str]) -> bool:
    """Whether captions, not a name, tell a picture, and none of them is a text from elsewhere."""
    told = not is_name(found.captions) and NO_CAPTION not in found.captions[0]
    return told and elsewhere.isdisjoint(map(_words, found.captions))


def _words(text: str) -> str:
    return " ".join(re.findall("[a-z0-9]+", text.lower()))


def _vectors(encoder: OnnxEncoder, images: Sequence[bytes]) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode_images([decoded(one) for one in chunk]) for chunk in chunks(images)])


def _thumbnails(images: Sequence[bytes]) -> NDArray[np.float32]:
    """Return (n, values) float32, up to 255."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = [Image.fromarray(decoded(one)).resize(size, Image.Resampling.BOX) for one in images]
    return np.stack([np.asarray(one, np.float32).ravel() for one in small])


def _differ(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, m), the root of the mean of the squares by which values differ."""
    distances: NDArray[np.float32] = torch.cdist(torch.from_numpy(some), torch.from_numpy(others)).numpy()
    return distances / some.shape[1] ** 0.5


def _small(image: bytes) -> bytes:
    picture, file = Image.fromarray(decoded(image)), io.BytesIO()
    picture.thumbnail((MOST_PX, MOST_PX), Image.Resampling.BICUBIC)
    picture.save(file, "webp", quality=WEBP_QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    main()
