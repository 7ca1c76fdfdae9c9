"""Write train-more.parquet: photographs with captions out of public repositories, for `train.py`.

    git clone https://github.com/Sarthak-Thareja/semantic-image-search
    git clone https://github.com/mateusrafael4/Atividade_programacao_pose_estimation
    git clone https://github.com/priyamtejaswin/devise-keras
    python training/builtin/gather.py --clones . --data-dir DIR --start DIR

The first has 2,000 photographs of COCO (train2017), of which each has one of its captions. The other two have the
photographs and the captions of UIUC Pascal Sentences (Rashtchian et al. 2010), as far as there are animals on them.
Left out is what a development picture or one of DATA-DIR's training pictures is like, or has the caption of.
"""

import argparse
import csv
import io
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pictures import FrozenStages, chunks, decoded, is_name, read_pictures
from PIL import Image

OUT = "train-more.parquet"
MOST_PX = 256
WEBP_QUALITY = 92
# Cosines of version 0. Two photographs of one scene by one hand reach the first; below the second no copy was seen.
LIKE_DEVELOPMENT = 0.9
COPY = 0.95
NO_CAPTION = "unable to see"


class Found(NamedTuple):
    key: str
    image: bytes
    captions: list[str]
    set: str


class Clone:
    """A repository as it was at a commit."""

    def __init__(self, clones: Path, name: str, commit: str) -> None:
        self._git, self._commit = ("git", "-C", str(clones / name)), commit

    def files(self, folder: str) -> list[str]:
        return self._run("ls-tree", "--name-only", self._commit, folder).decode().split()

    def read(self, file: str) -> bytes:
        return self._run("show", f"{self._commit}:{file}")

    def _run(self, *words: str) -> bytes:
        return subprocess.run([*self._git, *words], check=True, capture_output=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--clones", "--data-dir", "--start"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    known = [file for file in sorted(options.data_dir.glob("*.parquet")) if file.name != OUT]
    told = {_words(text) for file in known if file.name.startswith("dev-") for text in _texts(file)}
    found = [one for one in (*coco(options.clones), *pascal_sentences(options.clones)) if _is_told(one, told)]
    vectors = _vectors([one.image for one in found], options)
    new = np.ones(len(found), bool)
    for file in known:
        like = (vectors @ _vectors(read_pictures(file).images, options).T).max(axis=1)
        new &= like < (LIKE_DEVELOPMENT if file.name.startswith("dev-") else COPY)
    rows = [one._asdict() | {"image": _small(one.image)} for one, kept in zip(found, new, strict=True) if kept]
    pq.write_table(pa.Table.from_pylist(rows), options.data_dir / OUT)


def coco(clones: Path) -> Iterator[Found]:
    clone = Clone(clones, "semantic-image-search", "c654ed3e96fbfd2217a76deb5b3ac5b485ce3bdb")
    captions = defaultdict(list)
    for file, caption in csv.reader(io.StringIO(clone.read("data/captions.csv").decode())):
        captions[f"data/images/{file}"].append(caption.strip())
    for file in clone.files("data/images/"):
        if file in captions:
            yield Found(f"coco_train2017/{Path(file).stem}", clone.read(file), captions[file], "coco_train2017")


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


def _texts(file: Path) -> Iterator[str]:
    return (text for texts in read_pictures(file).texts for text in texts)


def _words(text: str) -> str:
    return " ".join(re.findall("[a-z0-9]+", text.lower()))


def _vectors(images: list[bytes], options: argparse.Namespace) -> NDArray[np.float32]:
    stages = FrozenStages(options.start / "image.onnx", options.data_dir)
    return np.concatenate([stages.run([Image.fromarray(decoded(one)) for one in chunk])[2] for chunk in chunks(images)])


def _small(image: bytes) -> bytes:
    picture, file = Image.fromarray(decoded(image)), io.BytesIO()
    picture.thumbnail((MOST_PX, MOST_PX), Image.Resampling.BICUBIC)
    picture.save(file, "webp", quality=WEBP_QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    main()
