"""Every stage from a video file to labels, alone, on the same clips.

On a CPU each stage runs as the loader has it: decoding, resizing and flow on the one core of a
worker, labels on all. First the stages, one after another, must give the loader's own batch.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import timing
from benchmarks.ceilings import Ceilings
from benchmarks.dis import dis_flow
from benchmarks.inputs import Clips
from benchmarks.labels import threads
from dali_pipes.clips import ClipSpec
from dali_pipes.decoding.jpeg import read_encoded
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.video import read_clip
from dali_pipes.flow import fast_flow, fitted, tvl1_flow
from dali_pipes.pipelines.images import resized_part
from kernels.labels import clip_labels
from kernels.labels.schema import RULES

Row = dict[str, Any]
Images = NDArray[np.uint8]
SPEC = ClipSpec()

DECODE, RESIZE, FLOW = "decode", "resize and crop", "flow: TV-L1, resized frames"
RIVAL = "flow: DIS, resized frames"
READ = "JPEG reading and examining, with flow"
JPEG, JPEG_RESIZED = "JPEG decode, with flow", "JPEG decode, resize, crop, with flow"
LABELS = "labels, {rule}"

# What a clip of a video goes through on a CPU.
PATH = (DECODE, RESIZE, FLOW, LABELS.format(rule="corrected"))


def decode(clips: Clips) -> list[Images]:
    """Native frames [T,H,W,3] of each clip."""
    numbers = zip(clips.paths, clips.frame_numbers, strict=True)
    return [read_clip(path, wanted)[0] for path, wanted in numbers]


def resize(native: Sequence[Images]) -> list[Images]:
    return [np.stack([resized(frame, SPEC.resize) for frame in clip]) for clip in native]


def flow(small: Sequence[Images], native: Sequence[Images]) -> list[Images]:
    """Flow `tvl1-fast`, coded, [T-1,h,w,2] of each clip."""
    pairs = zip(small, native, strict=True)
    coded = (fast_flow(clip, (whole.shape[1], whole.shape[2])) for clip, whole in pairs)
    return [np.moveaxis(planes, 1, -1) for planes in coded]


def rival_flow(small: Sequence[Images], native: Sequence[Images]) -> list[Images]:
    """What people take instead."""
    pairs = zip(small, native, strict=True)
    return [dis_flow(clip, (whole.shape[1], whole.shape[2])) for clip, whole in pairs]


def crop(clips: Clips, small: Sequence[Images]) -> Images:
    """Cropped and mirrored, [N,T,S,S,C]; of flow a mirrored u is not negated yet."""
    cut = []
    places = zip(small, clips.batch.crop.tolist(), clips.batch.flip.tolist(), strict=True)
    for clip, (top, left), mirrored in places:
        window = clip[:, top : top + SPEC.size, left : left + SPEC.size]
        cut.append(window[:, :, ::-1] if mirrored else window)
    return np.stack(cut)


def through(clips: Clips) -> tuple[list[Images], list[Images], dict[str, NDArray[Any]]]:
    """Native frames, resized frames, and what a batch has: all stages, one after another."""
    native = decode(clips)
    small = resize(native)
    fields = crop(clips, flow(small, native))
    mirrored = clips.batch.flip.numpy()
    fields[mirrored, ..., 0] = 255 - fields[mirrored, ..., 0]
    frames = crop(clips, small)
    labels = clip_labels(frames, fields)
    return native, small, {"frames": frames, "flow": fields, "labels": labels}


def verify(clips: Clips) -> tuple[list[Images], list[Images]]:
    """(native, resized) frames; exits unless the stages give what the loader gave."""
    native, small, batch = through(clips)
    compare_with_loader(clips, batch)
    return native, small


def compare_with_loader(clips: Clips, batch: dict[str, NDArray[Any]]) -> None:
    """Exit unless `batch`, fields of a ClipBatch by name, is what the loader gave."""
    for name, found in batch.items():
        different = np.flatnonzero(
            (found != getattr(clips.batch, name).numpy()).any(axis=tuple(range(1, found.ndim)))
        )
        if len(different):
            sys.exit(f"{name} of {clips.paths[different[0]]}: the stages differ from the loader")


def on_cpu(clips: Clips, paths: list[list[str]], ceilings: Ceilings, seconds: float) -> list[Row]:
    """A row a stage. `paths`: RGB, u and v images of as many clips."""
    native, small = verify(clips)
    frames, fields = clips.batch.frames, clips.batch.flow
    count = len(clips)

    def row(stage: str, call: Callable[[], object], moved: int = 0, at_least: int = 5) -> Row:
        """`moved`: bytes a clip that must be read or written."""
        print(f"  {stage}", flush=True)
        timed = timing.timed(call, seconds, at_least)
        return stage_row(stage, timed, count, work=moved, rate=ceilings.core_copy)

    images = read_images(paths)
    encoded = sum(image.nbytes for kind in images for image in kind) // count
    with threads(1):
        cv2.setNumThreads(1)
        cut = clips.batch.frames[0].nbytes
        whole = sum(clip.nbytes for clip in native) // count
        rows = [
            row(DECODE, lambda: decode(clips)),
            row(RESIZE, lambda: crop(clips, resize(native)), whole + cut),
            row(FLOW, lambda: flow(small, native)),
            row(RIVAL, lambda: rival_flow(small, native)),
            row(READ, lambda: read_images(paths), encoded),
            row(JPEG, jpeg_decoder(images), jpeg_bytes(images) // count),
            row(JPEG_RESIZED, jpeg_decoder(images, resize=True)),
        ]
        one = np.stack([fitted(frame) for frame in native[0]])
        tvl1 = timing.timed(lambda: tvl1_flow(one), 0, at_least=2).per(1)
        rows.append({"section": "stage", "stage": "flow: TV-L1", "on": "1 core"} | tvl1)
    more = torch.cat([fields, fields[:, -1:]], dim=1)  # `reference` takes one field more
    moved = (frames.nbytes + fields.nbytes) // count
    for rule in RULES:
        name = LABELS.format(rule=rule)
        print(f"  {name}", flush=True)
        timed = timing.timed(partial(clip_labels, frames, more, rule), seconds).per(count)
        rows.append({"section": "stage", "stage": name, "on": "all cores"} | timed)
        rows[-1] |= of_ceiling(timed["us_per_clip"], moved, ceilings.copy)
    return rows


def read_images(paths: list[list[str]]) -> list[list[Images]]:
    """Encoded RGB, u and v images, examined. Raises OSError, or ValueError on a damaged one."""
    return [[read_encoded(path) for path in kind] for kind in paths]


def from_videos(clips: Clips) -> Callable[[], int]:
    """A call that takes `clips` through all stages on one core and says how many they are.

    Exits unless the stages give what the loader gave.
    """
    verify(clips)
    cv2.setNumThreads(1)

    def call() -> int:
        with threads(1):
            through(clips)
        return len(clips)

    return call


def from_images(paths: list[list[str]], clips: Clips) -> Callable[[], int]:
    """The same of the JPEG images of as many clips; labels are those of `clips`."""
    with threads(1):
        decoder = jpeg_decoder(read_images(paths), resize=True)

    def call() -> int:
        with threads(1):
            read_images(paths)
            decoder()
            clip_labels(clips.batch.frames, clips.batch.flow)
        return len(clips)

    return call


def stage_row(
    stage: str,
    timed: timing.Timing,
    clips: int,
    on: str = "1 core",
    work: int = 0,
    rate: float = 0,
) -> Row:
    """A row of the report: `timed` is what `clips` take, see `of_ceiling` for the rest."""
    columns: Row = {"section": "stage", "stage": stage, "on": on} | timed.per(clips)
    return columns | of_ceiling(columns["us_per_clip"], work, rate)


def of_ceiling(us_per_clip: float, work: float, rate: float) -> Row:
    """Clips a second that `work` (bytes or operations) a clip allows at `rate`, and how near."""
    if not work:
        return {}
    ceiling = rate / work
    percent = 100 * 1e6 / us_per_clip / ceiling
    return {"ceiling": timing.digits(ceiling), "percent_of_ceiling": timing.digits(percent)}


def jpeg_decoder(
    images: list[list[Images]], device: str = "cpu", resize: bool = False
) -> Callable[[], object]:
    """A call that decodes all images as the pipelines do; exits if it shows other pixels.

    `images`: by kind, as many of each: RGB, then grey ones.
    """
    from nvidia.dali import fn, pipeline_def, types

    kinds = (types.RGB, *(types.GRAY,) * (len(images) - 1))

    @pipeline_def(
        batch_size=len(images[0]),
        num_threads=1 if device == "cpu" else 4,
        device_id=None if device == "cpu" else torch.cuda.current_device(),
        prefetch_queue_depth=1,
    )
    def graph() -> Any:
        encoded = fn.external_source(lambda: tuple(images), num_outputs=len(kinds))
        shown = (
            fn.decoders.image(data, device=device, output_type=kind, jpeg_fancy_upsampling=True)
            for data, kind in zip(encoded, kinds, strict=True)
        )
        if not resize:
            return tuple(shown)
        start, end = [0.0, 0.0], [SPEC.size / side for side in SPEC.resize]
        return tuple(resized_part(image, start, end, SPEC.size) for image in shown)

    pipeline = graph()
    pipeline.build()
    shown = pipeline.run()
    for output, encoded, flag in zip(shown, images, _read_as(images), strict=True):
        wanted = _decoded(encoded[0], flag)
        if resize:
            wanted = resized(wanted, SPEC.resize)[: SPEC.size, : SPEC.size]
        found = np.asarray(output.as_cpu().at(0)).reshape(wanted.shape)
        rounding = (4 if device != "cpu" else 0) + resize  # decoders on a GPU round otherwise, too
        if np.abs(found.astype(int) - wanted).max() > rounding:
            sys.exit("JPEG decode: DALI and OpenCV show other pixels; nothing is timed")
    run: Callable[[], object] = pipeline.run
    return run


def _read_as(images: list[list[Images]]) -> list[int]:
    """OpenCV's flag for each kind."""
    return [cv2.IMREAD_COLOR_RGB, *[cv2.IMREAD_GRAYSCALE] * (len(images) - 1)]


def _decoded(encoded: Images, flag: int) -> Images:
    return cast(Images, cv2.imdecode(encoded, flag))


def jpeg_bytes(images: list[list[Images]]) -> int:
    """Bytes of all the images once decoded: what is written at least."""
    return sum(
        len(encoded) * _decoded(encoded[0], flag).nbytes
        for encoded, flag in zip(images, _read_as(images), strict=True)
    )
