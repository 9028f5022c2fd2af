"""A folder of videos, or of reels: its disk, its index, a batch of it."""

import os
import time
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from benchmarks.cold import bytes_from_disk, drop
from benchmarks.doctor.finding import Finding, bad, first_line, ok, warning
from dali_pipes.clips import ClipSpec
from dali_pipes.sources import Reels, Source
from dali_pipes.sources.folders import existing_folder
from dali_pipes.sources.index import Index
from dali_pipes.sources.open import open_source

FILES = 8  # of the folder, spread over it
READ = 64 << 20  # bytes to time the disk on, at most
SLOW = 10e6  # bytes a second


def refusal(folder: Path) -> str:
    """Why there is nothing to look at; "" if there is."""
    try:
        existing_folder(folder, "--videos")
        opened(folder)
    except ValueError as error:
        return str(error)
    return ""


@cache
def opened(folder: Path) -> Source:
    """Walked through once: it may be large, or far away."""
    return open_source(folder)


def some(folder: Path) -> Source:
    source = opened(folder)
    chosen = np.unique(np.linspace(0, len(source) - 1, FILES).round().astype(int))
    return source.subset(chosen.tolist())


def disk(folder: Path) -> Finding:
    """How fast the files come that memory does not hold."""
    files = _files(folder)
    remedy = "put the videos on a local disk, or `python -m dali_pipes.prepare reels` there"
    try:
        drop(files)
        before, began, read = bytes_from_disk(), time.perf_counter(), 0
        for path in files:
            with open(path, "rb") as file:
                while part := file.read(min(1 << 20, READ - read)):
                    read += len(part)
    except OSError as error:
        return warning(str(error), "chmod, or copy the file again: it will be skipped")
    if not read:
        return bad("its files are empty, or not there", remedy)
    speed = read / (time.perf_counter() - began)
    came = bytes_from_disk() - before
    said = f"{speed / 1e6:.0f} MB/s, {len(files)} files ({read / 1e6:.1f} MB)"
    if came < read // 2:  # or the system does not tell
        said += ", from memory or over a network"
    return ok(said) if speed >= SLOW else warning(f"{said}: slow", remedy)


def index(folder: Path) -> Finding:
    """What is known of files is kept there, so that they are not opened anew by every run."""
    place = opened(folder).index_path
    if place is None:
        return ok("reels hold their own")
    found = Index(place)
    found.close()
    if found.path == place:
        return ok(str(place))
    where = f"it is kept in {found.path}" if found.path else "files are opened anew by each run"
    return warning(f"{place} cannot be written; {where}", f"chmod u+w {folder}, or leave it so")


def batch(folder: Path, gpu: bool) -> Finding:
    """One batch through the loader with the default flags."""
    from dali_pipes import ClipLoader
    from dali_pipes.loader import NothingUsable

    source = some(folder)
    resize = source.manifest.resize if isinstance(source, Reels) else ClipSpec().resize
    remedy = "python -m dali_pipes.prepare check DIR looks at every file"
    began = time.perf_counter()
    try:
        loader = ClipLoader(source, batch_size=4, device="cuda" if gpu else "cpu", resize=resize)
        try:
            clips = len(loader.next_batch())
        finally:
            loader.close()
    except (NothingUsable, ValueError, RuntimeError) as error:
        lines = str(error).splitlines()
        return bad("; ".join(line.strip() for line in lines[:2]) or first_line(error), remedy)
    said = f"{clips} clips of {len(source)} files after {time.perf_counter() - began:.1f} s"
    if loader.skipped:
        return warning(f"{said}; {len(loader.skipped)} skipped: {loader.skipped[0]}", remedy)
    return ok(said)


def _files(folder: Path) -> list[str]:
    """Some of the files that clips are read from, `READ` bytes or a little more."""
    source = some(folder)
    if isinstance(source, Reels):
        paths = sorted({source.shard_path(item) for item in range(len(source))})
    else:
        paths = list(source.paths)
    there = [path for path in paths if os.path.isfile(path)]
    sizes = accumulate(os.path.getsize(path) for path in there)
    return there[: 1 + sum(size < READ for size in sizes)]
