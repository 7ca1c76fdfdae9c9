"""CPU time of one `xsearch query` from nothing, on a library of 1,000 pictures, and what takes it.

    python benchmarks/cold_query.py [--photos DIR] [--rounds 15]

The whole process is measured as the system accounts for it (user + system seconds); the least of the rounds is what
the work costs, the median what a busy machine makes of it. Then each step, in a process that stops the clock between.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pipeline import copies
from report import report

from xsearch.encoders import get_encoder
from xsearch.indexer import index
from xsearch.media.images import SUFFIXES

STEPS = """
import json, resource, sys
marks = {}
spent = 0.0
def mark(name):
    global spent
    usage = resource.getrusage(resource.RUSAGE_SELF)
    now = usage.ru_utime + usage.ru_stime
    marks[name] = now - spent
    spent = now
mark("start Python")
import xsearch.cli.app; mark("import the command line")
import numpy; mark("import numpy")
import pyarrow.parquet; mark("import pyarrow")
from xsearch.searcher import Searcher; mark("import the searcher")
searcher = Searcher(sys.argv[1]); mark("open the library")
import onnxruntime; mark("import onnxruntime")
import tokenizers; mark("import tokenizers")
searcher.query(sys.argv[2]); mark("open the text tower, encode, search")
searcher.query(sys.argv[2]); mark("(a second query)")
print(json.dumps(marks))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, default=Path("photos"), help="real photographs, as `make demo` gathers them"
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        parser.error(f"there are no pictures in {options.photos}: run `make demo` first, or name some with --photos")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies(files, folder / "photos", 1_000, side_px=320)
        data = folder / "library"
        index([folder / "photos"], data, get_encoder())
        command = [sys.executable, "-m", "xsearch", "query", "a cat on grass", "--data", str(data)]
        spent = [_cpu_s(command) for _ in range(options.rounds)]
        steps = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", STEPS, str(data), "a cat on grass"], capture_output=True, check=True
                ).stdout
            )
            for _ in range(options.rounds)
        ]
    rows = [
        {
            "step": step,
            "least_ms": 1000 * min(one[step] for one in steps),
            "median_ms": 1000 * median(one[step] for one in steps),
        }
        for step in steps[0]
    ]
    report("cold_query", rows, rounds=options.rounds, cpu_s_least=min(spent), cpu_s_median=median(spent))


def _cpu_s(command: Sequence[str]) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
