"""How speed grows with the batch: labels and the whole loader, from one clip to 256."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.inputs import some_clips
from benchmarks.loaders import clips_of
from dali_pipes import ClipLoader
from kernels.cpu_labels import cores
from kernels.labels import clip_labels

Row = dict[str, Any]
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEVEL = 1.1  # a clip costs no more than so many times the least: the cost is level
CLIPS = 8  # that labels are measured on, repeated for larger batches


def growth(videos: Path, device: torch.device, seconds: float) -> list[Row]:
    """A row for each batch; a loader's batches end with the first that takes longer than 4 turns
    of `seconds`."""
    clips = some_clips(videos, CLIPS).batch
    frames, flow = clips.frames.to(device), clips.flow.to(device)
    rows = []
    for batch in BATCHES:
        repeats = (-(-batch // CLIPS), 1, 1, 1, 1)
        many = frames.repeat(repeats)[:batch], flow.repeat(repeats)[:batch]
        call = partial(clip_labels, *many)
        on_gpu = device.type == "cuda"
        clock = timing.timed_on_gpu if on_gpu else timing.timed
        rows.append(_row("labels", batch) | clock(call, seconds / 4).per(batch))
    for batch in BATCHES:
        loader = ClipLoader(videos, batch_size=batch, num_workers=cores(), device=device)
        try:
            loader.next_batch()
            began = time.perf_counter()
            streams = {"loader": partial(clips_of, loader)}
            timed = timing.interleaved(streams, 3, seconds / 2, drained=2)["loader"]
        finally:
            loader.close()
        rows.append(_row("loader", batch) | timed.per(1))
        if time.perf_counter() - began > 4 * seconds:
            break
    return rows


def _row(what: str, batch: int) -> Row:
    return {"section": "growth", "what": what, "batch": batch}


def bends(rows: list[Row]) -> list[str]:
    """For each curve: from which batch on a clip costs no more than a tenth above the least."""
    found = []
    curves = [row for row in rows if row["section"] == "growth"]
    for what in dict.fromkeys(row["what"] for row in curves):
        points = [row for row in curves if row["what"] == what]
        least = min(row["us_per_clip"] for row in points)
        level = [row["us_per_clip"] <= LEVEL * least for row in points]
        first = next(i for i in range(len(points)) if all(level[i:])) if level[-1] else None
        last = points[-1]["batch"]
        if first is None:
            best = next(row["batch"] for row in points if row["us_per_clip"] == least)
            found.append(f"{what}: cheapest at batch {best}; a clip costs more up to {last}")
        else:
            found.append(
                f"{what}: a clip costs the same from batch {points[first]['batch']} to {last}"
            )
    return found
