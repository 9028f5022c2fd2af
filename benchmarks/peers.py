"""What most people write instead: a torch DataLoader over one of four decoders.

Everything else is the same as in ClipLoader: the clips, resize, DIS flow, crop, flip and labels,
whose equality is checked first. Then each decoder's frames are compared with those that counting
from the first frame gives, since seeking finds another frame in many real files. Decoders use one
thread: the workers are the parallelism.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import timing
from benchmarks.rivals import ROUNDS, Array, Row, compare, ratio, stream
from dali_pipes import ClipLoader
from dali_pipes.clips import ClipSpec, clip_at, start_frame
from dali_pipes.decoding.video import BadVideo, decoded, read_frames, resized
from dali_pipes.flow import dis_flow
from dali_pipes.sources import VideoFiles
from kernels.labels import clip_labels

Read = Callable[[str, range], Array]  # (file, frame numbers) -> uint8 RGB [T,H,W,3], native size

SAMPLED = 12  # clips on which decoders are compared
AROUND = 8  # frames before and after a clip that a decoder may have returned instead
SAME = 0.5  # grey levels (RMS) by which another frame may be nearer: rounding
FAR = 12.0  # grey levels (RMS) from which a frame is not the one asked for, whatever is nearest


def peers(videos: Path, seconds: float, batch_size: int = 4, workers: int = 2) -> list[Row]:
    """ClipLoader and a DataLoader over each decoder, in turns of `seconds` each, on CPU cores.

    A decoder that cannot be loaded, or cannot read these videos, has a note instead of times.
    Exits if the DataLoader's labels are not ClipLoader's.
    """
    source, frames, left_out = _sound(VideoFiles.found(videos))
    ours = ClipLoader(source, flow="dis", batch_size=batch_size, num_workers=workers, device="cpu")
    clips = partial(Clips, source, frames, ours.spec)
    try:
        _check_labels(ours, clips(read_frames))
        samples = list(_samples(clips(read_frames)))
        streams = {"ClipLoader": stream(ours, batch_size)}
        found: dict[str, Row] = {"ClipLoader": {"frames": "same"}}
        if left_out:
            found["ClipLoader"]["note"] = f"{left_out} of {len(source) + left_out} videos left out"
        for name, reader in READERS.items():
            loader = f"DataLoader + {name}"
            try:
                read = reader()
                found[loader] = returned(read, samples)
            except Exception as error:  # whatever a foreign package raises
                found[loader] = {"note": _reason(name, error)}
                continue
            streams[loader] = stream(_data_loader(clips(read), batch_size, workers), batch_size)
        times = timing.interleaved(streams, ROUNDS, seconds)
    finally:
        ours.close()
    rows = []
    for name, facts in found.items():
        row: Row = {"section": "peers", "loader": name, "input": "videos"}
        if name in times:
            row |= times[name].per(1)
        if name in times and name != "ClipLoader":
            row |= ratio(times[name], times["ClipLoader"])
        rows.append(row | facts)
    return rows


@dataclass(frozen=True)
class Clips(Dataset[tuple[Array, Array, Array]]):
    """Item i is the i-th clip of ClipLoader's stream: (frames, coded flow, labels)."""

    source: VideoFiles
    frames: list[int]  # of each video
    spec: ClipSpec
    read: Read

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
        flow = dis_flow(frames, (images.shape[1], images.shape[2]))
        top, left = clip.crop
        cut = np.s_[:, top : top + spec.size, left : left + spec.size]
        frames, flow = frames[cut], flow[cut]
        if clip.flip:
            frames, flow = frames[:, :, ::-1], flow[:, :, ::-1].copy()
            flow[..., 0] = 255 - flow[..., 0]
        frames, flow = (np.ascontiguousarray(array) for array in (frames, flow))
        return frames, flow, clip_labels(frames[None], flow[None], spec.rule)[0]


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


def _sound(source: VideoFiles) -> tuple[VideoFiles, list[int], int]:
    """The videos that all can read, the frames of each, and how many others there are."""
    sound, frames = [], []
    for item, path in enumerate(source.paths):
        try:
            count = sum(1 for _ in decoded(path))
            if count == source.probe(item).frames and count >= ClipSpec().needs:
                sound.append(item)
                frames.append(count)
        except BadVideo:
            continue
    if not sound:
        sys.exit(f"{source.name}: no video decodes to as many frames as it has packets")
    return source.subset(sound), frames, len(source) - len(sound)


def _check_labels(ours: ClipLoader, exact: Clips) -> None:
    """Exit unless the first batches of both loaders are the same."""
    theirs = iter(_data_loader(exact, ours.batch_size, 0))
    for _ in range(2):
        batch = ours.next_batch()
        frames, flow, labels = next(theirs)
        compare("DataLoader", labels, batch.labels)
        if not (torch.equal(frames, batch.frames) and torch.equal(flow, batch.flow)):
            sys.exit("DataLoader: the labels are ClipLoader's, the pixels are not")


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


# -- the decoders, as their users call them -------------------------------------------------------


def read_pyav(path: str, numbers: range) -> Array:
    """Seek by the time stamp that the frame rate gives, decode on to it."""
    import av

    with av.open(path, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        assert stream.average_rate is not None
        assert stream.time_base is not None
        wanted = round(numbers[0] / stream.average_rate / stream.time_base)
        wanted += stream.start_time or 0
        container.seek(wanted, stream=stream)
        images = []
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= wanted:
                images.append(frame.to_ndarray(format="rgb24"))
                if len(images) == len(numbers):
                    break
    return _padded(images, numbers)


def read_opencv(path: str, numbers: range) -> Array:
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    video.set(cv2.CAP_PROP_POS_FRAMES, numbers[0])
    images: list[Array] = []
    while len(images) < len(numbers):
        more, image = video.read()
        if not more:
            break
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    video.release()
    return _padded(images, numbers)


def _padded(images: list[Array], numbers: range) -> Array:
    """Where a seek led too far, the last frame again, as many do."""
    if not images:
        raise ValueError(f"no frame from {numbers[0]} on")
    return np.stack(images + images[-1:] * (len(numbers) - len(images)))


def read_torchcodec(path: str, numbers: range) -> Array:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    images: Array = video.get_frames_in_range(numbers.start, numbers.stop).data.numpy()
    return images


def read_decord(path: str, numbers: range) -> Array:
    from decord import VideoReader

    images: Array = VideoReader(path, num_threads=1).get_batch(list(numbers)).asnumpy()
    return images


def _opencv() -> Read:
    return read_opencv


def _torchcodec() -> Read:
    import torchcodec.decoders  # noqa: F401  # fails here where FFmpeg's libraries are missing

    return read_torchcodec


def _decord() -> Read:
    import decord  # noqa: F401

    return read_decord


READERS: dict[str, Callable[[], Read]] = {
    "PyAV, counting": lambda: read_frames,
    "PyAV, seeking": lambda: read_pyav,
    "OpenCV": _opencv,
    "torchcodec": _torchcodec,
    "decord2": _decord,
}


def _reason(name: str, error: Exception) -> str:
    """Why a decoder has no times, in a few words."""
    if isinstance(error, ModuleNotFoundError):
        return f"{name} is not installed: pip install '.[peers]'"
    words = str(error).strip()
    if "libtorchcodec" in words:
        return f"{name} does not load: no FFmpeg libraries"
    return f"{name} fails: {(words or type(error).__name__).splitlines()[0][:100]}"
