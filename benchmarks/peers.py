"""What most people write instead: a torch DataLoader over one of four decoders.

Flow is DIS, as people write it. Everything else is the same as in ClipLoader: the clips, resize,
crop, flip and labels; with ClipLoader's flow instead, all is equal to it, which is checked first.
ClipLoader from reels loads the same clips, with decoding, resize and flow done beforehand. How far
the motion labels of either flow are those of the published one, is measured on a few of the clips.
Then each decoder's frames, and those of reels, are compared with those that counting from the first
frame gives, since seeking finds another frame in many real files. Decoders use one thread: the
workers are the parallelism.
"""

import os
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import timing
from benchmarks.dis import dis_flow
from benchmarks.readers import READERS, Read, reason
from benchmarks.rivals import ROUNDS, Array, Row, compare, ratio, stream
from dali_pipes import ClipLoader
from dali_pipes.clips import ClipSpec, clip_at, start_frame
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.showing import decoded
from dali_pipes.decoding.video import read_frames
from dali_pipes.flow import fast_flow, fitted, tvl1_flow
from dali_pipes.sources import Reels, VideoFiles
from kernels.flow.code import encode
from kernels.labels import clip_labels
from kernels.labels.schema import LABELS, MOTION

SAMPLED = 12  # clips on which decoders are compared
AROUND = 8  # frames before and after a clip that a decoder may have returned instead
SAME = 0.5  # grey levels (RMS) by which another frame may be nearer: rounding
FAR = 12.0  # grey levels (RMS) from which a frame is not the one asked for, whatever is nearest

VIDEOS, REELS = "ClipLoader", "ClipLoader of reels"


def peers(
    videos: Path, reels: Path, seconds: float, batch_size: int = 4, workers: int = 2
) -> list[Row]:
    """ClipLoader and a DataLoader over each decoder, in turns of `seconds` each, on CPU cores.

    `reels`: the same videos, prepared; ClipLoader loads the same clips from them, too. A decoder
    that cannot be loaded, or cannot read these videos, has a note instead of times. Exits if the
    DataLoader's labels are not ClipLoader's, or the clips of reels others.
    """
    prepared = Reels.found(reels)
    root = os.path.abspath(videos)
    items = {
        os.path.join(root, os.path.relpath(path, prepared.folder)): item
        for item, path in enumerate(prepared.paths)
    }
    source, frames, left_out = _sound(VideoFiles.found(videos), items)
    prepared = prepared.subset([items[path] for path in source.paths])
    common: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "device": "cpu"}
    ours = {
        VIDEOS: ClipLoader(source, flow="tvl1-fast", **common),
        REELS: ClipLoader(prepared, **common),
    }
    clips = partial(Clips, source, frames, ours[VIDEOS].spec)
    try:
        exact = clips(read_frames, as_ours)
        _check(ours[VIDEOS], ours[REELS], exact)
        samples = list(_samples(exact))
        published = {
            flow: agreement(clips(read_frames, flow), clips(read_frames, as_published))
            for flow in (as_ours, as_people)
        }
        streams = {name: stream(loader, batch_size) for name, loader in ours.items()}
        found: dict[str, Row] = {VIDEOS: {"frames": "same", **published[as_ours]}}
        if left_out:
            found[VIDEOS]["note"] = f"{left_out} of {len(source) + left_out} videos left out"
        small = [replace(sample, native=prepared.manifest.resize) for sample in samples]
        found[REELS] = returned(partial(read_reel, prepared, source.paths), small)
        for name, reader in READERS.items():
            loader = f"DataLoader + {name}"
            try:
                read = reader()
                found[loader] = returned(read, samples)
            except Exception as error:  # whatever a foreign package raises
                found[loader] = {"note": reason(name, error)}
                continue
            found[loader] |= published[as_people]
            rival = _data_loader(clips(read, as_people), batch_size, workers)
            streams[loader] = stream(rival, batch_size)
        times = timing.interleaved(streams, ROUNDS, seconds)
    finally:
        for one in ours.values():
            one.close()
    return _rows(found, times)


def _rows(found: dict[str, Row], times: dict[str, timing.Timing]) -> list[Row]:
    """A row a loader, of whose frames something was `found`.

    A DataLoader's `ratio` is its time over that of ClipLoader from videos, `reels_ratio` over that
    of ClipLoader from reels, whose own `ratio` is the fastest DataLoader's with the right frames.
    """
    rivals = [name for name in times if name not in (VIDEOS, REELS)]
    right = [name for name in rivals if found[name].get("frames") == "same"]
    rows = []
    for name, facts in found.items():
        loader, given = ("ClipLoader", "reels") if name == REELS else (name, "videos")
        row: Row = {"section": "peers", "loader": loader, "input": given}
        if name in times:
            row |= times[name].per(1)
        if name == REELS and right:
            fastest = min(right, key=lambda name: times[name].seconds)
            row |= ratio(times[fastest], times[REELS]) | {"note": f"ratio to {fastest}"}
        if name in rivals:
            of_reels = ratio(times[name], times[REELS])
            row |= ratio(times[name], times[VIDEOS])
            row |= {f"reels_{column}": value for column, value in of_reels.items()}
        rows.append(row | facts)
    return rows


@dataclass(frozen=True)
class Clips(Dataset[tuple[Array, Array, Array]]):
    """Item i is the i-th clip of ClipLoader's stream: (frames, coded flow, labels)."""

    source: VideoFiles
    frames: list[int]  # of each video
    spec: ClipSpec
    read: Read
    flow: Callable[[Array, Array], Array]  # resized frames, native frames -> codes [T-1,2,h,w]

    def __len__(self) -> int:
        return 10**9  # the stream has no end

    def numbers(self, i: int) -> tuple[str, range]:
        """The file of a clip and the numbers of its frames."""
        clip = clip_at(i, len(self.source), self.spec)
        start = start_frame(clip.position, self.frames[clip.video], self.spec.needs)
        return self.source.paths[clip.video], range(start, start + self.spec.needs)

    def __getitem__(self, i: int) -> tuple[Array, Array, Array]:
        spec = self.spec
        clip = clip_at(i, len(self.source), spec)
        images = self.read(*self.numbers(i))
        frames = np.stack([resized(image, spec.resize) for image in images])
        flow = np.moveaxis(self.flow(frames, images), 1, -1)
        top, left = clip.crop
        cut = np.s_[:, top : top + spec.size, left : left + spec.size]
        frames, flow = frames[cut], flow[cut]
        if clip.flip:
            frames, flow = frames[:, :, ::-1], flow[:, :, ::-1].copy()
            flow[..., 0] = 255 - flow[..., 0]
        frames, flow = (np.ascontiguousarray(array) for array in (frames, flow))
        return frames, flow, clip_labels(frames[None], flow[None], spec.rule)[0]


def as_people(frames: Array, native: Array) -> Array:
    return dis_flow(frames, (native.shape[1], native.shape[2]))


def as_ours(frames: Array, native: Array) -> Array:
    return fast_flow(frames, (native.shape[1], native.shape[2]))


def as_published(frames: Array, native: Array) -> Array:
    """Flow of native frames, coded, then resized as the frames."""
    coded = encode(tvl1_flow(np.stack([fitted(frame) for frame in native])))
    size = (frames.shape[1], frames.shape[2])
    return np.moveaxis(np.stack([resized(field, size) for field in coded]), -1, 1)


def agreement(clips: Clips, published: Clips) -> Row:
    """`published_labels`: % of the motion labels of the first clips that are the published ones."""
    motion = slice(len(LABELS[MOTION]))
    equal = [clips[i][2][motion] == published[i][2][motion] for i in range(SAMPLED)]
    return {"published_labels": round(100 * float(np.mean(equal)), 1)}


def _data_loader(clips: Clips, batch_size: int, workers: int) -> "DataLoader[Any]":
    # Spawned: decoders do not survive a fork of a process that has used them.
    return DataLoader(
        clips,
        batch_size,
        num_workers=workers,
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn" if workers else None,
    )


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _sound(source: VideoFiles, prepared: Container[str]) -> tuple[VideoFiles, list[int], int]:
    """The videos that all can read, the frames of each, and how many others there are.

    `prepared`: the paths of those that have reels.
    """
    sound, frames = [], []
    for item, path in enumerate(source.paths):
        try:
            count = sum(1 for _ in decoded(path))
            whole = count == source.probe(item).frames and path in prepared
            if whole and count >= ClipSpec().needs:
                sound.append(item)
                frames.append(count)
        except BadVideo:
            continue
    if not sound:
        sys.exit(f"{source.name}: no video decodes to as many frames as it has packets")
    return source.subset(sound), frames, len(source) - len(sound)


def _check(ours: ClipLoader, of_reels: ClipLoader, exact: Clips) -> None:
    """Exit unless the first batches of all loaders are the same; of reels, their clips."""
    theirs = iter(_data_loader(exact, ours.batch_size, 0))
    for _ in range(2):
        batch = ours.next_batch()
        frames, flow, labels = next(theirs)
        compare("DataLoader", labels, batch.labels)
        if not (torch.equal(frames, batch.frames) and torch.equal(flow, batch.flow)):
            sys.exit("DataLoader: the labels are ClipLoader's, the pixels are not")
        stored = of_reels.next_batch()
        for name in ("video", "start", "crop", "flip"):
            if not torch.equal(getattr(stored, name), getattr(batch, name)):
                sys.exit(f"reels: {name} of their clips is not that of the videos' clips")


# -- which frames a decoder returns ---------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Frames asked for, and what is shown around them."""

    path: str
    numbers: range
    native: tuple[int, int]
    shown: dict[int, Array]  # by number, grey, float32 [h,w]


def _samples(clips: Clips) -> Iterator[Sample]:
    """The first clips of the stream: of different videos, from different starts."""
    for i in range(SAMPLED):
        path, numbers = clips.numbers(i)
        last = clips.frames[clips.source.paths.index(path)]
        around = range(max(0, numbers[0] - AROUND), min(last, numbers[-1] + 1 + AROUND))
        images = read_frames(path, around)
        shown = {n: grey(image) for n, image in zip(around, images, strict=True)}
        yield Sample(path, numbers, (images.shape[1], images.shape[2]), shown)


def grey(image: Array) -> Array:
    """Small and of mean 0: what decoders make of colours shifts it little."""
    small = cv2.cvtColor(resized(image, (128, 171)), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return small - small.mean()


def returned(read: Read, samples: Sequence[Sample]) -> Row:
    """`frames`: "same", or for how many of the samples' a decoder returns others; `note`: which."""
    total, wrong, first = 0, 0, ""
    for sample in samples:
        images = read(sample.path, sample.numbers)
        total += len(sample.numbers)
        for place, number in enumerate(sample.numbers):
            instead = other_frame(images[place], number, sample) if place < len(images) else "none"
            if instead:
                wrong += 1
                first = first or f"{Path(sample.path).name} frame {number}: {instead}"
    if not wrong:
        return {"frames": "same"}
    return {"frames": f"{wrong} of {total} are others", "note": f"first {first}"}


def read_reel(reels: Reels, videos: Sequence[str], path: str, numbers: range) -> Array:
    """Small frames [T,h,w,3] from the reel of a video; `videos` are in the order of `reels`."""
    return reels.read_clip(videos.index(path), numbers, None)[0]


def other_frame(image: Array, number: int, sample: Sample) -> str:
    """ "" if `image` is frame `number` but for its colours, else what it is."""
    if image.shape[:2] != sample.native:
        height, width = image.shape[:2]
        return f"is {height}x{width}"
    found = grey(image)
    distance = {n: float(np.sqrt(np.square(found - g).mean())) for n, g in sample.shown.items()}
    nearest = min(distance, key=distance.__getitem__)
    if distance[number] <= min(FAR, distance[nearest] + SAME):
        return ""
    return f"is frame {nearest}" if distance[nearest] <= FAR else "is no frame near"
