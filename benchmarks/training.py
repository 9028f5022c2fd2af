"""The training step: with the batches of the loader, and with batches that are there already."""

import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

import train
from benchmarks import timing
from benchmarks.ceilings import Ceilings, measure
from benchmarks.loaders import ahead
from benchmarks.stages import of_ceiling
from dali_pipes import ClipLoader
from dali_pipes.flow import add_flow_argument
from model.training.distributed import joined
from model.training.learner import Queued
from model.training.options import parse

Row = dict[str, Any]
REAL, CACHED = "real batches", "cached batches"
KEPT = 4  # batches that are cached
SHOWN_STEPS = 8


@dataclass(frozen=True)
class Step:
    """When a step with a real batch began, had its batch, and ended: seconds from the first."""

    began: float
    had_batch: float
    ended: float


@dataclass(frozen=True)
class Measured:
    rows: list[Row]
    ceilings: Ceilings
    steps: list[Step]


def training(arguments: list[str], seconds: float, reels: Path) -> Measured:
    """The commands of `train.py ARGUMENTS`, without checkpoints; arguments name data and network.

    Rows: the whole step with real batches, those of `reels`, too, and with cached ones, measured in
    turns, and the latter again as the stage "training step". The ceilings are those of the format
    that the network computes in.
    """
    with running(arguments) as run:
        common = {"batch_size": run.args.bs, "num_workers": run.args.num_workers}
        stored = ClipLoader(reels=reels, device=run.ranks.device, **common)
        try:
            return _measure(run, seconds, {REAL: run.loader, f"{REAL}, reels": stored})
        finally:
            stored.close()


@contextmanager
def running(arguments: list[str]) -> Iterator[train.Run]:
    """What `train.py ARGUMENTS` trains with, up to its first step; closed at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = ["--log_dir", f"{scratch}/log", "--model_save_dir", f"{scratch}/models"]
        args = parse(add_flow_argument, [*arguments, *folders])
        with joined(args.device) as ranks, ExitStack() as held:
            run = train.prepare(args, ranks, held)
            run.parallel.train()
            try:
                yield run
            finally:
                run.loader.close()
                run.report.close()


# Steps of which it is not known yet what came of them, as train.py has them on a GPU.
_unread: deque[Queued] = deque()


def step(run: train.Run, batch: train.ClipBatch) -> int:
    """Train on a batch; how many clips it has.

    It waits, as train.py does, for the losses of an earlier step once `run.ahead` more are queued.
    """
    _unread.append(train.train_step(run, batch, len(batch)))
    while len(_unread) > run.ahead:
        _unread.popleft().shares()
    return len(batch)


def step_loss(run: train.Run, batch: train.ClipBatch) -> float:
    """Train on a batch, and wait for its loss, of motion and appearance together."""
    queued = train.train_step(run, batch, len(batch))
    result = queued.result(queued.shares().tolist())
    return result.motion_loss + result.app_loss


def real_step(run: train.Run, loader: ClipLoader | None = None) -> int:
    """Train on the next batch of the loader, the run's own by default; how many clips it has."""
    return step(run, (loader or run.loader).next_batch())


def _measure(run: train.Run, seconds: float, loaders: dict[str, ClipLoader]) -> Measured:
    kept = cycle([run.loader.next_batch() for _ in range(KEPT)])
    step(run, next(kept))
    timing.settle()  # the loader prepares batches
    ceilings = measure(run.ranks.device, run.precision.name, seconds)
    flops = _operations(run, next(kept))
    real = {name: partial(real_step, run, loader) for name, loader in loaders.items()}
    times = timing.interleaved(
        {**real, CACHED: lambda: step(run, next(kept))},
        3,
        seconds,
        dict.fromkeys(real, ahead(run.args.prefetch)),
    )
    steps = _watched(run)
    waiting = sum(one.had_batch - one.began for one in steps)
    share = waiting / (steps[-1].ended - steps[0].began)

    rows = [
        {"section": "training", "loader": name} | network_columns(run) | timed.per(1)
        for name, timed in times.items()
    ]
    rows[0]["share_waiting"] = timing.digits(share)
    for name, row in zip(real, rows, strict=False):
        row["of_cached"] = timing.digits(times[CACHED].seconds / times[name].seconds)
    on = "GPU" if run.ranks.device.type == "cuda" else "all cores"
    timing.settle()
    alone = timing.timed(lambda: step(run, next(kept)), seconds).per(run.args.bs)
    stage: Row = {"section": "stage", "stage": "training step", "on": on} | alone
    stage |= of_ceiling(alone["us_per_clip"], flops, ceilings.matmul)
    return Measured([*rows, stage], ceilings, steps)


def network_columns(run: train.Run) -> Row:
    """What a row of training says of the network and the batch."""
    args = run.args
    columns: Row = {"model": args.model, "width": args.width, "batch": args.bs}
    return columns | {"precision": run.precision.name, "device": run.ranks.device.type}


def _operations(run: train.Run, batch: train.ClipBatch) -> int:
    """Multiplications and additions a clip of a step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step(run, batch)
    return counter.get_total_flops() // len(batch)


def _watched(run: train.Run) -> list[Step]:
    """Steps with real batches, once what was prepared ahead is used up."""
    for _ in range(ahead(run.args.prefetch)):
        real_step(run)
    first = time.perf_counter()
    steps = []
    for _ in range(SHOWN_STEPS):
        began = time.perf_counter() - first
        batch = run.loader.next_batch()
        had_batch = time.perf_counter() - first
        step(run, batch)
        steps.append(Step(began, had_batch, time.perf_counter() - first))
    return steps
