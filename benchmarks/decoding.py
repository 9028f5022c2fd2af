"""What a random clip of a video costs a worker: python -m benchmarks.decoding --videos DIR

Clips of 17 frames, resized, of each video, spread over it, by processor time of all threads: as
workers read them, and by decoding from the first frame on and counting, in turns. Every clip must
be the same both ways, or nothing is timed. A row is appended to benchmarks/results/decoding.jsonl.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import timing
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import probe, read_by_counting, read_clip
from dali_pipes.sources import VideoFiles

FRAMES = 17
RESIZE = (128, 171)

Row = dict[str, Any]
Clip = NDArray[np.uint8]  # [T,h,w,3]
Read = Callable[[str, range], Clip]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos")
    parser.add_argument("--clips", type=int, default=12, help="clips of each video")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is read")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, help="folder of the row")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    chosen = {}
    for path in VideoFiles.found(options.videos).paths:
        try:
            chosen[path] = clips_of(path, options.clips)
            verify(path, chosen[path])
        except BadVideo as bad:
            print(f"left out: {bad}", flush=True)
            chosen.pop(path, None)
    results = [
        measure(path, clips, options.rounds, options.videos) for path, clips in chosen.items()
    ]
    print(timing.table(results))
    print(f"row appended to {timing.record('decoding', results, options.results)}")


def clips_of(path: str, count: int) -> list[range]:
    """One at a random place of each of `count` equal parts."""
    room = probe(path).frames - FRAMES
    if room < 0:
        raise BadVideo(path, "clip", f"has {room + FRAMES} frames, {FRAMES} needed")
    places = np.arange(count) + np.random.default_rng(room).random(count)
    return [range(start, start + FRAMES) for start in (places * room / count).astype(int).tolist()]


def as_workers(path: str, numbers: range) -> Clip:
    return read_clip(path, numbers, RESIZE)[0]


def by_counting(path: str, numbers: range) -> Clip:
    return read_by_counting(path, numbers, RESIZE)[0]


def verify(path: str, clips: list[range]) -> None:
    """Exit unless both ways give the same."""
    for numbers in clips:
        if not np.array_equal(as_workers(path, numbers), by_counting(path, numbers)):
            sys.exit(f"{path}: frames from {numbers[0]} are others than by counting")


def measure(path: str, clips: list[range], rounds: int, folder: Path) -> Row:
    info = probe(path)
    ways = (by_counting, as_workers)
    spent = np.array([[timed(read, path, clips) for read in ways] for _ in range(rounds)])
    counting, seconds = np.median(spent, axis=0).mean(axis=1).tolist()  # of [rounds,ways,clips]
    return {
        "video": os.path.relpath(path, folder),
        "codec": info.codec,
        "frames": info.frames,
        "counting_seconds": timing.digits(counting),
        "seconds": timing.digits(seconds),
        "ratio": timing.digits(counting / seconds),
    }


def timed(read: Read, path: str, clips: list[range]) -> list[float]:
    """Processor seconds of each clip."""
    spent = []
    for numbers in clips:
        start = time.process_time()
        read(path, numbers)
        spent.append(time.process_time() - start)
    return spent


if __name__ == "__main__":
    main()
