"""The stages from a reel to labels, alone, by the code that workers run, on one core.

First the stages, one after another, must give the loader's own batch.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import timing
from benchmarks.ceilings import Ceilings
from benchmarks.inputs import Clips
from benchmarks.labels import threads
from benchmarks.stages import SPEC, compare_with_loader, stage_row
from dali_pipes.clips import Clip
from dali_pipes.pipelines.fetch import cut_flow, cut_frames
from dali_pipes.sources import Reels
from kernels.labels import clip_labels

Row = dict[str, Any]
Images = NDArray[np.uint8]
Encoded = tuple[list[Images], list[Images]]  # of a clip: T frames, F fields, uint8 [n] each
Pixels = tuple[Images, Images]  # frames [T,S,S,3], coded flow [F,S,S,2]

CLIPS = 64  # measured on: so many are quick, and their images differ in size
GPU_CLIPS = 16  # decoded at once
READ, DECODE = "reels: read and check", "reels: decode, crop"


def read(source: Reels, clips: Clips) -> Iterator[Encoded]:
    """The images of each clip, in one read each. Raises BadVideo."""
    for item, numbers in zip(clips.batch.video.tolist(), clips.frame_numbers, strict=True):
        yield source.read_encoded(item, numbers, numbers[: SPEC.flow_fields])


def decode(source: Reels, clips: Clips, encoded: Iterable[Encoded]) -> Iterator[Pixels]:
    """Cropped and mirrored pixels of each clip. Raises BadVideo."""
    drawn = zip(
        clips.batch.video.tolist(), clips.batch.crop.tolist(), clips.batch.flip.tolist(),
        clips.frame_numbers, encoded, strict=True,
    )  # fmt: skip
    for item, (top, left), flip, numbers, (frames, fields) in drawn:
        clip = Clip(0, item, 0.0, (top, left), flip)
        yield (
            cut_frames(source.frames_of(item, frames, numbers), clip, SPEC),
            cut_flow(source.fields_of(item, fields, numbers[: len(fields)]), clip, SPEC),
        )


def verify(source: Reels, clips: Clips) -> None:
    """Exit unless the stages, one after another, give what the loader gave."""
    frames, flow = map(np.stack, zip(*decode(source, clips, read(source, clips)), strict=True))
    labels = clip_labels(frames, flow)
    compare_with_loader(clips, {"frames": frames, "flow": flow, "labels": labels})


def on_cpu(source: Reels, clips: Clips, ceilings: Ceilings, seconds: float) -> list[Row]:
    """A row for each stage before labels, which are those of videos."""
    verify(source, clips)
    encoded = list(read(source, clips))
    height, width = source.manifest.resize
    stored = sum(image.nbytes for clip in encoded for kind in clip for image in kind)
    decoded = (3 * SPEC.clip_len + 2 * SPEC.flow_fields) * height * width  # bytes a clip
    stages: dict[str, tuple[Callable[[], Iterable[object]], int]] = {
        READ: (lambda: read(source, clips), stored // len(clips)),
        DECODE: (lambda: decode(source, clips, encoded), decoded),
    }
    rows = []
    cv2.setNumThreads(1)
    with threads(1):
        for name, (stage, moved) in stages.items():
            print(f"  {name}", flush=True)
            timed = timing.timed(lambda stage=stage: _exhaust(stage()), seconds)  # type: ignore[misc]
            rows.append(stage_row(name, timed, len(clips), work=moved, rate=ceilings.core_copy))
    return rows


def from_reels(source: Reels, clips: Clips) -> Callable[[], int]:
    """A call that takes `clips` through all stages on one core and says how many they are.

    One clip after the other, as a worker does. Exits unless the stages give what the loader gave.
    """
    verify(source, clips)
    cv2.setNumThreads(1)

    def call() -> int:
        with threads(1):
            for frames, flow in decode(source, clips, read(source, clips)):
                clip_labels(frames[None], flow[None])
        return len(clips)

    return call


def for_gpu(source: Reels, clips: Clips) -> list[list[Images]]:
    """The images of some clips by kind, frames and fields. As many fields as frames, which DALI
    wants: the last of a clip is there twice."""
    encoded = list(islice(read(source, clips), GPU_CLIPS))
    frames = [image for clip, _ in encoded for image in clip]
    fields = [image for _, clip in encoded for image in (*clip, clip[-1])]
    return [frames, fields]


def _exhaust(results: Iterable[object]) -> None:
    for _ in results:
        pass
