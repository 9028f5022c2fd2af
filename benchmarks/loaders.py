"""The whole loader, from videos and from JPEG folders, beside its stages one after another."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.inputs import Clips, layout_arguments
from benchmarks.stages import from_images, from_videos
from dali_pipes import ClipLoader
from kernels.labels.cpu import cores

Row = dict[str, Any]


def ahead(prefetch: int = 2) -> int:
    """Batches of a ClipLoader that may be ready, and one."""
    return 2 * prefetch + 1  # DALI prepares so many before its graph and behind


def whole(
    videos: Path,
    prepared: Path,
    device: torch.device,
    clips: Clips,
    images: list[list[str]],
    seconds: float,
    batch_size: int,
) -> list[Row]:
    """A row for each kind of input, measured in turns, with as many workers as cores.

    On a CPU the stages of `clips` and of `images`, one after another on one core, take turns with
    them. `of_stages` is the wall time over theirs spread over all cores: 1 is a loader that costs
    nothing itself and leaves no core idle.
    """
    common: dict[str, Any] = {"batch_size": batch_size, "num_workers": cores(), "device": device}
    loaders = {
        "videos": ClipLoader(videos, **common),
        "JPEG folders": ClipLoader(**layout_arguments(prepared), **common),
    }
    streams = {name: partial(clips_of, loader) for name, loader in loaders.items()}
    drained = dict.fromkeys(streams, ahead())
    alone = {}
    if device.type == "cpu":
        alone = {"videos": from_videos(clips), "JPEG folders": from_images(images, clips)}
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
        row |= {"flow": loader.flow, "workers": cores(), "batch": batch_size}
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
