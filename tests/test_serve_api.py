"""The HTTP API over a library: what each address answers, with the values that the library gives."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.fakes import FakeEncoder, picture
from tests.serving import HOSTILE, N_PICTURES, items_of, make_library, problem_of, served
from xsearch import Searcher, __version__
from xsearch.maintenance import stats
from xsearch.query import Query
from xsearch.types import Item, Kind


@pytest.fixture(scope="module")
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, encoder: FakeEncoder) -> Path:
    return make_library(tmp_path_factory.mktemp("serve"), encoder)


@pytest.fixture(scope="module")
def items(data: Path) -> dict[str, Item]:
    return items_of(data)


@pytest.fixture(scope="module")
def client(data: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    with served(data, encoder) as client:
        yield client


# Search


@pytest.mark.parametrize(
    ("q", "options"),
    [
        ("a cat", {}),
        ("a cat", {"kind": "image", "k": 3}),
        ("a cat + a dog - 0.5:people", {"fusion": "early", "k": 4}),
        ("a cat", {"group": "none", "kind": "frame"}),
        ("a cat", {"where": "width = 32 AND name LIKE '%.png'"}),
        ("a cat", {"words": False}),
    ],
)
def test_a_query_is_answered_as_the_searcher_answers(
    client: TestClient, data: Path, encoder: FakeEncoder, q: str, options: dict[str, str | int]
) -> None:
    answer = client.get("/api/v1/search", params={"q": q, **options}).json()
    hits = Searcher(data, encoder=encoder).query(Query.parse(q), **({"k": 20} | options))  # type: ignore[arg-type]
    assert len(hits) > 1
    assert answer["hits"] == [hit.to_dict() for hit in hits]
    assert answer["good_match"] == hits.good_match
    assert answer["query"]["text"] == q
    assert set(answer["took_ms"]) == {"encode", "search"}


def test_pages_join_to_the_whole_answer(client: TestClient) -> None:
    whole = client.get("/api/v1/search", params={"q": "a cat", "k": 7}).json()["hits"]
    pages = [client.get("/api/v1/search", params={"q": "a cat", "k": 3, "offset": at}).json() for at in (0, 3, 6)]
    assert [hit for page in pages for hit in page["hits"]][:7] == whole
    assert pages[1]["hits"][0]["rank"] == 4
    assert client.get("/api/v1/search", params={"q": "a cat", "k": 3, "offset": 900}).json()["hits"] == []


def test_an_uploaded_picture_is_found(client: TestClient, items: dict[str, Item]) -> None:
    upload = ("my photo.png", items["3.png"].file.read_bytes())
    answer = client.post("/api/v1/search", files={"image": upload}, data={"kind": "image", "k": "2"}).json()
    assert answer["hits"][0]["item_id"] == items["3.png"].id
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert answer["query"] == {"text": None, "images": ["my photo.png"], "k": 2, "offset": 0, "kind": "image"}


def test_pictures_and_words_are_terms_of_one_query(
    client: TestClient, data: Path, encoder: FakeEncoder, items: dict[str, Item]
) -> None:
    contents = [items[name].file.read_bytes() for name in ("1.png", "2.png")]
    files = [("image", (f"{number}.png", one)) for number, one in enumerate(contents)]
    answer = client.post("/api/v1/search", files=files, data={"q": "- a dog", "k": "5"}).json()
    query = Query.parse("- a dog") + Query(image=contents[0]) + Query(image=contents[1])
    expected = Searcher(data, encoder=encoder).query(query, k=5)
    assert [hit["item_id"] for hit in answer["hits"]] == [hit.item_id for hit in expected]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-3)


def test_a_form_without_a_picture_asks_as_well(client: TestClient) -> None:
    asked = {"q": "a cat", "k": "2"}
    by_get = client.get("/api/v1/search", params=asked).json()["hits"]
    assert client.post("/api/v1/search", data=asked).json()["hits"] == by_get
    # What browsers send of a form whose file was left empty.
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in asked.items()]
    parts.append('Content-Disposition: form-data; name="image"; filename=""\r\nContent-Type: image/png\r\n\r\n')
    body = "".join(f"--x\r\n{part}\r\n" for part in parts) + "--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/api/v1/search", content=body, headers=kind).json()["hits"] == by_get


def test_items_of_the_library_are_terms_and_judged(client: TestClient, items: dict[str, Item]) -> None:
    one = items["1.png"].id
    like = client.get("/api/v1/search", params={"q": f"item:{one}", "k": 50}).json()["hits"]
    more = client.get("/api/v1/search", params={"more_like": one, "k": 50}).json()["hits"]
    assert [hit["item_id"] for hit in like] == [hit["item_id"] for hit in more]
    assert one not in {hit["item_id"] for hit in like}
    less = client.get("/api/v1/search", params={"q": "a cat", "less_like": [one, items["2.png"].id], "k": 50}).json()
    assert {one, items["2.png"].id}.isdisjoint(hit["item_id"] for hit in less["hits"])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "nothing is asked"),
        ({"q": "  "}, "nothing is asked"),
        ({"q": "a cat", "k": 0}, "k: "),
        ({"q": "a cat", "k": 1_001}, "k: "),
        ({"q": "a cat", "k": 1_000, "offset": 9_001}, "10,001 hits cannot be shown"),
        ({"q": "a cat", "offset": -1}, "offset: "),
        ({"q": "x" * 2_001}, "q: "),
        ({"q": " + ".join(["a"] * 17)}, "17 terms"),
        ({"q": "a cat +"}, "a term is missing"),
        ({"q": "a cat", "kind": "film"}, "kind"),
        ({"q": "a cat", "group": "shots"}, "group"),
        ({"q": "a cat", "fusion": "late night"}, "fusion"),
        ({"q": "a cat", "where": "nothing = 1"}, "there is no column 'nothing'"),
        ({"q": "a cat", "where": "id IN (SELECT id FROM items)"}, "cannot be used"),
        ({"q": "a cat", "near": "here"}, "'here' is not LAT,LON,KM"),
        ({"q": "a cat", "more_like": "0123456789abcdef"}, "not in the library"),
        ({"q": "a cat", "sort": "date"}, "sort"),
    ],
)
def test_what_cannot_be_asked_is_told(client: TestClient, params: dict[str, str], said: str) -> None:
    assert said in problem_of(client.get("/api/v1/search", params=params), 422)["detail"]


def test_a_file_that_is_no_picture_is_told(client: TestClient) -> None:
    for upload in (b"<html>", b"\xff\xd8\xff"):
        problem = problem_of(client.post("/api/v1/search", files={"image": ("cat.jpg", upload)}), 422)
        assert "picture" in problem["detail"]


# Items


def test_an_item_is_told(client: TestClient, items: dict[str, Item]) -> None:
    sideways = items["sideways.jpg"]
    record = client.get(f"/api/v1/items/{sideways.id}").json()
    assert record["path"] == str(sideways.file)
    assert (record["name"], record["kind"], record["bytes"]) == ("sideways.jpg", "image", sideways.file.stat().st_size)
    assert (record["width"], record["height"], record["taken_at"]) == (60, 120, "2023-06-01T12:00:00")
    assert client.get(f"/api/v1/items/{items['note.md'].id}").json()["text"] == HOSTILE
    frame = client.get(f"/api/v1/items/{items['film.mp4'].id}").json()
    assert (frame["kind"], frame["t_start_s"], frame["shot"]) == ("frame", 0.0, 0)


def test_an_item_that_is_not_there_is_told(client: TestClient) -> None:
    for address in ("", "/thumbnail", "/original", "/explain?q=a", "/moments?q=a"):
        problem = problem_of(client.get(f"/api/v1/items/0123456789abcdef{address}"), 404)
        assert problem["detail"] == "the library has no item 0123456789abcdef"


def test_every_item_has_its_id(client: TestClient, items: dict[str, Item]) -> None:
    assert len(items) >= N_PICTURES + 4
    for item in items.values():
        assert client.get(f"/api/v1/items/{item.id}").json()["item_id"] == item.id


def test_a_picture_is_handed_out_as_it_is(client: TestClient, items: dict[str, Item]) -> None:
    for name, media_type in (("1.png", "image/png"), ("sideways.jpg", "image/jpeg")):
        response = client.get(f"/api/v1/items/{items[name].id}/original")
        assert response.content == items[name].file.read_bytes()
        assert response.headers["content-type"] == media_type
        assert response.headers["content-disposition"] == f"inline; filename*=utf-8''{name}"


def test_a_picture_in_an_archive_is_handed_out_alone(client: TestClient, items: dict[str, Item]) -> None:
    response = client.get(f"/api/v1/items/{items['one'].id}/original")
    with Image.open(io.BytesIO(response.content)) as found:
        assert found.format == "PNG"
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize("name", ["note.md", "samples.tar"])
def test_a_text_is_saved_and_never_shown(client: TestClient, items: dict[str, Item], name: str) -> None:
    assert items[name].kind is Kind.TEXT
    response = client.get(f"/api/v1/items/{items[name].id}/original")
    assert response.text == items[name].text
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment; ")


def test_a_film_is_handed_out_in_ranges(client: TestClient, items: dict[str, Item]) -> None:
    film = items["film.mp4"].file.read_bytes()
    address = f"/api/v1/items/{items['film.mp4'].id}/original"
    whole = client.get(address)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, film, "video/mp4")
    assert whole.headers["accept-ranges"] == "bytes"
    for asked, part in (("0-99", film[:100]), ("100-", film[100:]), ("-50", film[-50:]), ("0-999999999", film)):
        response = client.get(address, headers={"Range": f"bytes={asked}"})
        assert (response.status_code, response.content) == (206, part)
        assert response.headers["content-range"].endswith(f"/{len(film)}")
    several = client.get(address, headers={"Range": "bytes=0-9,20-29"})
    assert several.status_code == 206
    assert film[20:30] in several.content
    unchanged = {"Range": "bytes=0-9", "If-Range": whole.headers["etag"]}
    assert client.get(address, headers=unchanged).content == film[:10]
    assert client.get(address, headers=unchanged | {"If-Range": '"another"'}).content == film
    beyond = client.get(address, headers={"Range": f"bytes={len(film)}-"})
    problem_of(beyond, 416)
    assert beyond.headers["content-range"] == f"bytes */{len(film)}"


def test_a_file_that_was_changed_or_removed_is_not_handed_out(tmp_path: Path, encoder: FakeEncoder) -> None:
    data = make_library(tmp_path, encoder)
    items = items_of(data)
    secret = tmp_path / "secret.txt"
    secret.write_text("nobody shall read this")
    items["1.png"].file.unlink()
    items["1.png"].file.symlink_to(secret)
    items["2.png"].file.unlink()
    picture(items["3.png"].file, 77)
    shutil.rmtree(items["film.mp4"].file, ignore_errors=True)
    items["film.mp4"].file.write_bytes(b"another film")
    with served(data, encoder) as client:
        for name in ("1.png", "2.png", "3.png", "film.mp4"):
            for part in ("original", "thumbnail", "explain?q=a"):
                problem = problem_of(client.get(f"/api/v1/items/{items[name].id}/{part}"), 404)
                assert "xsearch index" in problem["remedy"]
                assert "nobody" not in problem["detail"]


def test_moments_are_those_of_the_film(
    client: TestClient, data: Path, encoder: FakeEncoder, items: dict[str, Item]
) -> None:
    film = items["film.mp4"]
    told = client.get(f"/api/v1/items/{film.id}/moments", params={"q": "a cat"}).json()
    hits = Searcher(data, encoder=encoder).query("a cat", kind="frame", k=10)
    assert len(hits) > 1
    assert [(one["t_start_s"], one["t_end_s"], one["item_id"]) for one in told] == [
        (hit.t_start_s, hit.t_end_s, hit.item_id) for hit in hits
    ]
    assert client.get(f"/api/v1/items/{items['1.png'].id}/moments", params={"q": "a cat"}).json() == []


def test_an_explanation_needs_a_text_and_a_picture(client: TestClient, items: dict[str, Item]) -> None:
    only_items = {"q": f"item:{items['2.png'].id} - a dog"}
    problem = problem_of(client.get(f"/api/v1/items/{items['1.png'].id}/explain", params=only_items), 422)
    assert problem["detail"] == "the query holds no text that is wanted"
    problem = problem_of(client.get(f"/api/v1/items/{items['note.md'].id}/explain", params={"q": "a"}), 404)
    assert problem["detail"] == f"{items['note.md'].id} is a text"


# The library


def test_the_library_is_told(client: TestClient, data: Path) -> None:
    told, known = client.get("/api/v1/stats").json(), json.loads(json.dumps(stats(data)))
    assert told | {"bytes": 0} == known | {"bytes": 0}  # thumbnails are written meanwhile
    health = client.get("/api/v1/health").json()
    assert health == {
        "status": "ok",
        "version": __version__,
        "commit": told["commit"],
        "items": told["items"]["all"],
        "problem": None,
    }
    skipped = client.get("/api/v1/skipped").json()
    assert skipped["total"] == 1
    assert skipped["skipped"][0]["path"].endswith("broken.jpg")
    assert skipped["skipped"][0]["reason"] == "damaged picture"
    assert client.get("/api/v1/skipped", params={"offset": 1}).json() == {"total": 1, "skipped": []}


def test_facets_count_every_item(client: TestClient, data: Path, items: dict[str, Item]) -> None:
    facets = client.get("/api/v1/facets").json()
    assert facets["kinds"] == {kind: stats(data)["items"][kind] for kind in ("image", "frame", "text")}
    assert facets["folders"] == [
        {"path": str(items["1.png"].file.parent), "count": sum(facets["kinds"].values())},
    ]
    assert facets["months"] == [{"month": "2023-06", "count": 1}]
    assert facets["places"] == []


def test_counters_tell_what_was_asked(data: Path, encoder: FakeEncoder) -> None:
    with served(data, encoder) as client:
        for _ in range(3):
            client.get("/api/v1/search", params={"q": "a cat"})
        client.get("/api/v1/search", params={"q": "a cat", "k": 0})
        client.get("/nowhere")
        client.request("BREW", "/api/v1/health")
        lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['xsearch_requests_total{method="GET",route="/api/v1/search",status="200"}'] == "3.0"
    assert values['xsearch_requests_total{method="GET",route="/api/v1/search",status="422"}'] == "1.0"
    assert any(name.startswith('xsearch_requests_total{method="other"') for name in values)
    assert values['xsearch_request_seconds_count{route="/api/v1/search"}'] == "4.0"
    assert values["xsearch_batch_queries_sum"] == "3.0"
    assert float(values['xsearch_stage_seconds_total{stage="search"}']) > 0
    assert float(values['xsearch_items{kind="image"}']) == N_PICTURES + 2


def test_openapi_names_every_address_and_its_problems(client: TestClient) -> None:
    told = client.get("/api/v1/openapi.json").json()
    assert sorted(told["paths"]) == [
        "/api/v1/facets",
        "/api/v1/health",
        "/api/v1/items/{item_id}",
        "/api/v1/items/{item_id}/explain",
        "/api/v1/items/{item_id}/moments",
        "/api/v1/items/{item_id}/original",
        "/api/v1/items/{item_id}/thumbnail",
        "/api/v1/search",
        "/api/v1/skipped",
        "/api/v1/stats",
    ]
    for path in told["paths"].values():
        for operation in path.values():
            assert operation["description"].endswith(".")
            assert list(operation["responses"]["4XX"]["content"]) == ["application/problem+json"]
    assert set(told["paths"]["/api/v1/search"]) == {"get", "post"}


def test_what_is_nowhere_is_a_problem(client: TestClient) -> None:
    assert problem_of(client.get("/api/v1/nothing"), 404)["detail"] == "there is nothing at /api/v1/nothing"
    assert problem_of(client.get("/nothing.html"), 404)["title"] == "Not Found"
    refused = client.delete("/api/v1/search")
    problem_of(refused, 405)
    assert "GET" in refused.headers["allow"]


def test_the_page_is_served_with_its_parts(client: TestClient) -> None:
    page = client.get("/", params={"q": "a cat"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    scripts = re.findall(r'src="/?([\w/.-]+\.js)"', page.text)
    assert scripts
    for script in scripts:
        part = client.get(f"/{script}")
        assert part.headers["content-type"] == "text/javascript; charset=utf-8"
        assert part.headers["cache-control"] == "no-cache"
        unchanged = client.get(f"/{script}", headers={"If-None-Match": part.headers["etag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")


# Thumbnails, over HTTP


def test_a_thumbnail_is_upright_and_remembered_by_the_browser(client: TestClient, items: dict[str, Item]) -> None:
    address = f"/api/v1/items/{items['sideways.jpg'].id}/thumbnail"
    response = client.get(address, params={"px": 100})
    assert response.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(response.content)) as shown:
        assert shown.size == (60, 120)
        top, bottom = np.asarray(shown)[20, 30], np.asarray(shown)[100, 30]
    assert top[0] > 200 > 50 > bottom[0]
    tag = response.headers["etag"]
    again = client.get(address, params={"px": 100}, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(address, params={"px": 300}).headers["etag"] != tag
    problem_of(client.get(address, params={"px": 100_000}), 422)
    problem_of(client.get(f"/api/v1/items/{items['note.md'].id}/thumbnail"), 404)
