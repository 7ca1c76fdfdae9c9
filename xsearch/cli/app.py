"""The commands by name. Each is thin: it parses its words, runs one use case and prints what came of it."""

from typing import Annotated

import typer

from xsearch import __version__
from xsearch.cli.index import index_command
from xsearch.cli.library import forget_command, models_command, stats_command, verify_command
from xsearch.cli.query import query_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find pictures, moments in films and texts by meaning.",
    epilog="Exit codes: 0 found or done, 1 nothing found, 2 wrong use or broken input. --debug shows tracebacks.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"xsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("index")(index_command)
app.command("query")(query_command)
app.command("stats")(stats_command)
app.command("verify")(verify_command)
app.command("forget")(forget_command)
app.command("models")(models_command)
