"""Models as a pair of ONNX files that `onnx:FOLDER` reads, compared with the model before they are kept.

Models of open_clip, and what `xsearch train` makes of them and of the built-in encoder.

The owner of onnx and onnxscript. Importing this module where they or torch are missing raises EncoderUnavailable.
"""

import html
import json
import logging
import re
import shutil
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from xsearch.encoders import Encoder
from xsearch.encoders.crops import CroppingEncoder
from xsearch.encoders.framing import MAX_ASPECT
from xsearch.encoders.heads import HeadedEncoder
from xsearch.encoders.onnx import OnnxEncoder
from xsearch.encoders.openclip import OpenClipEncoder
from xsearch.errors import EncoderUnavailable, SourceError, Undecodable, XSearchError
from xsearch.library import Library
from xsearch.media.images import open_image
from xsearch.originals import read_original
from xsearch.probes import probe_texts
from xsearch.types import Kind, RGBImage

try:
    import onnx
    import onnxscript.optimizer
    import open_clip
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from open_clip.tokenizer import basic_clean
except ImportError as error:
    raise EncoderUnavailable(
        f"a package that exports models is missing here ({error.name or error})", remedy="pip install 'xsearch[clip]'"
    ) from error

MIN_COSINE = 0.999
"""Between a vector of the model and that of its export in float32. Less is a fault of the export."""

PICTURES, TEXTS = 100, 200
"""So many are compared."""

TOKENIZED = 1_000
DEPTH = 10

# One file of protobuf holds 2 GB; the weights of a larger model are written beside it.
MAX_FILE_BYTES = 1_900_000_000

# What ftfy does to a single character, it does to those of the first plane; those below 0xA0 it takes for the remains
# of another encoding, and what they are depends on their neighbours.
_CLEANED = [chr(code) for code in (*range(0x80), *range(0xA0, 0xD800), *range(0xE000, 0x10000))]
_ENTITIES = ("&amp;", "&lt;", "&gt;", "&quot;", "&#39;", "&apos;", "&nbsp;")
_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~]"""
_CLIP_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)"

# Written as people write, and as files have it: what tokenizers disagree about.
_ODD_TEXTS = (
    "",
    "A striped CAT!",
    "it's the dog's ball; they'll don't I'VE",
    "“curly” ‘quotes’ and a dog’s ball",
    "fish &amp; chips &lt;b&gt; &quot;x&quot; &amp;quot;",
    "café über naïve Ångström e\u0301te\u0301",
    "ﬁsh and ｆｕｌｌ ｗｉｄｔｈ １２３",
    "1234 5.67 3rd 2x2 a1b2",
    "snake_case under__score --- ... !!! #tag @name",
    "tab\there\nnew line   blanks",
    "猫 が 草 の 上 に いる, 고양이, кошка, قطة, बिल्ली",
    "🐈🏽 on grass 👩‍👩‍👧",
    "word " * 200,
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How an export agrees with its model: the least cosine of pictures, texts, patches and words; and the share of the
    DEPTH nearest pictures of a text that it finds too. None where the model has no such vectors."""

    image: float
    text: float
    patches: float | None
    words: float | None
    nearest: float

    @property
    def worst(self) -> float:
        return min(one for one in (self.image, self.text, self.patches, self.words) if one is not None)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: sizes are bytes. `int8` is how the smaller files agree with the model."""

    folder: Path
    model: str
    bytes: int
    float32: Agreement
    int8: Agreement | None


def export_onnx(
    model: Encoder,
    folder: Path,
    pictures: Sequence[RGBImage],
    *,
    int8: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Write a model into a new folder, so that `get_encoder("onnx:FOLDER")` opens it without torch.

    With vectors that agree it has the fingerprint of the model: a library that one of them made is asked with the
    other. With `int8` the weights of all matrix products are stored in 8 bits, and activations rounded to 8 bits as
    they come (per-channel weights, 7 bits used, as CPUs without VNNI overflow else); that is another precision, so
    another fingerprint. `pictures` are those it is compared on, with generic texts. Raises EncoderUnavailable for
    models that cannot be exported, XSearchError if the vectors do not agree or the folder is not empty.
    """
    if isinstance(model, CroppingEncoder):
        raise EncoderUnavailable(
            f"{model.spec.name} is not stored by itself",
            remedy="export the model below, and open it as crops:onnx:FOLDER",
        )
    if not isinstance(model, (OpenClipEncoder, HeadedEncoder)):
        raise EncoderUnavailable(
            f"{model.spec.name} is stored as ONNX files already",
            remedy="name a model of open_clip, or the result of `xsearch train`",
        )
    if int8 and isinstance(model, HeadedEncoder) and isinstance(model._base, OnnxEncoder):
        raise XSearchError(f"{model.spec.name} stands on files that are rounded already", remedy="leave out --int8")
    if folder.exists() and any(folder.iterdir()):
        raise XSearchError(f"{folder} is not empty", remedy="name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    texts = [*_ODD_TEXTS, *probe_texts(TEXTS)]
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as around, _quietly():
        begun = Path(around, "onnx")
        begun.mkdir()
        on_stage("writing the towers")
        config = _write(model, begun)
        on_stage(f"comparing them with the model on {len(pictures)} pictures")
        float32 = agreement(model, OnnxEncoder(begun, name="export"), pictures, texts)
        if not float32.worst >= MIN_COSINE:
            raise XSearchError(
                f"the vectors of the export do not agree with those of {model.spec.name} (cosine {float32.worst:.4f})",
                remedy="use the model itself, and report this",
            )
        smaller = None
        if int8:
            on_stage("rounding weights to 8 bits")
            _round_to_int8(begun, config)
            on_stage(f"comparing the result on {len(pictures)} pictures")
            smaller = agreement(model, OnnxEncoder(begun, name="export"), pictures, texts)
        size = sum(file.stat().st_size for file in begun.iterdir())
        with suppress(FileNotFoundError):
            folder.rmdir()
        begun.rename(folder)
    return Exported(folder, model.spec.name, size, float32, smaller)


def agreement(model: Encoder, export: Encoder, pictures: Sequence[RGBImage], texts: Sequence[str]) -> Agreement:
    """Compare the vectors that two encoders give."""
    shown, said = model.encode_images(pictures), model.encode_texts(texts)
    their_shown, their_said = export.encode_images(pictures), export.encode_texts(texts)
    some = pictures[:8]
    patches = words = None
    with suppress(EncoderUnavailable):
        patches = _least_cosine(model.encode_patches(some).vectors, export.encode_patches(some).vectors)
    with suppress(EncoderUnavailable):
        of_texts = zip(model.encode_words(texts[:64]), export.encode_words(texts[:64]), strict=True)
        cosines = [
            _least_cosine(ours.vectors, theirs.vectors)
            for ours, theirs in of_texts
            if 0 < len(ours.tokens) == len(theirs.tokens)  # of some models one of them leaves out unknown tokens
        ]
        words = min(cosines)
    return Agreement(
        image=_least_cosine(shown, their_shown),
        text=_least_cosine(said, their_said),
        patches=patches,
        words=words,
        nearest=_nearest_kept(said @ shown.T, their_said @ their_shown.T),
    )


def pictures_to_compare(data: Path, image_px: int) -> tuple[list[RGBImage], bool]:
    """Return PICTURES of a library, drawn at random, and True; made-up ones and False where there is no library."""
    rng = np.random.default_rng(0)
    with suppress(XSearchError):
        library = Library.open(data)
        rows = np.flatnonzero(library.of_kinds([Kind.IMAGE]))
        chosen = rng.permutation(rows)[: 2 * PICTURES]
        found: list[RGBImage] = []
        for item in library.items(chosen):
            if len(found) == PICTURES:
                break
            with suppress(OSError, SourceError, Undecodable):
                found.append(open_image(read_original(item, library.manifest.image_columns), image_px))
        if found:
            return found, True
    return [_made_up(rng, image_px) for _ in range(PICTURES)], False


def _made_up(rng: np.random.Generator, image_px: int) -> RGBImage:
    """Return a picture whose spectrum falls off as 1/f, as that of photographs does (Field 1987)."""
    height, width = (int(side) for side in rng.integers(image_px, image_px * 5 // 4, 2))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.standard_normal((3, height, width)))
    shades = np.fft.irfft2(noise / frequency, (height, width))
    shades /= shades.std(axis=(1, 2), keepdims=True)
    colours = rng.uniform(40, 215, 3)[:, None, None] + rng.uniform(10, 70) * (shades + shades[:1]) / 2
    return np.clip(colours, 0, 255).astype(np.uint8).transpose(1, 2, 0)


# Towers


class _ImageTower(torch.nn.Module):  # type: ignore[misc]
    """Pixels to `embedding` and, where the model has them, `patches` with `patch_weights`."""

    def __init__(self, model: OpenClipEncoder, *, has_patches: bool) -> None:
        super().__init__()
        self._parts = model._model  # that its weights are known
        self._encoder = model
        self.outputs = ["embedding", "patches", "patch_weights"][: 3 if has_patches else 1]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embedding = _unit(self._parts.encode_image(pixels))
        if len(self.outputs) == 1:
            return (embedding,)
        patches = _unit(self._encoder._patch_vectors(pixels).flatten(1, 2))
        return embedding, patches, patches.new_full(patches.shape[:2], 1 / patches.shape[1])


class _TextTower(torch.nn.Module):  # type: ignore[misc]
    """Token ids to `embedding` and, where the model has them, `words`."""

    def __init__(self, model: OpenClipEncoder) -> None:
        super().__init__()
        self._parts = model._model
        self._encoder = model
        self._separator = _separator(model)
        self.outputs = ["embedding", "words"] if hasattr(model._text, "token_embedding") else ["embedding"]

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._separator is not None:
            input_ids = torch.where(input_ids == self._separator, 0, input_ids)
        if self._encoder._causal:
            words = self._encoder._token_vectors(input_ids)
            embedding = words[torch.arange(input_ids.shape[0], device=words.device), self._encoder._ends(input_ids)]
            return _unit(embedding), _unit(words)
        embedding = _unit(self._parts.encode_text(input_ids))
        if len(self.outputs) == 1:
            return (embedding,)
        return embedding, _unit(self._encoder._token_vectors(input_ids))


def _write(model: Encoder, folder: Path) -> dict[str, Any]:
    """Write towers, tokenizer and config, and return the config."""
    if isinstance(model, HeadedEncoder):
        config = _write(model._base, folder)
        _append_head(folder / config["image"]["file"], model._image, ("embedding", "patches"))
        _append_head(folder / config["text"]["file"], model._text, ("embedding", "words"))
        config |= {"logit_scale": model.spec.logit_scale}
    elif isinstance(model, OnnxEncoder):
        shutil.copytree(model._folder, folder, dirs_exist_ok=True)
        config = model._config
    elif isinstance(model, OpenClipEncoder):
        config = _write_open_clip(model, folder)
    else:
        raise EncoderUnavailable(f"{model.spec.name} cannot be exported", remedy="name a model of open_clip")
    config = config | {"kind": "onnx", "fingerprint": asdict(model.spec.fingerprint)}
    _write_config(folder, config)
    return config


def _append_head(file: Path, head: NDArray[np.float32], outputs: Collection[str]) -> None:
    """Have those of the outputs that a tower has multiplied by a head (dim, dim); the encoder makes them unit."""
    tower = onnx.load(file, load_external_data=False)
    graph = tower.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(head.T), "head"))
    for name in [output.name for output in graph.output if output.name in outputs]:
        for node in graph.node:
            for values in (node.input, node.output):
                values[:] = [f"{name}_of_base" if value == name else value for value in values]
        graph.node.append(onnx.helper.make_node("MatMul", [f"{name}_of_base", "head"], [name]))
    onnx.save(tower, file)


def _write_open_clip(model: OpenClipEncoder, folder: Path) -> dict[str, Any]:
    spec, cfg = model.spec, model._model.visual.preprocess_cfg
    tokenizer, padding = _tokenizer_of(model)
    tokenizer.save(str(folder / "tokenizer.json"))
    pixels = next(model._batches([np.zeros((spec.image_px, spec.image_px, 3), np.uint8)] * 2))
    grid = None
    with suppress(EncoderUnavailable), torch.inference_mode():
        grid = list(model._patch_vectors(pixels).shape[1:3])
    image = _ImageTower(model, has_patches=grid is not None)
    _save(image, pixels, {0: torch.export.Dim("n")}, "pixels", folder / "image.onnx")
    tokens = model._tokenize(["two dogs on grass", "a cat"])
    length = torch.export.Dim("length", min=2, max=spec.max_tokens)
    shape = {0: torch.export.Dim("n")} | ({1: length} if model._causal else {})
    example = tokens[:, :6] if model._causal else tokens
    _save(_TextTower(model), example.to(pixels.device), shape, "input_ids", folder / "text.onnx")
    height, width = pixels.shape[2:]
    return {
        "name": spec.fingerprint.model,
        "dim": spec.dim,
        "image": {
            "file": "image.onnx",
            "size_px": [height, width],
            "resize": cfg["resize_mode"],
            "interpolation": cfg["interpolation"],
            "fill": cfg.get("fill_color", 0),
            "max_aspect": MAX_ASPECT,
            "mean": list(cfg["mean"]),
            "std": list(cfg["std"]),
            **({} if grid is None else {"grid": grid}),
        },
        "text": {
            "file": "text.onnx",
            "tokenizer": "tokenizer.json",
            "max_tokens": spec.max_tokens,
            **({} if model._causal else {"padding": padding}),
        },
        "logit_scale": spec.logit_scale,
    }


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def _save(
    tower: "_ImageTower | _TextTower", example: torch.Tensor, shape: dict[int, Any], name: str, file: Path
) -> None:
    program = torch.onnx.export(
        tower.eval(), (example,), dynamo=True, dynamic_shapes=(shape,), input_names=[name], verbose=False
    )
    # Weights that are turned before they are used are turned here, else they would not be found to be rounded.
    onnxscript.optimizer.fold_constants(program.model, input_size_limit=1 << 40, output_size_limit=1 << 40)
    graph = program.model.graph
    for number, node in enumerate(graph):  # a value inside may have the name of an output
        for at, value in enumerate(node.outputs):
            value.name = f"v{number}_{at}"
    for value, output in zip(graph.outputs, tower.outputs, strict=True):
        value.name = output
    size = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    program.save(str(file), external_data=size > MAX_FILE_BYTES)


def _round_to_int8(folder: Path, config: dict[str, Any]) -> None:
    """Put towers with weights of 8 bits in the place of those in the folder."""
    for name in ("image.onnx", "text.onnx"):
        file, rounded = folder / name, folder / f"int8-{name}"
        quantize_dynamic(
            file,
            rounded,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=file.with_name(f"{name}.data").exists(),
        )
        rounded.replace(file)
    # Activations take their scale from all that is computed together, and a vector must not depend on its company.
    config["image"]["chunk"] = 1
    config["fingerprint"]["precision"] = "int8"
    _write_config(folder, config)


# Tokenizers


def _tokenizer_of(model: OpenClipEncoder) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the model's tokenizer, cleaning included, and its padding. Raises EncoderUnavailable if it differs."""
    theirs = model._tokenizer
    if isinstance(theirs, open_clip.SimpleTokenizer):
        tokenizer, padding = _clip_tokenizer(theirs), {"id": 0, "token": "!"}
    else:
        tokenizer = Tokenizer.from_str(theirs.tokenizer.backend_tokenizer.to_str())
        padding = {"id": theirs.tokenizer.pad_token_id, "token": theirs.tokenizer.pad_token}
    own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([*_cleaning(theirs.clean_fn.__name__.removeprefix("_clean_")), *own])
    tokenizer.enable_truncation(theirs.context_length)
    tokenizer.no_padding()
    separator = _separator(model)
    for text in (*_ODD_TEXTS, *probe_texts(TOKENIZED)):
        found = [0 if token == separator else token for token in tokenizer.encode(text).ids]
        expected = theirs([text])[0].tolist()
        if expected[: len(found)] != found or set(expected[len(found) :]) - {padding["id"]}:
            raise EncoderUnavailable(
                f"the tokenizer of {model.spec.name} cannot be written as tokenizer.json: it differs on {text[:40]!r}",
                remedy="use the model itself",
            )
    return tokenizer, padding


def _separator(model: OpenClipEncoder) -> int | None:
    """Return the token that the model sees as 0, None where there is none."""
    tokenizer = model._tokenizer
    return tokenizer.tokenizer.sep_token_id if getattr(tokenizer, "strip_sep_token", False) else None


def _clip_tokenizer(theirs: "open_clip.SimpleTokenizer") -> Tokenizer:
    """Return CLIP's byte-level BPE (Radford et al. 2021) as open_clip has it, without its cleaning."""
    merges = sorted(theirs.bpe_ranks, key=lambda pair: theirs.bpe_ranks[pair])
    tokenizer = Tokenizer(models.BPE(vocab=theirs.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = {theirs.decoder[token]: token for token in theirs.all_special_ids}
    start, end = theirs.decoder[theirs.sot_token_id], theirs.decoder[theirs.eot_token_id]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, special[start]), (end, special[end])]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    return tokenizer


def _cleaning(kind: str) -> list[normalizers.Normalizer]:
    """Return what open_clip does to a text first (`open_clip.tokenizer`): lower, whitespace or canonicalize.

    All but the mending of text that was decoded wrongly, which ftfy does by looking at several characters at once.
    """
    becomes: dict[str, list[str]] = {}
    for character in _CLEANED:
        cleaned = basic_clean(f"a{character}b")[1:-1]
        if cleaned != unicodedata.normalize("NFC", character):
            becomes.setdefault(cleaned, []).append(character)
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    for cleaned, characters in becomes.items():
        steps.append(normalizers.Replace(Regex(f"[{''.join(map(re.escape, characters))}]"), cleaned))
    steps += [normalizers.Replace(entity, html.unescape(entity)) for entity in _ENTITIES]
    if kind == "canonicalize":
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(_PUNCTUATION), "")]
    if kind in ("canonicalize", "lower"):
        steps.append(normalizers.Lowercase())
    return [*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def _least_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float((ours * theirs).sum(axis=-1).min())


def _nearest_kept(exact: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Return which share of the DEPTH highest of each row is among the DEPTH highest of the same row of `scores`."""
    depth = min(DEPTH, exact.shape[1])
    ours, theirs = (np.argsort(-one, axis=1)[:, :depth] for one in (exact, scores))
    return float(np.mean([len(np.intersect1d(a, b)) / depth for a, b in zip(ours, theirs, strict=True)]))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what the exporters tell of their inner steps to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
