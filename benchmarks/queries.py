"""All benchmarks of queries, one after the other, on the same pictures.

    python benchmarks/queries.py --data-dir DIR [--model NAME]

Each writes its own results and can be run alone; DIR holds the Parquet files that they name. `exclusion.py` writes
`composition.json` too, `explain.py` writes `rerank.json`; `filters.py` makes its own library of a million items.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from xsearch.encoders import DEFAULT_MODEL

ON_PICTURES = ("exclusion", "feedback", "answerability", "explain", "words")
ON_MADE_UP_ITEMS = ("filters",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    for name in ON_PICTURES:
        _run(name, "--data-dir", str(options.data_dir), "--model", options.model)
    for name in ON_MADE_UP_ITEMS:
        _run(name)


def _run(name: str, *arguments: str) -> None:
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *arguments], check=True)


if __name__ == "__main__":
    main()
