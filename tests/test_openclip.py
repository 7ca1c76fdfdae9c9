"""open_clip encoders against open_clip itself, on tiny models with random weights. Nothing is downloaded."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("open_clip", reason="needs the extra [clip]: torch and open_clip")

import huggingface_hub
import open_clip
import torch
from PIL import Image

from xsearch.encoders import framing_apart, get_encoder, openclip
from xsearch.encoders.framing import MAX_ASPECT, Framing
from xsearch.encoders.openclip import ModelName, OpenClipEncoder, parse_name, plan_batch
from xsearch.encoders.presets import PRESETS
from xsearch.encoders.shared import SharedEncoder
from xsearch.errors import EncoderUnavailable

TEXTS = ["a cat", "", "two dogs run over a wide green meadow towards the sea!", "sunset", "word " * 100]

VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
SIGLIP_TEXT = TEXT | {"context_length": 16, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}


def timm_tower(name: str, size: int, pool: str, proj: str | None) -> dict[str, object]:
    return {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": proj} | {
        "image_size": size
    }


MODELS = {
    "tiny-clip": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-eos": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": VIT | {"pool_type": "avg", "image_size": [32, 48]},
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407},
    },
    "tiny-sigmoid": {
        "embed_dim": 96,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": timm_tower("test_vit3", 160, "map", "none"),
        "text_cfg": SIGLIP_TEXT,
    },
    "tiny-conv": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm_tower("test_convnext", 64, "avg", "linear"),
        "text_cfg": TEXT | {"no_causal_mask": True},
    },
    "tiny-coca": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"width": 24, "heads": 2, "layers": 1, "vocab_size": 49408, "context_length": 24},
    },
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and a checkpoint of each tiny model, known to open_clip."""
    folder = tmp_path_factory.mktemp("openclip")
    for name, config in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    for seed, name in enumerate(MODELS):
        save_weights(name, seed, folder / f"{name}.pt")
    return folder


def save_weights(name: str, seed: int, file: Path) -> None:
    torch.manual_seed(seed)
    torch.save(open_clip.create_model(name).state_dict(), file)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openclip, "_cpu_has_amx", lambda: False)


@cache
def open_tiny(folder: Path, name: str) -> OpenClipEncoder:
    return OpenClipEncoder.open(f"openclip:{name}/{folder / name}.pt", device="cpu")


@cache
def open_reference(folder: Path, name: str) -> tuple[torch.nn.Module, object, object]:
    """open_clip's own model, preprocess_val and tokenizer."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(folder / f"{name}.pt"))
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def pictures(count: int) -> list[np.ndarray]:
    """Smooth pictures with noise, upright and lying, small and large, in an order that matters."""
    rng = np.random.default_rng(7)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8))
        size = tuple(int(side) for side in rng.integers(40, 300, 2))
        noise = rng.integers(0, 20, (size[1], size[0], 3))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
        made.append(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    return made


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors.double(), dim=-1).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_open_clip(folder: Path, name: str) -> None:
    encoder, (model, preprocess, tokenizer) = open_tiny(folder, name), open_reference(folder, name)
    images = pictures(2 * openclip.CPU_BATCH + 1)
    with torch.inference_mode():
        expected_images = unit(torch.cat([model.encode_image(preprocess(Image.fromarray(i))[None]) for i in images]))
        expected_texts = unit(model.encode_text(tokenizer(TEXTS)))
    ours = encoder.encode_images(images)
    assert ours.dtype == np.float32
    assert ours.shape == (len(images), encoder.spec.dim)
    np.testing.assert_allclose(ours, expected_images, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected_texts, atol=1e-5)
    # The models are random, yet they must tell pictures apart: else equality would prove nothing about order.
    assert np.abs(ours[1:] - ours[:-1]).max(axis=1).min() > 1e-4


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_of_a_tag_is_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, interpolation: str
) -> None:
    """A tag that the hub's cache holds opens without a network, with the tag's preprocessing and activation."""
    content = (folder / "tiny-clip.pt").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    repository = tmp_path / "models--lab--tiny"
    for part in ("blobs", "refs", "snapshots/abc"):
        (repository / part).mkdir(parents=True)
    (repository / "blobs" / digest).write_bytes(content)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots/abc/open_clip_pytorch_model.bin").symlink_to(repository / "blobs" / digest)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    colours = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    tag = colours | {"hf_hub": "lab/tiny/", "resize_mode": mode, "interpolation": interpolation, "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"web": tag})

    encoder = OpenClipEncoder.open("openclip:tiny-clip/web", device="cpu")

    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny-clip",
        pretrained=str(folder / "tiny-clip.pt"),
        force_quick_gelu=True,
        image_mean=tag["mean"],
        image_std=tag["std"],
        image_resize_mode=mode,
        image_interpolation=interpolation,
    )
    images = pictures(3)
    with torch.inference_mode():
        expected = unit(model.eval().encode_image(torch.stack([preprocess(Image.fromarray(i)) for i in images])))
    np.testing.assert_allclose(encoder.encode_images(images), expected, atol=1e-5)
    assert encoder.spec.name == "openclip:tiny-clip/web"
    assert encoder.spec.fingerprint.weights == digest[:16]
    assert encoder.spec.fingerprint.preprocessing == f"{mode}-32x32-{interpolation}-0.5 0.4 0.3 0.2 0.3 0.4"


def test_nothing_in_nothing_out(folder: Path) -> None:
    encoder = open_tiny(folder, "tiny-clip")
    assert encoder.encode_images([]).shape == (0, 24)
    assert encoder.encode_texts([]).shape == (0, 24)
    assert encoder.encode_patches([]).vectors.shape == (0, 0, 24)
    assert encoder.encode_words([]) == []


def test_spec(folder: Path) -> None:
    encoder = open_tiny(folder, "tiny-sigmoid")
    spec = encoder.spec
    assert (spec.dim, spec.image_px, spec.max_tokens) == (96, 160, 16)
    assert spec.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert spec.fingerprint.precision == "float"
    assert spec.fingerprint.tokenizer == "clip-bpe-16"
    assert OpenClipEncoder.open(spec.name, device="cpu").spec == spec
    assert open_tiny(folder, "tiny-eos").spec.image_px == 48


def test_fingerprint_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same.pt", tmp_path / "other.pt"
    same.write_bytes((folder / "tiny-clip.pt").read_bytes())
    save_weights("tiny-clip", 99, other)
    fingerprint = open_tiny(folder, "tiny-clip").spec.fingerprint
    assert fingerprint.weights == hashlib.sha256(same.read_bytes()).hexdigest()[:16]
    assert OpenClipEncoder.open(f"openclip:tiny-clip/{same}", device="cpu").spec.fingerprint == fingerprint
    assert OpenClipEncoder.open(f"openclip:tiny-clip/{other}", device="cpu").spec.fingerprint != fingerprint


def test_relative_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    encoder = OpenClipEncoder.open("openclip:tiny-clip/tiny-clip.pt", device="cpu")
    assert encoder.spec.name == f"openclip:tiny-clip/{(folder / 'tiny-clip.pt').resolve()}"


@pytest.mark.parametrize(("name", "causal"), [("tiny-clip", True), ("tiny-eos", True), ("tiny-sigmoid", False)])
def test_causal_texts_are_cut_and_keep_their_vector(folder: Path, name: str, causal: bool) -> None:
    encoder = open_tiny(folder, name)
    lengths = []
    hook = encoder._text.ln_final.register_forward_hook(lambda _, states, __: lengths.append(states[0].shape[1]))
    alone = encoder.encode_texts(["a cat"])
    among_longer = encoder.encode_texts(["a cat", TEXTS[2], TEXTS[4]])[:1]
    hook.remove()
    context = encoder.spec.max_tokens
    assert lengths == ([4, context] if causal else [context, context])
    np.testing.assert_allclose(alone, among_longer, atol=1e-6)


def test_texts_of_many_batches_keep_their_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = open_tiny(folder, "tiny-clip")
    texts = [f"{'very ' * (i % 7)}picture {i}" for i in range(20)]
    whole = encoder.encode_texts(texts)
    monkeypatch.setattr(openclip, "TEXT_BATCH", 3)
    np.testing.assert_allclose(encoder.encode_texts(texts), whole, atol=1e-6)
    assert whole @ whole.T == pytest.approx((whole @ whole.T).T)
    assert len(np.unique(whole.round(4), axis=0)) == 20


def test_threads_get_their_own_vectors(folder: Path) -> None:
    encoder, images = open_tiny(folder, "tiny-clip"), pictures(12)
    expected_images, expected_texts = encoder.encode_images(images), encoder.encode_texts(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        image_runs = [pool.submit(encoder.encode_images, images) for _ in range(4)]
        text_runs = [pool.submit(encoder.encode_texts, TEXTS) for _ in range(4)]
    for run in image_runs:
        np.testing.assert_allclose(run.result(), expected_images, atol=1e-6)
    for run in text_runs:
        np.testing.assert_allclose(run.result(), expected_texts, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "grid"), [("tiny-clip", (4, 4)), ("tiny-eos", (4, 6)), ("tiny-sigmoid", (10, 10)), ("tiny-conv", (2, 2))]
)
def test_patches(folder: Path, name: str, grid: tuple[int, int]) -> None:
    encoder, images = open_tiny(folder, name), pictures(5)
    patches = encoder.encode_patches(images)
    assert patches.grid == grid
    assert patches.vectors.shape == (5, grid[0] * grid[1], encoder.spec.dim)
    np.testing.assert_allclose(np.linalg.norm(patches.vectors, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(patches.weights.sum(axis=1), 1, atol=1e-6)
    one_by_one = [encoder.encode_patches([image]).vectors[0] for image in images]
    np.testing.assert_allclose(patches.vectors, np.stack(one_by_one), atol=1e-5)


def test_patches_of_an_averaging_tower_average_to_the_picture(folder: Path) -> None:
    encoder, images = open_tiny(folder, "tiny-eos"), pictures(3)
    with torch.inference_mode():
        maps = torch.cat([encoder._patch_vectors(pixels) for pixels in encoder._batches(images)])
    np.testing.assert_allclose(unit(maps.mean(dim=(1, 2))), encoder.encode_images(images), atol=1e-5)


def test_patches_of_an_attention_pool_are_its_value_path(folder: Path) -> None:
    """Pooling one repeated patch gives that patch's vector: attention over equal values is that value."""
    encoder, image = open_tiny(folder, "tiny-sigmoid"), pictures(1)
    trunk = encoder._model.visual.trunk
    with torch.inference_mode():
        tokens = trunk.forward_features(next(encoder._batches(image)))[:, trunk.num_prefix_tokens :]
        repeated = trunk.forward_head(tokens[:, [37]].expand(-1, 100 + trunk.num_prefix_tokens, -1))
    np.testing.assert_allclose(encoder.encode_patches(image).vectors[0, 37], unit(repeated)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["tiny-resnet", "tiny-coca"])
def test_towers_without_patches_say_so(folder: Path, name: str) -> None:
    with pytest.raises(EncoderUnavailable, match="has no patch vectors"):
        open_tiny(folder, name).encode_patches(pictures(1))


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-eos", "tiny-sigmoid", "tiny-coca"])
def test_words(folder: Path, name: str) -> None:
    encoder = open_tiny(folder, name)
    cat, empty, long = encoder.encode_words(["A striped cat!", "", "word " * 100])
    assert cat.tokens == ("a", "striped", "cat", "!")
    assert cat.vectors.shape == (4, encoder.spec.dim)
    np.testing.assert_allclose(np.linalg.norm(cat.vectors, axis=-1), 1, atol=1e-5)
    assert empty.tokens == ()
    assert empty.vectors.shape == (0, encoder.spec.dim)
    assert long.tokens == ("word",) * (encoder.spec.max_tokens - 2)


def test_the_last_word_state_is_the_text(folder: Path) -> None:
    """Token vectors are the tower's own: at the end-of-text token they are what open_clip pools."""
    encoder, (model, _, tokenizer) = open_tiny(folder, "tiny-clip"), open_reference(folder, "tiny-clip")
    tokens = tokenizer(TEXTS)
    with torch.inference_mode():
        ends = encoder._token_vectors(tokens)[torch.arange(len(TEXTS)), tokens.argmax(dim=-1)]
        np.testing.assert_allclose(ends.numpy(), model.encode_text(tokens).numpy(), atol=1e-5)


def test_bfloat16_is_used_only_where_vectors_keep_their_direction(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, images = open_tiny(folder, "tiny-clip"), pictures(3)
    monkeypatch.setattr(openclip, "_cpu_has_amx", lambda: True)
    reduced = OpenClipEncoder.open(exact.spec.name, device="cpu")
    cosines = (reduced.encode_images(images) * exact.encode_images(images)).sum(axis=1)
    assert 0.999 < cosines.min() <= cosines.max() < 1 - 1e-7
    assert reduced.spec == exact.spec
    monkeypatch.setattr(openclip, "MIN_COSINE", 1.0)
    strict = OpenClipEncoder.open(exact.spec.name, device="cpu")
    np.testing.assert_allclose(strict.encode_images(images), exact.encode_images(images), atol=1e-6)


@given(free=st.integers(0, 2**38), picture=st.integers(0, 2**34))
def test_plan_batch_fills_at_most_half(free: int, picture: int) -> None:
    batch = plan_batch(free, picture)
    assert batch.bit_count() == 1
    assert 1 <= batch <= openclip.MAX_CUDA_BATCH
    assert batch == 1 or 2 * batch * picture <= free
    assert batch == openclip.MAX_CUDA_BATCH or 4 * batch * max(1, picture) > free


def test_extreme_strips_are_seen_in_their_middle(folder: Path) -> None:
    strip = np.zeros((2, 30_000, 3), np.uint8)
    strip[:, 15_000:] = 200
    for image in (strip, strip.transpose(1, 0, 2)):
        middle = image[14_936:15_064] if len(image) > 2 else image[:, 14_936:15_064]
        vectors = open_tiny(folder, "tiny-clip").encode_images([image, middle])
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


TAGS = {"ViT-B-32": ["openai", "laion2b_s34b_b79k"], "ViT-B-16": ["openai"], "RN50": ["openai"]}


def test_parse_name() -> None:
    assert parse_name("openclip:ViT-B-32/openai", TAGS) == ModelName("ViT-B-32", "openai")
    assert parse_name("openclip:RN50//data/my.pt", TAGS) == ModelName("RN50", Path("/data/my.pt"))
    assert parse_name("openclip:RN50/runs/best", TAGS) == ModelName("RN50", Path("runs/best"))
    assert parse_name("openclip:RN50/my.safetensors", TAGS) == ModelName("RN50", Path("my.safetensors"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openclip:ViT-B-33/openai", "no architecture 'ViT-B-33'; did you mean ViT-B-32 or ViT-B-16?"),
        ("openclip:zzz/openai", "no architecture 'zzz'; open_clip.list_pretrained() lists all"),
        ("openclip:ViT-B-32/openly", "no weights called 'openly'; it has: openai, laion2b_s34b_b79k; "),
        ("openclip:ViT-B-32", "no weights called ''; it has: openai, laion2b_s34b_b79k; "),
    ],
)
def test_unknown_names_are_answered_with_known_ones(name: str, message: str) -> None:
    with pytest.raises(EncoderUnavailable) as caught:
        parse_name(name, TAGS)
    assert message in str(caught.value)


def test_files_that_do_not_load_say_so_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match=r"there is no checkpoint /no/such\.pt; check the path"):
        OpenClipEncoder.open("openclip:tiny-clip//no/such.pt")
    broken = {
        "empty.pt": b"",
        "text.pt": b"not a checkpoint",
        "cut.pt": (folder / "tiny-clip.pt").read_bytes()[:5000],
        "text.safetensors": b"not a checkpoint",
        "other.pt": (folder / "tiny-sigmoid.pt").read_bytes(),
    }
    for name, content in broken.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(EncoderUnavailable, match="does not load as tiny-clip") as caught:
            OpenClipEncoder.open(f"openclip:tiny-clip/{file}")
        assert "\n" not in str(caught.value)


def test_several_devices_share_every_batch(folder: Path) -> None:
    name = f"openclip:tiny-clip/{folder / 'tiny-clip.pt'}"
    shared, alone, images = get_encoder(name, "cpu,cpu"), open_tiny(folder, "tiny-clip"), pictures(13)
    assert isinstance(shared, SharedEncoder)
    assert shared.batch_size == 2 * alone.batch_size
    np.testing.assert_allclose(shared.encode_images(images), alone.encode_images(images), atol=1e-6)
    np.testing.assert_allclose(shared.encode_texts(TEXTS), alone.encode_texts(TEXTS), atol=1e-6)


def test_cuda_is_every_gpu_and_no_device_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(OpenClipEncoder, "open", lambda name, device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for device in ("cuda", "cuda:2", "cuda:0,cuda:2", None):
        openclip.open_encoder("openclip:tiny-clip/x.pt", device)
    assert asked == ["cuda:0", "cuda:1", "cuda:2", "cuda:2", "cuda:0", "cuda:2", None]


def test_a_compiled_tower_sees_batches_of_one_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []

    def compiled(tower: Callable[[torch.Tensor], torch.Tensor], *, dynamic: bool) -> object:
        def run(batch: torch.Tensor) -> torch.Tensor:
            seen.append((len(batch), batch.is_contiguous(memory_format=torch.channels_last)))
            return tower(batch)

        assert not dynamic
        return run

    monkeypatch.setattr(torch, "compile", compiled)
    alone, images = open_tiny(folder, "tiny-clip"), pictures(2 * openclip.CPU_BATCH + 1)
    encoder = OpenClipEncoder.open(alone.spec.name, device="cpu", compiled=True)
    np.testing.assert_allclose(encoder.encode_images(images), alone.encode_images(images), atol=1e-6)
    assert seen == [(openclip.CPU_BATCH, True)] * 3


def test_pictures_that_were_framed_elsewhere_have_the_same_vectors(folder: Path) -> None:
    """As processes hand them over to an encoder on a GPU; on a CPU it frames them itself."""
    encoder, images = open_tiny(folder, "tiny-eos"), pictures(9)
    framed = [encoder._framing.pixels(image) for image in images]
    np.testing.assert_array_equal(encoder.encode_images(framed), encoder.encode_images(images))
    assert {image.shape for image in framed} == {(32, 48, 3)}
    assert framing_apart(encoder) is None
    elsewhere = copy(encoder)
    elsewhere.device = torch.device("meta")
    assert framing_apart(elsewhere) == Framing(32, 48, "shortest", "bicubic", 0, MAX_ASPECT)


@pytest.mark.parametrize(("device", "message"), [("gpu", "there is no device 'gpu'"), ("cuda:7", "no GPU cuda:7; it")])
def test_a_device_that_is_not_there_is_named(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EncoderUnavailable, match=message):
        OpenClipEncoder.open("openclip:RN50/openai", device=device)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EncoderUnavailable, match="no CUDA GPU"):
        OpenClipEncoder.open("openclip:RN50/openai", device="cuda")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_unreachable_hub_is_one_line_that_names_the_builtin_encoder(tmp_path: Path) -> None:
    """A real refused connection: no retries in the log, no traceback."""
    done = run_python(
        "from xsearch.encoders.openclip import OpenClipEncoder\n"
        "from xsearch.errors import EncoderUnavailable\n"
        "try: OpenClipEncoder.open('openclip:ViT-B-32-256/datacomp_s34b_b86k')\n"
        "except EncoderUnavailable as error: print(error)",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "the weights of ViT-B-32-256/datacomp_s34b_b86k could not be fetched from the hub" in done.stdout
    assert "--model builtin" in done.stdout


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    done = run_python(
        "import sys; sys.modules['open_clip'] = None\n"
        "from xsearch.encoders import get_encoder\n"
        "from xsearch.errors import EncoderUnavailable\n"
        "try: get_encoder('fast')\n"
        "except EncoderUnavailable as error: print(error)"
    )
    assert done.stdout == ("a package of open_clip is missing here (open_clip); pip install 'xsearch[clip]'\n")


def test_presets_exist() -> None:
    assert set(PRESETS) == {"fast", "best", "multilingual"}
    for name, preset in PRESETS.items():
        architecture, _, tag = preset.model.removeprefix("openclip:").partition("/")
        assert preset.name == name
        assert (architecture, tag) in open_clip.list_pretrained()
        config = open_clip.get_model_config(architecture)
        assert preset.what.startswith(f"{config['embed_dim']}-d, {config['vision_cfg']['image_size']} px, ")


def test_sentencepiece_like_texts_are_padded_to_their_full_length(folder: Path, tmp_path: Path) -> None:
    """A tokenizer of transformers, as SigLIP has it: equal to open_clip, words without padding and end token."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, for tokenizers of the hub")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "striped": 4, "cat": 5, "word": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path / "vocabulary")
    text = SIGLIP_TEXT | {
        "hf_tokenizer_name": str(tmp_path / "vocabulary"),
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    (tmp_path / "tiny-hub.json").write_text(json.dumps(MODELS["tiny-sigmoid"] | {"text_cfg": text}))
    open_clip.add_model_config(tmp_path / "tiny-hub.json")
    save_weights("tiny-hub", 3, tmp_path / "tiny-hub.pt")

    encoder, (model, _, reference_tokenizer) = open_tiny(tmp_path, "tiny-hub"), open_reference(tmp_path, "tiny-hub")
    texts = ["A striped cat!", "cat", "word " * 100]
    with torch.inference_mode():
        expected = unit(model.encode_text(reference_tokenizer(texts)))
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=1e-5)
    words = encoder.encode_words(texts)
    assert [word.tokens for word in words] == [("a", "striped", "cat"), ("cat",), ("word",) * 15]
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(encoder.encode_texts, [texts] * 20):
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


def gpu_or_skip() -> str:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA GPU")
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_gpu_vectors_point_where_cpu_vectors_do(folder: Path, name: str) -> None:
    on_cpu = open_tiny(folder, name)
    on_gpu = OpenClipEncoder.open(on_cpu.spec.name, device=gpu_or_skip())
    images = pictures(9)
    assert on_gpu.spec == on_cpu.spec
    assert (on_gpu.encode_images(images) * on_cpu.encode_images(images)).sum(axis=1).min() > 0.999
    assert (on_gpu.encode_texts(TEXTS) * on_cpu.encode_texts(TEXTS)).sum(axis=1).min() > 0.999


@pytest.mark.gpu
def test_gpu_vectors_are_the_same_framed_elsewhere_compiled_and_on_all_gpus(folder: Path) -> None:
    """Over several sub-batches, so that one is copied while another is computed."""
    name = f"openclip:tiny-clip/{folder / 'tiny-clip.pt'}"
    encoder = OpenClipEncoder.open(name, device=gpu_or_skip())
    encoder.__dict__["_sub_batch"] = 64
    images = pictures(50) * 7
    expected = encoder.encode_images(images)
    framing = framing_apart(encoder)
    assert framing is not None
    np.testing.assert_allclose(encoder.encode_images(list(map(framing.pixels, images))), expected, atol=1e-2)
    compiled = OpenClipEncoder.open(name, device="cuda", compiled=True)
    compiled.__dict__["_sub_batch"] = 64
    for found in (compiled, get_encoder(name, "cuda"), get_encoder(name, "cuda:0,cuda:0")):
        assert (found.encode_images(images) * expected).sum(axis=1).min() > 0.999


@pytest.mark.gpu
def test_gpu_batch_fits_its_memory(folder: Path) -> None:
    encoder = OpenClipEncoder.open(f"openclip:tiny-clip/{folder / 'tiny-clip.pt'}", device=gpu_or_skip())
    images = pictures(8) * (encoder.batch_size // 8 + 1)
    vectors = encoder.encode_images(images)
    assert vectors.shape == (len(images), 24)
    np.testing.assert_allclose(vectors[:8], vectors[-8:], atol=1e-2)
