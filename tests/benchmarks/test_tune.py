"""Tuning: measured with real steps, and flags that train.py takes."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as report
from benchmarks import tune
from benchmarks.tune import worker_counts
from dali_pipes.flow import add_flow_argument
from model.training.options import parse

TINY = ["--width", "0.05"]


@pytest.fixture(autouse=True)
def few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "BATCHES", {"cpu": (1, 2), "cuda": (1, 2)})
    monkeypatch.setattr(tune, "PREFETCH", (1, 3))
    monkeypatch.setattr(tune, "worker_counts", lambda: [0])  # none to start
    monkeypatch.setattr(tune, "cores", lambda: 0)


def test_the_flags_found_are_printed_with_their_figures(
    few_samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tune", "--videos", str(few_samples), *TINY, "--seconds", "0.01"]
    assert report.main([*arguments, "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("train.py --")]
    args = parse(add_flow_argument, ["--videos", ".", *shlex.split(line)[1:]])
    row = json.loads((tmp_path / "tune.jsonl").read_text())
    assert row["command"].split()[2] == "benchmarks"
    chosen = {one["flag"]: one["value"] for one in row["results"] if "chosen" in one}
    assert chosen == {
        "--bs": args.bs,
        "--num_workers": args.num_workers,
        "--prefetch": args.prefetch,
    }
    measured = {(one["flag"], one["value"], one["batches"]) for one in row["results"]}
    assert measured >= {("--num_workers", 0, "real"), ("--prefetch", 1, "real")}
    assert measured >= {("--bs", 1, "cached"), ("--prefetch", 3, "real")}


def test_of_values_as_fast_the_smallest_is_taken() -> None:
    rows = [{"value": n, "us_per_clip": us} for n, us in ((1, 300), (2, 104), (4, 100), (8, 101))]
    assert tune.smallest(rows)["value"] == 2
    assert tune.smallest(rows[:1])["value"] == 1


def test_batches_end_where_memory_does(few_samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tune.step

    def step(run: Any, batch: Any) -> int:
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return real(run, batch)

    monkeypatch.setattr(tune, "step", step)
    flags = ["--videos", str(few_samples), *TINY]
    rows = list(tune.stepping("--bs", (1, 2, 4), flags, 0.01))
    assert [row["value"] for row in rows] == [1]


def test_workers_up_to_twice_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, counts in ((1, [1, 2]), (2, [1, 2, 4]), (6, [1, 2, 4, 6, 12])):
        monkeypatch.setattr(tune, "cores", lambda cores=cores: cores)
        assert worker_counts() == counts
