"""Which batch, workers and prefetch depth train fastest here: real steps of `train.py`, timed.

One after another: the batch by the network's step alone, then with real batches the workers, then
the prefetch depth. Of values that are as fast, the smallest is taken: it costs least memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.loaders import ahead
from benchmarks.training import real_step, running, step
from kernels.labels.cpu import cores

Row = dict[str, Any]
BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (8, 16, 30, 60, 120, 240)}
PREFETCH = (1, 2, 4, 8)
SAME = 1.05  # speeds within 5 % are the same
ROUNDS = 3


def tune(videos: Path, network: Sequence[str], seconds: float) -> tuple[list[Row], str]:
    """What was measured, and the flags that follow. `network`: flags of train.py."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flags = ["--videos", str(videos), *network]
    rows: list[Row] = []
    chosen: list[str] = []
    for flag, values, speeds in (
        ("--bs", BATCHES[device], stepping),
        ("--num_workers", worker_counts(), training),
        ("--prefetch", PREFETCH, training),
    ):
        measured = list(speeds(flag, values, [*flags, *chosen], seconds))
        best = smallest(measured)
        best["chosen"] = "yes"
        rows += measured
        chosen += [flag, str(best["value"])]
    return rows, " ".join(chosen)


def worker_counts() -> list[int]:
    """Up to twice the cores: workers wait for files now and then."""
    counts = [1]
    while counts[-1] < cores():
        counts.append(min(2 * counts[-1], cores()))
    return [*counts, 2 * cores()]


def stepping(flag: str, values: Iterable[int], flags: list[str], seconds: float) -> Iterator[Row]:
    """Steps with the same batch again and again, until memory or patience ends."""
    for value in values:
        try:
            with running([*flags, flag, str(value), "--num_workers", str(cores())]) as run:
                batch = run.loader.next_batch()
                timed = timed_steps(partial(step, run, batch), 1, seconds)
        except torch.OutOfMemoryError:
            break
        yield {"flag": flag, "value": value, "batches": "cached"} | timed.per(1)
        if timed.seconds * value > 4 * seconds:
            break


def training(flag: str, values: Iterable[int], flags: list[str], seconds: float) -> Iterator[Row]:
    """Steps with batches of the loader."""
    for value in values:
        with running([*flags, flag, str(value)]) as run:
            timed = timed_steps(partial(real_step, run), ahead(run.args.prefetch), seconds)
        yield {"flag": flag, "value": value, "batches": "real"} | timed.per(1)


def timed_steps(call: Callable[[], int], untimed: int, seconds: float) -> timing.Timing:
    """Seconds a clip, once `untimed` steps are done."""
    for _ in range(untimed):
        call()
    return timing.interleaved({"steps": call}, ROUNDS, seconds, drained=0)["steps"]


def smallest(measured: Sequence[Row]) -> Row:
    """Of rows in ascending order of value, the first that is about as fast as the fastest."""
    least = min(row["us_per_clip"] for row in measured)
    return next(row for row in measured if row["us_per_clip"] <= SAME * least)
