"""How speed grows: with the batch, the size of clips, the number of ranks, the length of the list.

A row's `by` names what grows, `at` how far it has. `bends` says where cost stops growing linearly.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import timing
from benchmarks.inputs import some_clips
from benchmarks.loaders import clips_of
from dali_pipes import ClipLoader
from dali_pipes.sources import VideoFiles
from kernels.labels import clip_labels
from kernels.labels.cpu import cores
from model.training.stages import FIRST_STEPS

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIZES = {112: (128, 171), 224: (256, 342)}  # side of the crop: frames before it
RANKS = (1, 2, 4)
LENGTHS = (100, 1_000, 10_000, 100_000, 240_000)
BATCH = 4  # of the loader where something else grows
CLIPS = 8  # that labels are measured on, repeated for larger batches
TRAINED = {"cpu": 8, "cuda": 200}  # steps measured with one rank; more ranks share them
LEVEL = 1.1  # costs within a tenth are the same


def growth(videos: Path, device: torch.device, network: Sequence[str], seconds: float) -> list[Row]:
    """A row for each point of each curve. `network`: flags of train.py."""
    return [
        *by_batch(videos, device, seconds),
        *by_size(videos, device, seconds),
        *by_ranks(videos, device, network),
        *by_list_length(videos, device, seconds),
    ]


def by_batch(videos: Path, device: torch.device, seconds: float) -> Iterator[Row]:
    """Labels, and every second batch of the loader, up to one that takes too long."""
    labelled = _labelled(videos, device, seconds)
    for batch in BATCHES:
        yield _row("labels", "batch", batch) | labelled(batch).per(batch)
    for batch in BATCHES[::2]:
        began = time.perf_counter()
        timed = _loaded(seconds, videos, batch_size=batch, device=device)
        yield _row("loader", "batch", batch) | timed.per(1)
        if time.perf_counter() - began > 8 * seconds:
            break


def by_size(videos: Path, device: torch.device, seconds: float) -> Iterator[Row]:
    for size, resize in SIZES.items():
        clip: Row = {"size": size, "resize": resize}
        labelled = _labelled(videos, device, seconds, **clip)
        yield _row("labels", "size", size) | labelled(CLIPS).per(CLIPS)
    for size, resize in SIZES.items():
        timed = _loaded(seconds, videos, size=size, resize=resize, device=device)
        yield _row("loader", "size", size) | timed.per(1)


def by_ranks(videos: Path, device: torch.device, network: Sequence[str]) -> Iterator[Row]:
    """Training as torchrun starts it: clips of all ranks together."""
    most = torch.cuda.device_count() if device.type == "cuda" else max(RANKS)
    for ranks in RANKS:
        if ranks <= most:
            steps = max(4, TRAINED[device.type] // ranks)
            timed = _trained(videos, device, network, ranks, steps)
            yield _row("training", "ranks", ranks) | timed.per(1)


def by_list_length(videos: Path, device: torch.device, seconds: float) -> Iterator[Row]:
    """Opening a list for the first time, per clip listed; for every second one the loader then.

    The lists name links to the videos: as many files as lines.
    """
    paths = [os.path.relpath(path, videos) for path in VideoFiles.found(videos).paths]
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for copy in range(math.ceil(max(LENGTHS) / len(paths))):
            Path(folder, str(copy)).symlink_to(videos.resolve())
            names += [f"{copy}/{path} 1 {copy}" for path in paths]
        opened, loaded = [], []
        for length in LENGTHS:
            data_list = Path(folder, f"{length}.list")
            data_list.write_text("\n".join(names[:length]))
            began = time.perf_counter()
            loader = _loader(data_list=data_list, device=device)
            whole = time.perf_counter() - began
            row = _row("opening a list", "list length", length)
            row |= {"seconds": timing.digits(whole)}
            row |= {"us_per_clip": timing.digits(1e6 * whole / length)}
            opened.append(row)
            if length in LENGTHS[::2]:
                taken = _taken(loader, seconds)
                loaded.append(_row("loader", "list length", length) | taken.per(1))
    yield from [*opened, *loaded]


def _row(what: str, by: str, at: int) -> Row:
    return {"section": "growth", "what": what, "by": by, "at": at}


def _labelled(
    videos: Path, device: torch.device, seconds: float, **clip: Any
) -> Callable[[int], timing.Timing]:
    """A function that times the labels of so many clips."""
    clips = some_clips(videos, CLIPS, **clip).batch
    frames, flow = clips.frames.to(device), clips.flow.to(device)
    clock = timing.timed_on_gpu if device.type == "cuda" else timing.timed

    def labelled(batch: int) -> timing.Timing:
        repeats = (-(-batch // CLIPS), 1, 1, 1, 1)
        many = frames.repeat(repeats)[:batch], flow.repeat(repeats)[:batch]
        return clock(partial(clip_labels, *many), seconds / 4)

    return labelled


def _loader(*source: Path, **arguments: Any) -> ClipLoader:
    return ClipLoader(*source, **{"batch_size": BATCH, "num_workers": cores()} | arguments)


def _loaded(seconds: float, *source: Path, **arguments: Any) -> timing.Timing:
    return _taken(_loader(*source, **arguments), seconds)


def _taken(loader: ClipLoader, seconds: float) -> timing.Timing:
    """Batches of a loader, which is closed then."""
    try:
        loader.next_batch()
        streams = {"loader": partial(clips_of, loader)}
        return timing.interleaved(streams, 3, seconds / 2, drained=2)["loader"]
    finally:
        loader.close()


def _trained(
    videos: Path, device: torch.device, network: Sequence[str], ranks: int, steps: int
) -> timing.Timing:
    """Seconds a clip of training on `ranks` processes, from what the run logs of every step."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        words += [f"--nproc-per-node={ranks}", "train.py", "--videos", str(videos.resolve())]
        words += [*network, "--device", device.type, "--steps", str(FIRST_STEPS + steps)]
        words += ["--num_workers", str(max(1, cores() // ranks))]
        words += ["--log_dir", f"{folder}/log", "--model_save_dir", f"{folder}/models"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("train.py")]
            reason = said[0] if said else done.stderr.strip()  # torchrun says much about it
            raise ValueError(f"training on {ranks} processes failed: {reason}")
        (run,) = Path(folder, "log").iterdir()
        events = EventAccumulator(str(run)).Reload()
        speeds = [event.value for event in events.Scalars("clips_per_second")]
    return timing.summary([1 / speed for speed in speeds[FIRST_STEPS:]])


def bends(rows: Sequence[Row]) -> list[str]:
    """A sentence for each curve."""
    curves: dict[tuple[str, str], Curve] = {}
    for row in rows:
        if row["section"] == "growth":
            half = row.get("iqr_percent", 0) / 200
            cost = Cost(row["us_per_clip"], row["us_per_clip"] * (1 - half))
            curves.setdefault((row["what"], row["by"]), {})[row["at"]] = cost
    return [f"{what} by {by}: {SENTENCES[by](curve)}" for (what, by), curve in curves.items()]


class Cost(NamedTuple):
    """Microseconds a clip: median, and lower quartile."""

    us: float
    low: float


Curve = dict[int, Cost]


def _level(curve: Curve) -> str:
    """From where on a clip costs the least, or that it becomes dearer again."""
    first, last = min(curve), max(curve)
    if first == last:
        return f"measured at {first:,} only"
    best = min(curve, key=lambda at: curve[at].us)
    least = curve[best].us
    level = [at for at in curve if all(curve[n].low <= LEVEL * least for n in curve if n >= at)]
    if level and level[0] != last:
        return f"a clip costs the same from {level[0]:,} to {last:,}"
    if best == last:
        return (
            f"a clip costs less and less up to {last:,}, {curve[first].us / least:.1f} times less"
        )
    return f"a clip costs least at {best:,}, {curve[last].us / least:.1f} times as much at {last:,}"


def _pixels(curve: Curve) -> str:
    first, *others = curve
    return ", ".join(
        f"{at} costs {curve[at].us / curve[first].us:.1f} times {first}, of whose pixels it has "
        f"{(at / first) ** 2:.0f} times as many"
        for at in others
    )


def _speedup(curve: Curve) -> str:
    """Where more ranks stop making it faster."""
    first, *others = curve
    gain = {at: curve[first].us / curve[at].us for at in curve}
    gains = ", ".join(f"{at} are {gain[at]:.2f} times as fast as 1" for at in others)
    useful = first
    for at in others:
        if gain[at] < LEVEL * gain[useful]:
            return f"{gains}: no gain beyond {useful}"
        useful = at
    return gains or "only 1 device"


SENTENCES: dict[str, Callable[[Curve], str]] = {
    "batch": _level,
    "size": _pixels,
    "ranks": _speedup,
    "list length": _level,
}
