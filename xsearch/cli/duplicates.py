"""`xsearch duplicates`."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsearch.cli.options import DEFAULT_DATA, Data, Json
from xsearch.cli.output import account, counted, print_json, say, short, size, warn
from xsearch.errors import QueryError

if TYPE_CHECKING:
    from xsearch.duplicates import Duplicates, Group
    from xsearch.types import Hit

NOTHING_FOUND = 1


def duplicates_command(
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="HOW", show_default="all three", help="What to look for: exact, near or burst."),
    ] = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Tell what is in the library more than once. Nothing is deleted.

    Exact copies are pictures, films and texts of the same bytes; near ones the same photograph in another size,
    compression, brightness or crop; bursts pictures that one camera took within seconds and that look alike. The first
    of each group is the one to keep, if only one is: most pixels, with its date still, most bytes, oldest.
    """
    from xsearch.duplicates import Likeness, duplicates
    from xsearch.library import Library

    if only is not None and only not in list(Likeness):
        raise QueryError(f"there are no duplicates by {only!r}", remedy=f"name one of {', '.join(Likeness)}")
    wanted = tuple(Likeness) if only is None else (Likeness(only),)
    with _progress_bar() as on_progress:
        found = duplicates(Library.open(data), wanted, on_progress=on_progress, on_warning=warn)
    if json:
        print_json(_record(found))
    else:
        _print_table(found)
    if not found.groups:
        raise typer.Exit(NOTHING_FOUND)


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that moves a bar on stderr; where stderr is no terminal it does nothing."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def on_progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield on_progress


def _record(found: "Duplicates") -> dict[str, Any]:
    groups = [
        {
            "likeness": group.likeness.value,
            "keep": group.hits[0].path,
            "items": [_item_record(hit) for hit in group.hits],
        }
        for group in found.groups
    ]
    return {"groups": groups, "uncompared": [asdict(skipped) for skipped in found.uncompared]}


def _item_record(hit: "Hit") -> dict[str, Any]:
    return hit.to_dict() | {"bytes": _bytes(hit), "taken_at": hit.item.taken_at}


def _bytes(hit: "Hit") -> int | None:
    """Return the size of the file, None of a picture inside an archive: what is known is the size of that."""
    return hit.item.bytes if hit.path == str(hit.item.file) else None


def _print_table(found: "Duplicates") -> None:
    if found.uncompared:
        reasons = account(Counter(skipped.reason for skipped in found.uncompared))
        what = counted(len(found.uncompared), "item")
        warn(f"{what} that may be copies could not be compared ({reasons}); --json names them")
    if not found.groups:
        say("nothing found: the library holds everything once")
        return
    say("how    keep  pixels           size  path")
    for group in found.groups:
        for hit in group.hits:
            how, keep = (group.likeness.value, "keep") if hit is group.hits[0] else ("", "")
            pixels = f"{hit.item.width}x{hit.item.height}" if hit.item.width else ""
            n_bytes = _bytes(hit)
            of_size = "" if n_bytes is None else size(n_bytes)
            say(f"{how:<5}  {keep:<4}  {pixels:<11}  {of_size:>8}  {short(hit.path)}")
    say(_sum(found.groups))


def _sum(groups: "tuple[Group, ...]") -> str:
    """Return the last line: how many groups of each likeness, and what the copies take. A burst is no waste."""
    of_likeness = ", ".join(f"{n:,} {how}" for how, n in Counter(group.likeness.value for group in groups).items())
    copies = [_bytes(hit) or 0 for group in groups if group.likeness != "burst" for hit in group.hits[1:]]
    waste = f"; {len(copies):,} {'copy' if len(copies) == 1 else 'copies'}" if copies else ""
    of_size = f" of {size(sum(copies))}" if any(copies) else ""
    return f"{counted(len(groups), 'group')}: {of_likeness}{waste}{of_size}"
