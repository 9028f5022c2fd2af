"""The whole loader, from videos and from JPEG folders, beside what its stages cost alone."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.inputs import layout_arguments
from benchmarks.stages import DECODE, DIS, JPEG_RESIZED, LABELS, READ, RESIZE
from dali_pipes import ClipLoader
from kernels.cpu_labels import cores

Row = dict[str, Any]

# What a clip goes through on a CPU, by what the loader reads.
STAGES = {
    "videos": (DECODE, RESIZE, DIS, LABELS.format(rule="corrected")),
    "JPEG folders": (READ, JPEG_RESIZED, LABELS.format(rule="corrected")),
}


def ahead(prefetch: int = 2) -> int:
    """Batches of a ClipLoader that may be ready, and one."""
    return 2 * prefetch + 1  # DALI prepares so many before its graph and behind


def whole(
    videos: Path,
    prepared: Path,
    device: torch.device,
    measured: list[Row],
    seconds: float,
    batch_size: int,
) -> list[Row]:
    """A row for each kind of input, measured in turns, with as many workers as cores.

    `measured`: the rows of the stages, if there are any. On a CPU `of_stages` is the wall time
    over what the stages' processor time, spread over all cores, would take: 1 is a loader that
    costs nothing itself.
    """
    common: dict[str, Any] = {"batch_size": batch_size, "num_workers": cores(), "device": device}
    loaders = {
        "videos": ClipLoader(videos, **common),
        "JPEG folders": ClipLoader(**layout_arguments(prepared), **common),
    }
    try:
        times = timing.interleaved(
            {name: partial(clips_of, loader) for name, loader in loaders.items()},
            rounds=5,
            seconds=seconds,
            drained=ahead(),
        )
    finally:
        for loader in loaders.values():
            loader.close()
    rows = []
    for name, timed in times.items():
        row: Row = {"section": "loader", "loader": "ClipLoader", "input": name}
        row |= {"flow": loaders[name].flow, "workers": cores(), "batch": batch_size}
        row |= timed.per(1)
        alone = sum(one["cpu_us_per_clip"] for one in measured if one["stage"] in STAGES[name])
        if device.type == "cpu" and alone:
            row["of_stages"] = timing.digits(row["us_per_clip"] / (alone / cores()))
        rows.append(row)
    return rows


def clips_of(loader: ClipLoader) -> int:
    """Take the next batch; how many clips it has."""
    return len(loader.next_batch())
