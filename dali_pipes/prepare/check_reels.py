"""Compare every checksum of a folder of reels, and say what it holds.

Each shard is read twice: by the index, as the loader reads it, and as an archive, as others do.
Those of an address are copied to this machine for that, one a worker.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dali_pipes.decoding.opening import BadVideo
from dali_pipes.prepare.shards import read_shard
from dali_pipes.prepare.store import write_text
from dali_pipes.prepare.work import Ranks, bad_input, each, summary
from dali_pipes.sources import Reels
from dali_pipes.sources.reels import Manifest
from dali_pipes.storage import LocalFiles, NotFetched, RemoteFiles

AT_ONCE = 64  # steps read at once


def check_reels(
    folder: Path | str, report: Path | None, min_frames: int, place: Ranks, workers: int
) -> int:
    """Check all shards; prints the findings, also to `report`; returns the exit status.

    Raises BadInput; OSError where this disk has no room for the shard of an address.
    """
    with bad_input():
        source = Reels.found(folder)
    shards = [
        source.subset(np.flatnonzero(source.shard == shard).tolist())
        for shard in np.unique(source.shard)
    ]
    wrong: list[BadVideo] = []
    for _, outcome in each(
        partial(inspect_shard, min_frames=min_frames), place.share(shards), place,
        title="check", unit="video", name=lambda shard: shard.shard_path(0), workers=workers,
        weight=len,
    ):  # fmt: skip
        wrong += [outcome] if isinstance(outcome, BadVideo) else outcome
    everything = [bad for several in place.meet(wrong) for bad in several]
    status = 0
    if place.rank == 0:
        contents = describe(source)
        print(*(f"{name:8} {text}" for name, text in contents.items()), sep="\n")
        status = summary("every checksum is right" if not everything else "checked", everything)
        if report:
            bad = {one.path: one.reason for one in everything}
            write_text(report, json.dumps({**contents, "wrong": bad}, indent=2) + "\n")
            print(f"written: {report}")
    return place.end(status)


def describe(source: Reels) -> dict[str, str]:
    """What the reels hold and how they were made, in words."""
    frames, fps = source.frames.astype(np.int64), source.fps
    hours = float((frames[fps > 0] / fps[fps > 0]).sum() / 3600)
    known = "" if (fps > 0).all() else f" of {int((fps > 0).sum())} videos whose rate is known"
    size = sum(_size(source, shard) for shard in source.shards)
    height, width = source.manifest.resize
    made = source.manifest
    return {
        "reels": source.folder,
        "videos": f"{len(source)} in {len(set(source.class_ids.tolist()))} classes",
        "frames": f"{frames.sum()}, {hours:.2f} hours{known}",
        "made": f"{height}x{width}, flow {made.flow}{_by(made)}, JPEG quality {made.jpeg_quality}",
        "disk": f"{len(source.shards)} shards, {size / 1e9:.2f} GB, "
        f"{size / frames.sum() / 1000:.1f} kB a frame",
    }


def _size(source: Reels, shard: str) -> int:
    try:
        return source.files.stamp(shard)[0]
    except OSError:  # it is not there, as its videos say
        return 0


def _by(made: Manifest) -> str:
    return "" if made.flow == "stored" else f" computed by {made.flow_computed_by}"


def inspect_shard(shard: Reels, min_frames: int) -> list[BadVideo]:
    """What is wrong with the videos of a shard, a source that has no others.

    Raises OSError where this disk has no room for the shard of an address.
    """
    try:
        with _on_disk(shard) as same:
            return _inspect(same, shard.folder, min_frames)
    except (FileNotFoundError, NotFetched) as error:
        reason = f"{shard.shard_name(0)}: {error.strerror}"
        return [BadVideo(path, "check", reason) for path in shard.paths]


@contextmanager
def _on_disk(shard: Reels) -> Iterator[Reels]:
    """The same, where its bytes are read from a disk. Raises FileNotFoundError, OSError."""
    if not isinstance(shard.files, RemoteFiles):
        yield shard
        return
    with TemporaryDirectory(prefix="sts-dali-check-") as folder:
        name = shard.shard_name(0)
        version = shard.files.version(name)
        shard.files.download(name, version, Path(folder, name), lambda size: None)
        yield replace(shard, files=LocalFiles(folder))


def _inspect(shard: Reels, root: str, min_frames: int) -> list[BadVideo]:
    itself = {made.name: made for made in read_shard(Path(shard.shard_path(0)))}
    wrong = []
    for item in range(len(shard)):
        reasons = []
        count = int(shard.frames[item])
        try:
            shard.stamp(item)
            for begin in range(0, count, AT_ONCE):
                shard.read_encoded(item, range(begin, min(begin + AT_ONCE, count)))
        except BadVideo as bad:
            reasons.append(bad.reason)
        made = itself.get(os.path.relpath(shard.paths[item], root))
        if made is None or not np.array_equal(made.steps, shard.steps(item)):
            reasons.append("what its shard says of it is damaged, or not what the index says")
        if count < min_frames:
            reasons.append(f"{count} frames, a clip needs {min_frames}")
        if reasons:
            wrong.append(BadVideo(shard.paths[item], "check", "; ".join(reasons)))
    return wrong
