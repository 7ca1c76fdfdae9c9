"""What commands print: plain lines that read well and pipe well."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def warn(message: str) -> None:
    """Say something beside the answer."""
    print(f"xsearch: {message}", file=sys.stderr)


def listing(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


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


def short(path: str) -> str:
    """Return a path as one would type it here: relative to the working folder where that is no detour."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def shortened(text: str, width: int = 100) -> str:
    """Return a text as one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
