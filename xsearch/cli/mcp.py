"""`xsearch mcp`."""

import logging
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

from xsearch.cli.options import DEFAULT_DATA, Data, Model
from xsearch.cli.output import warn
from xsearch.errors import XSearchError


def mcp_command(
    http: Annotated[bool, typer.Option("--http", help="Answer over HTTP, not through stdin and stdout.")] = False,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="With --http: a loopback address.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65_535, help="With --http.")] = 8001,
    data: Data = DEFAULT_DATA,
    model: Model = None,
) -> None:
    """Let an assistant search the library (Model Context Protocol).

    It is started by the assistant's program, whose configuration names this command; see README. With --http it is
    started by hand, and answers programs on this machine at http://127.0.0.1:8001/mcp. The tools only read.
    """
    try:
        from xsearch.serve.mcp import create_server, run_http
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("xsearch"):
            raise
        raise XSearchError(
            f"a package of MCP is missing here ({error.name})", remedy="pip install 'xsearch[mcp]'"
        ) from error
    # Before the server is made, which would else draw boxes around tracebacks.
    logging.basicConfig(level=logging.WARNING, format="xsearch: %(message)s")
    server = create_server(data, model=model, on_warning=warn)
    if http:
        with suppress(KeyboardInterrupt):
            run_http(server, host, port, on_bound=lambda address: warn(f"{address}; Ctrl-C ends"))
        return
    if sys.stdin.isatty():
        warn("waiting for an assistant's program, which starts this command itself; Ctrl-C ends")
    # Python's own handler would wait for the thread that reads stdin, and there is nothing to put in order.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server.run("stdio")
