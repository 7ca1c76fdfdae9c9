"""What is found by its words: tokens, BM25, filters, captions; and an index that is in step, or is not used."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import SPEC, an_item, unit_rows
from xsearch.errors import LibraryDamaged
from xsearch.library import Library, LibraryWriter, Manifest, recover
from xsearch.library import words as words_module
from xsearch.library.manifest import MANIFEST
from xsearch.library.words import STATE, WORDS, WordIndex, keep_words, open_words, tokens
from xsearch.types import Item, Kind

REPOSITORY = Path(__file__).resolve().parents[1]
WAIT_S = 60


def a_text(text: str, name: str = "notes.txt", pair: str | None = None) -> Item:
    return an_item(name, kind=Kind.TEXT, part=text, text=text, pair=pair)


def keep(folder: Path, items: Sequence[Item] = (), *, bury: Sequence[int] = ()) -> Library:
    """Add the items, bury rows, and bring the words in step."""
    with LibraryWriter(folder, SPEC) as writer:
        writer.add(items, unit_rows(len(items)), bury=bury)
        writer.merge()
        keep_words(writer)
    return Library.open(folder)


def opened(library: Library) -> WordIndex:
    index = open_words(library)
    assert index is not None
    return index


def found(library: Library, words: str, k: int = 10, **options: object) -> list[str]:
    """Return what is found, best first: the path of a picture or frame, a text itself."""
    rows, scores, _ = opened(library).search(words, k, **options)  # type: ignore[arg-type]
    assert (np.diff(scores) <= 0).all()
    return [item.text or (f"{item.path}#{item.part}" if item.part else item.path) for item in library.items(rows)]


def segments(folder: Path) -> dict[str, int]:
    """Return the files of the index, with the times at which they were written."""
    files = [path for path in (folder / WORDS).iterdir() if path.name != STATE and path.suffix != ".lock"]
    return {path.name: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat, on grass!", ["a", "cat", "on", "grass"]),
        ("IMG_2041", ["img", "2041", "img2041"]),
        ("img_2041.JPG", ["img", "2041", "jpg", "img2041jpg"]),
        ("img2041", ["img", "2041", "img2041"]),
        ("BeachParty-v2", ["beach", "party", "v", "2", "beachpartyv2"]),
        ("Zürich Straße", ["zurich", "strasse"]),
        ("Zu\u0308rich", ["zurich"]),  # as macOS writes the names of files
        ("ＩＭＧ ﬁne", ["img", "fine"]),
        ("шкаф ÉTÉ", ["шкаф", "ete"]),
        ("हिन्दी", ["हिन्दी"]),  # its vowels are marks
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("猫 2023年", ["猫", "2023", "年", "2023年"]),
        ("고양이가", ["고양", "양이", "이가"]),
        ("x" * 256, []),
        ("x" * 255, ["x" * 255]),
        ("\ud800 \0 ?!", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@given(st.text())
def test_tokens_stay_what_they_are_and_need_no_case(text: str) -> None:
    found = tokens(text)
    assert all(token and not token.isspace() and len(token.split()) == 1 for token in found)
    assert tokens(" ".join([text, "IMG_2041"])) == [*found, "img", "2041", "img2041"]


def test_a_file_is_found_by_its_name_in_every_spelling(tmp_path: Path) -> None:
    names = ["IMG_2040.jpg", "IMG_2041.jpg", "IMG_20410.jpg", "trip/2041-notes.png", "holiday.jpg"]
    library = keep(tmp_path, [an_item(name) for name in names])

    for query in ("IMG_2041", "IMG_2041.jpg", "img 2041", "img2041", "where is img-2041?", "IMG_2041.JPG"):
        assert found(library, query)[0] == "IMG_2041.jpg", query
    assert found(library, "2041") == ["IMG_2041.jpg", "trip/2041-notes.png"]
    assert found(library, "IMG_20410")[0] == "IMG_20410.jpg"
    assert found(library, "HOLIDAY") == ["holiday.jpg"]


def test_a_name_counts_more_than_a_folder(tmp_path: Path) -> None:
    items = [an_item("rome/1.jpg", root="/home/anna/photos"), an_item("x/rome.jpg", root="/home/anna/photos")]
    library = keep(tmp_path, [*items, an_item("z/2.jpg", root="/elsewhere/rome")])

    assert found(library, "rome") == ["x/rome.jpg", "rome/1.jpg", "z/2.jpg"]
    assert found(library, "anna") == []  # where a source lies


def test_a_picture_in_an_archive_is_found_by_its_key(tmp_path: Path) -> None:
    items = [an_item("00000.tar", part=f"pets/{key}.jpg") for key in ("rex", "minka")]
    text = a_text("a dog", "00000.tar")
    frame = an_item("minka.mp4", kind=Kind.FRAME, part="12.500")
    library = keep(tmp_path, [*items, text, frame])

    assert found(library, "minka.jpg")[0] == "00000.tar#pets/minka.jpg"
    assert found(library, "minka") == ["00000.tar#pets/minka.jpg", "minka.mp4#12.500"]
    assert found(library, "pets") == ["00000.tar#pets/rex.jpg", "00000.tar#pets/minka.jpg"]
    assert found(library, "12 500") == []


def test_scores_are_bm25(tmp_path: Path) -> None:
    texts = ["a red bus", "a red red rose", "a green bus near a red bus", "nothing of it"]
    library = keep(tmp_path, [a_text(text, "") for text in texts])
    lengths = np.array([len(text.split()) for text in texts])

    rows, scores, _ = opened(library).search("Red bus?", 10)

    expected = np.zeros(len(texts))
    for word in ("red", "bus"):
        tf = np.array([text.split().count(word) for text in texts])
        n = np.count_nonzero(tf)
        idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        expected += idf * 2.2 * tf / (tf + 1.2 * (0.25 + 0.75 * lengths / lengths.mean()))
    assert rows.tolist() == [row for row in np.argsort(-expected).tolist() if expected[row] > 0] == [0, 2, 1]
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-5)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32


def test_what_a_caption_says_is_found_as_text_and_as_its_picture(tmp_path: Path) -> None:
    pictures = [an_item(f"{n}.jpg") for n in range(3)]
    captions = [
        a_text("Anna and Bert at the lake", pair=pictures[2].id),
        a_text("the lake alone, on a day of rain", pair=pictures[2].id),
        a_text("Anna", pair=pictures[0].id),
        a_text("Anna, of no picture here", pair="00000000000000ff"),
    ]
    library = keep(tmp_path, captions + pictures)
    images, texts = library.of_kinds([Kind.IMAGE]), library.of_kinds([Kind.TEXT])

    assert found(library, "Anna", allowed=images) == ["0.jpg", "2.jpg"]
    assert found(library, "Anna at a lake", allowed=images) == ["2.jpg", "0.jpg"]
    assert found(library, "Anna", allowed=texts) == ["Anna", "Anna, of no picture here", "Anna and Bert at the lake"]
    rows, scores, _ = opened(library).search("lake", 10)
    assert rows.tolist() == [0, 6, 1]  # the picture once, as its best caption
    assert scores[0] == scores[1] > scores[2]


def test_a_picture_that_was_read_again_keeps_its_captions(tmp_path: Path) -> None:
    picture = an_item("1.jpg")
    keep(tmp_path, [picture, a_text("Anna", pair=picture.id), *[an_item(f"x{n}.jpg") for n in range(9)]])
    library = keep(tmp_path, [an_item("1.jpg", content_hash="new")], bury=[0])

    assert len(library) == 12
    assert opened(library).search("Anna", 10, allowed=library.of_kinds([Kind.IMAGE]))[0].tolist() == [11]


@pytest.mark.parametrize("word", ["anna", "lake"])
def test_captions_of_many_pictures(tmp_path: Path, word: str) -> None:
    """One in a hundred is of Anna, half are of a lake; every picture was read again, some of them often."""
    pictures = [an_item(f"{n}.jpg") for n in range(300)]
    captions = [a_text(f"anna {n}" if n % 100 == 7 else f"lake {n}" if n % 2 else f"rain {n}") for n in range(300)]
    paired = [replace(text, pair=picture.id) for text, picture in zip(captions, pictures, strict=True)]
    keep(tmp_path, [*pictures, *paired, *[an_item(f"x{n}.jpg") for n in range(300)]])
    for _ in range(6):
        again = np.flatnonzero([item.path == "7.jpg" for item in Library.open(tmp_path).items(np.arange(900))])
        library = keep(tmp_path, [pictures[7]], bury=[*again.tolist(), *range(900, len(Library.open(tmp_path)))])
    allowed = library.of_kinds([Kind.IMAGE]) & (np.arange(len(library)) > 5)

    rows, *_ = opened(library).search(word, 1000, allowed=allowed)

    of = {n for n, text in enumerate(captions) if (text.text or "").startswith(word)}
    assert sorted(rows.tolist()) == sorted(905 if n == 7 else n for n in of if n > 5)
    assert len(library) == 906


def test_the_commonest_words_are_looked_for_only_alone(tmp_path: Path) -> None:
    library = keep(tmp_path, [a_text(text) for text in ("that is the one", "grass", "to be or not to be")])

    assert found(library, "this is a cat on the grass") == ["grass"]
    assert found(library, "to be") == ["to be or not to be"]


def test_what_nearly_all_have_is_not_looked_for(tmp_path: Path) -> None:
    library = keep(tmp_path, [an_item(f"a{n}.jpg") for n in range(words_module.FEW)] + [an_item("b.png")])
    assert len(found(library, "jpg", k=1000)) == words_module.FEW

    library = keep(tmp_path, [an_item("c.jpg")])
    assert found(library, "jpg", k=1000) == []
    assert found(library, "a7 jpg") == ["a7.jpg"]


@given(query=st.text() | st.text(alphabet='a"()+-:*?^~[]{}\\/&|! ANDORT', max_size=20), k=st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_is_a_query(three: tuple[Library, WordIndex], query: str, k: int) -> None:
    library, index = three
    rows, scores, _ = index.search(query, k)

    asked = set(tokens(query))
    has = [bool(asked & set(tokens(f"/photos/{item.path}"))) for item in library.items(np.arange(3))]
    assert set(rows.tolist()) <= set(np.flatnonzero(has).tolist())
    assert len(rows) == len(set(rows.tolist())) == len(scores) <= k
    assert (scores > 0).all()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, WordIndex]:
    library = keep(tmp_path_factory.mktemp("three"), [an_item(name) for name in ("A AND.jpg", "OR (T).jpg", "é.png")])
    return library, opened(library)


def test_of_a_long_query_the_first_words_count(three: tuple[Library, WordIndex]) -> None:
    _, index = three
    many = [f"w{n}" for n in range(5_000)]
    assert index.search(" ".join(["png", *many]), 5)[0].tolist() == [2]
    assert index.search(" ".join([*many, "png"]), 5)[0].tolist() == []


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 0.001])
def test_k_come_back_if_k_match_whatever_is_allowed(crowd: Library, share: float) -> None:
    rng = np.random.default_rng(int(1000 * share))
    allowed = rng.random(len(crowd)) < share
    has_dog = np.array(["dog" in (item.text or "").split() for item in crowd.items(np.arange(len(crowd)))])
    matching = np.flatnonzero(has_dog & allowed & crowd.alive)
    index = opened(crowd)
    everything, all_scores, _ = index.search("dog", len(crowd))
    score_of = dict(zip(everything.tolist(), all_scores.tolist(), strict=True))
    assert sorted(score_of) == np.flatnonzero(has_dog & crowd.alive).tolist()

    for k in (1, 10, 500):
        rows, scores, _ = index.search("dog", k, allowed=allowed)
        assert len(rows) == len(set(rows.tolist())) == min(k, len(matching))
        assert set(rows.tolist()) <= set(matching.tolist())
        expected = sorted((score_of[row] for row in matching.tolist()), reverse=True)[:k]
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Texts of several lengths, two of five with a dog, some of them dead."""
    rng = random.Random(0)
    words = ["dog", "dog", "cat", "bus", "tree"]
    texts = [f"{rng.choice(words)} {n} {'and so on ' * rng.randrange(5)}" for n in range(3_000)]
    folder = tmp_path_factory.mktemp("crowd")
    keep(folder, [a_text(text, "") for text in texts[:2_000]])
    return keep(folder, [a_text(text, "") for text in texts[2_000:]], bury=range(0, 2_000, 7))


def test_the_dead_are_not_found(tmp_path: Path) -> None:
    library = keep(tmp_path, [an_item(f"anna {n}.jpg") for n in range(9)])
    before = segments(tmp_path)
    with LibraryWriter(tmp_path) as writer:
        writer.bury([3, 5])

    library = Library.open(tmp_path)
    assert opened(library).search("anna", 10)[0].tolist() == [0, 1, 2, 4, 6, 7, 8]
    assert opened(library).search("anna", 10, allowed=np.ones(9, np.bool_))[0].tolist() == [0, 1, 2, 4, 6, 7, 8]
    assert segments(tmp_path) == before


def test_new_rows_are_added_and_nothing_else_is_written(tmp_path: Path) -> None:
    library = keep(tmp_path, [an_item("anna.jpg"), an_item("bert.jpg"), *[an_item(f"x{n}.jpg") for n in range(7)]])
    first = segments(tmp_path)
    state = (tmp_path / WORDS / STATE).stat()

    keep(tmp_path)
    assert segments(tmp_path) == first
    assert (tmp_path / WORDS / STATE).stat().st_ino == state.st_ino

    library = keep(tmp_path, [an_item("anna too.jpg")])
    assert found(library, "anna") == ["anna.jpg", "anna too.jpg"]
    assert opened(library).rows == 10
    assert first.items() < segments(tmp_path).items()


def test_words_stay_right_while_shards_are_merged(tmp_path: Path) -> None:
    """Whatever merges come between, the words are those of rows, and what came after them is not looked at."""
    keep(tmp_path, [an_item(f"first {n}.jpg") for n in range(5)])
    before = segments(tmp_path)
    shards = {entry.id for entry in Manifest.load(tmp_path).shards}
    with LibraryWriter(tmp_path) as writer:
        writer.add([an_item(f"second {n}.jpg") for n in range(5)], unit_rows(5))
    library = Library.open(tmp_path)
    assert shards.isdisjoint(entry.id for entry in library.manifest.shards)

    assert opened(library).rows == 5
    assert opened(library).search("3", 10)[0].tolist() == [3]
    library = keep(tmp_path)
    assert opened(library).search("3", 10)[0].tolist() == [3, 8]
    assert before.items() < segments(tmp_path).items()


def test_many_small_runs_leave_few_files(tmp_path: Path) -> None:
    for n in range(20):
        library = keep(tmp_path, [an_item(f"IMG_{n}.jpg"), an_item(f"other {n}.jpg")])
        assert found(library, f"IMG_{n}")[0] == f"IMG_{n}.jpg"

    named = {path.partition(".")[0] for path in segments(tmp_path)}
    assert len(named) < 10
    assert [found(library, f"IMG_{n}")[0] for n in range(20)] == [f"IMG_{n}.jpg" for n in range(20)]


@pytest.mark.parametrize("late", [False, True])
def test_rows_that_were_numbered_anew_need_new_words(tmp_path: Path, late: bool) -> None:
    """A purge moves rows; nobody sees the words of others, however like the old library the new one looks."""
    keep(tmp_path, [a_text("old one", f"{n}.txt") for n in range(8)])
    with LibraryWriter(tmp_path) as writer:
        again = [an_item(f"{n}.txt", kind=Kind.TEXT, part="old one", text=f"new {n}") for n in range(8)]
        writer.add(again, unit_rows(8), bury=range(8))
        writer.merge()
    library = Library.open(tmp_path)
    assert len(library) == 8

    with pytest.raises(LibraryDamaged, match="other rows"):
        open_words(library)
    library = keep(tmp_path, [an_item("more.jpg")] if late else [])
    assert found(library, "old") == []
    assert opened(library).search("new 6", 1)[0].tolist() == [6]


def test_rows_that_were_let_go_of_need_new_words(tmp_path: Path) -> None:
    keep(tmp_path, [an_item(f"a{n}.jpg") for n in range(9)])
    library = keep(tmp_path, [an_item("b.jpg")])
    with LibraryWriter(tmp_path) as writer:
        writer.drop_shards([library.manifest.shards[-1].id])
    assert found(Library.open(tmp_path), "b") == []  # they are the first of those in the index

    assert opened(keep(tmp_path)).rows == 9
    library = keep(tmp_path, [an_item("c.jpg")])
    assert found(library, "b") == []
    assert opened(library).search("c", 10)[0].tolist() == [9]


def test_words_outlive_a_lost_manifest(tmp_path: Path) -> None:
    keep(tmp_path, [an_item(f"a{n}.jpg") for n in range(9)])
    (tmp_path / MANIFEST).unlink()
    with LibraryWriter(tmp_path, recover=recover):
        pass
    assert found(Library.open(tmp_path), "a7") == ["a7.jpg"]


def test_an_older_commit_is_asked_with_newer_words(tmp_path: Path) -> None:
    older = keep(tmp_path, [an_item(f"anna {n}.jpg") for n in range(9)])
    newer = keep(tmp_path, [an_item("anna 9.jpg")])

    assert opened(older).search("anna", 20)[0].tolist() == list(range(9))
    assert opened(newer).search("anna", 20)[0].tolist() == list(range(10))


def test_there_may_be_none(tmp_path: Path) -> None:
    with LibraryWriter(tmp_path, SPEC) as writer:
        writer.add([an_item("a.jpg")], unit_rows(1))
    assert open_words(Library.open(tmp_path)) is None

    empty = keep(tmp_path / "empty")
    assert opened(empty).search("a", 10)[0].tolist() == []
    assert found(keep(tmp_path / "empty", [an_item("a.jpg")]), "a") == ["a.jpg"]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of nine pictures named anna, with their words."""
    folder = tmp_path_factory.mktemp("nine")
    keep(folder, [an_item(f"anna {n}.jpg") for n in range(9)])
    return folder


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_altered_files_are_told_and_mended(nine: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # tantivy may lock it just then
        folder = shutil.copytree(nine, Path(temporary, "copy"))
        path = data.draw(st.sampled_from([folder / WORDS / STATE, *(folder / WORDS / name for name in segments(nine))]))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, max(0, len(content) - 1)), label="byte")
        match data.draw(st.sampled_from(["flip", "cut", "remove"] if content else ["remove"])):
            case "flip":
                content[at] ^= data.draw(st.integers(1, 255), label="bits")
                path.write_bytes(content)
            case "cut":
                path.write_bytes(content[:at])
            case "remove":
                path.unlink()

        library = Library.open(folder)
        if path.name == STATE and not path.exists():
            assert open_words(library) is None
        elif path.name == STATE and parsed(path.read_bytes()) == parsed((nine / WORDS / STATE).read_bytes()):
            assert len(found(library, "anna")) == 9  # a blank became another
        else:
            with pytest.raises(LibraryDamaged, match="index of words"):
                open_words(library)
            assert len(found(keep(folder), "anna")) == 9


def parsed(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_large_index_is_checked_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = keep(tmp_path, [an_item("anna.jpg")])
    monkeypatch.setattr(words_module, "CHECKED_ON_OPEN_BYTES", 0)
    path = next((tmp_path / WORDS).glob("*.store"))
    path.write_bytes(b"?" + path.read_bytes()[1:])

    assert open_words(library) is not None
    with pytest.raises(LibraryDamaged, match="altered"):
        open_words(library, check=True)


def test_another_format_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = keep(tmp_path, [an_item("anna.jpg")])
    monkeypatch.setattr(words_module, "FORMAT", 2)
    with pytest.raises(LibraryDamaged, match="another version"):
        open_words(library)
    assert found(keep(tmp_path), "anna") == ["anna.jpg"]


def test_a_full_disk_is_told_and_leaves_the_old_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = keep(tmp_path, [an_item(f"anna {n}.jpg") for n in range(9)])
    files = segments(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(words_module, "settle", full)
    with pytest.raises(OSError, match="No space left"):
        keep(tmp_path, [an_item("anna 9.jpg")])
    assert segments(tmp_path) == files
    assert opened(library).search("anna", 20)[0].tolist() == list(range(9))
    monkeypatch.undo()
    assert opened(keep(tmp_path)).search("anna", 20)[0].tolist() == list(range(10))


def test_where_no_lock_can_be_taken_words_are_read_all_the_same(tmp_path: Path) -> None:
    library = keep(tmp_path, [an_item("anna.jpg")])
    lock = tmp_path / WORDS / ".tantivy-meta.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # as good as no right to write, and for root too

    index = opened(library)
    assert index.search("anna", 10)[0].tolist() == [0]
    assert sorted(path.suffix for path in lock.parent.iterdir() if path.is_dir()) == [".lock"]


def test_readers_go_on_while_words_are_made(tmp_path: Path) -> None:
    """Two readers open and ask all the time; each sees its commit, with words that are right or, for a moment, none."""
    keep(tmp_path, [an_item(f"anna {n}.jpg") for n in range(8)])
    held = opened(Library.open(tmp_path))
    done = False

    def read() -> tuple[int, int]:
        right = without = 0
        while not done or not right:
            library = Library.open(tmp_path)
            try:
                index = opened(library)
            except LibraryDamaged:
                without += 1  # between a purge and the new words
                continue
            rows, *_ = index.search("anna", 500)
            names = [item.path for item in library.items(np.arange(len(library)))]
            expected = [row for row, name in enumerate(names[: index.rows]) if "anna" in name and library.alive[row]]
            assert sorted(rows.tolist()) == expected
            right += 1
        return right, without

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for n in range(12):
                rows = len(Library.open(tmp_path))
                names = [f"anna {n} {m}.jpg" if m % 2 else f"bert {n} {m}.jpg" for m in range(6)]
                keep(tmp_path, [an_item(name) for name in names], bury=range(0, rows, 3) if n % 3 == 2 else ())
        finally:
            done = True
        assert all(reader.result(WAIT_S)[0] > 0 for reader in readers)
    assert sorted(held.search("anna", 20)[0].tolist()) == list(range(8))


KEEP = """
import sys
from pathlib import Path
from tests.fakes import SPEC, an_item, unit_rows
from xsearch.library import LibraryWriter
from xsearch.library.words import keep_words
n = 0
with LibraryWriter(Path(sys.argv[1]), SPEC) as writer:
    while True:
        n += 1
        writer.add([an_item(f"anna {sys.argv[2]} {n} {m}.jpg") for m in range(4)], unit_rows(4))
        if n % 4 == 0:
            writer.bury(range(0, writer.manifest.rows, 2))
            writer.merge()
        print(n, flush=True)
        keep_words(writer)
"""


def test_kill_9_leaves_the_old_words_or_none(tmp_path: Path) -> None:
    rng = random.Random(0)
    told: list[str] = []
    for kill in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", KEEP, str(tmp_path), str(kill)],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
        assert process.stdout is not None
        with process, process.stdout:
            for _ in range(rng.randrange(2, 7)):
                process.stdout.readline()
            time.sleep(rng.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            process.wait(WAIT_S)
        library = Library.open(tmp_path)
        try:
            index = open_words(library)
        except LibraryDamaged as error:
            told.append(error.message)
            continue
        assert index is not None
        covered = np.flatnonzero(library.alive[: index.rows]).tolist()
        assert sorted(index.search("anna", 10_000)[0].tolist()) == covered
    assert all("other rows" in message for message in told)
    library = keep(tmp_path)
    assert sorted(opened(library).search("anna", 10_000)[0].tolist()) == np.flatnonzero(library.alive).tolist()
    state = [path.name for path in (tmp_path / WORDS).iterdir() if path.suffix == ".tmp" or path.is_dir()]
    assert state == []
