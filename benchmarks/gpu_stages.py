"""The stages as a GPU has them, alone, on the same clips as the CPU's.

`device` "cpu" runs the DALI graphs without a GPU, for codecs that DALI decodes there.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import timing
from benchmarks.ceilings import Ceilings
from benchmarks.flow import NvidiaFlow
from benchmarks.inputs import Clips
from benchmarks.labels import threads
from benchmarks.stages import SPEC, decode, jpeg_bytes, jpeg_decoder, stage_row
from dali_pipes.decoding.encoded import GPU_CODECS, Encoded, encoded_clip
from dali_pipes.decoding.pictures import Unsure
from dali_pipes.decoding.video import read_clip
from dali_pipes.flow import fitted
from dali_pipes.pipelines.cpu import Device
from dali_pipes.pipelines.nvdec import decoder
from kernels.labels import clip_labels

Row = dict[str, Any]
Images = NDArray[np.uint8]

LABELLED = 64  # clips a call
EXAMINE, NVDEC, RESIZE = "examine packets", "decode, NVDEC", "resize and crop, GPU"
TVL1, LABELS = "flow: TV-L1, GPU", "labels, corrected, GPU"

# What a clip goes through on its way from a video to the network, and what that keeps busy.
PATH = {
    EXAMINE: "CPU cores",
    NVDEC: "video decoder",
    RESIZE: "GPU",
    TVL1: "GPU",
    LABELS: "GPU",
    "training step": "GPU",
}


_row = partial(stage_row, on="GPU")


def on_gpu(
    clips: Clips,
    images: list[list[Images]],
    reel_images: list[list[Images]],
    ceilings: Ceilings,
    seconds: float,
) -> list[Row]:
    """A row a stage. `images`: encoded RGB, u and v images of as many clips; `reel_images`: RGB,
    and u above v, as many of each, of any number of clips."""
    count = len(clips)
    encoded = [clip for clip in examine(clips) if clip is not None]
    with threads(1):
        rows = [stage_row(EXAMINE, timing.timed(lambda: examine(clips), seconds), count)]
    native = decode(clips)
    if encoded:
        decoder = video_decoder(encoded)
        verify(decoder(), clips)
        rows.append(_row(NVDEC, timing.timed(decoder, seconds), len(encoded)))
    rows.append(_row(RESIZE, timing.timed(resizer(native), seconds), count))
    for name, kinds in {
        "JPEG decode, with flow, GPU": images,
        "reels: decode, GPU": reel_images,
    }.items():
        shown = len(kinds[0]) // SPEC.clip_len
        timed = timing.timed(jpeg_decoder(kinds, "mixed"), seconds)
        moved = jpeg_bytes(kinds) // shown
        rows.append(_row(name, timed, shown, work=moved, rate=ceilings.copy))

    fitting = np.stack([fitted(frame) for frame in native[0]])
    from kernels.flow import cuda as cuda_flow

    pairs = torch.from_numpy(fitting)[None].cuda().repeat(16, 1, 1, 1, 1)
    rows.append(_row(TVL1, timing.timed_on_gpu(lambda: cuda_flow.tvl1_flow(pairs)), len(pairs)))
    hardware = NvidiaFlow(1)
    try:
        rows.append(
            _row("flow: NVIDIA's unit", timing.timed(lambda: hardware.run(fitting), seconds), 1)
        )
    except RuntimeError as error:
        note = str(error).splitlines()[0]
        rows.append({"section": "stage", "stage": "flow: NVIDIA's unit", "note": note})

    repeats = -(-LABELLED // count)
    frames, fields = (
        tensor.repeat(repeats, 1, 1, 1, 1)[:LABELLED]
        for tensor in (clips.batch.frames, clips.batch.flow)
    )
    there = frames.cuda(), fields.cuda()
    if not torch.equal(clip_labels(*there).cpu(), clip_labels(frames, fields)):
        sys.exit("labels: GPU and CPU differ; nothing is timed")
    moved = (frames.nbytes + fields.nbytes) // LABELLED
    timed = timing.timed_on_gpu(lambda: clip_labels(*there))
    rows.append(_row(LABELS, timed, LABELLED, work=moved, rate=ceilings.copy))
    pinned = frames.pin_memory()
    timed = timing.timed_on_gpu(lambda: there[0].copy_(pinned, non_blocking=True))
    work, rate = frames.nbytes // LABELLED, ceilings.to_device or 0
    rows.append(_row("copy of frames to the GPU", timed, LABELLED, work=work, rate=rate))
    return rows


def examine(clips: Clips) -> list[Encoded | None]:
    """What workers hand to the GPU's decoder; None where they decode themselves."""
    encoded: list[Encoded | None] = []
    for path, numbers in zip(clips.paths, clips.frame_numbers, strict=True):
        try:
            encoded.append(encoded_clip(path, numbers, GPU_CODECS))
        except Unsure:
            encoded.append(None)
    return encoded


def video_decoder(encoded: Sequence[Encoded], device: Device = "mixed") -> Callable[[], Any]:
    """A call that decodes all clips at native size: one output, frames [T,H,W,3] a sample."""
    gpu = torch.cuda.current_device() if device == "mixed" else None
    run: Callable[[], Any] = decoder(encoded, SPEC.clip_len, gpu, device).run
    return run


def verify(outputs: Any, clips: Clips) -> None:
    """Exit unless each decoded clip shows the frames of its numbers: none is nearer to another."""
    shown = outputs[0].as_cpu()
    known = (n for n, clip in enumerate(examine(clips)) if clip is not None)
    for sample, n in enumerate(known):
        wanted = clips.frame_numbers[n]
        found = np.asarray(shown.at(sample)).astype(np.int16)
        true = read_clip(clips.paths[n], wanted)[0].astype(np.int16)
        if found.shape != true.shape:
            sys.exit(f"{clips.paths[n]}: the decoder gives {len(found)} of {len(true)} frames")
        for place, frame in enumerate(found):
            distances = [float(np.abs(frame - other).mean()) for other in true]
            if distances[place] > min(distances) + 0.5:
                other = wanted[int(np.argmin(distances))]
                sys.exit(f"{clips.paths[n]}: frame {other} where {wanted[place]} should be")


def resizer(native: Sequence[Images], device: Device = "mixed") -> Callable[[], Any]:
    """A call that resizes and crops frames that are there already."""
    from nvidia.dali import fn, types

    def graph() -> Any:
        frames = fn.external_source(lambda: list(native), layout="FHWC")
        frames = frames.gpu() if device == "mixed" else frames
        small = fn.resize(
            frames, size=SPEC.resize, interp_type=types.INTERP_LINEAR, antialias=False
        )
        return fn.slice(small, start=(0, 0), shape=(SPEC.size, SPEC.size), axes=(1, 2))

    return _call(graph, len(native), device)


def _call(graph: Callable[[], Any], batch_size: int, device: Device) -> Callable[[], Any]:
    from nvidia.dali import Pipeline

    gpu = torch.cuda.current_device() if device == "mixed" else None
    pipeline = Pipeline(batch_size=batch_size, num_threads=1, device_id=gpu, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(graph())
    pipeline.build()
    run: Callable[[], Any] = pipeline.run
    return run
