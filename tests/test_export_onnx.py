"""Exported models against the models: their vectors, tokens and pixels, on tiny ones with random weights."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("onnxscript", reason="needs the extra [clip]: torch, open_clip and onnxscript")

import open_clip
import torch
from ftfy.badness import is_bad
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.fakes import FakeEncoder, picture
from tests.test_openclip import TEXTS, pictures, timm_tower
from xsearch import Searcher
from xsearch.cli.app import run
from xsearch.encoders import Encoder, get_encoder
from xsearch.encoders.framing import MAX_ASPECT, Framing
from xsearch.encoders.heads import HeadedEncoder
from xsearch.encoders.onnx import OnnxEncoder
from xsearch.encoders.openclip import OpenClipEncoder
from xsearch.errors import EncoderUnavailable, XSearchError
from xsearch.indexer import index
from xsearch.learning import export
from xsearch.learning.export import Exported, export_onnx, pictures_to_compare
from xsearch.probes import probe_texts
from xsearch.types import RGBImage

VIT = {"image_size": [32, 48], "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
MODELS = {
    "onnx-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "onnx-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
    "onnx-siglip": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": timm_tower("test_vit2", 160, "map", "none"),
        "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
}
VOCABULARY = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "striped": 4, "cat": 5, "word": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs and checkpoints of the tiny models; that of SigLIP has a tokenizer of transformers."""
    folder = tmp_path_factory.mktemp("models")
    save_tokenizer(folder / "vocabulary")
    for seed, (name, config) in enumerate(MODELS.items()):
        if name == "onnx-siglip":
            of_hub = {"hf_tokenizer_name": str(folder / "vocabulary"), "tokenizer_kwargs": {"clean": "canonicalize"}}
            config = config | {"text_cfg": config["text_cfg"] | of_hub}  # type: ignore[operator]
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(seed)
        torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
    return folder


def save_tokenizer(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, for tokenizers of the hub")
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@cache
def model_of(folder: Path, name: str) -> OpenClipEncoder:
    return OpenClipEncoder.open(f"openclip:{name}/{folder / name}.pt", device="cpu")


@cache
def exported(folder: Path, name: str) -> Exported:
    """Written once for all tests, as 8 bits too beside it."""
    return export_onnx(model_of(folder, name), folder / "exports" / name, pictures(4))


@contextmanager
def written_before(folder: Path) -> Iterator[None]:
    """Have the towers of onnx-vit taken from where they were written: that takes seconds each time."""
    source = exported(folder, "onnx-vit").folder

    def copied(_: OpenClipEncoder, begun: Path) -> dict[str, Any]:
        shutil.copytree(source, begun, dirs_exist_ok=True)
        config: dict[str, Any] = json.loads((source / "config.json").read_text("utf-8"))
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_write_open_clip", copied)
        yield


@cache
def in_8_bits(folder: Path) -> Exported:
    with written_before(folder):
        return export_onnx(model_of(folder, "onnx-vit"), folder / "exports" / "int8", pictures(12), int8=True)


def opened(found: Exported) -> OnnxEncoder:
    encoder = get_encoder(f"onnx:{found.folder}")
    assert isinstance(encoder, OnnxEncoder)
    return encoder


@pytest.mark.parametrize("name", MODELS)
def test_an_export_has_the_vectors_of_its_model(folder: Path, name: str) -> None:
    model, found = model_of(folder, name), exported(folder, name)
    encoder, images = opened(found), pictures(11)
    np.testing.assert_allclose(encoder.encode_images(images), model.encode_images(images), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), model.encode_texts(TEXTS), atol=1e-5)
    assert encoder.encode_images([]).shape == (0, model.spec.dim)
    assert found.model == model.spec.name
    assert found.float32.worst > 1 - 1e-5
    assert found.float32.nearest > 0.99
    assert found.int8 is None
    assert found.bytes == sum(file.stat().st_size for file in found.folder.iterdir())
    assert [file.name for file in found.folder.parent.glob(".*")] == []


@pytest.mark.parametrize("name", MODELS)
def test_words_are_those_of_the_model(folder: Path, name: str) -> None:
    texts = ["A striped cat!", "", "word " * 100, "it’s the cat’s naïve “friend” &amp; co"]
    ours, theirs = model_of(folder, name).encode_words(texts), opened(exported(folder, name)).encode_words(texts)
    for one, other in zip(ours, theirs, strict=True):
        if name != "onnx-siglip":  # open_clip's encoder leaves out what is unknown, as a special token
            assert other.tokens == one.tokens
            np.testing.assert_allclose(other.vectors, one.vectors, atol=1e-5)
    assert theirs[0].tokens == (("a", "striped", "cat") if name == "onnx-siglip" else ("a", "striped", "cat", "!"))
    assert len(theirs[2].tokens) == (23 if name == "onnx-siglip" else 22)


@pytest.mark.parametrize("name", ["onnx-vit", "onnx-siglip"])
def test_patches_are_those_of_the_model(folder: Path, name: str) -> None:
    images = pictures(3)
    ours, theirs = model_of(folder, name).encode_patches(images), opened(exported(folder, name)).encode_patches(images)
    assert theirs.grid == ours.grid
    np.testing.assert_allclose(theirs.vectors, ours.vectors, atol=1e-5)
    np.testing.assert_allclose(theirs.weights, ours.weights, atol=1e-7)


def test_a_tower_without_patches_says_so(folder: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="has no patch vectors"):
        opened(exported(folder, "onnx-resnet")).encode_patches(pictures(1))


@pytest.mark.parametrize("name", MODELS)
def test_the_spec_but_for_the_name_is_that_of_the_model(folder: Path, name: str) -> None:
    found = exported(folder, name)
    spec = opened(found).spec
    assert spec.name == f"onnx:{found.folder}"
    assert replace(spec, name=found.model) == model_of(folder, name).spec


def test_a_library_of_the_model_is_asked_without_torch(folder: Path, tmp_path: Path) -> None:
    for seed in range(3):
        picture(tmp_path / "photos" / f"{seed}.png", seed)
    data, model = tmp_path / "data", model_of(folder, "onnx-vit")
    index([tmp_path / "photos"], data, model)
    expected = [(hit.item_id, hit.score) for hit in Searcher(data, encoder=model).query("a cat", k=3)]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "sys.modules.update(dict.fromkeys(['torch', 'open_clip', 'transformers', 'onnx']))\n"
            "from xsearch import Searcher\n"
            "hits = Searcher(sys.argv[1], model=sys.argv[2]).query('a cat', k=3)\n"
            "print([(hit.item_id, hit.score) for hit in hits])",
            str(data),
            f"onnx:{exported(folder, 'onnx-vit').folder}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = eval(done.stdout)
    assert [one for one, _ in found] == [one for one, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-4)


# With heads


def headed_on(base: Encoder) -> HeadedEncoder:
    """Heads that turn by some degrees, another way for pictures and for texts."""
    rng, dim = np.random.default_rng(5), base.spec.dim
    image, text = (np.eye(dim) + 0.3 * rng.standard_normal((dim, dim)) / dim**0.5 for _ in range(2))
    fingerprint = replace(base.spec.fingerprint, model="headed", weights="of both")
    spec = replace(base.spec, name="headed", fingerprint=fingerprint, logit_scale=7.0)
    return HeadedEncoder(base, image.astype(np.float32), text.astype(np.float32), spec)


@pytest.mark.parametrize("name", ["builtin", "onnx-vit"])
def test_heads_become_part_of_the_towers(folder: Path, tmp_path: Path, name: str) -> None:
    base = get_encoder() if name == "builtin" else model_of(folder, name)
    model, images = headed_on(base), pictures(5)
    with written_before(folder):
        found = export_onnx(model, tmp_path / "out", images)
    encoder = opened(found)
    assert found.float32.worst > 1 - 1e-5
    np.testing.assert_allclose(encoder.encode_images(images), model.encode_images(images), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), model.encode_texts(TEXTS), atol=1e-5)
    assert replace(encoder.spec, name="headed") == model.spec
    turned = (model.encode_images(images) * base.encode_images(images)).sum(axis=1)
    assert turned.max() < 0.99
    patches, their_patches = model.encode_patches(images), encoder.encode_patches(images)
    np.testing.assert_allclose(their_patches.vectors, patches.vectors, atol=1e-4)
    np.testing.assert_allclose(their_patches.weights, patches.weights, atol=1e-6)
    (ours,), (theirs,) = model.encode_words(["a striped cat"]), encoder.encode_words(["a striped cat"])
    assert theirs.tokens == ours.tokens
    np.testing.assert_allclose(theirs.vectors, ours.vectors, atol=1e-5)


def test_what_is_rounded_already_is_not_rounded_again(tmp_path: Path) -> None:
    with pytest.raises(XSearchError, match="headed stands on files that are rounded already; leave out --int8"):
        export_onnx(headed_on(get_encoder()), tmp_path / "out", pictures(1), int8=True)


# 8 bits


def test_rounding_makes_it_smaller_and_says_what_is_lost(folder: Path) -> None:
    exact, rounded = exported(folder, "onnx-vit"), in_8_bits(folder)
    assert rounded.bytes < exact.bytes
    assert rounded.float32.worst > 1 - 1e-5
    assert rounded.int8 is not None
    assert 0.9 < rounded.int8.worst < 1 - 1e-6
    model, encoder, images = model_of(folder, "onnx-vit"), opened(rounded), pictures(12)
    cosines = (model.encode_images(images) * encoder.encode_images(images)).sum(axis=1)
    assert rounded.int8.image == pytest.approx(cosines.min(), abs=1e-6)
    assert encoder.spec.fingerprint == replace(model.spec.fingerprint, precision="int8")


def test_in_8_bits_a_vector_does_not_depend_on_its_company(folder: Path) -> None:
    encoder, images = opened(in_8_bits(folder)), pictures(5)
    together = encoder.encode_images(images)
    np.testing.assert_array_equal(np.concatenate([encoder.encode_images([image]) for image in images]), together)


# What is refused


def test_an_export_that_does_not_agree_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = OnnxEncoder._pixels
    mirrored = lambda self, images: pixels(self, [image[:, ::-1] for image in images])  # noqa: E731
    monkeypatch.setattr(OnnxEncoder, "_pixels", mirrored)
    refused = pytest.raises(XSearchError, match=r"do not agree with those of openclip:onnx-vit.* \(cosine -?0\.\d+\)")
    with written_before(folder), refused:
        export_onnx(model_of(folder, "onnx-vit"), tmp_path / "out", pictures(4))
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_differs_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_cleaning", lambda kind: [])
    with pytest.raises(
        EncoderUnavailable, match=r"cannot be written as tokenizer\.json: it differs on 'A striped CAT!'"
    ):
        export_onnx(model_of(folder, "onnx-vit"), tmp_path / "out", pictures(4))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_in_it_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("of another")
    with pytest.raises(XSearchError, match="is not empty; name a new folder"):
        export_onnx(model_of(folder, "onnx-vit"), tmp_path, pictures(4))
    assert (tmp_path / "mine").read_text() == "of another"


# Framing


@pytest.mark.parametrize("resize", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@settings(max_examples=25, deadline=None)
@given(image=hnp.arrays(np.uint8, st.tuples(st.integers(8, 90), st.integers(8, 90), st.just(3))))
def test_pictures_are_framed_as_by_open_clip(
    resize: str, interpolation: str, size: tuple[int, int], image: RGBImage
) -> None:
    transform = open_clip.image_transform(
        size, is_train=False, resize_mode=resize, interpolation=interpolation, fill_color=9
    )
    expected = Image.fromarray(image)
    for step in transform.transforms[:-3]:  # the last are for colours
        expected = step(expected)
    framing = Framing(*size, resize, interpolation, fill=9)
    found = framing.framed(image)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    # What was framed already, by another process, is taken as it is: to frame it again would change nothing.
    np.testing.assert_array_equal(framing.pixels(image), np.asarray(found))
    np.testing.assert_array_equal(np.asarray(framing.framed(framing.pixels(image))), np.asarray(found))


@given(height=st.integers(8, 40), width=st.integers(500, 4000))
def test_of_a_strip_the_middle_is_seen_as_by_the_model(height: int, width: int) -> None:
    strip = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    framing = Framing(8, 8, "squash", "bicubic", max_aspect=MAX_ASPECT)
    for image in (strip, strip.transpose(1, 0, 2)):
        surplus = max(0, width - MAX_ASPECT * height)
        along = slice(surplus // 2, surplus // 2 + width - surplus)
        middle = image[along] if image.shape[0] == width else image[:, along]
        expected = Image.fromarray(middle).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(framing.framed(image)), np.asarray(expected))


# Tokenizer


@cache
def tokenizers_of(kind: str) -> tuple[Tokenizer, open_clip.SimpleTokenizer]:
    theirs = open_clip.SimpleTokenizer(clean=kind)
    ours = export._clip_tokenizer(theirs)
    ours.normalizer = normalizers.Sequence(export._cleaning(kind))
    ours.enable_truncation(theirs.context_length)
    return ours, theirs


def assert_same_tokens(text: str, kind: str = "lower") -> None:
    ours, theirs = tokenizers_of(kind)
    found, expected = ours.encode(text).ids, theirs([text])[0].tolist()
    assert found == expected[: len(found)]
    assert not any(expected[len(found) :])


@pytest.mark.parametrize("kind", ["lower", "whitespace", "canonicalize"])
def test_real_texts_have_the_tokens_of_open_clip(kind: str) -> None:
    for text in probe_texts(500):
        assert_same_tokens(text, kind)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(" aAeghIKt'sS\"&;#<>_-.,!?0123456789\n\t“”‘’éÜßﬁｆ３猫🐈") | st.sampled_from("it's")))
def test_any_text_has_the_tokens_of_open_clip(text: str) -> None:
    assume(not is_bad(text))  # what ftfy takes for a text that was decoded wrongly
    assert_same_tokens(text)


@given(st.text(st.characters(codec="ascii", exclude_characters="&"), max_size=40))
def test_any_ascii_has_the_tokens_of_open_clip(text: str) -> None:
    assert_same_tokens(text)


# Pictures to compare on


def test_pictures_of_the_library_are_taken_where_there_is_one(tmp_path: Path) -> None:
    for seed in range(4):
        picture(tmp_path / "photos" / f"{seed}.png", seed)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    (tmp_path / "photos" / "2.png").unlink()
    found, are_real = pictures_to_compare(tmp_path / "data", 16)
    assert are_real
    expected = [np.asarray(Image.open(tmp_path / "photos" / f"{seed}.png")) for seed in (0, 1, 3)]
    assert sorted(one.tobytes() for one in found) == sorted(one.tobytes() for one in expected)


def test_made_up_pictures_differ_as_photographs_do(tmp_path: Path) -> None:
    found, are_real = pictures_to_compare(tmp_path / "none", 32)
    assert not are_real
    assert len(found) == 100
    assert all(one.dtype == np.uint8 and min(one.shape[:2]) >= 32 for one in found)
    # Neighbours are alike, and far ones are not: so falls a spectrum of 1/f.
    grey = [one.mean(axis=2) for one in found]
    near = np.mean([np.abs(np.diff(one)).mean() / one.std() for one in grey])
    far = np.mean([np.abs(one[:, 16:] - one[:, :-16]).mean() / one.std() for one in grey])
    assert near < 0.6 * far


# The command


def test_the_command_writes_and_tells(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = model_of(folder, "onnx-vit").spec.name, tmp_path / "out"
    with written_before(folder):
        assert run(["export-onnx", model, str(out), "--int8", "--data", str(tmp_path / "none")]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(f"xsearch: there are no pictures in {tmp_path / 'none'} to compare on")
    wrote, float32, int8 = told.out.splitlines()
    assert wrote.startswith(f"wrote {model} to {out} (")
    assert wrote.endswith(f" it opens as --model onnx:{out}")
    line = (
        r"least cosine to the model [01]\.\d{4} of 100 pictures, [01]\.\d{4} of texts; \d+\.\d% of the ten nearest .*"
    )
    assert re.fullmatch(rf"float32  {line}", float32)
    assert re.fullmatch(rf"int8     {line}", int8)
    assert get_encoder(f"onnx:{out}").spec.fingerprint.precision == "int8"


def test_the_command_tells_it_as_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "photos" / "one.png", 1)
    index([tmp_path / "photos"], tmp_path / "data", FakeEncoder())
    model, out = model_of(folder, "onnx-vit").spec.name, tmp_path / "out"
    with written_before(folder):
        assert run(["export-onnx", model, str(out), "--json", "--data", str(tmp_path / "data")]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    answer = json.loads(told.out)
    assert (answer["folder"], answer["model"], answer["pictures"], answer["are_real"]) == (str(out), model, 1, True)
    assert answer["float32"]["image"] > 0.999
    assert answer["int8"] is None


def test_what_is_stored_so_already_is_told(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="builtin is stored as ONNX files already"):
        run(["export-onnx", "builtin", str(tmp_path / "out")])
    with pytest.raises(EncoderUnavailable, match=r"crops:builtin is not stored by itself; .* as crops:onnx:FOLDER"):
        run(["export-onnx", "crops:builtin", str(tmp_path / "out")])
