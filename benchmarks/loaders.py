"""The whole loader, from each kind of input, beside its stages one after another."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks import timing
from dali_pipes import ClipLoader
from kernels.labels.cpu import cores

Row = dict[str, Any]

BATCH = 16  # clips: what a batch costs besides its clips is little then


def ahead(prefetch: int = 2) -> int:
    """Batches of a ClipLoader that may be ready, and one."""
    return 2 * prefetch + 1  # DALI prepares so many before its graph and behind


def whole(
    given: Mapping[str, Mapping[str, Any]],
    alone: Mapping[str, Callable[[], int]],
    device: torch.device,
    seconds: float,
) -> list[Row]:
    """A row for each kind of input, measured in turns, with as many workers as cores.

    `given`: arguments of ClipLoader by name. `alone`: for some of them a call that takes clips
    through their stages, one after another on one core, and says how many; it takes turns with
    the loader. `of_stages` is the wall time over theirs spread over all cores: 1 is a loader that
    costs nothing itself and leaves no core idle.
    """
    common: dict[str, Any] = {"batch_size": BATCH, "num_workers": cores(), "device": device}
    loaders = {name: ClipLoader(**source, **common) for name, source in given.items()}
    streams = {name: partial(clips_of, loader) for name, loader in loaders.items()}
    drained = dict.fromkeys(streams, ahead())
    try:
        times = timing.interleaved(
            streams | {f"stages: {name}": call for name, call in alone.items()},
            rounds=5,
            seconds=seconds,
            drained=drained,
        )
    finally:
        for loader in loaders.values():
            loader.close()
    rows = []
    for name, loader in loaders.items():
        row: Row = {"section": "loader", "loader": "ClipLoader", "input": name}
        row |= {"flow": loader.flow, "workers": cores(), "batch": BATCH}
        row |= times[name].per(1)
        if name in alone:
            of_stages = times[name].seconds * cores() / times[f"stages: {name}"].seconds
            row["of_stages"] = timing.digits(of_stages)
        rows.append(row)
    return rows + [
        {"section": "stage", "stage": f"all, from {name}", "on": "1 core"}
        | times[f"stages: {name}"].per(1)
        for name in alone
    ]


def clips_of(loader: ClipLoader) -> int:
    """Take the next batch; how many clips it has."""
    return len(loader.next_batch())
