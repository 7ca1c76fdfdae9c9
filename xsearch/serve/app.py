"""The application: the API, the page and the counters behind the guard; and the server that runs it."""

import asyncio
import mimetypes
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from xsearch import __version__
from xsearch.encoders import Encoder
from xsearch.errors import EncoderUnavailable, QueryError, Undecodable, XSearchError
from xsearch.searcher import Searching
from xsearch.serve.engine import Engine
from xsearch.serve.guard import Guard, Limits, problem_response
from xsearch.serve.metrics import CONTENT_TYPE, Counted, Metrics
from xsearch.serve.models import Problem, Refused
from xsearch.serve.routes import router
from xsearch.serve.thumbnails import Thumbnails

PAGE = Path(__file__).parent / "page"
GRACE_S = 3
"""When the server is stopped, answers under way have so long."""


def create_app(
    data: Path,
    *,
    model: str | None = None,
    encoder: Encoder | None = None,
    token: str | None = None,
    allowed_hosts: Collection[str] = ("localhost",),
    limits: Limits | None = None,
    searching: "Searching | None" = None,
) -> FastAPI:
    """Return the application over the library in `data`, which is opened now.

    `model`, `encoder` and `searching` are as for `Searcher`, which says what is raised. With a `token` every request
    has to prove that it knows it. `allowed_hosts` are the names by which it may be asked; addresses always may.
    """
    limits = limits or Limits()
    metrics = Metrics()
    engine = Engine(data, model=model, encoder=encoder, limits=limits, metrics=metrics, searching=searching)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(engine.follow())
        yield
        following.cancel()

    app = FastAPI(
        title="xsearch",
        version=__version__,
        description="Finds pictures, moments in films and texts by meaning.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        lifespan=running,
    )
    app.state.engine = engine
    app.state.thumbnails = Thumbnails(data, limits.thumbs_bytes)
    app.include_router(router)

    @app.get("/metrics", include_in_schema=False)
    def _metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    # Windows asks its registry, where some program may have said otherwise; browsers run nothing else as a module.
    mimetypes.add_type("text/javascript", ".js")
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.add_exception_handler(XSearchError, _told)
    app.add_exception_handler(RequestValidationError, _told_invalid)
    app.add_exception_handler(HTTPException, _told_http)
    app.add_middleware(Guard, hosts=allowed_hosts, token=token, limits=limits)
    app.add_middleware(Counted, metrics=metrics)
    return app


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, on any free port if that is 0. Raises XSearchError if it cannot be had."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # asyncio does this for its own sockets only; without it the end of an answer waits 40 ms for the client's word.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]  # Python says the address once more
        raise XSearchError(
            f"{host}:{port} cannot be used: {reason}", remedy="name another with --port or --host"
        ) from error


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; the first is raised again as KeyboardInterrupt when all is closed."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S
    )
    uvicorn.Server(config).run(sockets=[listening])


_STATUS: dict[type[XSearchError], int] = {QueryError: 422, Undecodable: 422, EncoderUnavailable: 501}


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, XSearchError)
    status = error.status if isinstance(error, Refused) else _STATUS.get(type(error), 503)
    headers = {"Retry-After": "1"} if status == 503 else None
    return problem_response(Problem.of(status, error.message, error.remedy), headers)


async def _told_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(f"{'.'.join(map(str, one['loc'][1:])) or one['loc'][0]}: {one['msg']}" for one in error.errors())
    return problem_response(Problem.of(422, detail, "see /api/v1/openapi.json"))


async def _told_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not what this address takes"}
    detail = said.get(error.status_code, error.detail)
    return problem_response(Problem.of(error.status_code, detail), dict(error.headers or {}))
