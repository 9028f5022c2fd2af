"""What the benchmarks share: repeated timing, the machine, one row a run, a table.

A row of `benchmarks/results/NAME.jsonl` is one run of one benchmark: when, on what machine, with
which versions and commit, by which command, and its results. Rows are appended, never changed.
"""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "numpy",
    "numba",
    "opencv-contrib-python-headless",
    "av",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "cupy-cuda12x",
    "cupy-cuda13x",
)


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles of `repeats` measurements."""

    seconds: float
    low: float
    high: float
    repeats: int
    cpu: float | None = None  # processor seconds of all threads of this process, median

    def per(self, items: int) -> dict[str, float]:
        """The columns of a row that handles `items` clips a call."""
        spread = 100 * (self.high - self.low) / self.seconds
        columns = {
            "us_per_clip": digits(1e6 * self.seconds / items),
            "clips_per_s": digits(items / self.seconds),
            "iqr_percent": digits(spread),
            "repeats": self.repeats,
        }
        if self.cpu is not None:
            columns["cpu_us_per_clip"] = digits(1e6 * self.cpu / items)
        return columns


def timed(call: Callable[[], object], budget_seconds: float = 2.0, at_least: int = 5) -> Timing:
    """Time `call` on the CPU until the budget is spent; the first call is a warm-up."""
    call()
    measured: list[float] = []
    processor: list[float] = []
    end = time.perf_counter() + budget_seconds
    while len(measured) < at_least or time.perf_counter() < end:
        start, cpu_start = time.perf_counter(), time.process_time()
        call()
        measured.append(time.perf_counter() - start)
        processor.append(time.process_time() - cpu_start)
    return replace(summary(measured), cpu=statistics.median(processor))


def interleaved(
    streams: Mapping[str, Callable[[], int]],
    rounds: int = 3,
    seconds: float = 2.0,
    drained: int | Mapping[str, int] = 3,
    processor: bool = False,
) -> dict[str, Timing]:
    """Seconds a clip of rival streams of batches, measured in turns: noise then hits them alike.

    A stream gives its next batch when called and returns how many clips that had. It may work
    ahead: a turn begins once the one before has done so, and its first `drained` batches (of a
    mapping: none where it has no number), which were ready, are not timed. `processor`: note
    processor time, too, of streams that work in this process alone.
    """
    measured: dict[str, list[float]] = {name: [] for name in streams}
    spent: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, next_batch in streams.items():
            if len(streams) > 1:
                settle()
            for _ in range(drained if isinstance(drained, int) else drained.get(name, 0)):
                next_batch()
            clips, start, cpu_start = 0, time.perf_counter(), time.process_time()
            while (elapsed := time.perf_counter() - start) < seconds or not clips:
                clips += next_batch()
            measured[name].append(elapsed / clips)
            spent[name].append((time.process_time() - cpu_start) / clips)
    times = {name: summary(values) for name, values in measured.items()}
    if not processor:
        return times
    return {name: replace(times[name], cpu=statistics.median(spent[name])) for name in streams}


def settle(at_most: float = 60.0) -> None:
    """Wait until this process and those it has started have nothing to do."""
    end = time.monotonic() + at_most
    before = _processor_seconds()
    while time.monotonic() < end:
        time.sleep(0.2)
        now = _processor_seconds()
        if now - before < 0.03:
            return
        before = now


def _processor_seconds() -> float:
    """Spent by this process and those it has started, directly or not."""
    ticks, waiting = 0, [os.getpid()]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system
            for task in (process / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # has ended meanwhile
    return ticks / os.sysconf("SC_CLK_TCK")


def timed_on_gpu(call: Callable[[], object], budget_seconds: float = 1.0) -> Timing:
    """Time `call` by CUDA events on torch's current stream, between which only the GPU works.

    Calls are queued in groups of at least 2 ms, so that a call's launch hides behind the one
    before it, as it does in training.
    """
    import torch

    def group(calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    group(3)
    calls = 1
    while group(calls) < 2e-3:
        calls *= 2
    measured: list[float] = []
    deadline = time.perf_counter() + budget_seconds
    while len(measured) < 10 or time.perf_counter() < deadline:
        measured.append(group(calls) / calls)
    return summary(measured)


def summary(measured: Sequence[float]) -> Timing:
    """Median and quartiles of seconds measured: two or more."""
    low, median, high = statistics.quantiles(measured, n=4)
    return Timing(median, low, high, len(measured))


def gpu_copy_bandwidth() -> float:
    """Bytes a second that a device-to-device copy of 1 GiB reads and writes, measured."""
    import torch

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / timed_on_gpu(lambda: target.copy_(source)).seconds


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, load, and the GPU if there is one."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    description: dict[str, Any] = {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "load": round(os.getloadavg()[0], 1),
    }
    import torch

    if torch.cuda.is_available():
        description["gpu"] = torch.cuda.get_device_name()
        description["driver"] = _output(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"
        )
    return description


def versions() -> dict[str, str]:
    """Python, CUDA and the packages that decide speed, as installed."""
    import torch

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str:
    """The checked-out commit; "+changes" if files of the project differ from it."""
    here = str(Path(__file__).parent)
    changed = _output(
        "git", "-C", here, "status", "--porcelain", "--", ":/", ":!/benchmarks/results"
    )
    return _output("git", "-C", here, "rev-parse", "--short=12", "HEAD") + "+changes" * bool(
        changed
    )


def record(
    name: str, results: list[dict[str, Any]], folder: Path = RESULTS, module: str | None = None
) -> Path:
    """Append a row to NAME.jsonl in `folder` and return the file. `module`: benchmarks.NAME."""
    row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", module or f"benchmarks.{name}", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return path


def table(results: list[dict[str, Any]]) -> str:
    """Results as aligned text; columns in order of first appearance, "-" where one has none."""
    columns = list(dict.fromkeys(column for result in results for column in result))
    cells = [columns, *([str(result.get(column, "-")) for column in columns] for result in results)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if _is_text(results, column) else cell.rjust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in cells
    )


def _is_text(results: list[dict[str, Any]], column: str) -> bool:
    return any(isinstance(result.get(column), str) for result in results)


def digits(value: float) -> float:
    """Three significant digits: what a timing deserves."""
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded >= 100 else rounded


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
