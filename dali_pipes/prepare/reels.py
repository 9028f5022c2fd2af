"""Prepare videos once as reels: frames and flow at training size, for `train.py --reels`.

A reel holds the frames of a video and the flow between them as small JPEG images, one after the
other, in tar shards of about 1 GiB (docs/reels.md). The same command continues where one stopped.
"""

import argparse
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.jpeg import read_image_strictly
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.reel import Header, stacked
from dali_pipes.decoding.showing import decoded_rgb
from dali_pipes.decoding.video import frame_rate
from dali_pipes.flow import AGREEMENT, COMPUTED, add_flow_argument, fast_flow, fitted
from dali_pipes.lock import locked
from dali_pipes.prepare.compute import (
    PAIRS_AT_ONCE,
    add_device_argument,
    coded_tvl1,
    tvl1_device,
)
from dali_pipes.prepare.images import QUALITY, jpeg
from dali_pipes.prepare.origins import origin_of, unchanged
from dali_pipes.prepare.shards import (
    Made,
    ShardWriter,
    finish,
    member_name,
    read_done,
    recover,
)
from dali_pipes.prepare.spool import Address
from dali_pipes.prepare.store import claim
from dali_pipes.prepare.work import (
    BadInput,
    Ranks,
    add_workers_argument,
    bad_input,
    each,
    height_width,
    ranks,
    summary,
    worker_count,
)
from dali_pipes.sources import FrameFolders, Source, VideoFiles
from dali_pipes.sources.reels import FORMAT, MANIFEST
from dali_pipes.storage import is_address
from dali_pipes.storage import place as path_or_address

PARTS = ".parts"  # folder of the videos under way

Picture = NDArray[np.uint8]
Step = tuple[Picture, Picture | None]  # frame RGB [h,w,3], field [h,w,2] to the next, coded


@dataclass(frozen=True)
class Recipe:
    """How every video is made into a reel."""

    resize: tuple[int, int]  # (height, width), px
    quality: int
    algorithm: str  # of flow; stored: from flow images
    device: str


@dataclass(frozen=True)
class Job:
    source: Source  # with one item
    name: str  # class/video


@dataclass(frozen=True)
class Folder:
    """A folder where reels are made, which all ranks see."""

    out: Path

    @property
    def parts(self) -> Path:
        return self.out / PARTS

    def begin(
        self,
        place: Ranks,
        held: ExitStack,
        settings: dict[str, Any],
        notes: dict[str, Any],
        is_current: Callable[[Made], bool],
    ) -> dict[str, str]:
        """Claim the folder and mend what a killed run left. The origins of what is made, by name.

        Raises BadInput.
        """
        return place.first(lambda: self._begin(held, settings, notes, is_current))

    def _begin(
        self,
        held: ExitStack,
        settings: dict[str, Any],
        notes: dict[str, Any],
        is_current: Callable[[Made], bool],
    ) -> dict[str, str]:
        claim(self.out / MANIFEST, self.out, settings, notes)
        with bad_input():
            held.enter_context(locked(self.out / ".lock", "`prepare reels`"))
        shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir()
        done = self.done(is_current)
        recover(self.out, done)
        return {name: made.origin for name, made in done.items()}

    def writer(self, rank: int) -> ShardWriter:
        return ShardWriter(self.out, rank)

    def done(self, is_current: Callable[[Made], bool]) -> dict[str, Made]:
        """The videos that are whole, by name."""
        return read_done(self.out, is_current)

    def finish(self, done: dict[str, Made]) -> None:
        """Write the index of what is done, and clear up. Raises OSError."""
        finish(self.out, done)
        shutil.rmtree(self.parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dir", type=Path, nargs="?", metavar="DIR", help="folder with videos, at any depth"
    )
    parser.add_argument(
        "--from-frames", type=Path, nargs="+", metavar="DIR",
        help="instead of videos: folders RGB FLOW_X FLOW_Y of the published layout; RGB alone: its "
        "flow is computed",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=path_or_address, required=True, metavar="REELS",
        help="folder to make, or an address, as s3://bucket/prefix",
    )  # fmt: skip
    parser.add_argument(
        "--spool", type=Path, metavar="DIR",
        help="for an address: where shards grow until they are sent; default: the user's cache",
    )  # fmt: skip
    add_flow_argument(
        parser, COMPUTED,
        "tvl1, as published, or tvl1-fast, what training from videos computes on a CPU: a fiftieth "
        "of the time, and labels that differ more",
    )  # fmt: skip
    add_device_argument(parser)
    parser.add_argument(
        "--resize", type=height_width, default="128x171", metavar="HxW",
        help="size of frames and fields; training crops from it",
    )  # fmt: skip
    parser.add_argument(
        "--quality", type=int, default=QUALITY, metavar="1-100", help="of the JPEG images"
    )
    add_workers_argument(parser)


def main(args: argparse.Namespace) -> int:
    place = ranks()
    workers = worker_count(args.workers, place)
    if not 1 <= args.quality <= 100:
        raise BadInput(f"--quality must lie between 1 and 100, got {args.quality}")
    source, root = _source(args)
    names = [os.path.relpath(path, root) for path in source.paths]
    _check_members(names, source.paths)
    recipe, what = _recipe(args, source)
    target = _target(args)
    with ExitStack() as held:
        is_current = partial(_is_current, source, {name: n for n, name in enumerate(names)})
        origins = target.begin(place, held, _settings(recipe), _notes(source), is_current)
        share = place.share(range(len(names)))
        before = {
            names[n]: origin
            for n in share
            if (origin := _standing(source, n, origins.get(names[n]))) is not None
        }
        todo = [Job(source.subset([n]), names[n]) for n in share if names[n] not in before]
        if place.rank == 0:
            print(f"reels: {what}", flush=True)
        again = sum(job.name in origins for job in todo)
        failures = [*source.left_out] if place.rank == 0 else []
        failures += _make(todo, place, target, recipe, workers, len(before), again)
        shares = place.meet((failures, before))
        status = 0
        if place.rank == 0:
            everything = target.done(is_current)
            for name, origin in chain.from_iterable(before.items() for _, before in shares):
                if name in everything:  # its shard is there still
                    everything[name] = replace(everything[name], origin=origin)
            target.finish(everything)
            failures = [failure for failed, _ in shares for failure in failed]
            status = summary(f"{args.out}: {_contents(everything)}", failures)
    return place.end(status)


def _make(
    todo: Sequence[Job],
    place: Ranks,
    target: Folder | Address,
    recipe: Recipe,
    workers: int,
    before: int,
    again: int,
) -> list[BadVideo]:
    """Make what is missing of a rank's share; returns what failed."""
    failures = []
    with target.writer(place.rank) as writer:
        for _, outcome in each(
            partial(make_reel, recipe=recipe, parts=target.parts), todo, place,
            title="reels", unit="video", name=lambda job: job.source.paths[0], workers=workers,
            before=before, again=again, threads=recipe.device == "cuda",
        ):  # fmt: skip
            if isinstance(outcome, BadVideo):
                failures.append(outcome)
            else:
                header, pictures, origin = outcome
                writer.add(header, pictures, origin)
                pictures.unlink()
    return failures


def _source(args: argparse.Namespace) -> tuple[Source, Path]:
    """What to make reels of, and the folder that its names are relative to."""
    frames: list[Path] = args.from_frames or []
    if (args.dir is None) == (not frames):
        raise BadInput("give a folder of videos, or --from-frames RGB FLOW_X FLOW_Y, not both")
    with bad_input():
        if args.dir is not None:
            return VideoFiles.found(args.dir), args.dir
        if len(frames) not in (1, 3):
            raise BadInput("--from-frames takes RGB FLOW_X FLOW_Y, or RGB alone")
        return FrameFolders.found(*frames), frames[0]


def _target(args: argparse.Namespace) -> Folder | Address:
    if is_address(args.out):
        return Address(args.out, args.spool)
    if args.spool is not None:
        raise BadInput("--spool is for an address; shards grow in a folder where they stay")
    return Folder(args.out)


def _recipe(args: argparse.Namespace, source: Source) -> tuple[Recipe, str]:
    """How to make reels, and what that means for the labels."""
    if source.has_flow:
        algorithm, device, what = "stored", "cpu", "flow from the images given"
    else:
        algorithm = args.flow
        device, what = _flow(algorithm, args.device)
    return Recipe(args.resize, args.quality, algorithm, device), what


def _flow(algorithm: str, asked: str) -> tuple[str, str]:
    """("cpu" or "cuda", what is computed there). Raises BadInput."""
    if algorithm == "tvl1":
        return tvl1_device(asked)
    if asked == "cuda":
        raise BadInput(f"{algorithm} is computed on the CPU; leave out --device, or choose tvl1")
    return "cpu", f"{algorithm} on the CPU: {AGREEMENT['tvl1-fast']}"


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What has to be the same for all reels of a place."""
    return {
        "format": FORMAT,
        "resize": list(recipe.resize),
        "flow": recipe.algorithm,
        "flow_computed_by": {"cpu": "CPU", "cuda": "CUDA"}[recipe.device],
        "jpeg_quality": recipe.quality,
    }


def _notes(source: Source) -> dict[str, Any]:
    """What may be another when the same command is given again."""
    packages = ("av", "numpy", "opencv-contrib-python-headless")
    return {
        "jpeg_chroma": "4:2:0",
        "made_from": source.name,
        "made_with": {name: version(name) for name in packages},
    }


def _is_current(source: Source, item_of: dict[str, int], made: Made) -> bool:
    """Whether a reel is of its video as it is now, where another of the name is not."""
    item = item_of.get(made.name)
    return item is None or (made.origin != "" and _standing(source, item, made.origin) is not None)


def _standing(source: Source, item: int, origin: str | None) -> str | None:
    """The origin of a reel if its video is still the same; None: it is to be made."""
    if origin is None:
        return None
    try:
        if not origin:  # of a time without origins: taken for what it seems
            return origin_of(source, item)
        return origin if unchanged(origin, source, item) else None
    except BadVideo:  # as making it will say
        return None


def make_reel(job: Job, recipe: Recipe, parts: Path) -> tuple[Header, Path, str]:
    """What the pictures of a video are, a file in `parts` with them, and their origin.

    Raises BadVideo.
    """
    origin = origin_of(job.source, 0)
    images = _images(job.source)
    first = next(images)
    fps = frame_rate(job.source.paths[0]) if isinstance(job.source, VideoFiles) else 0.0
    header = Header(job.name, first.shape[0], first.shape[1], fps, [], [], [])
    file = parts / uuid4().hex
    try:
        with open(file, "wb") as pictures:
            for frame, field in _steps(job.source, chain([first], images), recipe):
                rgb = jpeg(frame, recipe.quality)
                flow = b"" if field is None else jpeg(stacked(field), recipe.quality)
                header.add(rgb, flow)
                pictures.write(rgb + flow)
        if not unchanged(origin, job.source, 0):
            path = job.source.paths[0]
            raise BadVideo(path, "decode", "changed while it was read; make it again")
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return header, file, origin


def _images(source: Source) -> Iterator[Picture]:
    """All frames of a video, RGB [H,W,3], at least one. Raises BadVideo."""
    (path,) = source.paths
    if isinstance(source, FrameFolders):
        numbers = range(source.probe(0).frames)
        return (source.image(0, number, read_image_strictly) for number in numbers)
    return decoded_rgb(path)


def _steps(source: Source, images: Iterator[Picture], recipe: Recipe) -> Iterator[Step]:
    if source.has_flow:
        return _with_stored_flow(cast(FrameFolders, source), images, recipe)
    return _with_flow(source.paths[0], images, recipe)


def _with_stored_flow(
    source: FrameFolders, images: Iterator[Picture], recipe: Recipe
) -> Iterator[Step]:
    last = source.probe(0).frames - 1
    for number, image in enumerate(images):
        field = None
        if number < last:
            both = (source.image(0, number, read_image_strictly, side)[..., 0] for side in (1, 2))
            field = np.stack([resized(part, recipe.resize) for part in both], axis=-1)
        yield resized(image, recipe.resize), field


def _with_flow(path: str, images: Iterator[Picture], recipe: Recipe) -> Iterator[Step]:
    """Flow is computed for some frames at a time; the last of them is the first of the next."""
    held: list[Picture] = []
    for number, image in enumerate(images):
        if held and image.shape != held[0].shape:
            raise BadVideo(path, "decode", f"its frame size changes at frame {number}")
        held.append(image)
        if len(held) > PAIRS_AT_ONCE[recipe.device]:
            yield from _flowing(held, recipe)
            held = held[-1:]
    if len(held) > 1:
        yield from _flowing(held, recipe)
    yield resized(held[-1], recipe.resize), None


def _flowing(images: list[Picture], recipe: Recipe) -> Iterator[Step]:
    """All frames but the last, and the flow from each to the next."""
    small = [resized(image, recipe.resize) for image in images]
    if recipe.algorithm == "tvl1-fast":  # of small frames, as the loader computes it
        native = (images[0].shape[0], images[0].shape[1])
        fields = list(np.moveaxis(fast_flow(np.stack(small), native), 1, -1))
    else:
        whole = np.stack([fitted(image) for image in images])
        coded = coded_tvl1(whole, recipe.device)
        fields = [resized(field, recipe.resize) for field in coded]
    yield from zip(small, fields, strict=False)


def _check_members(names: Sequence[str], paths: Sequence[str]) -> None:
    """Raises BadInput, naming both, if two videos would have one name in a shard."""
    taken: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        other = taken.setdefault(member_name(name), path)
        if other is not path:
            raise BadInput(
                f"{printable(other)} and {printable(path)} would both be {member_name(name)} in a "
                "shard; rename one of them"
            )


def _contents(done: dict[str, Made]) -> str:
    frames = sum(made.frames for made in done.values())
    size = sum(int(made.steps["offset"][-1] - made.steps["offset"][0]) for made in done.values())
    a_frame = f", {size / frames / 1000:.1f} kB a frame" if frames else ""
    return f"{len(done)} videos, {frames} frames, {size / 1e9:.2f} GB{a_frame}"
