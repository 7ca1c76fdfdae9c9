"""What the server refuses: foreign hosts and sites, missing tokens, paths and addresses, too much of anything."""

import asyncio
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.fakes import FakeEncoder
from tests.serving import items_of, make_library, problem_of, served
from xsearch.serve.guard import COOKIE, Limits
from xsearch.types import Item

TOKEN = "a token that is long enough"
SEARCH = "/api/v1/search?q=cat"


@pytest.fixture(scope="module")
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, encoder: FakeEncoder) -> Path:
    return make_library(tmp_path_factory.mktemp("guard"), encoder)


@pytest.fixture(scope="module")
def items(data: Path) -> dict[str, Item]:
    return items_of(data)


@pytest.fixture(scope="module")
def client(data: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    with served(data, encoder, limits=Limits(body_bytes=100_000)) as client:
        yield client


@pytest.fixture
def locked(data: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    """A client of an application that asks for a token, without it."""
    with served(data, encoder, token=TOKEN, allowed_hosts=["localhost", "nas.home"]) as client:
        yield client


# Hosts and sites


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "[::1]:8000", "10.0.0.9"]
)
def test_this_machine_may_be_called_by_its_addresses(client: TestClient, host: str) -> None:
    assert client.get(SEARCH, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8000",
        "",
        "[::1",
        "user@",
        "2130706433x",
    ],
)
def test_a_name_that_points_here_from_elsewhere_is_refused(client: TestClient, host: str) -> None:
    for address in (SEARCH, "/", "/metrics", "/nowhere"):
        problem = problem_of(client.get(address, headers={"Host": host}), 403)
        assert "this server is not called" in problem["detail"]


def test_a_name_may_be_allowed(locked: TestClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert locked.get(SEARCH, headers=headers | {"Host": "nas.home:8000"}).status_code == 200
    problem = problem_of(locked.get(SEARCH, headers=headers | {"Host": "nas.example"}), 403)
    assert problem["remedy"] == "if it is: `xsearch serve --allow-host nas.example`"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("GET", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ("POST", {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ("POST", {"Origin": "http://localhost"}, 200),
        ("POST", {"Origin": "http://localhost:3000"}, 403),
        ("POST", {"Origin": "https://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Origin": "http://["}, 403),
        ("GET", {"Origin": "https://evil.example"}, 403),
        ("OPTIONS", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, 403),
    ],
)
def test_what_another_sites_page_asks_is_refused(
    client: TestClient, method: str, headers: dict[str, str], status: int
) -> None:
    sent = {"content": b"q=cat", "headers": headers | {"Content-Type": "application/x-www-form-urlencoded"}}
    response = client.request(method, SEARCH if method == "GET" else "/api/v1/search", **sent)  # type: ignore[arg-type]
    assert response.status_code == status
    assert not [name for name in response.headers if name.startswith("access-control")]
    if status == 403:
        assert problem_of(response, 403)["detail"] == "another site's page asks"


# Tokens


def test_without_the_token_nothing_is_told(locked: TestClient, items: dict[str, Item]) -> None:
    paths = [SEARCH, "/api/v1/stats", "/api/v1/openapi.json", "/metrics", f"/api/v1/items/{items['1.png'].id}/original"]
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer \xff"},
        {"Cookie": f"{COOKIE}={TOKEN}"},
        {"Cookie": f"{COOKIE}="},
    ):
        for path in paths:
            response = locked.get(path, headers=[(n.encode(), v.encode("latin-1")) for n, v in headers.items()])
            problem_of(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
    assert locked.get(f"{SEARCH}&token={TOKEN}").status_code == 401


def test_the_token_opens(locked: TestClient) -> None:
    for scheme in ("Bearer", "bearer"):
        assert locked.get(SEARCH, headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


def test_a_link_with_the_token_leaves_a_cookie_that_opens(locked: TestClient) -> None:
    response = locked.get("/", params={"q": "a cat & a dog", "token": TOKEN})
    assert (response.status_code, response.headers["location"]) == (303, "/?q=a+cat+%26+a+dog")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    assert locked.get(SEARCH).status_code == 200  # the client keeps cookies
    assert locked.get("/", params={"token": "wrong"}, headers={"Accept": "text/html"}).status_code != 303


def test_a_link_with_the_token_leads_nowhere_else(locked: TestClient) -> None:
    for path in ("//evil.example", "/\\evil.example", "//evil.example/%2f.."):
        location = locked.get(f"http://localhost{path}", params={"token": TOKEN}).headers["location"]
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))


def test_the_page_asks_for_the_token(locked: TestClient) -> None:
    page = locked.get("/", headers={"Accept": "text/html,*/*"})
    assert page.status_code == 401
    assert re.search(r'<form method="post" action="/login">.*name="token"', page.text, re.DOTALL)
    assert "<script" not in page.text
    for wrong in ("wrong", "", "x" * 100_000):
        refused = locked.post("/login", data={"token": wrong}, headers={"Accept": "text/html"})
        assert (refused.status_code, refused.text) == (401, page.text)
        assert "set-cookie" not in refused.headers
    entered = locked.post("/login", data={"token": TOKEN})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert locked.get(SEARCH).status_code == 200


def test_a_cookie_of_another_token_does_not_open(data: Path, encoder: FakeEncoder, locked: TestClient) -> None:
    with served(data, encoder, token=TOKEN[::-1]) as other:
        assert other.get("/", params={"token": TOKEN[::-1]}).status_code == 303
        stolen = other.cookies[COOKIE]
    problem_of(locked.get(SEARCH, headers={"Cookie": f"{COOKIE}={stolen}"}), 401)


# Paths and addresses


@pytest.mark.parametrize(
    "q",
    [
        "/etc/passwd",
        "./cat.jpg",
        "../../etc/passwd",
        "~/cat.jpg",
        r"C:\cat.jpg",
        "http://169.254.169.254/latest/meta-data",
        "https://evil.example/cat.jpg",
        'image:"/etc/passwd"',
        'a cat - 2:image:"secret"',
        "a cat + HTTP://127.0.0.1:1/",
    ],
)
def test_a_query_names_no_files_and_no_addresses(
    client: TestClient, items: dict[str, Item], monkeypatch: pytest.MonkeyPatch, q: str
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("something was opened")

    monkeypatch.setattr("xsearch.media.images.open_image", never)
    monkeypatch.setattr("xsearch.sources.web.fetch", never)
    film = f"/api/v1/items/{items['film.mp4'].id}"
    for response in (
        client.get("/api/v1/search", params={"q": q}),
        client.post("/api/v1/search", data={"q": q}),
        client.get(f"{film}/explain", params={"q": q}),
        client.get(f"{film}/moments", params={"q": q}),
    ):
        assert problem_of(response, 422)["detail"] == "no file or address is opened here"


@pytest.mark.parametrize("name", ["more_like", "less_like"])
def test_items_are_named_by_ids_alone(client: TestClient, items: dict[str, Item], name: str) -> None:
    for value in (str(items["1.png"].file), "../1.png", "0123456789ABCDEF", "0123456789abcdef\n"):
        problem_of(client.get("/api/v1/search", params={"q": "a cat", name: value}), 422)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2fetc/passwd",
        "/..\\..\\app.py",
        "/%00",
        "/../app.py",
        "/app.py",
        "/api/v1/items/..%2f..%2fetc%2fpasswd/original",
        "/api/v1/items/%2fetc%2fpasswd/original",
        "/api/v1/items/0123456789abcdef%00/original",
    ],
)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    response = client.get(f"http://localhost{path}")
    assert problem_of(response, response.status_code)["status"] in (404, 422)


# Too much


def test_a_long_body_is_refused_before_it_is_read(client: TestClient) -> None:
    for sent in (b"q=" + b"x" * 100_000, (b"x" * 10_000 for _ in range(20))):
        response = client.post(
            "/api/v1/search", content=sent, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert problem_of(response, 413)["detail"] == "a request holds at most 100,000 bytes"
    upload = {"image": ("cat.jpg", b"\xff\xd8\xff" + b"x" * 100_000)}
    problem_of(client.post("/api/v1/search", files=upload), 413)
    problem_of(client.get(SEARCH, headers={"Content-Length": "many"}), 413)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of so many black pixels: a thousandth of a byte each."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packed = zlib.compress(bytes(1_000_000), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_picture_that_would_fill_memory_is_refused(client: TestClient) -> None:
    response = client.post("/api/v1/search", files={"image": ("bomb.png", bomb(65_000, 65_000))})
    assert problem_of(response, 422)["detail"] == "too large: 65000 x 65000 pixels"


def test_no_more_than_four_pictures_are_taken(client: TestClient, items: dict[str, Item]) -> None:
    one = items["1.png"].file.read_bytes()
    files = [("image", ("1.png", one))]
    assert client.post("/api/v1/search", files=files * 4).status_code == 200
    assert "image" in problem_of(client.post("/api/v1/search", files=files * 5), 422)["detail"]


@pytest.mark.parametrize("path", ["/api/v1/search", "/login"])
def test_a_body_that_does_not_come_is_not_waited_for(data: Path, encoder: FakeEncoder, path: str) -> None:
    app = served(data, encoder, token=TOKEN, limits=Limits(time_s=0.2)).app
    statuses: list[int] = []

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    async def sent(message: dict[str, Any]) -> None:
        statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {TOKEN}".encode()),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ],
    }
    asyncio.run(app(scope, never, sent))  # type: ignore[arg-type]
    assert statuses == [408]


# What every answer says


def test_every_answer_says_how_it_may_be_used(client: TestClient, items: dict[str, Item]) -> None:
    one = f"/api/v1/items/{items['1.png'].id}"
    for path in (SEARCH, one, f"{one}/thumbnail", f"{one}/original", "/api/v1/nothing", "/nothing", "/metrics"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";") if " " in part.strip()
        )
        assert policy["frame-ancestors"] == "'none'"
        if path.startswith("/api/"):
            assert policy["default-src"] == "'none'"
            assert "script-src" not in policy
            assert headers["content-security-policy"].endswith("sandbox")
        else:
            assert policy["default-src"] == policy["script-src"] == policy["style-src"] == "'self'"
    assert client.get(SEARCH).headers["cache-control"] == "no-store"


def test_a_fault_is_a_problem_without_its_insides(
    data: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        raise ZeroDivisionError("the inside")

    monkeypatch.setattr("xsearch.serve.routes.stats", fail)
    with served(data, encoder) as client:
        response = client.get("/api/v1/stats")
    assert problem_of(response, 500)["detail"] == "this is a fault of xsearch; its log says where"
    assert "inside" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "ZeroDivisionError: the inside" in caplog.text
