"""Compute the flow of frame folders in the published layout: OUT/flow/u and OUT/flow/v.

OUT is what `frames` made, or any folder with rgb/[class/]video/frame000001.jpg in it.
"""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.jpeg import PUBLISHED, count_images, image_name, read_image_strictly
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.flow import fitted
from dali_pipes.lock import locked
from dali_pipes.prepare.compute import (
    PAIRS_AT_ONCE,
    add_device_argument,
    coded_tvl1,
    tvl1_device,
)
from dali_pipes.prepare.frames import (
    add_clip_frames_argument,
    check_clip_frames,
    check_names,
    write_train_list,
)
from dali_pipes.prepare.images import QUALITY, jpeg
from dali_pipes.prepare.list_clips import Listed
from dali_pipes.prepare.store import claim, discard, publish, write_whole
from dali_pipes.prepare.work import (
    BadInput,
    Ranks,
    add_workers_argument,
    bad_input,
    each,
    ranks,
    summary,
    worker_count,
)
from dali_pipes.sources import FrameFolders


@dataclass(frozen=True)
class _Video:
    """A folder of frames, and where its flow grows and ends up."""

    rgb: str
    name: str  # class/video
    class_id: int
    parts: tuple[Path, Path]  # u, v
    targets: tuple[Path, Path]

    @property
    def done(self) -> bool:
        return self.targets[0].is_dir()  # u comes last

    def publish(self) -> None:
        for part, target in zip(reversed(self.parts), reversed(self.targets), strict=True):
            for leftover in part.glob(".*"):
                leftover.unlink()
            publish(part, target)


@dataclass(frozen=True)
class _Chunk:
    """Neighbouring pairs of a video; pair n is of frames n and n + 1, counted from 1."""

    video: _Video
    pairs: range


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="folder with rgb/ in it")
    add_device_argument(parser)
    add_clip_frames_argument(parser)
    add_workers_argument(parser)


def main(args: argparse.Namespace) -> int:
    with ExitStack() as held:
        return _main(args, held)


def _main(args: argparse.Namespace, held: ExitStack) -> int:
    place = ranks()
    workers = worker_count(args.workers, place)
    check_clip_frames(args.clip_frames)
    rgb, flow, parts = args.out / "rgb", args.out / "flow", args.out / ".flow.part"
    with bad_input():
        source = FrameFolders.found(rgb)
    if source.namings[0] != PUBLISHED:
        raise BadInput(
            f"{rgb}: its images are called {source.namings[0](1)}, ...; flow is made for "
            f"{image_name(1)}, ...: rename them, or use `prepare reels --from-frames {rgb}`"
        )
    names = [os.path.relpath(path, rgb) for path in source.paths]
    check_names(names, source.paths)
    device, what = tvl1_device(args.device)
    settings = {
        "algorithm": "tvl1",
        "computed_by": "CUDA" if device == "cuda" else "CPU",
        "clip_frames": args.clip_frames,
        "jpeg_quality": QUALITY,
    }

    def begin() -> None:
        claim(args.out / "flow.json", flow, settings)
        with bad_input():
            held.enter_context(locked(args.out / ".flow.lock", "`prepare flow`"))

    place.first(begin)
    videos = []
    for path, class_id, name in zip(source.paths, source.class_ids.tolist(), names, strict=True):
        u, v = (Path(side, os.path.basename(name)) for side in "uv")
        videos.append(_Video(path, name, class_id, (parts / u, parts / v), (flow / u, flow / v)))
    share = place.share(videos)
    if place.rank == 0:
        print(f"flow: {what}", flush=True)
    failures = _compute(share, place, device, args.clip_frames, workers)
    made = [
        Listed(video.name, count_images(str(video.targets[0])) + 1, video.class_id)
        for video in share
        if video.done
    ]
    shares = place.meet((made, failures))
    status = 0
    if place.rank == 0:
        everything = [video for videos, _ in shares for video in videos]
        failures = [*source.left_out, *(failure for _, failed in shares for failure in failed)]
        if not failures:
            discard(parts)
        status = summary(f"{flow}: flow of {len(everything)} videos", failures)
        status = max(status, write_train_list(args.out, everything))
    return place.end(status)


def _compute(
    share: Sequence[_Video],
    place: Ranks,
    device: str,
    clip_frames: int | None,
    workers: int,
) -> list[BadVideo]:
    """Compute what is missing, and put every finished video in its place."""
    chunks: list[_Chunk] = []
    failures: dict[str, BadVideo] = {}
    open_chunks: Counter[str] = Counter()
    before = sum(video.done for video in share)
    for video in share:
        if video.done:
            continue
        try:
            todo = _missing(video, clip_frames, PAIRS_AT_ONCE[device])
        except BadVideo as error:
            failures[video.rgb] = error
            continue
        chunks += todo
        open_chunks[video.rgb] = len(todo)
        if not todo:  # interrupted between its last pair and its end
            video.publish()
    for chunk, outcome in each(
        partial(_write_flow, device=device), chunks, place,
        title="flow", unit="pair", name=lambda chunk: chunk.video.rgb, workers=workers,
        before=before, threads=device == "cuda", weight=lambda chunk: len(chunk.pairs),
    ):  # fmt: skip
        if isinstance(outcome, BadVideo):
            failures.setdefault(chunk.video.rgb, outcome)
            continue
        open_chunks[chunk.video.rgb] -= 1
        if not open_chunks[chunk.video.rgb]:
            chunk.video.publish()
    return list(failures.values())


def _missing(video: _Video, clip_frames: int | None, at_once: int) -> list[_Chunk]:
    """The pairs still to compute, in chunks."""
    frames = count_images(video.rgb)
    if clip_frames is not None and frames < clip_frames:
        raise BadVideo(video.rgb, "flow", f"has {frames} frames, --clip-frames is {clip_frames}")
    if frames < 2:
        raise BadVideo(video.rgb, "flow", "has one frame, flow needs two")
    for part in video.parts:
        part.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in video.parts[1].iterdir()}  # v of a pair is written after u
    last = clip_frames or frames  # frames, and one more than the pairs
    chunks = (range(first, min(first + at_once, last)) for first in range(1, last, at_once))
    return [
        _Chunk(video, pairs)
        for pairs in chunks
        if any(image_name(pair) not in there for pair in pairs)
    ]


def _write_flow(chunk: _Chunk, device: str) -> None:
    numbers = [*chunk.pairs, chunk.pairs.stop]
    images = [fitted(_frame(chunk.video.rgb, number)) for number in numbers]
    if len({image.shape for image in images}) > 1:
        raise BadVideo(chunk.video.rgb, "flow", "its frame size changes")
    coded = coded_tvl1(np.stack(images), device)
    for pair, field in zip(chunk.pairs, coded, strict=True):
        for part, component in zip(chunk.video.parts, np.moveaxis(field, -1, 0), strict=True):
            write_whole(part / image_name(pair), jpeg(component))


def _frame(folder: str, number: int) -> NDArray[np.uint8]:
    name = image_name(number)
    try:
        return read_image_strictly(os.path.join(folder, name))
    except ValueError as error:
        raise BadVideo(folder, "flow", f"{name} {error}") from error
