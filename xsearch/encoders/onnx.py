"""Encoders stored as a pair of ONNX files: the built-in one, and those that `xsearch export-onnx` writes.

A folder holds `config.json`, `image.onnx`, `text.onnx` and `tokenizer.json`. Each tower is opened when it is first
needed: a text query never loads the image tower. The owner of onnxruntime.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xsearch.ahead import usable_cores
from xsearch.encoders.base import Patches, Words
from xsearch.encoders.framing import Framing
from xsearch.errors import EncoderUnavailable
from xsearch.types import Embeddings, EncoderSpec, Fingerprint, RGBImage
from xsearch.vectors import l2_normalize

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Encoding, Tokenizer

    from xsearch.encoders.openvino import OpenVinoTower

BUILTIN_DIR = Path(__file__).parent / "builtin"

# A batch this small stays in the processor's cache: 8 pictures a call are faster, a picture, than 64.
CHUNK_IMAGES = 8

PROBE_IMAGES = 4
MIN_COSINE = 0.999

_T = TypeVar("_T")
_R = TypeVar("_R")


class OnnxEncoder:
    """A dual encoder on ONNX Runtime, one single-threaded call a core: no core waits for the slowest.

    Batches of pictures as an index run has them go through OpenVINO in bfloat16, where that is installed, the CPU has
    bfloat16, and the vectors of a model in float32 keep their direction. Raises EncoderUnavailable if the folder does
    not hold what its config promises.
    """

    def __init__(self, folder: Path, *, name: str, threads: int | None = None) -> None:
        self._folder = folder
        self._config = _read_config(folder)
        self._threads = threads or usable_cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="onnx")
        self._opening = threading.RLock()
        self._towers: dict[str, onnxruntime.InferenceSession] = {}
        self._reduced: OpenVinoTower | None = None
        self._is_reduced_known = False
        image, text = self._config["image"], self._config["text"]
        std = np.asarray(image["std"], np.float32)
        self._pixel_scale = (1 / (255 * std)).astype(np.float32)[:, None, None]
        self._pixel_shift = (-np.asarray(image["mean"], np.float32) / std)[:, None, None]
        height, width = np.broadcast_to(image["size_px"], 2).tolist()
        self._framing = Framing(
            height, width, image["resize"], image["interpolation"], image.get("fill", 0), image.get("max_aspect")
        )
        self._spec = EncoderSpec(
            name=name,
            fingerprint=_fingerprint(folder, self._config),
            image_px=max(self._framing.height, self._framing.width),
            max_tokens=int(text["max_tokens"]),
            logit_scale=float(self._config["logit_scale"]),
        )

    @property
    def spec(self) -> EncoderSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return self._threads * CHUNK_IMAGES * 2

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        # A smaller batch, as a query has it, is encoded before OpenVINO is loaded.
        reduced = self._reduced_tower() if len(images) >= self.batch_size else None
        tower = reduced or self._tower("image")

        def encode(chunk: Sequence[RGBImage]) -> NDArray[np.float32]:
            (embedding,) = tower.run(["embedding"], {"pixels": self._pixels(chunk)})
            return np.asarray(embedding, np.float32)

        return self._unit_rows(self._map(encode, images, self._chunk))

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        def encode(encodings: "Sequence[Encoding]") -> NDArray[np.float32]:
            (embedding,) = self._tower("text").run(["embedding"], self._token_inputs(encodings[0]))
            return np.asarray(embedding, np.float32)

        # One text a call: dynamic int8 takes its scale from the whole batch, and a text's vector must not depend on
        # its company (cosine 0.987 between alone and in a batch of 32).
        return self._unit_rows(self._map(encode, self._tokenizer.encode_batch(list(texts)), 1))

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches:
        """Return the regions of pictures. Raises EncoderUnavailable if the image tower gives none."""
        if "grid" not in self._config["image"]:
            raise EncoderUnavailable(f"{self.spec.name} has no patch vectors", remedy="explain with another encoder")

        def encode(chunk: Sequence[RGBImage]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            vectors, weights = self._tower("image").run(["patches", "patch_weights"], {"pixels": self._pixels(chunk)})
            return np.asarray(vectors, np.float32), np.asarray(weights, np.float32)

        rows, columns = self._config["image"]["grid"]
        found = self._map(encode, images, self._chunk)
        empty = np.empty((0, rows * columns, self.spec.dim), np.float32)
        return Patches(
            vectors=l2_normalize(np.concatenate([empty, *(vectors for vectors, _ in found)])),
            weights=np.concatenate([empty[:, :, 0], *(weights for _, weights in found)]),
            grid=(rows, columns),
        )

    def encode_words(self, texts: Sequence[str]) -> list[Words]:
        """Return the tokens of texts. Raises EncoderUnavailable if the text tower gives none."""
        if "words" not in [output.name for output in self._tower("text").get_outputs()]:
            raise EncoderUnavailable(f"{self.spec.name} has no word vectors", remedy="explain with another encoder")
        words = []
        for encoding in self._tokenizer.encode_batch(list(texts)):
            (vectors,) = self._tower("text").run(["words"], self._token_inputs(encoding))
            kept = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
            shown = (self._tokenizer.decode([encoding.ids[i]], skip_special_tokens=False) for i in kept)
            words.append(Words(tuple(token.strip() for token in shown), l2_normalize(vectors[0, kept])))
        return words

    def _map(self, encode: Callable[[Sequence[_T]], _R], inputs: Sequence[_T], size: int) -> list[_R]:
        chunks = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        # One chunk gains nothing from a second thread.
        return list(self._pool.map(encode, chunks)) if len(chunks) > 1 else [encode(chunk) for chunk in chunks]

    def _unit_rows(self, chunks: Sequence[NDArray[np.float32]]) -> Embeddings:
        return l2_normalize(np.concatenate([np.empty((0, self.spec.dim), np.float32), *chunks]))

    @property
    def _chunk(self) -> int:
        return int(self._config["image"].get("chunk", CHUNK_IMAGES))

    def _pixels(self, images: Sequence[RGBImage]) -> NDArray[np.float32]:
        """Return (n, 3, height, width) float32: each picture framed, then (value/255 - mean) / std."""
        pixels = np.empty((len(images), 3, self._framing.height, self._framing.width), np.float32)
        for image, out in zip(images, pixels, strict=True):
            np.multiply(self._framing.pixels(image).transpose(2, 0, 1), self._pixel_scale, out=out)
            out += self._pixel_shift
        return pixels

    def _token_inputs(self, encoding: "Encoding") -> dict[str, NDArray[np.int64]]:
        known = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
        wanted = [one.name for one in self._tower("text").get_inputs()]
        return {name: np.array([known[name]], np.int64) for name in wanted}

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._folder / self._config["text"]["tokenizer"]))
        tokenizer.enable_truncation(self.spec.max_tokens)
        tokenizer.no_padding()
        if padding := self._config["text"].get("padding"):  # the tower sees it, so all texts are of one length
            tokenizer.enable_padding(length=self.spec.max_tokens, pad_id=padding["id"], pad_token=padding["token"])
        return tokenizer

    def _tower(self, name: str) -> "onnxruntime.InferenceSession":
        with self._opening:
            if name not in self._towers:
                self._towers[name] = _open_session(self._folder / self._config[name]["file"])
            return self._towers[name]

    def _reduced_tower(self) -> "OpenVinoTower | None":
        with self._opening:
            if not self._is_reduced_known:
                self._reduced = self._open_reduced()
                self._is_reduced_known = True
            return self._reduced

    def _open_reduced(self) -> "OpenVinoTower | None":
        """Return the image tower in bfloat16, None where there is none or its vectors point elsewhere."""
        is_builtin = "version" in self._config  # or heads on it: its files have 8 bits, whatever vectors are called
        if is_builtin or self.spec.fingerprint.precision != "float":
            return None
        from xsearch.encoders.openvino import open_bfloat16

        reduced = open_bfloat16(self._folder / self._config["image"]["file"], self._threads)
        if reduced is None:
            return None
        shape = (PROBE_IMAGES, self._framing.height, self._framing.width, 3)
        probe = self._pixels(list(np.random.default_rng(0).integers(0, 256, shape, np.uint8)))
        full, found = (tower.run(["embedding"], {"pixels": probe})[0] for tower in (self._tower("image"), reduced))
        cosines = (l2_normalize(full) * l2_normalize(found)).sum(axis=1)
        return reduced if cosines.min() > MIN_COSINE else None


def _fingerprint(folder: Path, config: dict[str, Any]) -> Fingerprint:
    if "fingerprint" in config:
        # An export has that of its model: its vectors were compared with the model's when it was written.
        return Fingerprint(**config["fingerprint"])
    image, text = config["image"], config["text"]
    return Fingerprint(
        model=f"{config['name']}-{config['version']}",
        weights=config.get("weights") or weights_hash(folder, config),
        preprocessing=f"{image['resize']}-{image['size_px']}-{image['interpolation']}",
        tokenizer=f"{text['tokenizer']}-{text['max_tokens']}",
        precision=config.get("precision", "float"),
        dim=int(config["dim"]),
    )


def weights_hash(folder: Path, config: dict[str, Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 over both towers' files, as `weights` in a config names them."""
    digest = hashlib.sha256()
    for tower in ("image", "text"):
        digest.update((folder / config[tower]["file"]).read_bytes())
    return digest.hexdigest()[:16]


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        needed = [config["image"]["file"], config["text"]["file"], config["text"]["tokenizer"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderUnavailable(f"{folder} holds no ONNX encoder ({error})", remedy="see `xsearch models`") from error
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise EncoderUnavailable(f"{folder} lacks {', '.join(missing)}", remedy="install or export the encoder again")
    return config


def _open_session(path: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class but this
        raise EncoderUnavailable(f"{path.name} cannot be loaded ({error})", remedy="install xsearch again") from error
