"""How a benchmark tells what it measured: a table on the terminal, and JSON that names the machine."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def report(name: str, rows: Sequence[Mapping[str, Any]], *, folder: Path = RESULTS, **facts: Any) -> None:
    """Print the rows as a table and the facts below it, and write both to `<name>.json` in the folder of results."""
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    for key, value in facts.items():
        print(f"{key}: {_cell(value)}")
    folder.mkdir(parents=True, exist_ok=True)
    found = {"benchmark": name, "date": date.today().isoformat(), "machine": machine(), **facts, "rows": list(rows)}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
