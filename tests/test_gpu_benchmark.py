"""`benchmarks/gpu.py`, the one command that measures a GPU, runs from end to end on a CPU with models of no size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import picture

pytest.importorskip("open_clip", reason="needs the extra [clip]: torch and open_clip")

REPOSITORY = Path(__file__).resolve().parents[1]


def test_all_of_it_runs_in_its_tiny_form(tmp_path: Path) -> None:
    for seed in range(3):
        picture(tmp_path / f"photos/{seed}.png", seed)
    paths = ["--photos", str(tmp_path / "photos"), "--results", str(tmp_path / "results")]
    command = [sys.executable, str(REPOSITORY / "benchmarks/gpu.py"), "--device", "cpu,cpu", "--tiny", *paths]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pictures, searches = (
        json.loads((tmp_path / f"results/gpu_{name}.json").read_text()) for name in ("pictures", "search")
    )
    (row,) = pictures["rows"]
    assert (row["model"], row["n"], row["side_px"], row["batch"]) == ("tiny", 60, 64, 32)
    rates = [row[f"{name}_per_s"] for name in ("encoder", "decoding", "decoding_by_threads", "index")]
    assert min(rates) > 0
    assert row["of_the_slower"] == pytest.approx(rates[3] / min(rates[:2]))
    assert pictures["gpus"] == []
    assert "2500 pictures/s on one A100" in pictures["to_be_beaten"]
    exact, ivfpq = searches["rows"]
    assert (exact["search"], exact["n"], exact["recall"]) == ("exact", 20_000, 1.0)
    assert (ivfpq["search"], ivfpq["n"]) == ("ivfpq", 20_000)
    assert 0.2 < ivfpq["recall"] <= 1.0
