"""`xsearch chat`."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated

import typer

from xsearch.cli.options import DEFAULT_DATA, Data, Model
from xsearch.cli.output import print_json, say, warn
from xsearch.cli.query import print_hits

if TYPE_CHECKING:
    from xsearch.session import Session

PROMPT = "> "
HELP = "help"
ENDS = ("bye", "exit", "quit")


def chat_command(
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=100_000, help="How many hits to begin with.")] = 10,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="What to find to begin with: image, text, frame or any.")
    ] = "any",
    data: Data = DEFAULT_DATA,
    model: Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a turn.")] = False,
) -> None:
    """Search in turns, each of which changes the query before it.

    "dogs", "only on the beach", "without people", "the third one, but at night": each line is answered with what was
    understood, and the hits. "help" lists the turns, "bye" or Ctrl-D ends.
    """
    from xsearch.searcher import Searcher
    from xsearch.session import Session, State

    session = Session(Searcher(data, model=model, on_warning=warn), [State(kind=kind, k=k)])
    with suppress(KeyboardInterrupt):
        for line in _lines():
            said = line.strip()
            if said.lower() in ENDS:
                break
            if said:
                _answer(session, said, json=json)
                sys.stdout.flush()  # whoever reads a pipe waits for this answer before the next turn


def _lines() -> Iterator[str]:
    """Yield what is typed, with a prompt and its history at a terminal, or what comes through a pipe."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 is refused by itself
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from sys.stdin
        return
    with suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401  # input() uses it
    say('say what to find; "help" lists the turns, Ctrl-D ends')
    with suppress(EOFError):
        while True:
            yield input(PROMPT)
    say("")


def _answer(session: "Session", said: str, *, json: bool) -> None:
    if said.lower() == HELP:
        _help(json=json)
        return
    turn = session.say(said)
    if json:
        told = {"said": said, "understood": turn.understood, "reply": turn.reply, "state": turn.state.to_json()}
        print_json(told | {"good_match": turn.good_match, "hits": [hit.to_dict() for hit in turn.hits]})
        return
    say(turn.reply)
    if turn.hits and not turn.good_match:
        say("no good match; the nearest are")
    if turn.understood and turn.state.asks:
        print_hits(turn.hits)


def _help(*, json: bool) -> None:
    """Print the table of turns."""
    from xsearch import turns

    table = [line.strip() for line in (turns.__doc__ or "").splitlines() if line.startswith("    ")]
    if json:
        print_json({"said": HELP, "help": table})
        return
    for line in table:
        say(line)
