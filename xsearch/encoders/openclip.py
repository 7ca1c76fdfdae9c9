"""Any model of open_clip, on a CPU or an NVIDIA GPU. The owner of torch and open_clip.

Names are `openclip:ARCHITECTURE/TAG`, as `open_clip.list_pretrained()` lists them, or `openclip:ARCHITECTURE/FILE` for
a checkpoint on this disk: `openclip:ViT-B-32/runs/mine.pt`, with an absolute path `openclip:ViT-B-32//data/mine.pt`.
Pictures are prepared for a tag as its training did, for a file by the defaults of open_clip, as open_clip does it; for
what `xsearch train` wrote, as for its base.
Importing this module where torch or open_clip is missing raises EncoderUnavailable.
"""

import difflib
import hashlib
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from xsearch.ahead import usable_cores
from xsearch.encoders import towers
from xsearch.encoders.base import Encoder, Patches, Words
from xsearch.encoders.framing import MAX_ASPECT, Framing
from xsearch.encoders.shared import SharedEncoder
from xsearch.errors import EncoderUnavailable
from xsearch.types import Embeddings, EncoderSpec, Fingerprint, RGBImage
from xsearch.vectors import l2_normalize


def _missing(error: ImportError) -> EncoderUnavailable:
    package = error.name or error
    return EncoderUnavailable(
        f"a package of open_clip is missing here ({package})", remedy="pip install 'xsearch[clip]'"
    )


try:
    import open_clip
    import torch
    from huggingface_hub import HfApi, try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    from open_clip.pretrained import download_pretrained
    from open_clip.transformer import VisionTransformer
    from safetensors import SafetensorError

    from xsearch.encoders.decoding import beam_search, draw
except ImportError as error:
    raise _missing(error) from error

PREFIX = "openclip:"
BUILTIN_REMEDY = "connect to the network once, or use the built-in encoder: --model builtin"
HUB_TIMEOUT_S = 10

# A batch above this gains nothing on a GPU, and on a CPU four pictures already fill the cores.
MAX_CUDA_BATCH = 1024
CPU_BATCH = 4
TEXT_BATCH = 128
# While one sub-batch is computed the next is resized: of four, only the first is waited for.
SUB_BATCHES = 4
CAPTION_BEAMS = 6
CAPTION_TOKENS = 40
PROBE_IMAGES = 4
MIN_COSINE = 0.999
# What torch and open_clip raise for a file that is no checkpoint, or one of another model.
LOAD_ERRORS = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    pickle.UnpicklingError,
    SafetensorError,
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """Which architecture, and where its weights come from: a tag that the hub knows, or a local file."""

    architecture: str
    weights: str | Path


def parse_name(name: str, tags: Mapping[str, Sequence[str]]) -> ModelName:
    """Split `openclip:ARCHITECTURE/WEIGHTS`; `tags` maps each architecture to its tags. Touches no file.

    What follows the first slash is a tag, or a path if it holds another slash or a suffix. Raises EncoderUnavailable.
    """
    architecture, _, weights = name.removeprefix(PREFIX).partition("/")
    if architecture not in tags:
        near = difflib.get_close_matches(architecture, tags, n=3, cutoff=0.5)
        raise EncoderUnavailable(
            f"open_clip has no architecture {architecture!r}",
            remedy=(f"did you mean {' or '.join(near)}? " if near else "") + "open_clip.list_pretrained() lists all",
        )
    if weights in tags[architecture]:
        return ModelName(architecture, weights)
    if "/" in weights or Path(weights).suffix:
        return ModelName(architecture, Path(weights))
    known = ", ".join(tags[architecture]) or "none on the hub"
    raise EncoderUnavailable(
        f"{architecture} has no weights called {weights!r}",
        remedy=f"it has: {known}; a checkpoint file is given as {PREFIX}{architecture}/path/to/file.pt",
    )


def plan_batch(free_bytes: int, picture_bytes: int) -> int:
    """Return the greatest power of two <= MAX_CUDA_BATCH of pictures that fill at most half of the free memory."""
    fitting = max(1, free_bytes // (2 * max(1, picture_bytes)))
    return min(MAX_CUDA_BATCH, 1 << (fitting.bit_length() - 1))


class OpenClipEncoder:
    """An open_clip model as an Encoder. Its vectors equal open_clip's own, normalised, up to rounding.

    On a GPU both towers run in bfloat16 where the GPU has it, on a CPU the image tower does where the CPU has AMX (with
    AVX-512 alone bfloat16 is slower than float32) and this model's vectors keep their direction; else float32.
    While a GPU computes, the next sub-batch is copied to it on a stream of its own.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        spec: EncoderSpec,
        device: torch.device,
        tag: str | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.tag, self.device = tag, device  # of which training pictures are prepared, if of any
        self._model = model.to(device, memory_format=torch.channels_last)
        # The last two steps of open_clip's transform, to float and normalise, run on the device, on whole batches.
        prepared = model.visual.preprocess_cfg
        self._framing = _framing(prepared)
        self._mean = torch.tensor(prepared["mean"], device=device).view(3, 1, 1)
        self._std = torch.tensor(prepared["std"], device=device).view(3, 1, 1)
        # CLIP holds its text tower's parts itself, the other classes hold the tower.
        self._text = getattr(model, "text", model)
        self._text_pool = getattr(model, "text_pool_type", None) or getattr(self._text, "pool_type", None)
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()
        self._compiled = torch.compile(model.encode_image, dynamic=False) if compiled else None
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="resize")
        self._spec = spec

    @classmethod
    def open(cls, name: str, device: str | None = None, *, compiled: bool = False) -> Self:
        """Load `openclip:ARCHITECTURE/WEIGHTS` onto `device` ("cpu", "cuda", "cuda:1"), by default a GPU if any.

        Weights that are not yet in the hub's cache are downloaded. With `compiled` the image tower goes through
        torch.compile, for batches of one size, which takes a minute when the first is encoded. Raises
        EncoderUnavailable.
        """
        target = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        tags = {arch: open_clip.list_pretrained_tags_by_model(arch) for arch in open_clip.list_models()}
        model_name = parse_name(name, tags)
        architecture, weights = model_name.architecture, model_name.weights
        if isinstance(weights, Path):
            file = weights = weights.expanduser().resolve()
            tag = (towers.read_config(file.parent) or {}).get("tag")
            if not file.is_file():
                raise EncoderUnavailable(f"there is no checkpoint {file}", remedy="check the path")
        else:
            tag = weights
            file = _fetch_weights(model_name, open_clip.get_pretrained_cfg(architecture, tag))
        pretrained: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
        config = open_clip.get_model_config(architecture)
        tokenizer = _open_tokenizer(architecture, config["text_cfg"])
        model = _load(architecture, file, pretrained, config["text_cfg"])
        spec = EncoderSpec(
            name=f"{PREFIX}{architecture}/{weights}",
            fingerprint=Fingerprint(
                model=architecture,
                weights=_sha256(file)[:16],
                preprocessing=_preprocessing(model.visual.preprocess_cfg),
                tokenizer=f"{config['text_cfg'].get('hf_tokenizer_name') or 'clip-bpe'}-{tokenizer.context_length}",
                precision="float",
                dim=config["embed_dim"],
            ),
            image_px=max(_height_width(model.visual.preprocess_cfg)),
            max_tokens=tokenizer.context_length,
            logit_scale=model.logit_scale.exp().item(),
        )
        return cls(model, tokenizer, spec, target, tag, compiled=compiled)

    @property
    def spec(self) -> EncoderSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return SUB_BATCHES * self._sub_batch

    @property
    def framing_apart(self) -> Framing | None:
        """How other processes bring pictures to the size of this model, where it computes on a GPU."""
        return None if self.device.type == "cpu" else self._framing

    @property
    def model(self) -> Any:
        """open_clip's model, on `device`. Its weights are what the fingerprint says: who changes them takes a copy."""
        return self._model

    @property
    def bfloat16(self) -> bool:
        """Whether both towers compute in bfloat16."""
        return self._bfloat16_texts

    def pixels(self, images: Sequence[RGBImage]) -> torch.Tensor:
        """Return (n, 3, h, w) as the image tower takes pictures, on the device."""
        return self._finish(self._start(images))

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (n, context length) token ids as the text tower takes them, on the CPU."""
        return self._tokenize(texts)

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        if len(images) == 0:
            return np.empty((0, self._spec.dim), np.float32)
        parts = [self._run(self._image_vectors, pixels, self._bfloat16_images) for pixels in self._batches(images)]
        return l2_normalize(torch.cat(parts).cpu().numpy())

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        if len(texts) == 0:
            return np.empty((0, self._spec.dim), np.float32)
        tokens = self._tokenize(texts)
        # Texts of like length share a batch: each batch is cut to its longest.
        order = self._ends(tokens).argsort()
        parts = [self._run(self._text_vectors, tokens[rows], self._bfloat16_texts) for rows in order.split(TEXT_BATCH)]
        vectors = np.empty((len(texts), self._spec.dim), np.float32)
        vectors[order.numpy()] = l2_normalize(torch.cat(parts).cpu().numpy())
        return vectors

    def encode_patches(self, images: Sequence[RGBImage]) -> Patches:
        """Return each patch as the vector that the picture would have if its pooling saw this patch alone.

        For a tower that pools its class token or averages this is the token through the final norm and projection; for
        attention pooling (SigLIP, PE), the token through the pool's value path too. Weights are uniform: the attention
        of class tokens gathers on empty background patches (Darcet et al., arXiv 2309.16588) and would mislead.
        Raises EncoderUnavailable for towers without such patches (ModifiedResNet, Swin, CoCa, pools with positions).
        """
        if len(images) == 0:
            return Patches(np.empty((0, 0, self._spec.dim), np.float32), np.empty((0, 0), np.float32), (0, 0))
        parts = [
            self._run(self._patch_vectors, pixels, self._bfloat16_images).cpu() for pixels in self._batches(images)
        ]
        maps = torch.cat(parts)
        rows, columns = maps.shape[1:3]
        weights = np.full((len(images), rows * columns), 1 / (rows * columns), np.float32)
        return Patches(l2_normalize(maps.flatten(1, 2).numpy()), weights, (rows, columns))

    def encode_words(self, texts: Sequence[str]) -> list[Words]:
        """Return each token through the text tower's final norm and projection.

        In a causal tower a token has seen what stands before it, in the others the whole text.
        Raises EncoderUnavailable for towers from transformers (XLM-R, mT5, NLLB).
        """
        if not hasattr(self._text, "token_embedding"):
            raise EncoderUnavailable(f"{self._spec.name} has no word vectors", remedy="explain with another encoder")
        words = []
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self._tokenize(texts[start : start + TEXT_BATCH])
            states = self._run(self._token_vectors, tokens, self._bfloat16_texts).cpu().numpy()
            for row, vectors in zip(tokens.tolist(), states, strict=True):
                kept = self._content(row)
                shown = tuple(self._token_text(row[position]) for position in kept)
                words.append(Words(shown, l2_normalize(vectors[kept])))
        return words

    def write_captions(
        self, images: Sequence[RGBImage], *, beams: int | None = None, nucleus: float | None = None
    ) -> list[str]:
        """Return a caption for each picture, by the decoder of a CoCa (Yu et al., arXiv 2205.01917).

        The likeliest that `beams` beams find, or drawn from the `nucleus`, the likeliest words that make up this
        probability. Raises EncoderUnavailable for a model without a decoder.
        """
        if not self.writes_captions:
            raise EncoderUnavailable(
                f"{self._spec.name} writes no captions", remedy="name a CoCa, as openclip:coca_ViT-B-32/..."
            )
        captions = []
        for pixels in self._batches(images) if len(images) else ():
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, self._bfloat16_texts):
                written = self._write(pixels, beams or CAPTION_BEAMS, nucleus)
            captions += [" ".join(str(self._tokenizer.decode(tokens)).split()) for tokens in written]
        return captions

    def _write(self, pixels: torch.Tensor, beams: int, nucleus: float | None) -> list[list[int]]:
        """Return the tokens of a caption for each of (n, 3, h, w), without those of start and end."""
        seen = self._model(pixels)

        def decode(tokens: torch.Tensor) -> torch.Tensor:
            each = len(tokens) // len(pixels)
            latent, patches = (seen[name].repeat_interleave(each, 0) for name in ("image_features", "image_embs"))
            tokens = tokens.to(self.device)
            written = self._model(None, tokens, image_latent=latent, image_embs=patches, output_labels=False)
            return written["logits"][:, -1]

        bounds = {
            "start": self._tokenizer.sot_token_id,
            "end": self._tokenizer.eot_token_id,
            "longest": min(CAPTION_TOKENS, self._spec.max_tokens),
        }
        if nucleus is None:
            return beam_search(decode, len(pixels), beams, **bounds)
        return draw(decode, len(pixels), nucleus, **bounds)

    @property
    def writes_captions(self) -> bool:
        """Whether the model has a decoder: a CoCa with CLIP's own tokenizer."""
        return hasattr(self._model, "text_decoder") and isinstance(self._tokenizer, open_clip.SimpleTokenizer)

    @cached_property
    def _sub_batch(self) -> int:
        """Pictures in one pass of the model: what one costs is measured, because no formula holds for every tower."""
        if self.device.type != "cuda":
            return CPU_BATCH
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._run(self._model.encode_image, self._probe(), self._bfloat16_images)
        used = torch.cuda.max_memory_allocated(self.device) - before
        return plan_batch(free_bytes, used // PROBE_IMAGES)

    @cached_property
    def _bfloat16_texts(self) -> bool:
        # On a CPU the text of a query is one row: nothing to gain.
        return self.device.type == "cuda" and bool(torch.cuda.get_device_capability(self.device) >= (8, 0))

    @cached_property
    def _bfloat16_images(self) -> bool:
        if self.device.type == "cuda":
            return self._bfloat16_texts
        if not _cpu_has_amx():
            return False
        full, reduced = (self._run(self._model.encode_image, self._probe(), bfloat16) for bfloat16 in (False, True))
        return bool(torch.cosine_similarity(full, reduced).min() > MIN_COSINE)

    def _probe(self) -> torch.Tensor:
        side = self._spec.image_px
        noise = np.random.default_rng(0).integers(0, 256, (PROBE_IMAGES, side, side, 3), np.uint8)
        return self._finish(self._start(list(noise)))

    def _run(self, tower: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, bfloat16: bool) -> torch.Tensor:
        """Return tower(batch) as float32, on the device."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)
        with torch.inference_mode(), autocast:
            return tower(batch.to(self.device, non_blocking=True)).float()

    def _batches(self, images: Sequence[RGBImage]) -> Iterator[torch.Tensor]:
        """Yield normalised (<= sub-batch, 3, h, w) on the device, in order, the next being resized meanwhile."""
        size = self._sub_batch
        ahead = self._start(images[:size])
        for first in range(size, len(images), size):
            ready, ahead = ahead, self._start(images[first : first + size])
            yield self._finish(ready)
        yield self._finish(ahead)

    def _start(self, images: Sequence[RGBImage]) -> tuple[torch.Tensor, list[Future[Any]]]:
        """Begin to resize pictures into one (n, h, w, 3) uint8 batch, pinned where a GPU will fetch it."""
        shape = (len(images), self._framing.height, self._framing.width, 3)
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        rows = batch.numpy()
        if images and all(image.shape == shape[1:] for image in images):  # framed by those who decoded them
            return batch, [self._pool.submit(np.stack, images, out=rows)]
        return batch, [
            self._pool.submit(self._resize_into, row, image) for image, row in zip(images, rows, strict=True)
        ]

    def _resize_into(self, row: RGBImage, image: RGBImage) -> None:
        row[...] = self._framing.pixels(image)

    def _finish(self, started: tuple[torch.Tensor, list[Future[Any]]]) -> torch.Tensor:
        """Wait for a batch and return it normalised, (n, 3, h, w) on the device."""
        batch, pending = started
        for resized in pending:
            resized.result()
        # Bytes travel, four times smaller than floats; rows of pixels are channels_last already.
        pixels = self._on_device(batch).permute(0, 3, 1, 2)
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)

    def _on_device(self, batch: torch.Tensor) -> torch.Tensor:
        """Return a pinned batch on the device, copied while what was asked of it before is still being computed."""
        if self._copies is None:
            return batch.to(self.device)
        with torch.cuda.stream(self._copies):
            copied = batch.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copies)
        copied.record_stream(computing)  # its memory is free again when both streams are done with it
        return copied

    def _image_vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, dim), not normalised."""
        n, size = len(pixels), self._sub_batch
        if self._compiled is None:
            return self._model.encode_image(pixels)
        if n < size:  # another shape would be compiled anew
            full = pixels.new_zeros(size, *pixels.shape[1:]).contiguous(memory_format=torch.channels_last)
            full[:n] = pixels
            pixels = full
        return self._compiled(pixels)[:n]

    def _patch_vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, rows, columns, dim), not normalised."""
        visual = self._model.visual
        if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
            last = visual.forward_intermediates(pixels, indices=1, intermediates_only=True, output_fmt="NLC")
            tokens = last["image_intermediates"][0].unflatten(1, visual.grid_size)
            return visual.ln_post(tokens) @ visual.proj
        trunk = getattr(visual, "trunk", None)
        if trunk is not None and not hasattr(visual.head, "pool"):
            features = trunk.forward_features(pixels)
            if features.ndim == 3 and hasattr(getattr(trunk, "patch_embed", None), "grid_size"):
                prefix = trunk.num_prefix_tokens
                tokens = features[:, prefix:].unflatten(1, trunk.patch_embed.grid_size)
                # The prefix is this patch too: whichever tokens the head pools, it pools the patch alone.
                alone = tokens.flatten(0, 2)[:, None].expand(-1, prefix + 1, -1)
                return visual.head(trunk.forward_head(alone)).unflatten(0, tokens.shape[:3])
            if features.ndim == 4 and getattr(trunk, "output_fmt", "NCHW") == "NCHW":
                tokens = features.permute(0, 2, 3, 1)
                alone = tokens.flatten(0, 2)[:, :, None, None]
                return visual.head(trunk.forward_head(alone)).unflatten(0, tokens.shape[:3])
        raise EncoderUnavailable(f"{self._spec.name} has no patch vectors", remedy="explain with another encoder")

    def _tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (n, context length) token ids, on the CPU."""
        # The fast tokenizers of transformers set their padding on each call and fail when two threads do so.
        with self._tokenizing:
            tokens: torch.Tensor = self._tokenizer(list(texts))
        return tokens

    @cached_property
    def _causal(self) -> bool:
        """Whether nothing after the end-of-text token reaches the vector, so that padding can be cut off."""
        text = self._text
        masked = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
        return masked and self._text_pool in ("argmax", "eos")

    def _ends(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return for each row the position that is pooled, or the last where the tower reads its padding."""
        if not self._causal:
            return torch.full((len(tokens),), tokens.shape[1] - 1)
        if self._text_pool == "argmax":
            return tokens.argmax(dim=-1)
        eos_id = getattr(self._model, "text_eos_id", None) or self._text.eos_id
        return (tokens == eos_id).int().argmax(dim=-1)

    def _text_vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        if not self._causal:
            return self._model.encode_text(tokens)
        ends = self._ends(tokens)
        states = self._token_vectors(tokens[:, : int(ends.max()) + 1])
        return states[torch.arange(len(tokens), device=tokens.device), ends]

    def _token_vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (n, length, dim): the text tower of open_clip without its pooling, for any length <= its context."""
        text, length = self._text, tokens.shape[1]
        mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
        states = text.token_embedding(tokens) + text.positional_embedding[:length]
        states = text.ln_final(text.transformer(states, attn_mask=mask))
        projection = text.text_projection
        if projection is None:
            return states
        return projection(states) if isinstance(projection, torch.nn.Linear) else states @ projection

    def _content(self, row: list[int]) -> list[int]:
        """Return the positions of `row` that are neither special tokens nor padding."""
        tokenizer = self._tokenizer
        if isinstance(tokenizer, open_clip.SimpleTokenizer):  # it pads with 0, which is also the token "!"
            return list(range(1, row.index(tokenizer.eot_token_id)))
        special = set(tokenizer.tokenizer.all_special_ids)
        return [position for position, token in enumerate(row) if token not in special]

    def _token_text(self, token: int) -> str:
        decode = getattr(self._tokenizer, "tokenizer", self._tokenizer).decode
        return str(decode([token])).strip()


def open_encoder(name: str, device: str | None = None) -> Encoder:
    """Open a model on a device as `OpenClipEncoder.open` does, or on several, which share every batch.

    "cuda" is every GPU that there is; several are named like "cuda:0,cuda:2". Raises EncoderUnavailable.
    """
    devices = [device] if device is None else device.split(",")
    if device == "cuda" and torch.cuda.device_count() > 1:
        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    encoders = [OpenClipEncoder.open(name, one) for one in devices]
    return encoders[0] if len(encoders) == 1 else SharedEncoder(encoders)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EncoderUnavailable(f"there is no device {name!r}", remedy="name cpu, cuda, or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EncoderUnavailable("torch finds no CUDA GPU here", remedy="leave the device out, or name 'cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EncoderUnavailable(f"torch finds no GPU {name}", remedy=f"it finds {torch.cuda.device_count()}")
    return device


def _load(architecture: str, file: Path, pretrained: Mapping[str, Any], text_config: Mapping[str, Any]) -> Any:
    """Return the model in float32 on the CPU."""
    if hub_name := text_config.get("hf_model_name"):
        _find_on_hub(hub_name, ["config.json"], f"the text tower of {architecture}")
    try:
        model, _ = open_clip.create_model_from_pretrained(
            architecture,
            pretrained=str(file),
            # open_clip only warns where a tag was trained with another activation than its architecture names.
            force_quick_gelu=pretrained.get("quick_gelu", False),
            image_mean=pretrained.get("mean"),
            image_std=pretrained.get("std"),
            image_interpolation=pretrained.get("interpolation"),
            image_resize_mode=pretrained.get("resize_mode"),
        )
    except LOAD_ERRORS as error:
        reason = str(error).strip().partition("\n")[0].rstrip(":")
        raise EncoderUnavailable(
            f"{file} does not load as {architecture} ({reason})", remedy="check that it is a checkpoint of this model"
        ) from error
    return model.eval().requires_grad_(False)


def _open_tokenizer(architecture: str, text_config: Mapping[str, Any]) -> Any:
    hub_name = text_config.get("hf_tokenizer_name")
    options = {}
    if hub_name:
        cached = _find_on_hub(hub_name, ["tokenizer_config.json", "tokenizer.json"], f"the tokenizer of {architecture}")
        options = {"local_files_only": True} if cached else {}
    try:
        return open_clip.get_tokenizer(architecture, **options)
    except ImportError as error:
        raise _missing(error) from error
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise EncoderUnavailable(
            f"the tokenizer of {architecture} does not open ({reason})", remedy=BUILTIN_REMEDY
        ) from error


def _height_width(config: Mapping[str, Any]) -> tuple[int, int]:
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _framing(config: Mapping[str, Any]) -> Framing:
    height, width = _height_width(config)
    fill = config.get("fill_color", 0)
    return Framing(height, width, config["resize_mode"], config["interpolation"], fill, MAX_ASPECT)


def _preprocessing(config: Mapping[str, Any]) -> str:
    height, width = _height_width(config)
    colours = " ".join(f"{value:.6g}" for value in (*config["mean"], *config["std"]))
    return f"{config['resize_mode']}-{height}x{width}-{config['interpolation']}-{colours}"


def _fetch_weights(model_name: ModelName, pretrained: Mapping[str, Any]) -> Path:
    """Return the file of a tag's weights, from the hub's cache without a word to the hub, else downloaded."""
    what = f"the weights of {model_name.architecture}/{model_name.weights}"
    repository, _, filename = pretrained["hf_hub"].rpartition("/")
    names = [str(Path(filename).with_suffix(".safetensors")), filename] if filename else []
    cached = _find_on_hub(repository, names or [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME], what)
    if cached:
        return cached
    try:
        return Path(download_pretrained(pretrained))
    except OSError as error:
        raise _unreachable(what, error) from error


def _find_on_hub(repository: str, names: Sequence[str], what: str) -> Path | None:
    """Return the first of `names` that the hub's cache or a local folder holds, None if the hub can be asked for it.

    Raises EncoderUnavailable where the hub cannot be reached: left alone, its client logs and retries for a minute.
    """
    for name in names:
        file = Path(repository, name) if Path(repository).is_dir() else try_to_load_from_cache(repository, name)
        if isinstance(file, (str, Path)) and Path(file).is_file():
            return Path(file)
    try:
        HfApi().model_info(repository, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # whatever the HTTP library of this release of the client raises
        raise _unreachable(what, error) from error
    return None


def _unreachable(what: str, error: Exception) -> EncoderUnavailable:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return EncoderUnavailable(f"{what} could not be fetched from the hub ({reason})", remedy=BUILTIN_REMEDY)


def _sha256(file: Path) -> str:
    blob = file.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return blob.name  # the hub's cache names a large file by its hash
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _cpu_has_amx() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch has no public name for it
    return supported is not None and bool(supported())
