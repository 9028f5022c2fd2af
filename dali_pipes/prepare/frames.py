"""Write the frames of videos as images in the published layout: OUT/rgb and OUT/train.list."""

import argparse
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import uuid4

from dali_pipes.decoding.jpeg import count_images, image_name
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.decoding.showing import decoded_rgb
from dali_pipes.flow import fitted
from dali_pipes.lock import locked
from dali_pipes.prepare.images import QUALITY, jpeg
from dali_pipes.prepare.list_clips import Listed, list_lines, write_list
from dali_pipes.prepare.store import claim, discard, publish
from dali_pipes.prepare.work import (
    BadInput,
    add_workers_argument,
    bad_input,
    each,
    ranks,
    summary,
    worker_count,
)
from dali_pipes.sources import VideoFiles


@dataclass(frozen=True)
class _Job:
    video: str
    class_id: int
    name: str  # class/video
    target: Path  # the folder of its frames
    parts: Path  # where folders grow
    limit: int | None  # frames, from the first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder with videos, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the published layout")
    add_clip_frames_argument(parser)
    add_workers_argument(parser)


def add_clip_frames_argument(parser: argparse.ArgumentParser) -> None:
    """The flag --clip-frames of `frames` and `flow`."""
    parser.add_argument(
        "--clip-frames", type=int, metavar="N",
        help="only the first N frames of each video; 17 hold a clip of 16 and all its flow",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    with ExitStack() as held:
        return _main(args, held)


def _main(args: argparse.Namespace, held: ExitStack) -> int:
    place = ranks()
    workers = worker_count(args.workers, place)
    check_clip_frames(args.clip_frames)
    with bad_input():
        source = VideoFiles.found(args.dir)
    rgb, parts = args.out / "rgb", args.out / ".frames.part"
    inner = [os.path.splitext(os.path.relpath(path, args.dir))[0] for path in source.paths]
    check_names(inner, source.paths)
    settings = {
        "videos": str(args.dir.resolve()),
        "clip_frames": args.clip_frames,
        "jpeg_quality": QUALITY,
    }

    def begin() -> None:
        claim(args.out / "frames.json", rgb, settings)
        with bad_input():
            held.enter_context(locked(args.out / ".frames.lock", "`prepare frames`"))

    place.first(begin)
    jobs = [
        _Job(path, class_id, name, rgb / name, parts, args.clip_frames)
        for path, class_id, name in zip(source.paths, source.class_ids.tolist(), inner, strict=True)
    ]
    share = place.share(jobs)
    todo = [job for job in share if not job.target.is_dir()]
    failures: list[BadVideo] = []
    for _, outcome in each(
        _write_frames, todo, place,
        title="frames", unit="video", name=lambda job: job.video, workers=workers,
        before=len(share) - len(todo),
    ):  # fmt: skip
        if isinstance(outcome, BadVideo):
            failures.append(outcome)
    made = [
        Listed(job.name, count_images(str(job.target)), job.class_id)
        for job in share
        if job.target.is_dir()
    ]
    shares = place.meet((made, failures))
    status = 0
    if place.rank == 0:
        everything = [video for videos, _ in shares for video in videos]
        failures = [*source.left_out, *(failure for _, failed in shares for failure in failed)]
        discard(parts)
        status = summary(f"{rgb}: frames of {len(everything)} videos", failures)
        status = max(status, write_train_list(args.out, everything))
    return place.end(status)


def write_train_list(out: Path, videos: Sequence[Listed]) -> int:
    """Write OUT/train.list; names what is too short for a clip. Returns the exit status."""
    lines, unlisted = list_lines(videos)
    write_list(out / "train.list", lines)
    return summary(f"{out / 'train.list'}: {len(lines)} clips", unlisted)


def check_clip_frames(frames: int | None) -> None:
    """Raises BadInput if --clip-frames makes no sense."""
    if frames is not None and frames < 2:
        raise BadInput(f"--clip-frames must be at least 2 (flow needs a pair), got {frames}")


def check_names(names: Sequence[str], paths: Sequence[str]) -> None:
    """Raises BadInput, naming both, if two of `paths` would share a folder of the layout.

    `names`: class/video, the folders of frames. Flow folders have no class level.
    """
    taken: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        other = taken.setdefault(os.path.basename(name), path)
        if other is not path:
            raise BadInput(
                f"{printable(other)} and {printable(path)} have the same name, and in the "
                "published layout their flow would share one folder; rename one of them"
            )
    classes = {os.path.dirname(name) for name in names}
    for name, path in zip(names, paths, strict=True):
        if name in classes:
            raise BadInput(
                f"{printable(path)} has the name of the folder {printable(name)} beside it, and "
                "their frames would share one folder; rename one of them"
            )


def _write_frames(job: _Job) -> int:
    """Decode a video into its folder; returns the number of frames."""
    folder = job.parts / uuid4().hex
    folder.mkdir(parents=True)
    try:
        count, size = 0, None
        for frame in islice(decoded_rgb(job.video), job.limit):
            image = fitted(frame)
            if size not in (None, image.shape):
                raise BadVideo(job.video, "decode", f"its frame size changes at frame {count}")
            count, size = count + 1, image.shape
            (folder / image_name(count)).write_bytes(jpeg(image))
        if job.limit is not None and count < job.limit:
            reason = f"has {count} frames, --clip-frames asks for {job.limit}"
            raise BadVideo(job.video, "decode", reason)
        publish(folder, job.target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return count
