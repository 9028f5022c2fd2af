"""Compute the flow of frame folders in the published layout: OUT/flow/u and OUT/flow/v.

OUT is what `frames` made, or any folder with rgb/[class/]video/frame000001.jpg in it.
"""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

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
    flow_folders,
    write_train_list,
)
from dali_pipes.prepare.images import QUALITY, image_sizes, jpeg
from dali_pipes.prepare.list_clips import Listed
from dali_pipes.prepare.origins import Records, images_origin, short_hash
from dali_pipes.prepare.store import claim, publish, remove, write_whole
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

_PARTS = ".flow.part"


@dataclass(frozen=True)
class _Video:
    """A folder of frames, and where its flow grows and ends up."""

    rgb: str
    name: str  # class/video
    class_id: int
    frames: int  # that take part
    origin: str  # what they are
    out: Path

    @classmethod
    def look(cls, rgb: str, name: str, class_id: int, clip_frames: int | None, out: Path) -> Self:
        sizes = image_sizes(rgb)[:clip_frames]
        return cls(rgb, name, class_id, len(sizes), images_origin(sizes), out)

    @property
    def targets(self) -> tuple[Path, Path]:  # u, v
        return flow_folders(self.out, self.name)

    @property
    def parts(self) -> tuple[Path, Path]:
        """Where u and v grow: elsewhere for other frames."""
        folder = self.out / _PARTS / short_hash(f"{self.name} {self.origin}")
        return folder / "u", folder / "v"

    def is_whole(self, folders: tuple[Path, Path]) -> bool:
        """Whether there is an image for each pair of frames in both folders."""
        return self.frames > 1 and all(
            len(sizes) == self.frames - 1 and all(sizes) for sizes in map(image_sizes, folders)
        )

    def is_done(self) -> bool:
        """Whether its flow is there, of the frames as they are now."""
        if not self.is_whole(self.targets):
            return False
        record = self._records.get(self._key)
        if record is None:  # of a time without records: taken for what it seems
            self._records.put(self._key, self.origin, self.frames - 1)
        return record is None or record.origin == self.origin

    def publish(self) -> None:
        """Raises BadVideo if that cannot be."""
        if not self.is_whole(self.parts):
            raise BadVideo(self.rgb, "flow", "what was made of it is gone; make it again")
        if images_origin(image_sizes(self.rgb)[: self.frames]) != self.origin:
            raise BadVideo(self.rgb, "flow", "changed while its flow was made; make it again")
        with self._records.making(self._key, self.origin, self.frames - 1):
            for part, target in zip(self.parts, self.targets, strict=True):
                for leftover in part.glob(".*"):
                    leftover.unlink()
                publish(part, target)

    def remove_stale(self) -> bool:
        """Remove flow of other frames, or that is not whole; whether there was any."""
        removed = False
        for target in self.targets:
            with suppress(BadVideo):  # more is there than images; the video is named already
                removed |= remove(target, self.out / _PARTS)
        return removed

    @property
    def _records(self) -> Records:
        return Records.of(self.out, "flow")

    @property
    def _key(self) -> str:
        return os.path.basename(self.name)


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
    rgb, flow = args.out / "rgb", args.out / "flow"
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
    rows = list(zip(source.paths, names, source.class_ids.tolist(), strict=True))
    share = [_Video.look(*row, args.clip_frames, args.out) for row in place.share(rows)]
    done = {video for video in share if video.is_done()}
    if place.rank == 0:
        print(f"flow: {what}", flush=True)
    todo = [video for video in share if video not in done]
    failures = _compute(todo, place, device, args.clip_frames, workers, before=len(done))
    made = [
        Listed(video.name, video.frames, video.class_id)
        for video in share
        if video.rgb not in failures
    ]
    shares = place.meet((made, list(failures.values())))
    status = 0
    if place.rank == 0:
        everything = [video for videos, _ in shares for video in videos]
        all_failures = [*source.left_out, *(failure for _, failed in shares for failure in failed)]
        if not all_failures:
            shutil.rmtree(args.out / _PARTS, ignore_errors=True)
        status = summary(f"{flow}: flow of {len(everything)} videos", all_failures)
        status = max(status, write_train_list(args.out, everything))
    return place.end(status)


def _compute(
    todo: Sequence[_Video],
    place: Ranks,
    device: str,
    clip_frames: int | None,
    workers: int,
    before: int,
) -> dict[str, BadVideo]:
    """Compute flow and put every finished video in its place; what failed, by folder of frames."""
    chunks: list[_Chunk] = []
    failures: dict[str, BadVideo] = {}
    open_chunks: Counter[str] = Counter()
    again = sum(any(target.exists() for target in video.targets) for video in todo)

    def publish(video: _Video) -> None:
        try:
            video.publish()
        except BadVideo as error:
            failures[video.rgb] = error

    for video in todo:
        try:
            missing = _missing(video, clip_frames, PAIRS_AT_ONCE[device])
        except BadVideo as error:
            failures[video.rgb] = error
            continue
        chunks += missing
        open_chunks[video.rgb] = len(missing)
        if not missing:  # interrupted between its last pair and its end
            publish(video)
    for chunk, outcome in each(
        partial(_write_flow, device=device), chunks, place,
        title="flow", unit="pair", name=lambda chunk: chunk.video.rgb, workers=workers,
        before=before, again=again, threads=device == "cuda",
        weight=lambda chunk: len(chunk.pairs),
    ):  # fmt: skip
        if isinstance(outcome, BadVideo):
            failures.setdefault(chunk.video.rgb, outcome)
            continue
        open_chunks[chunk.video.rgb] -= 1
        if not open_chunks[chunk.video.rgb]:
            publish(chunk.video)
    for video in todo:
        failed = failures.get(video.rgb)
        if failed is not None and video.remove_stale():
            reason = f"{failed.reason}; the flow that was there is removed, it is not of its frames"
            failures[video.rgb] = BadVideo(failed.path, failed.stage, reason)
    return failures


def _missing(video: _Video, clip_frames: int | None, at_once: int) -> list[_Chunk]:
    """The pairs still to compute, in chunks."""
    frames = count_images(video.rgb)
    if clip_frames is not None and frames < clip_frames:
        raise BadVideo(video.rgb, "flow", f"has {frames} frames, --clip-frames is {clip_frames}")
    if frames < 2:
        raise BadVideo(video.rgb, "flow", "has one frame, flow needs two")
    for part in video.parts:
        part.mkdir(parents=True, exist_ok=True)
    u, v = (
        {entry.name for entry in os.scandir(part) if entry.stat().st_size} for part in video.parts
    )
    there = u & v
    starts = range(1, video.frames, at_once)
    chunks = (range(first, min(first + at_once, video.frames)) for first in starts)
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
