"""Speed and faithfulness of optical flow: python -m benchmarks.flow --videos DIR

The published labels come from OpenCV's TV-L1 at native resolution, coded in 8 bits. This computes
it afresh for one clip of each video, and says how far the motion labels of other flow agree with
it (`reference` rule, random crops), and how many frame pairs a second each takes. First every
source must find a known motion, and every TV-L1 must equal OpenCV's; else nothing is timed. CPU
speed is of one core, by the processor time of its thread; flow of frames at training size is timed
in turns, `ratio`: the time of DIS over its own. On a GPU one call of TV-L1 is timed, launched one
by one and replayed: until the host is free, `host_ms`, and until all is done, `ms`. A row is
appended to benchmarks/results/flow.jsonl.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import timing
from benchmarks.dis import dis_flow
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import probe, read_frames
from dali_pipes.flow import fitted
from dali_pipes.pipelines import gpu as gpu_pipeline
from dali_pipes.sources import VideoFiles
from kernels.flow.code import decode, encode
from kernels.flow.cpu import tvl1_codes, tvl1_flow
from kernels.flow.tvl1 import FAST, NATIVE, Tvl1
from kernels.labels.cpu import cores, motion_labels
from kernels.labels.schema import LABELS, MOTION, flow_fields

Row = dict[str, Any]
Frames = NDArray[np.uint8]  # [T,H,W,3]
Field = NDArray[np.float32]  # [T-1,H,W,2], pixels per frame

FIELDS = flow_fields("reference", 16)
RESIZE, SIZE = (128, 171), 112
GPU_PAIRS = 256  # a call: 16 clips
REFERENCE = "TV-L1, OpenCV"
RIVAL = "DIS medium of frames of 128x171"
ROUNDS = 5

# What else `tvl1-fast` could be: settings that differ from it.
OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "12 iterations": {"iterations": 12},
    "30 iterations": {"iterations": 30},
    "5 scales": {"scales": 5},
    "scales of 0.8": {"scale_step": 0.8},
    "theta 0.3": {"theta": 0.3},
    "bicubic": {"spline": False},
    "2 linearisations, median": {"warps": 2, "median": True},
}


@dataclass(frozen=True)
class Source:
    """A way to flow: `compute` gives pixels of its clip per frame, of any size of field.

    It gets the clip, or if `small` the clip resized and its native (height, width); resizing is not
    timed.
    """

    name: str
    compute: Callable[..., Field]
    on_gpu: bool = False
    small: bool = False

    def input(self, clip: Frames) -> tuple[Any, ...]:
        return (_small(clip), (clip.shape[1], clip.shape[2])) if self.small else (clip,)

    def flow(self, clip: Frames) -> Field:
        return self.compute(*self.input(clip))


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(__doc__, argv)
    cv2.setNumThreads(1)
    clips = [fit(clip) for clip in read_clips(options.videos, options.clips)]
    sources = [*cpu_sources(), *gpu_sources()]
    for source in sources:
        verify(source)
    results = measure(sources, clips, options.crops)
    if torch.cuda.is_available():
        results += replays(clips[0])
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
        Source("TV-L1 of frames of 128x171", OfSmallFrames(NATIVE), small=True),
        Source("tvl1-fast: TV-L1 of frames of 128x171", OfSmallFrames(FAST), small=True),
        *(
            Source(f"tvl1-fast, {what}", OfSmallFrames(replace(FAST, **settings)), small=True)
            for what, settings in OTHER_SETTINGS.items()
        ),
        Source(RIVAL, dis_of_small_frames, small=True),
        Source("DIS medium", dis),
        Source("Farneback", farneback),
    ]


def opencv_tvl1(frames: Frames) -> Field:
    return _by_solver(cv2.optflow.DualTVL1OpticalFlow_create(), frames)  # type: ignore[attr-defined]


def dis(frames: Frames) -> Field:
    return _decoded(dis_flow(frames, (frames.shape[1], frames.shape[2])))


def dis_of_small_frames(small: Frames, native_size: tuple[int, int]) -> Field:
    """As people have it."""
    return _decoded(dis_flow(small, native_size))


@dataclass(frozen=True)
class OfSmallFrames:
    """TV-L1 of frames at training size; with settings FAST as the CPU pipeline has it."""

    settings: Tvl1

    def __call__(self, small: Frames, native_size: tuple[int, int]) -> Field:
        return _decoded(tvl1_codes(small, native_size, self.settings))


def _decoded(codes: NDArray[np.uint8]) -> Field:
    """Codes [T-1,2,H,W] -> pixels per frame [T-1,H,W,2]."""
    return np.moveaxis(decode(codes), 1, -1)


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
    sources = [
        Source("TV-L1, kernels.flow.cuda", cuda_tvl1, on_gpu=True),
        Source("tvl1-fast, kernels.flow.cuda", cuda_fast, on_gpu=True, small=True),
    ]
    for grid in (1, 4):
        source = Source(
            f"NVIDIA flow unit, grid of {grid}x{grid} px", NvidiaFlow(grid), on_gpu=True
        )
        try:
            source.flow(moving_texture())
        except RuntimeError as error:
            print(f"{source.name}: not measured: {str(error).splitlines()[0]}", flush=True)
        else:
            sources.append(source)
    return sources


def cuda_tvl1(frames: Frames) -> Field:
    from kernels.flow import cuda as cuda_flow

    return cast(Field, cuda_flow.tvl1_flow(torch.from_numpy(frames)[None].cuda())[0].cpu().numpy())


def cuda_fast(small: Frames, native_size: tuple[int, int]) -> Field:
    from kernels.flow import cuda as cuda_flow

    back = np.array([native_size[1] / RESIZE[1], native_size[0] / RESIZE[0]], np.float32)
    flow = cuda_flow.tvl1_flow(torch.from_numpy(small)[None].cuda(), FAST)
    return cast(Field, flow[0].cpu().numpy() * back)


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
    found = source.flow(frames)
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
    times = in_turns([source for source in sources if source.small and not source.on_gpu], clips)
    for source in sources:
        print(f"{source.name} ...", flush=True)
        faster: Row = {}
        if source.on_gpu:
            fields, speed = [source.flow(clip) for clip in clips], gpu_speed(source, clips)
        elif source.name in times:
            fields = [source.flow(clip) for clip in clips]
            speed = FIELDS / float(np.median(times[source.name]))
            faster = times_rival(times[source.name], times[RIVAL])
        else:
            fields, speed = on_cores(source, clips)
        labels = [labels_of_crops(flow, crops) for flow in fields]
        wanted = wanted or labels
        equal = np.concatenate(labels) == np.concatenate(wanted)
        row: Row = {"flow": source.name, "on": "GPU" if source.on_gpu else "1 core"}
        row["pairs_per_s"] = float(f"{speed:.3g}")
        row |= faster
        for kind in ("position", "orientation", "frame"):
            row[kind] = round(100 * float(equal[:, kinds == kind].mean()), 1)
        results.append(row | {"crops": len(equal)})
    return results


def in_turns(sources: list[Source], clips: list[Frames]) -> dict[str, NDArray[np.float64]]:
    """Processor time of flow from small frames: by source, that of each clip, a few times.

    A machine's speed changes from minute to minute, so every source has each clip in turn.
    """
    times: dict[str, list[float]] = {source.name: [] for source in sources}
    for clip in ROUNDS * clips:
        for source in sources:
            given = source.input(clip)
            start = time.thread_time()
            source.compute(*given)
            times[source.name].append(time.thread_time() - start)
    return {name: np.array(seconds) for name, seconds in times.items()}


def times_rival(seconds: NDArray[np.float64], rival: NDArray[np.float64]) -> Row:
    """`ratio`: the rival's time over this one's, clip by clip; median and quartiles."""
    low, middle, high = np.percentile(rival / seconds, (25, 50, 75))
    columns = {"ratio": middle, "ratio_low": low, "ratio_high": high}
    return {name: round(float(value), 2) for name, value in columns.items()}


def on_cores(source: Source, clips: list[Frames]) -> tuple[list[Field], float]:
    """The flow of each clip, by as many threads as cores, and pairs a second of one."""

    def timed(clip: Frames) -> tuple[Field, float]:
        given = source.input(clip)
        start = time.thread_time()
        flow = source.compute(*given)
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
    given = np.stack([source.input(clip)[0] for clip in alike])
    frames = torch.from_numpy(np.resize(given, (GPU_PAIRS // FIELDS, *given.shape[1:]))).cuda()
    settings = FAST if source.small else NATIVE
    call = partial(cuda_flow.tvl1_flow, frames, settings)
    seconds = timing.timed_on_gpu(call, budget_seconds=3).seconds
    return GPU_PAIRS / seconds


def replays(clip: Frames) -> list[Row]:
    """One call of TV-L1 on 1, 4 and 16 such clips."""
    from kernels.cuda_module import recorder
    from kernels.flow import cuda as cuda_flow

    frames = torch.from_numpy(clip).cuda()
    rows = []
    for count in (1, 4, 16):
        call = partial(cuda_flow.tvl1_flow, frames[None].repeat(count, 1, 1, 1, 1))
        call()  # compiles

        def new(call: Callable[[], object] = call) -> tuple[float, float]:
            recorder.cache_clear()  # what is not known is launched one by one
            return _call_ms(call)

        times = {"launched one by one": [new() for _ in range(ROUNDS)]}
        call()  # records
        times["replayed"] = [_call_ms(call) for _ in range(ROUNDS)]
        for name, measured in times.items():
            host, whole = (float(ms) for ms in np.median(measured, axis=0))
            row: Row = {"flow": f"TV-L1, kernels.flow.cuda, {count} clips, {name}", "on": "GPU"}
            row["pairs_per_s"] = timing.digits(count * FIELDS / (whole / 1e3))
            rows.append(row | {"host_ms": timing.digits(host), "ms": timing.digits(whole)})
    return rows


def _call_ms(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds until the call returns, and until the GPU has done it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    host = time.perf_counter() - start
    torch.cuda.synchronize()
    return 1e3 * host, 1e3 * (time.perf_counter() - start)


def labels_of_crops(flow: Field, count: int) -> NDArray[np.int64]:
    """Coded in 8 bits, resized without antialiasing; [count,14] of the same random crops."""
    resized = np.stack([cv2.resize(field, RESIZE[::-1]) for field in encode(flow)])
    room = [side - SIZE + 1 for side in RESIZE]
    corners = np.random.default_rng(0).integers(0, room, (count, 2))
    crops = [resized[:, y : y + SIZE, x : x + SIZE] for y, x in corners]
    return motion_labels(np.stack(crops), "reference")


if __name__ == "__main__":
    main()
