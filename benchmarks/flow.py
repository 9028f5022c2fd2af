"""Speed and faithfulness of optical flow: python -m benchmarks.flow --videos DIR

The published labels come from OpenCV's TV-L1 at native resolution, coded in 8 bits. This computes
it afresh for one clip of each video, and says how far the motion labels of other flow agree with
it (`reference` rule, random crops), and how many frame pairs a second each takes. First every
source must find a known motion, and every TV-L1 must equal OpenCV's; else nothing is timed. CPU
speed is of one core, by the processor time of its thread. A row is appended to
benchmarks/results/flow.jsonl.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import timing
from dali_pipes.decoding.video import BadVideo, probe, read_frames
from dali_pipes.flow import dis_flow, fitted
from dali_pipes.pipelines import gpu as gpu_pipeline
from dali_pipes.sources import VideoFiles
from kernels.flow.code import decode, encode
from kernels.flow.cpu import tvl1_flow
from kernels.labels.cpu import cores, motion_labels
from kernels.labels.schema import LABELS, MOTION, flow_fields

Row = dict[str, Any]
Frames = NDArray[np.uint8]  # [T,H,W,3]
Field = NDArray[np.float32]  # [T-1,H,W,2], pixels per frame

FIELDS = flow_fields("reference", 16)
RESIZE, SIZE = (128, 171), 112
GPU_PAIRS = 256  # a call: 16 clips
REFERENCE = "TV-L1, OpenCV"


@dataclass(frozen=True)
class Source:
    """A way to flow: `compute` gives pixels of its input per frame, of any size of field."""

    name: str
    compute: Callable[[Frames], Field]
    on_gpu: bool = False


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(__doc__, argv)
    cv2.setNumThreads(1)
    clips = [fit(clip) for clip in read_clips(options.videos, options.clips)]
    sources = [*cpu_sources(), *gpu_sources()]
    for source in sources:
        verify(source)
    results = measure(sources, clips, options.crops)
    print(timing.table(results))
    print(f"row appended to {timing.record('flow', results, options.results)}")


def parse(doc: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Which clips and crops, of a command that compares labels; `doc`: of its module."""
    parser = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos")
    parser.add_argument("--clips", type=int, default=8, help="videos to take one clip of")
    parser.add_argument("--crops", type=int, default=16, help="random crops of each clip")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, help="folder of the row")
    return parser.parse_args(argv)


def read_clips(folder: Path, count: int) -> list[Frames]:
    """The middle of up to `count` videos, spread over the folder, at native size."""
    paths = VideoFiles.found(folder).paths
    clips = []
    for at in np.unique(np.linspace(0, len(paths) - 1, count).round().astype(int)):
        try:
            info = probe(paths[at])
            start = (info.frames - FIELDS - 1) // 2
            if start < 0:
                raise BadVideo(paths[at], "clip", f"has {info.frames} frames, {FIELDS + 1} needed")
            numbers = range(start, start + FIELDS + 1)
            clips.append(read_frames(paths[at], numbers))
        except BadVideo as bad:
            print(f"left out: {bad}", flush=True)
    if not clips:
        sys.exit(f"{folder}: no video of {FIELDS + 1} frames in it")
    print(f"{len(clips)} clips of {FIELDS + 1} frames", flush=True)
    return clips


def fit(frames: Frames) -> Frames:
    """Frames at the size that flow is taken at."""
    return np.stack([fitted(frame) for frame in frames])


# ---- sources ----------------------------------------------------------------------------------


def cpu_sources() -> list[Source]:
    return [
        Source(REFERENCE, opencv_tvl1),
        Source("TV-L1, kernels.flow.cpu", tvl1_flow),
        Source("TV-L1 on a grid of 4x4 px, steps of 1/4 px", on_coarse_grid),
        Source("TV-L1 of frames of 128x171", tvl1_of_small_frames),
        Source("DIS medium of frames of 128x171", dis_of_small_frames),
        Source("DIS medium", dis),
        Source("Farneback", farneback),
    ]


def opencv_tvl1(frames: Frames) -> Field:
    return _by_solver(cv2.optflow.DualTVL1OpticalFlow_create(), frames)  # type: ignore[attr-defined]


def dis(frames: Frames) -> Field:
    return decode(dis_flow(frames, (frames.shape[1], frames.shape[2])))


def dis_of_small_frames(frames: Frames) -> Field:
    """As the CPU pipeline has it."""
    return decode(dis_flow(_small(frames), (frames.shape[1], frames.shape[2])))


def tvl1_of_small_frames(frames: Frames) -> Field:
    back = np.array([frames.shape[2] / RESIZE[1], frames.shape[1] / RESIZE[0]], np.float32)
    return tvl1_flow(_small(frames)) * back


def _small(frames: Frames) -> Frames:
    return np.stack([cv2.resize(frame, RESIZE[::-1]) for frame in frames])


def farneback(frames: Frames) -> Field:
    return _by_solver(cv2.FarnebackOpticalFlow_create(), frames)  # type: ignore[attr-defined]


def _by_solver(solver: Any, frames: Frames) -> Field:
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([solver.calc(*pair, None) for pair in pairwise(grey)])


def on_coarse_grid(frames: Frames) -> Field:
    """What the best hardware flow of a 4x4 grid could be: TV-L1's mean there, in quarter pixels."""
    height, width = (side // 4 for side in frames.shape[1:3])
    flow = tvl1_flow(frames)[:, : 4 * height, : 4 * width]
    means = flow.reshape(-1, height, 4, width, 4, 2).mean((2, 4))
    return np.rint(4 * means) / np.float32(4)


def gpu_sources() -> list[Source]:
    if not torch.cuda.is_available():
        print("no GPU: TV-L1 in CUDA and hardware flow are not measured", flush=True)
        return []
    sources = [Source("TV-L1, kernels.flow.cuda", cuda_tvl1, on_gpu=True)]
    for grid in (1, 4):
        source = Source(
            f"NVIDIA flow unit, grid of {grid}x{grid} px", NvidiaFlow(grid), on_gpu=True
        )
        try:
            source.compute(moving_texture())
        except RuntimeError as error:
            print(f"{source.name}: not measured: {str(error).splitlines()[0]}", flush=True)
        else:
            sources.append(source)
    return sources


def cuda_tvl1(frames: Frames) -> Field:
    from kernels.flow import cuda as cuda_flow

    return cast(Field, cuda_flow.tvl1_flow(torch.from_numpy(frames)[None].cuda())[0].cpu().numpy())


class NvidiaFlow:
    """NVIDIA's flow unit on clips of one size, as the GPU pipeline uses it; rebuilt for another."""

    def __init__(self, grid: int) -> None:
        self._grid = grid
        self._shape: tuple[int, ...] = ()
        self._frames = np.empty(0, np.uint8)
        self._pipeline: Any = None

    def __call__(self, frames: Frames) -> Field:
        flow = self.run(frames)
        return np.asarray(flow[0].as_cpu().as_array()[0], np.float32)

    def run(self, frames: Frames) -> Any:
        from nvidia.dali import fn, pipeline_def

        @pipeline_def(batch_size=1, num_threads=1, device_id=0, prefetch_queue_depth=1)
        def graph() -> Any:
            source = fn.external_source(lambda: [self._frames], layout="FHWC")
            return gpu_pipeline.hardware_flow(source.gpu(), len(frames), self._grid)

        self._frames = frames
        if frames.shape != self._shape:
            self._shape = frames.shape
            self._pipeline = graph()
            self._pipeline.build()
        return self._pipeline.run()


# ---- verify -----------------------------------------------------------------------------------


def moving_texture() -> Frames:
    """Three frames of 96x128 that move by (3, -2) px."""
    noise = np.random.default_rng(1).standard_normal((120, 160, 3))
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    return np.stack([texture[8 + 2 * t :][:96, 16 - 3 * t :][:, :128] for t in range(3)]).astype(
        np.uint8
    )


def verify(source: Source) -> None:
    """Exit unless the source finds a known motion, and TV-L1 what OpenCV's finds."""
    frames = moving_texture()
    found = source.compute(frames)
    border = found.shape[1] // 8
    inner = found[:, border:-border, border:-border]
    error = float(np.linalg.norm(inner - [3, -2], axis=-1).mean())
    if len(found) != len(frames) - 1 or not error < 0.5:
        sys.exit(f"{source.name}: {error:.2f} px off a known motion; nothing is timed")
    if source.compute in (tvl1_flow, cuda_tvl1):
        difference = float(np.abs(found - opencv_tvl1(frames)).mean())
        if not difference < 1e-2:
            sys.exit(f"{source.name}: {difference:.3f} px off OpenCV's TV-L1; nothing is timed")


# ---- measure ----------------------------------------------------------------------------------


def measure(sources: list[Source], clips: list[Frames], crops: int) -> list[Row]:
    """A row a source: pairs a second and agreement with the first source, in %."""
    kinds = np.array([label.kind for label in LABELS[MOTION]])
    wanted: list[NDArray[np.int64]] = []
    results = []
    for source in sources:
        print(f"{source.name} ...", flush=True)
        if source.on_gpu:
            fields, speed = [source.compute(clip) for clip in clips], gpu_speed(source, clips)
        else:
            fields, speed = on_cores(source, clips)
        labels = [labels_of_crops(flow, crops) for flow in fields]
        wanted = wanted or labels
        equal = np.concatenate(labels) == np.concatenate(wanted)
        row: Row = {"flow": source.name, "on": "GPU" if source.on_gpu else "1 core"}
        row["pairs_per_s"] = float(f"{speed:.3g}")
        for kind in ("position", "orientation", "frame"):
            row[kind] = round(100 * float(equal[:, kinds == kind].mean()), 1)
        results.append(row | {"crops": len(equal)})
    return results


def on_cores(source: Source, clips: list[Frames]) -> tuple[list[Field], float]:
    """The flow of each clip, by as many threads as cores, and pairs a second of one."""

    def timed(clip: Frames) -> tuple[Field, float]:
        start = time.thread_time()
        flow = source.compute(clip)
        return flow, time.thread_time() - start

    with ThreadPoolExecutor(min(cores(), len(clips))) as pool:
        done = list(pool.map(timed, clips))
    return [flow for flow, _ in done], len(clips) * FIELDS / sum(seconds for _, seconds in done)


def gpu_speed(source: Source, clips: list[Frames]) -> float:
    """Pairs a second; TV-L1 of `GPU_PAIRS` at once, and of frames that are on the GPU already."""
    from kernels.flow import cuda as cuda_flow

    sizes = [clip.shape for clip in clips]
    alike = [clip for clip in clips if clip.shape == max(sizes, key=sizes.count)]
    if isinstance(source.compute, NvidiaFlow):
        # By the clock: DALI has streams of its own. Copies to the GPU are in it.
        run = source.compute.run
        return FIELDS / timing.timed(lambda: run(alike[0])).seconds
    batch = np.resize(np.stack(alike), (GPU_PAIRS // FIELDS, *alike[0].shape))
    frames = torch.from_numpy(batch).cuda()
    seconds = timing.timed_on_gpu(lambda: cuda_flow.tvl1_flow(frames), budget_seconds=3).seconds
    return GPU_PAIRS / seconds


def labels_of_crops(flow: Field, count: int) -> NDArray[np.int64]:
    """Coded in 8 bits, resized without antialiasing; [count,14] of the same random crops."""
    resized = np.stack([cv2.resize(field, RESIZE[::-1]) for field in encode(flow)])
    room = [side - SIZE + 1 for side in RESIZE]
    corners = np.random.default_rng(0).integers(0, room, (count, 2))
    crops = [resized[:, y : y + SIZE, x : x + SIZE] for y, x in corners]
    return motion_labels(np.stack(crops), "reference")


if __name__ == "__main__":
    main()
