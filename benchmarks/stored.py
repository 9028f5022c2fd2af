"""The same videos in every storage format, made once.

OUT/stored-HEX/raw, h264-*    at training size (small_files.py)
               videos         links to the videos that can be used
               layout, reels  of these, as `dali_pipes.prepare` makes them
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import run_command
from benchmarks.small_files import (
    HEIGHT,
    KEYFRAMES,
    SPEC,
    WIDTH,
    Images,
    h264_file,
    make_small,
    raw_file,
    raw_frames,
    read_h264,
    read_raw,
    small_files,
)
from dali_pipes.decoding.jpeg import image_name
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import read_clip
from dali_pipes.prepare import frames, reels
from dali_pipes.prepare.work import BadInput, Ranks, each, summary, worker_count
from dali_pipes.sources import FrameFolders, Reels, Source, VideoFiles, reel_index
from dali_pipes.sources.reel_index import INDEX_FILE

GIVEN, FOLDERS, REELS, RAW = "videos as given", "JPEG folders, native size", "reels", "raw arrays"

Kind = TypeVar("Kind", FrameFolders, Reels, VideoFiles)


@dataclass(frozen=True)
class Format:
    """One way of storing the videos."""

    name: str
    read: Callable[[int, range], Images]  # (video, frame numbers) -> uint8 RGB [T,128,171,3]
    files: Callable[[int, range], list[str]]  # which that reads
    size: int  # bytes of all files, without flow
    flow_size: int = 0  # bytes of the flow beside the frames
    exact: bool = False  # stores the very frames


@dataclass(frozen=True)
class Stored:
    """Videos in all formats."""

    folder: Path
    paths: list[str]  # of the videos given
    frames: list[int]  # of each
    formats: list[Format]


def store(videos: Path, out: Path) -> Stored:
    """Store the videos of a folder in all formats below `out`; what is there is kept.

    Names those that cannot be used. Raises BadInput, ValueError or OSError where none can, or where
    a format could not be made.
    """
    found = VideoFiles.found(videos)
    folder = out / f"stored-{_fingerprint(found)}"
    names = [os.path.relpath(path, videos) for path in found.paths]
    bad = [*found.left_out, *_make_small(found, names, folder)]
    summary(f"{folder}: {len(found)} videos found", bad)
    lost = {one.path for one in bad}
    given = {n: path for n, path in zip(names, found.paths, strict=True) if path not in lost}
    if not given:
        raise BadInput(f"{videos}: no video of {SPEC.needs} frames in it that can be decoded")
    links = folder / "videos"
    for name, path in given.items():
        link = links / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path(path).resolve())
    print("the videos as JPEG folders and as reels ...", flush=True)
    run_command(frames, [str(links), "--out", str(folder / "layout")])
    run_command(reels, [str(links), "--out", str(folder / "reels"), "--flow", "tvl1-fast"])
    counts = [raw_frames(folder, name) for name in given]
    return Stored(folder, list(given.values()), counts, _formats(folder, list(given), counts))


def _fingerprint(source: VideoFiles) -> str:
    """A short name for these files as they are now."""
    lines = []
    for item, path in enumerate(source.paths):
        try:
            lines.append(f"{path} {source.stamp(item)}")
        except BadVideo as bad:
            lines.append(str(bad))
    return blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=6).hexdigest()


def _make_small(source: VideoFiles, names: Sequence[str], folder: Path) -> list[BadVideo]:
    """Make the raw arrays and H.264 files that are not there; the videos that give none."""
    jobs = [
        (path, name)
        for path, name in zip(source.paths, names, strict=True)
        if not all(file.exists() for file in small_files(folder, name))
    ]
    if jobs:
        print(f"{len(jobs)} videos as raw arrays and as H.264 ...", flush=True)
    outcomes = each(
        partial(make_small, folder=folder), jobs, Ranks(),
        title="raw arrays and H.264", unit="video", name=lambda job: job[0],
        workers=worker_count(None, Ranks()),
    )  # fmt: skip
    return [outcome for _, outcome in outcomes if isinstance(outcome, BadVideo)]


# -- the formats ----------------------------------------------------------------------------------


def _formats(folder: Path, names: Sequence[str], counts: Sequence[int]) -> list[Format]:
    """All formats of the videos. Raises BadInput if one lacks a video or frames."""
    videos = _matched(VideoFiles.found(folder / "videos"), folder / "videos", names)
    stems = [os.path.splitext(name)[0] for name in names]
    layout = _matched(FrameFolders.found(folder / "layout/rgb"), folder / "layout/rgb", stems)
    reel = _matched(Reels.found(folder / "reels"), folder / "reels", names)
    for source in (layout, reel):
        for item, count in enumerate(counts):
            if source.probe(item).frames != count:
                raise BadInput(
                    f"{source.paths[item]}: has {source.probe(item).frames} frames, the video has "
                    f"{count}; remove {folder} and start again"
                )
    return [
        _of_files(
            GIVEN,
            videos.paths,
            lambda path, numbers: read_clip(path, numbers, SPEC.resize)[0],
            exact=True,
        ),
        *(
            _of_files(
                f"H.264 {HEIGHT}x{WIDTH + WIDTH % 2}, keyframe every {every}",
                [str(h264_file(folder, name, every)) for name in names],
                read_h264,
            )
            for every in KEYFRAMES
        ),
        _of_layout(layout, counts),
        _of_reels(reel),
        _of_files(RAW, [str(raw_file(folder, name)) for name in names], read_raw, exact=True),
    ]


def _matched(source: Kind, root: Path, names: Sequence[str]) -> Kind:
    """The items with these names below `root`, in this order. Raises BadInput if one is absent."""
    rows = {os.path.relpath(path, root): row for row, path in enumerate(source.paths)}
    absent = [name for name in names if name not in rows]
    if absent:
        raise BadInput(f"{root}: lacks {absent[0]}, for the reason above; remove that video")
    return source.subset([rows[name] for name in names])


def _of_files(
    name: str, paths: Sequence[str], read: Callable[[str, range], Images], exact: bool = False
) -> Format:
    """A file a video."""
    return Format(
        name,
        lambda item, numbers: read(paths[item], numbers),
        lambda item, numbers: [paths[item]],
        _bytes_of(paths),
        exact=exact,
    )


def _of_layout(source: FrameFolders, counts: Sequence[int]) -> Format:
    def images(item: int, numbers: range) -> list[str]:
        return [os.path.join(source.paths[item], image_name(number + 1)) for number in numbers]

    size = sum(_bytes_of(images(item, range(count))) for item, count in enumerate(counts))
    return Format(FOLDERS, partial(_read_source, source), images, size)


def _of_reels(source: Reels) -> Format:
    index = os.path.join(source.folder, INDEX_FILE)
    steps = reel_index.steps(index, source.index_stamp)
    frame_bytes = step_bytes = 0
    for first, count in zip(source.first.tolist(), source.frames.tolist(), strict=True):
        offsets = steps["offset"][first : first + count + 1]
        frame_bytes += int(steps["rgb"][first : first + count].sum())
        step_bytes += int(offsets[-1] - offsets[0])
    flow_bytes = step_bytes - frame_bytes
    # Tar headers and the index count as if there were no flow.
    whole = _bytes_of([index, *(os.path.join(source.folder, shard) for shard in source.shards)])
    return Format(
        REELS,
        partial(_read_source, source),
        lambda item, numbers: [source.shard_path(item)],
        whole - flow_bytes,
        flow_bytes,
    )


def _read_source(source: Source, item: int, numbers: range) -> NDArray[np.uint8]:
    return source.read_clip(item, numbers, SPEC.resize)[0]


def _bytes_of(paths: Sequence[str]) -> int:
    return sum(os.stat(path).st_size for path in paths)
