"""Who may ask, from where, and how much: every request passes here first, every response last.

- The Host header names this machine, or is an address: a name that was pointed at this machine by somebody else's DNS
  (rebinding) is refused.
- What another site's page asks for is refused, but for a link to here (Fetch Metadata, https://www.w3.org/TR/fetch-metadata/;
  Origin, where a browser sends no metadata). No CORS header is ever sent.
- With a token, each request proves that it knows it: `Authorization: Bearer`, or the cookie that `/?token=...` and the
  form of the login page set.
- A body is no longer, and comes no slower, than the limits say.
- Whatever fails is told as problem details (RFC 9457), and no page or original can be made to run as something else.
"""

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xsearch.errors import command
from xsearch.serve.models import Problem

API = "/api/"
LOGIN = "/login"
COOKIE = "xsearch"
COOKIE_S = 30 * 24 * 3600
LOGIN_BYTES = 4096

_PAGE_CSP = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self'; style-src 'self'; script-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# For an original that is opened by itself: browsers put pictures and films into a page with styles of its own.
_API_CSP = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

_LOGIN_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>xsearch</title>
<h1>xsearch</h1>
<form method="post" action="/login">
<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Open</button>
</form>
</html>
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take, and all together: `waiting` is how many may wait for an answer."""

    body_bytes: int = 32 << 20
    time_s: float = 30.0
    waiting: int = 512
    thumbs_bytes: int = 512 << 20


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], token: str | None, limits: Limits) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token.encode() if token is not None else None
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, is_api=scope["path"].startswith(API))
        request = Request(scope, self._bounded(scope, receive))
        try:
            refusal = self._refusal(request) or await self._unproven(request)
            await (refusal or self._app)(scope, request.receive, answer.send)
        except HTTPException as error:
            await answer.send_problem(Problem.of(error.status_code, error.detail))
        except Exception:
            logging.getLogger("xsearch.serve").exception("%s %s failed", scope["method"], scope["path"])
            if not answer.is_begun:
                await answer.send_problem(Problem.of(500, "this is a fault of xsearch; its log says where"))

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that comes from the wrong place."""
        host = _host(request.headers.get("host", ""))
        if host not in self._hosts and not _is_address(host):
            remedy = f"if it is: {command('xsearch', 'serve', '--allow-host', host)}"
            return problem_response(Problem.of(403, f"this server is not called {host!r}", remedy))
        if _is_cross_site(request):
            return problem_response(Problem.of(403, "another site's page asks", "open the address itself"))
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limits.body_bytes:
            return problem_response(self._too_long())
        return None

    async def _unproven(self, request: Request) -> Response | None:
        """Return the answer to a request that does not know the token, or that brings it to be kept as a cookie."""
        if self._token is None:
            return None
        path, is_api = request.url.path, request.url.path.startswith(API)
        given = request.query_params.get("token")
        if path == LOGIN and request.method == "POST":
            return await self._logged_in(request)
        if given is not None and not is_api and self._is_token(given):
            kept = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
            return self._with_cookie(f"{path}?{urlencode(kept)}" if kept else path)
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(COOKIE, "")
        if (scheme.lower() == "bearer" and self._is_token(bearer.strip())) or _same(cookie, self._cookie()):
            return None
        if not is_api and "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_LOGIN_PAGE, 401)
        problem = Problem.of(401, "the token is missing or wrong", "send it as `Authorization: Bearer TOKEN`")
        return problem_response(problem, {"WWW-Authenticate": "Bearer"})

    async def _logged_in(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LOGIN_BYTES:
                break
        (given, *_) = parse_qs(body[:LOGIN_BYTES].decode("utf-8", "replace")).get("token", [""])
        return self._with_cookie("/") if self._is_token(given) else HTMLResponse(_LOGIN_PAGE, 401)

    def _with_cookie(self, location: str) -> Response:
        # One slash: two would begin the name of another host.
        response = RedirectResponse("/" + location.lstrip("/\\"), 303)
        response.set_cookie(COOKIE, self._cookie(), max_age=COOKIE_S, httponly=True, samesite="lax")
        return response

    def _is_token(self, given: str) -> bool:
        return self._token is not None and _same(given, self._token.decode())

    def _cookie(self) -> str:
        """Return what the cookie holds: it proves the token, and whoever reads it does not learn that."""
        return hmac.digest(self._token or b"", b"cookie of xsearch serve", "sha256").hex()

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Return `receive` that fails when the body gets too long or takes too long."""
        received = 0
        deadline_s = asyncio.get_running_loop().time() + self._limits.time_s
        is_read = scope["method"] in ("GET", "HEAD")

        async def bounded() -> Message:
            nonlocal received, is_read
            if is_read:  # from here on it only waits for the client to leave
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the request took longer than {self._limits.time_s:.0f} s") from error
            received += len(message.get("body", b""))
            is_read = not message.get("more_body", False)
            if received > self._limits.body_bytes:
                raise HTTPException(413, self._too_long().detail)
            return message

        return bounded

    def _too_long(self) -> Problem:
        return Problem.of(413, f"a request holds at most {self._limits.body_bytes:,} bytes", "send a smaller picture")


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    return Response(problem.model_dump_json(), problem.status, headers, "application/problem+json")


class _Answer:
    """Passes a response on with the headers that each has; what fails in plain words becomes a problem."""

    def __init__(self, send: Send, *, is_api: bool) -> None:
        self.is_begun = False
        self._send = send
        self._is_api = is_api
        self._is_replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind = headers.get("content-type", "")
            self._is_replaced = message["status"] >= 400 and not kind.startswith(("application/problem", "text/html"))
            if self._is_replaced:
                kept = {name: value for name, value in headers.items() if not name.startswith("content-")}
                kept |= {name: value for name, value in headers.items() if name == "content-range"}
                problem = Problem.of(message["status"], "the request cannot be met")
                await self.send_problem(problem, kept)
                return
            self._complete(headers)
            self.is_begun = True
        if not self._is_replaced:
            await self._send(message)

    async def send_problem(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        body = problem.model_dump_json().encode()
        start: Message = {"type": "http.response.start", "status": problem.status, "headers": []}
        told = MutableHeaders(scope=start)
        told.update({**(headers or {}), "content-type": "application/problem+json", "content-length": str(len(body))})
        self._complete(told)
        self.is_begun = True
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _complete(self, headers: MutableHeaders) -> None:
        headers.update(_HEADERS)
        headers["Content-Security-Policy"] = _API_CSP if self._is_api else _PAGE_CSP
        headers.setdefault("Cache-Control", "no-store" if self._is_api else "no-cache")


def _is_cross_site(request: Request) -> bool:
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_link = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
        # `none` is what a person typed or had as a bookmark; `same-site` may be another port of this machine.
        return site not in ("same-origin", "none") and not is_link
    return origin is not None and origin.partition("://")[2].lower() != request.headers.get("host", "").lower()


def _host(header: str) -> str:
    """Return the name in a Host header, without its port, "" if there is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    """Whether a host is an IP address, which no DNS server can point elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _same(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
