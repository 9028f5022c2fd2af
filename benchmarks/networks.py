"""The training step by how the network runs: as trained, `torch.compile`d, and contiguous.

All begin with the same weights, on the same batch. First the losses of two steps are compared: the
second shows what the first has learned. Who has others is named and not timed.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import train
from benchmarks import timing
from benchmarks.rivals import ROUNDS, ratio
from benchmarks.training import KEPT, network_columns, running, step, step_loss
from model.training.learner import make_learner

Row = dict[str, Any]
AS_TRAINED = "eager, channels-last-3d"  # train.py's own, without --compile
COMPILED = "compiled, channels-last-3d"
CONTIGUOUS = "eager, contiguous"

# How far losses may be apart, as a share. In float32 sums differ in their order alone: by 2e-6 at
# most in C3D and R3D; other formats round after every layer, by some of their last bits.
ROUNDING = {"float32": 1e-4, "tf32": 4e-3, "fp16": 4e-3, "bf16": 3e-2}


def networks(arguments: list[str], seconds: float) -> list[Row]:
    """A row for each way to run the network of `train.py ARGUMENTS`, in turns on cached batches.

    `ratio`: its time over that of the network as trained; `compile_seconds`: what the first step
    took, with nothing compiled before. What cannot be compiled here, or computes something else,
    has a `note` instead of times. At no time is there more than one copy beside the network.
    """
    with running([*arguments, "--num_workers", "0"]) as run, nothing_compiled():
        batches = [run.loader.next_batch() for _ in range(KEPT)]
        found, sound = _compared(run, batches[0])
        kept = cycle(batches)
        calls = {name: partial(_next_step, variant, kept) for name, variant in sound.items()}
        times = timing.interleaved(calls, ROUNDS, seconds, drained=0)
        about = network_columns(run)
    rows = []
    for name, facts in found.items():
        row: Row = {"section": "network", "network": name} | about
        if name in times:
            row |= times[name].per(1)
            row |= ratio(times[name], times[AS_TRAINED]) if name != AS_TRAINED else {}
        rows.append(row | facts)
    return rows


def _next_step(run: train.Run, batches: Iterator[train.ClipBatch]) -> int:
    return step(run, next(batches))


def _compared(
    run: train.Run, batch: train.ClipBatch
) -> tuple[dict[str, Row], dict[str, train.Run]]:
    """What is to say of each variant, and those that have the losses of the network as trained."""
    copied = contiguous(replace(run, **vars(make_learner(run.args, run.ranks, run.precision))))
    variants: dict[str, Callable[[], train.Run]] = {
        AS_TRAINED: lambda: run,
        COMPILED: lambda: compiled(run),
        CONTIGUOUS: lambda: copied,  # last: the others begin with its weights
    }
    found: dict[str, Row] = {}
    sound: dict[str, train.Run] = {}
    expected: list[float] = []
    for name, make in variants.items():
        print(f"  {name}", flush=True)
        begin(run, copied.net)
        try:
            variant = make()
            losses, first_seconds = _two_steps(variant, batch)
        except Exception as error:  # whatever a compiler raises
            if name != COMPILED:
                raise
            run.optimizer.zero_grad()  # of the half of a step
            found[name] = {"note": f"torch.compile fails: {in_a_line(error)}"}
            continue
        expected = expected or losses
        found[name] = {"compile_seconds": timing.digits(first_seconds)} if name == COMPILED else {}
        if different := difference(losses, expected, ROUNDING[run.precision.name]):
            found[name] = {"note": different}
        else:
            sound[name] = variant
    return found, sound


def _two_steps(run: train.Run, batch: train.ClipBatch) -> tuple[list[float], float]:
    """The losses of two steps, and how long the first took."""
    began = time.perf_counter()
    losses = [step_loss(run, batch)]
    first_seconds = time.perf_counter() - began
    return [*losses, step_loss(run, batch)], first_seconds


def begin(run: train.Run, net: nn.Module) -> None:
    """Give the run the weights and the statistics of `net`, and no momentum."""
    run.net.load_state_dict(net.state_dict())
    run.optimizer.state.clear()


def compiled(run: train.Run) -> train.Run:
    """The same network, its weights shared, as --compile has it."""
    net = copy.copy(run.net)
    net.compile()
    return replace(run, net=net, parallel=net)


def contiguous(run: train.Run) -> train.Run:
    """The run itself, its weights and what its first layer takes laid out as [N,C,T,H,W]."""
    run.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    first = run.net.backbone.get_submodule(run.net.backbone.stages[0])
    first.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
    return run


def difference(losses: list[float], expected: list[float], tolerance: float) -> str:
    """Which loss is another than expected, by more than the tolerance, a share; empty if none."""
    for number, (loss, wanted) in enumerate(zip(losses, expected, strict=True), 1):
        if not abs(loss - wanted) <= tolerance * abs(wanted):
            return f"step {number} has loss {loss:.6g}, as trained {wanted:.6g}: not timed"
    return ""


def in_a_line(error: Exception) -> str:
    """The beginning of what it says: the first line alone may name the backend and no reason."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Begin without compiled networks, of earlier runs too, and leave none behind."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with TemporaryDirectory() as folder:
        os.environ[name] = folder
        torch.compiler.reset()
        try:
            yield
        finally:
            torch.compiler.reset()
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before
