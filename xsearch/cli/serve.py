"""`xsearch serve`."""

import ipaddress
import os
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from xsearch.cli.options import DEFAULT_DATA, RAY_HERE, AnyData, Model, Ray
from xsearch.cli.output import say, warn
from xsearch.errors import XSearchError

if TYPE_CHECKING:
    from xsearch.distributed.serving import Parts

TOKEN_CHARS = 16
"""A shorter token could be guessed."""


def serve_command(
    data: AnyData = str(DEFAULT_DATA),
    model: Model = None,
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="The port; 0 is any.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="TEXT", envvar="XSEARCH_TOKEN", show_default=False, help="What askers have to know."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name that this server is called by, too."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    ray: Ray = None,
    parts: Annotated[
        int | None,
        typer.Option(
            "--parts",
            metavar="N",
            min=1,
            show_default="one a machine, at least 2",
            help="With --ray: shares of rows.",
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", metavar="N", min=1, help="With --ray: processes that can answer for a part.")
    ] = 1,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="Keep the vectors on a GPU, and search there: cuda, or cuda:1."),
    ] = None,
) -> None:
    """Answer over HTTP, and show the library in the browser.

    Only this machine is answered, unless --host names another address; then --token, or XSEARCH_TOKEN, is needed. What
    `xsearch index` commits meanwhile is found at once. Ctrl-C ends it.

    With --device searches are exact, and need no index; while a new commit is opened, the GPU has to hold both.

    With --ray, parts of the rows are searched by processes of their own, on the machines of a Ray cluster where its
    ADDRESS is given; they read the library under the same path as here. Answers stay what they are.
    """
    # Queries that come together share the cores: threads of linear algebra would only wait for one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import secrets
    import socket

    local = host == "localhost" or _is_loopback(host)
    if token is None and not local:
        raise XSearchError(
            f"whoever reaches {host} could look at all that is indexed",
            remedy=f"ask for a token, as with --token {secrets.token_urlsafe(24)}",
        )
    if token is not None and len(token) < TOKEN_CHARS:
        raise XSearchError(
            f"the token has fewer than {TOKEN_CHARS} characters", remedy=f"take --token {secrets.token_urlsafe(24)}"
        )
    if ray is None and (parts is not None or replicas > 1):
        raise XSearchError("--parts and --replicas share out the work by Ray", remedy="say --ray as well")
    if ray is not None and device is not None:
        raise XSearchError("--ray and --device are two ways to search", remedy="leave one of them out")
    from xsearch.library.remote import following, without_keys
    from xsearch.searcher import search_resident
    from xsearch.serve.app import create_app, listen, run

    own = socket.gethostname()
    names = ["localhost", host, own, f"{own}.local", *(allow_host or ())]
    with ExitStack() as open_until_end:
        listening = open_until_end.enter_context(listen(host, port))
        folder = open_until_end.enter_context(following(data))
        searching = None if device is None else search_resident(device)
        if ray is not None:
            serving = _ray_serving()
            named = f"xsearch-{own}-{listening.getsockname()[1]}"
            address = None if ray == RAY_HERE else ray
            shared = serving(folder, named, address=address, parts=parts, replicas=replicas)
            searching = open_until_end.enter_context(shared).searching
        app = create_app(folder, model=model, token=token, allowed_hosts=names, searching=searching)
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}/"
        say(f"serving {without_keys(data)} at {address} (Ctrl-C ends it)")
        link = address if token is None else f"{address}?token={token}"
        if open_ and not webbrowser.open(link):
            warn("no browser could be started; open the address yourself")
        with suppress(KeyboardInterrupt):
            run(app, listening)


def _ray_serving() -> "Callable[..., AbstractContextManager[Parts]]":
    from xsearch.distributed.cluster import import_ray

    import_ray()
    from xsearch.distributed.serving import serving

    return serving


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
