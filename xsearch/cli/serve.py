"""`xsearch serve`."""

import ipaddress
import os
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer

from xsearch.cli.options import DEFAULT_DATA, AnyData, Model
from xsearch.cli.output import say, warn
from xsearch.errors import XSearchError

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
) -> None:
    """Answer over HTTP, and show the library in the browser.

    Only this machine is answered, unless --host names another address; then --token, or XSEARCH_TOKEN, is needed. What
    `xsearch index` commits meanwhile is found at once. Ctrl-C ends it.
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
    from xsearch.library.remote import following, without_keys
    from xsearch.serve.app import create_app, listen, run

    own = socket.gethostname()
    names = ["localhost", host, own, f"{own}.local", *(allow_host or ())]
    with listen(host, port) as listening, following(data) as folder:
        app = create_app(folder, model=model, token=token, allowed_hosts=names)
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}/"
        say(f"serving {without_keys(data)} at {address} (Ctrl-C ends it)")
        link = address if token is None else f"{address}?token={token}"
        if open_ and not webbrowser.open(link):
            warn("no browser could be started; open the address yourself")
        with suppress(KeyboardInterrupt):
            run(app, listening)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
