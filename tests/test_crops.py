"""An encoder that looks at corners, too: what its vectors are, and that captions find more with it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.fakes import FakeEncoder
from xsearch import Searcher
from xsearch.encoders import get_encoder
from xsearch.encoders.crops import VIEWS, CroppingEncoder, views_of
from xsearch.errors import EncoderMismatch
from xsearch.indexer import index
from xsearch.media.images import decode_image


def test_a_vector_is_the_mean_of_the_picture_and_its_corners() -> None:
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8))
    corners = [one[top : top + 30, left : left + 45] for one in pictures for top in (0, 10) for left in (0, 15)]
    base = FakeEncoder()
    whole, of_corners = base.encode_images(pictures), base.encode_images(corners).reshape(3, 4, -1)
    expected = whole + of_corners.sum(axis=1)
    found = CroppingEncoder(base).encode_images(pictures)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert CroppingEncoder(base).encode_images([]).shape == (0, base.spec.dim)


def test_the_least_picture_has_corners() -> None:
    for shape in ((1, 1, 3), (1, 300, 3), (2, 3, 3)):
        views = views_of(np.zeros(shape, np.uint8))
        assert len(views) == VIEWS
        assert all(min(view.shape[:2]) >= 1 for view in views)


def test_a_batch_keeps_the_base_encoder_busy_and_corners_have_pixels_enough() -> None:
    base = FakeEncoder(batch_size=32)
    encoder = CroppingEncoder(base)
    assert 32 <= encoder.batch_size * VIEWS < 32 + VIEWS
    assert encoder.spec.image_px * 3 / 4 >= base.spec.image_px


def test_its_name_opens_it_and_texts_are_those_of_the_base() -> None:
    encoder, base = get_encoder("crops:builtin"), get_encoder()
    assert encoder.spec.name == "crops:builtin"
    assert encoder.spec.fingerprint.model == f"{base.spec.fingerprint.model}+crops"
    np.testing.assert_array_equal(encoder.encode_texts(["a dog"]), base.encode_texts(["a dog"]))
    (words,), (same) = encoder.encode_words(["a dog"]), base.encode_words(["a dog"])[0]
    np.testing.assert_array_equal(words.vectors, same.vectors)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(encoder.encode_patches([picture]).vectors, base.encode_patches([picture]).vectors)


def test_a_library_remembers_that_it_was_made_so(photos: Path, tmp_path: Path) -> None:
    index([photos / "gradio"], tmp_path, get_encoder("crops:builtin"))
    searcher = Searcher(tmp_path)
    assert searcher.encoder.spec.name == "crops:builtin"
    assert Path(searcher.query("a lion").hits[0].path).name == "lion.jpg"
    assert Path(searcher.query(image=photos / "gradio" / "lion.jpg").hits[0].path).name == "lion.jpg"
    with pytest.raises(EncoderMismatch, match="holds vectors of crops:builtin, not of builtin"):
        Searcher(tmp_path, encoder=get_encoder())


def test_captions_find_their_picture_first_more_often(data_dir: Path) -> None:
    rows = pq.read_table(data_dir / "dev-coco.parquet", columns=["image", "captions"]).to_pylist()
    owner = np.repeat(np.arange(len(rows)), [len(row["captions"]) for row in rows])
    texts = get_encoder().encode_texts([text for row in rows for text in row["captions"]])
    shares = {}
    for name in ("builtin", "crops:builtin"):
        encoder = get_encoder(name)
        pictures = [decode_image(row["image"], encoder.spec.image_px)[0] for row in rows]
        found = np.argmax(texts @ encoder.encode_images(pictures).T, axis=1)
        shares[name] = np.mean(found == owner)
    assert shares["crops:builtin"] > shares["builtin"] + 0.01
