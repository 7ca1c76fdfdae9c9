"""What commands print: plain lines that read well and pipe well."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """Print one line of ASCII, which is JSON whatever the encoding of the terminal or pipe."""
    print(json.dumps(value))


def say(line: str) -> None:
    """Print one line. Control characters are escaped: a file's name shall not colour or clear a terminal."""
    print(_visible(line))


def warn(message: str) -> None:
    """Say something beside the answer, in one line."""
    print(_visible(f"xsearch: {' '.join(message.split())}"), file=sys.stderr)


def _visible(line: str) -> str:
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], line)


def listing(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")


def counted(count: int, noun: str) -> str:
    """Return `1 file`, `2,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def account(counts: Mapping[str, int]) -> str:
    """Return `3 damaged picture, 1 empty file`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def size(n_bytes: float) -> str:
    """Return a number of bytes as people read it: `1.4 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def clock(t_s: float) -> str:
    """Return a time in a film to a tenth of a second: `00:12.4`, `1:02:03.4`."""
    minutes, tenths = divmod(round(10 * t_s), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}:' if hours else ''}{minutes:02}:{tenths / 10:04.1f}"


def short(path: str) -> str:
    """Return a path as one would type it here: relative to the working folder where that is no detour."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def shortened(text: str, width: int = 100) -> str:
    """Return a text as one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
