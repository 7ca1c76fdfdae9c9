"""The commands by name. Each is thin: it parses its words, runs one use case and prints what came of it."""

from collections.abc import Callable
from typing import Annotated

import typer

from xsearch import __version__
from xsearch.cli.caption import caption_command
from xsearch.cli.chat import chat_command
from xsearch.cli.cluster import cluster_command
from xsearch.cli.duplicates import duplicates_command
from xsearch.cli.eval import eval_command
from xsearch.cli.exchange import export_command, import_command
from xsearch.cli.explain import explain_command
from xsearch.cli.export_onnx import export_onnx_command
from xsearch.cli.index import index_command
from xsearch.cli.library import (
    forget_command,
    models_command,
    optimize_command,
    stats_command,
    verify_command,
)
from xsearch.cli.mcp import mcp_command
from xsearch.cli.migrate import migrate_command
from xsearch.cli.options import with_ray_address
from xsearch.cli.query import query_command
from xsearch.cli.serve import serve_command
from xsearch.cli.similar import similar_command
from xsearch.cli.summarize import summarize_command
from xsearch.cli.tag import tag_command
from xsearch.cli.train import train_command
from xsearch.cli.watch import watch_command
from xsearch.errors import XSearchError

COMMANDS: dict[str, Callable[..., None]] = {
    "index": index_command,
    "watch": watch_command,
    "query": query_command,
    "similar": similar_command,
    "serve": serve_command,
    "chat": chat_command,
    "explain": explain_command,
    "summarize": summarize_command,
    "tag": tag_command,
    "cluster": cluster_command,
    "duplicates": duplicates_command,
    "eval": eval_command,
    "train": train_command,
    "migrate": migrate_command,
    "export-onnx": export_onnx_command,
    "caption": caption_command,
    "stats": stats_command,
    "verify": verify_command,
    "optimize": optimize_command,
    "forget": forget_command,
    "models": models_command,
    "export": export_command,
    "import": import_command,
    "mcp": mcp_command,
}

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
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


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name and return its exit code. Raises XSearchError also for wrong use."""
    arguments = with_ray_address(arguments)
    # A query may begin with a sign: `xsearch query "- people"` names no option.
    arguments = [f" {argument}" if argument.startswith("- ") else argument for argument in arguments]
    # Not `app()`: it would print errors in its own manner, and end on Ctrl-C without a word.
    command = typer.main.get_command(app)
    try:
        with command.make_context("xsearch", arguments or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.TyperException as error:
        named = [argument for argument in arguments[:1] if argument in COMMANDS]
        remedy = f"see `{' '.join(['xsearch', *named, '--help'])}`"
        raise XSearchError(error.format_message().rstrip("."), remedy=remedy) from error
    return 0


for name, function in COMMANDS.items():
    app.command(name)(function)
