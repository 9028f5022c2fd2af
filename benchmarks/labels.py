"""How long the 27 labels take: python -m benchmarks.labels [--clips labels_27.npz]

First every backend must give the labels of the CPU backend for the same clips; a difference ends
the run. Then: the CPU backend and plain torch by number of threads and, where there is a GPU, the
kernels and plain torch by batch size, with the share of the memory bandwidth they reach. A row
with the machine, versions and commit is appended to benchmarks/results/labels.jsonl.

--published DIR also drives a clone of the authors' code (laura-wang/video_repres_sts; needs
SciPy), unchanged, on the same arrays, and gives the ratio per core.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import timing
from benchmarks.published import label_call
from benchmarks.rivals import Array, Row, compare, threads
from benchmarks.torch_labels import torch_labels
from kernels.flow import code as flow_code
from kernels.labels import clip_labels
from kernels.labels.cpu import cores
from kernels.labels.schema import RULES, Rule, flow_fields

CLIP_LEN, SIZE = 16, 112
GPU_CLIPS = 256  # together larger than any GPU's cache, so that each batch comes from memory
GPU_BATCHES = (1, 4, 16, 32, 64, 128, 256)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clips", type=Path, help="npz with real clips: frames, flow8 (16 fields)")
    parser.add_argument("--published", type=Path, help="a clone of the authors' code to compare")
    parser.add_argument("--batch", type=int, default=24, help="clips a call on the CPU")
    parser.add_argument("--seconds", type=float, default=2, help="to spend on each measurement")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, help="folder of the row")
    options = parser.parse_args(argv)

    frames, flow = read_clips(options.clips) if options.clips else draw_clips(options.batch)
    frames, flow = (np.resize(array, (options.batch, *array.shape[1:])) for array in (frames, flow))
    print(f"{len(frames)} {'real' if options.clips else 'synthetic'} clips", flush=True)
    verify(frames, flow)
    results = on_cpu(frames, flow, options.seconds)
    if options.published:
        results += published(options.published, frames, flow, results)
    if torch.cuda.is_available():
        results += on_gpu(frames, flow, options.seconds)
    else:
        print("no GPU: its rows are not measured")
    print(timing.table(results))
    print(f"row appended to {timing.record('labels', results, options.results)}")


def read_clips(path: Path) -> tuple[Array, Array]:
    """frames uint8 [N,16,112,112,3] and coded flow [N,16,112,112,2] of an npz file."""
    clips = np.load(path)
    return clips["frames"], clips["flow8"]


def draw_clips(count: int) -> tuple[Array, Array]:
    """Textured squares that drift over a texture, with the flow of their drift, coded."""
    random = np.random.default_rng(0)
    frames = np.empty((count, CLIP_LEN, SIZE, SIZE, 3), np.uint8)
    flow_px = random.normal(0, 0.1, (count, CLIP_LEN, SIZE, SIZE, 2)).astype(np.float32)
    for n in range(count):
        frames[n] = _texture(random, SIZE)
        for _ in range(3):
            side = int(random.integers(24, 56))
            speed = random.uniform(-3, 3, 2)
            start = random.uniform(0, SIZE - side, 2)
            square = _texture(random, side)
            for t in range(CLIP_LEN):
                top, left = np.clip(start + t * speed, 0, SIZE - side).astype(int)
                frames[n, t, top : top + side, left : left + side] = square
                flow_px[n, t, top : top + side, left : left + side] += speed[::-1]
    return frames, flow_code.encode(flow_px)


def _texture(random: np.random.Generator, side: int) -> Array:
    coarse = random.integers(0, 256, (side // 8 + 2, side // 8 + 2, 3))
    fine = coarse.repeat(8, axis=0).repeat(8, axis=1)[:side, :side]
    return np.clip(fine + random.integers(-12, 13, fine.shape), 0, 255).astype(np.uint8)


def verify(frames: Array, flow: Array) -> None:
    """Exit unless every backend gives the CPU backend's labels for these clips."""
    for rule in RULES:
        expected = clip_labels(frames, flow, rule)
        for name, fields in inputs(flow, rule):
            if torch.cuda.is_available():
                on_device = torch.from_numpy(frames).cuda(), torch.from_numpy(fields).cuda()
                compare(f"GPU, {rule}, {name} flow", clip_labels(*on_device, rule), expected)
            compare(f"CPU, {rule}, {name} flow", clip_labels(frames, fields, rule), expected)
    fields = flow[:, : flow_fields("corrected", CLIP_LEN)]
    plain = torch_labels(torch.from_numpy(frames), torch.from_numpy(fields))
    compare("plain torch", plain, clip_labels(frames, fields))


def inputs(flow: Array, rule: Rule) -> Iterator[tuple[str, Array]]:
    """The fields that `rule` uses as 8-bit codes, and the same as float32."""
    fields = np.ascontiguousarray(flow[:, : flow_fields(rule, CLIP_LEN)])
    yield "uint8", fields
    yield "float32", fields.astype(np.float32)


def on_cpu(frames: Array, flow: Array, seconds: float) -> list[Row]:
    """The CPU backend under both rules, and plain torch, by number of threads."""
    counts = sorted({1, *(2**i for i in range(1, 8) if 2**i < cores()), cores()})
    results = []
    for count in counts:
        with threads(count):
            for rule in RULES:
                for name, fields in inputs(flow, rule):
                    row = {"backend": "cpu", "rule": rule, "flow": name, "threads": count}
                    call = partial(clip_labels, frames, fields, rule)
                    results.append(row | measure(timing.timed, call, len(frames), seconds))
    for count in counts:
        with threads(count):
            fields = next(inputs(flow, "corrected"))[1][:8]
            call = partial(torch_labels, torch.from_numpy(frames[:8]), torch.from_numpy(fields))
            row = {"backend": "torch cpu", "rule": "corrected", "flow": "uint8", "threads": count}
            results.append(row | measure(timing.timed, call, len(fields), seconds))
    return results


def on_gpu(frames: Array, flow: Array, seconds: float) -> list[Row]:
    """The kernels under both rules, and plain torch, by batch size."""
    copy_bandwidth = timing.gpu_copy_bandwidth()
    all_frames = _many(frames)
    results: list[Row] = [{"backend": "copy on the GPU", "gb_per_s": round(copy_bandwidth / 1e9)}]
    for rule in RULES:
        for name, fields in inputs(flow, rule):
            all_flow = _many(fields)
            bytes_a_clip = all_frames[0].nbytes + all_flow[0].nbytes
            for batch in GPU_BATCHES:
                row: Row = {"backend": "gpu", "rule": rule, "flow": name}
                call = each_batch(partial(clip_labels, rule=rule), all_frames, all_flow, batch)
                row |= measure(timing.timed_on_gpu, call, batch, seconds)
                bandwidth = row["clips_per_s"] * bytes_a_clip
                row["gb_per_s"] = round(bandwidth / 1e9)
                row["percent_of_copy"] = round(100 * bandwidth / copy_bandwidth)
                results.append(row)
    all_flow = _many(next(inputs(flow, "corrected"))[1])
    for batch in (16, 64):
        row = {"backend": "torch gpu", "rule": "corrected", "flow": "uint8"}
        call = each_batch(torch_labels, all_frames, all_flow, batch)
        results.append(row | measure(timing.timed_on_gpu, call, batch, seconds))
    return results


def _many(clips: Array) -> torch.Tensor:
    """GPU_CLIPS clips on the GPU, repeating those given."""
    repeats = -(-GPU_CLIPS // len(clips))
    return torch.from_numpy(clips).cuda().repeat(repeats, 1, 1, 1, 1)[:GPU_CLIPS]


def each_batch(
    label: Callable[..., object], frames: torch.Tensor, flow: torch.Tensor, batch: int
) -> Callable[[], object]:
    """A call that labels the next `batch` of the clips, from the first again after the last."""
    batches = list(zip(frames.split(batch), flow.split(batch), strict=True))
    turn = 0

    def call() -> object:
        nonlocal turn
        turn = (turn + 1) % len(batches)
        return label(*batches[turn])

    return call


def published(folder: Path, frames: Array, flow: Array, results: list[Row]) -> list[Row]:
    """The authors' functions on the same arrays, in the form that their data set gives them.

    Exits where their labels are not those of rule `reference`.
    """
    frames, flow = frames[:8], flow[:8]
    label = label_call(folder, frames, flow)
    with threads(1):
        compare("published code", label(), clip_labels(frames, flow, "reference"))
        row = {"backend": "published", "rule": "reference", "flow": "float32", "threads": 1}
        row |= measure(timing.timed, label, len(frames), 0)
    for other in results:
        if other["backend"] == "cpu" and other["threads"] == 1:
            other["times_published"] = round(row["us_per_clip"] / other["us_per_clip"])
    return [row]


def measure(
    clock: Callable[..., timing.Timing], call: Callable[[], object], clips: int, seconds: float
) -> Row:
    return {"batch": clips} | clock(call, seconds).per(clips)


if __name__ == "__main__":
    main()
