"""What comparisons with other code share: labels must agree first, then both take turns.

`ratio` of a row: how many times as long the rival takes as ours does, median by median;
`ratio_low` and `ratio_high`: from one's lower quartile to the other's upper one, and crosswise.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from benchmarks.timing import Timing, digits
from dali_pipes import ClipLoader
from kernels.labels.schema import NAMES

Row = dict[str, Any]
Array = NDArray[Any]

ROUNDS = 3  # turns of each loader


def compare(who: str, labels: Any, expected: Any, clips: Sequence[str] | None = None) -> None:
    """Exit unless labels [N,27] are those expected. `clips` [N]: their names."""
    different = np.argwhere(_on_cpu(labels) != _on_cpu(expected))
    if len(different):
        names = clips or [f"clip {n}" for n in range(len(labels))]
        named = ", ".join(f"{names[n]} {NAMES[column]}" for n, column in different[:10])
        sys.exit(f"{who}: {len(different)} labels differ from the CPU backend's: {named}")


def _on_cpu(labels: Any) -> Array:
    return np.asarray(torch.as_tensor(labels).cpu())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Restrict this process to `count` cores, and torch to as many threads."""
    allowed, before = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, sorted(allowed)[:count])
    torch.set_num_threads(count)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(before)


def stream(loader: "ClipLoader | DataLoader[Any]", batch_size: int) -> Callable[[], int]:
    """For `timing.interleaved`: a call takes the next batches and returns how many clips they had.

    A DataLoader's workers finish their batches at about the same moment: a call takes one of
    each, or a turn would end on whichever part of them it had seen.
    """
    count = max(1, loader.num_workers)
    if isinstance(loader, ClipLoader):
        return lambda: sum(len(loader.next_batch()) for _ in range(count))
    batches = iter(loader)
    return lambda: batch_size * sum(1 for _ in islice(batches, count))


def ratio(rival: Timing, ours: Timing) -> Row:
    """The columns that compare a rival with ours."""
    return {
        "ratio": digits(rival.seconds / ours.seconds),
        "ratio_low": digits(rival.low / ours.high),
        "ratio_high": digits(rival.high / ours.low),
    }
