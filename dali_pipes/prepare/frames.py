"""Write the frames of videos as images in the published layout: OUT/rgb and OUT/train.list."""

import argparse
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from uuid import uuid4

from dali_pipes.decoding.jpeg import image_name
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.decoding.showing import decoded_rgb
from dali_pipes.flow import fitted
from dali_pipes.lock import locked
from dali_pipes.prepare.images import QUALITY, image_sizes, jpeg
from dali_pipes.prepare.list_clips import Listed, list_lines, write_list
from dali_pipes.prepare.origins import Records, images_origin, is_video, video_origin
from dali_pipes.prepare.store import claim, publish, remove
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

_PARTS = ".frames.part"


@dataclass(frozen=True)
class _Job:
    video: str
    class_id: int
    name: str  # class/video
    out: Path
    limit: int | None  # frames, from the first

    @property
    def target(self) -> Path:
        """The folder of its frames."""
        return self.out / "rgb" / self.name

    @property
    def parts(self) -> Path:
        """Where folders grow."""
        return self.out / _PARTS

    @property
    def records(self) -> Records:
        return Records.of(self.out, "frames")


@dataclass(frozen=True)
class _Made:
    frames: int
    flow_removed: bool  # it was of other frames


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
    rgb = args.out / "rgb"
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
        _Job(path, class_id, name, args.out, args.clip_frames)
        for path, class_id, name in zip(source.paths, source.class_ids.tolist(), inner, strict=True)
    ]
    share = place.share(jobs)
    frames = {job: count for job in share if (count := _frames_made(job))}
    before, todo = len(frames), [job for job in share if job not in frames]
    failures: list[BadVideo] = []
    without_flow = 0
    for job, outcome in each(
        _write_frames, todo, place,
        title="frames", unit="video", name=lambda job: job.video, workers=workers,
        before=before, again=sum(job.target.exists() for job in todo),
    ):  # fmt: skip
        if isinstance(outcome, BadVideo):
            failures.append(outcome)
        else:
            frames[job] = outcome.frames
            without_flow += outcome.flow_removed
    made = [Listed(job.name, count, job.class_id) for job, count in frames.items()]
    shares = place.meet((made, failures, without_flow))
    status = 0
    if place.rank == 0:
        everything = [video for videos, *_ in shares for video in videos]
        failures = [*source.left_out, *(failure for _, failed, _ in shares for failure in failed)]
        shutil.rmtree(args.out / _PARTS, ignore_errors=True)
        status = summary(f"{rgb}: frames of {len(everything)} videos", failures)
        if without_flow := sum(removed for *_, removed in shares):
            print(
                f"the flow of {without_flow} videos was of other frames and is removed; "
                f"`prepare flow {args.out}` makes it anew"
            )
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
    path_of = dict(zip(names, paths, strict=True))
    for name, path in path_of.items():
        for folder in map(str, PurePath(name).parents):
            if folder in path_of:
                raise BadInput(
                    f"{printable(path_of[folder])} has the name of a folder that "
                    f"{printable(path)} is in, and their frames would share it; rename one of them"
                )


def flow_folders(out: Path, name: str) -> tuple[Path, Path]:
    """Where the flow (u, v) of class/video belongs, which has no class level."""
    u, v = (out / "flow" / side / os.path.basename(name) for side in "uv")
    return u, v


def _frames_made(job: _Job) -> int:
    """How many frames are there, of the video as it is now; 0: they are to be made."""
    sizes = image_sizes(job.target)
    if not sizes or not all(sizes):
        return 0
    record = job.records.get(job.name)
    try:
        if record is None:  # of a time without records: taken for what it seems
            job.records.put(job.name, video_origin(job.video), len(sizes))
            return len(sizes)
        same = record.images == len(sizes) and is_video(record.origin, job.video)
    except BadVideo:  # as making them will say
        return 0
    return len(sizes) if same else 0


def _write_frames(job: _Job) -> _Made:
    """Decode a video into its folder."""
    _check_place(job)
    origin = video_origin(job.video)
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
        if not is_video(origin, job.video):
            raise BadVideo(job.video, "decode", "changed while it was read; make it again")
        with job.records.making(job.name, origin, count):
            flow_removed = _remove_flow_of_others(job, folder)
            publish(folder, job.target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return _Made(count, flow_removed)


def _check_place(job: _Job) -> None:
    """Raises BadVideo if frames would lie among those of another video, of an earlier run."""
    for folder in job.target.parents:
        if folder == job.out:
            return
        if (folder / image_name(1)).exists():
            reason = f"{folder} holds the frames of another video; move it away"
            raise BadVideo(job.video, "write", reason)


def _remove_flow_of_others(job: _Job, frames: Path) -> bool:
    """Remove a video's flow if it is known to be of other frames than these; whether it was."""
    there = [folder for folder in flow_folders(job.out, job.name) if folder.exists()]
    now, before = image_sizes(frames), image_sizes(job.target)
    record = Records.of(job.out, "flow").get(os.path.basename(job.name))
    if record is not None:
        same = record.origin == images_origin(now[: record.images + 1])
    else:
        same = now == before or not before
    if same or not there:
        return False
    if not (job.out / "flow.json").exists():
        raise BadVideo(there[0], "write", "is flow of other frames; move it away")
    for folder in there:
        remove(folder, job.parts)
    return True
