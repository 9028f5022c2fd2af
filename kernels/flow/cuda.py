"""TV-L1 optical flow on a GPU, for many frame pairs at once: what `cpu.py` computes, to rounding.

The published data set has the flow of OpenCV's DualTVL1OpticalFlow with default settings, which
`NATIVE` are. Nothing is read back while the kernels in tvl1.cu run: which pairs have come to rest
is decided, and known, on the GPU alone.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from kernels.cuda_module import CudaDevice, Defines, Device, Launch
from kernels.flow.code import FLOW_LIMIT_PX
from kernels.flow.tvl1 import NATIVE, Tvl1, pyramid_sizes

PIXEL_BLOCK = (32, 8)  # threads of a kernel with one pixel a thread

# The tile of the iteration, and how much of its rim is recomputed by neighbours so that HALO
# iterations need one launch: 58 % of a tile is written.
TILE_W, TILE_H, ROWS, HALO = 64, 32, 8, 5

# Frame pairs worked on at once, a bound for memory: 27 float32 planes a pair, 2 GiB at 320x240;
# 18 where no pair can rest and nothing is filtered.
PAIRS_AT_ONCE = 256
CHANGE_UNITS = 1 << 20  # of tvl1.cu, a px^2


def tvl1_flow(frames: Any, settings: Tvl1 = NATIVE, device: Device | None = None) -> Any:
    """uint8 RGB frames [N,T,H,W,3] -> float32 flow [N,T-1,H,W,2], (u right, v down), px per frame.

    `frames` are a tensor on a GPU, or of `device`'s kind of array; nothing waits for the GPU.
    Raises ValueError on other shapes and dtypes.
    """
    clips, t, height, width = _checked(frames)
    device = device or CudaDevice(frames.device)
    flow = device.empty((clips, t - 1, height, width, 2), np.float32)
    for at_once in _portions(clips, t, settings):
        some = flow[at_once]
        with _flow_of(device, frames[at_once], settings) as planes:
            for component in range(2):
                fields = planes[component].reshape(-1, t - 1, height, width)
                some[..., component] = fields[: len(some)]
    return flow


def tvl1_crops(
    frames: Sequence[Any],
    crops: Sequence[tuple[int, int]],
    flips: Sequence[bool],
    resize: tuple[int, int],
    size: int,
    settings: Tvl1 = NATIVE,
    device: Device | None = None,
    native_sizes: Sequence[tuple[int, int]] | None = None,
) -> Any:
    """The flow of clips as a batch takes it: coded, resized, cropped and flipped.

    `frames`: N tensors uint8 RGB [T,H,W,3] of one T and any H and W; `crops` (top, left) in frames
    resized to `resize` (height, width); a flip mirrors the crop and negates u. Vectors are in
    pixels of frames of `native_sizes`, a (height, width) for each clip; None: of `frames`. Returns
    codes (`kernels.flow.code`) uint8 [N,T-1,size,size,2].
    """
    fields = len(frames[0]) - 1
    device = device or CudaDevice(frames[0].device)
    launch = _kernels(device)
    coded = device.empty((len(frames), fields, size, size, 2), np.uint8)

    groups: dict[tuple[int, ...], list[int]] = {}
    for clip, array in enumerate(frames):
        groups.setdefault(tuple(array.shape), []).append(clip)
    for shape, members in groups.items():
        height, width = shape[1:3]
        for at_once in _portions(len(members), shape[0], settings):
            clips = members[at_once]
            with _flow_of(device, [frames[clip] for clip in clips], settings) as planes:
                for i, clip in enumerate(clips):
                    native_height, native_width = native_sizes[clip] if native_sizes else shape[1:3]
                    arguments = [
                        planes,
                        *_int32(planes.shape[1], i * fields, height, width),
                        *(np.float32(native_width / width), np.float32(native_height / height)),
                        *_int32(*resize, *crops[clip], flips[clip], size),
                        coded[clip],
                    ]
                    launch("crop_flow", _grid(size, size, fields), PIXEL_BLOCK, arguments)
    return coded


def _flow_of(device: Device, clips: Sequence[Any], settings: Tvl1) -> AbstractContextManager[Any]:
    """N clips uint8 [T,H,W,3] -> float32 [2,n,H,W], n >= N(T-1): u of all pairs, then v."""
    shape = tuple(clips[0].shape)
    _checked(clips[0][None])
    room = _padded(len(clips), settings)
    key = (shape, room, settings)
    return device.recorded(key, partial(_solve_scales, settings=settings), clips, room)


def _solve_scales(device: Device, frames: Any, settings: Tvl1) -> Any:
    """uint8 [N,T,H,W,3] -> float32 [2,N(T-1),H,W]: u of all pairs, then v of all pairs."""
    clips, t, height, width = frames.shape[:4]
    launch = _kernels(device)
    sizes = pyramid_sizes(height, width, settings)

    images = [device.empty((clips * t, *size), np.float32) for size in sizes]
    grid = _grid(height, width, clips * t)
    launch("grey", grid, PIXEL_BLOCK, [frames, *_int32(height, width), images[0]])
    for larger, smaller in pairwise(images):
        _resize(launch, larger, smaller, 1 / settings.scale_step, 1.0)

    memory = _Memory(device, clips * (t - 1), sizes, settings)
    device.clear(memory.states[0][-1].flow)
    for scale in reversed(range(len(sizes))):
        if scale < len(sizes) - 1:
            coarse, finer, *_ = memory.states
            _resize(
                launch, coarse[scale + 1].flow, finer[scale].flow, None, 1 / settings.scale_step
            )
            memory.states[:2] = finer, coarse
        _solve(device, launch, images[scale], t, memory, scale, settings)
    return memory.states[0][0].flow


class _State(NamedTuple):
    flow: Any  # [2,n,h,w]
    dual: Any  # [4,n,h,w]


class _Memory:
    """For n pairs: 23 float32 planes a pair of the largest size; 15 without filter and rest.

    Scales follow one another in the same memory, each in the last part of it, so that to run past
    an end is to leave it.
    """

    def __init__(
        self, device: Device, pairs: int, sizes: Sequence[tuple[int, int]], settings: Tvl1
    ) -> None:
        def fields(count: int) -> list[Any]:  # [count,n,h,w] at each scale
            memory = device.empty((count * pairs * math.prod(sizes[0]),), np.float32)
            ends = [count * pairs * math.prod(size) for size in sizes]
            return [
                memory[len(memory) - end :].reshape(count, pairs, *size)
                for end, size in zip(ends, sizes, strict=True)
            ]

        can_rest = _rest(settings, sizes[0]) > 0
        total = settings.outer_iterations * settings.iterations
        # By scale: the flow so far comes first. Two change places with each launch; a third is
        # for what is settled.
        self.states = [
            [_State(*both) for both in zip(fields(2), fields(4), strict=True)]
            for _ in range(2 + can_rest)
        ]
        self.data = fields(3)
        self.filtered = fields(2) if settings.median else None
        self.change = device.empty((total if can_rest else 0, pairs), np.uint64)
        self.counts = device.empty((pairs,), np.int32)


def _rest(settings: Tvl1, size: tuple[int, int]) -> np.uint64:
    """The change of an iteration below which a pair of this size rests; 0: it never does."""
    return np.uint64(settings.epsilon**2 * math.prod(size) * CHANGE_UNITS)


def _solve(
    device: Device,
    launch: Launch,
    image: Any,
    t: int,
    memory: _Memory,
    scale: int,
    settings: Tvl1,
) -> None:
    """Improve the flow of the first state at one scale. image [clips*t,h,w]."""
    pairs, height, width = memory.data[scale].shape[1:]
    hw = _int32(height, width)
    rest = _rest(settings, (height, width))
    may_rest = bool(rest > 0)  # if not, the last launch's result is the result
    data, change, counts = memory.data[scale], memory.change, memory.counts
    filtered = memory.filtered[scale] if memory.filtered else memory.states[0][scale].flow
    device.clear(memory.states[0][scale].dual)
    launches = _launches(settings)
    total = settings.outer_iterations * settings.iterations
    weights = [
        np.float32(settings.lambda_ * settings.theta),
        np.float32(settings.theta),
        np.float32(settings.tau / settings.theta),
    ]
    warp = "warp_spline" if settings.spline else "warp"
    pixels = _grid(height, width, pairs)
    tiles = (-(-width // (TILE_W - 2 * HALO)), -(-height // (TILE_H - 2 * HALO)), pairs)
    tile_block = (TILE_W, TILE_H // ROWS)

    for _ in range(settings.warps):
        a, b = target, source = memory.states[:2]
        launch(warp, pixels, PIXEL_BLOCK, [image, a[scale].flow, np.int32(t), *hw, data])
        if may_rest:
            device.clear(change)
        before = 0
        for done, steps in launches:
            source, target = target, source
            flow, dual = source[scale]
            seen = [change, rest, *_int32(before, done)]
            if settings.median and done % settings.iterations == 0:
                grid = (*pixels[:2], 2 * pairs)
                launch("median", grid, PIXEL_BLOCK, [flow, *seen, *hw, filtered])
                flow = filtered
            arguments = [data, flow, dual, *hw, np.int32(steps), *weights, *seen, *target[scale]]
            launch("iterate", tiles, tile_block, arguments)
            before = done
        if not may_rest:
            memory.states[:2] = target, source
            continue
        settled = memory.states[2]
        of_pairs = [change, rest, *_int32(total, pairs), counts]
        launch("count", (-(-pairs // 32),), (32,), of_pairs)
        rounds = [filtered, *_int32(settings.median), *hw, *_int32(settings.iterations)]
        of_launches = [*a[scale], *b[scale], *rounds, *weights, counts, *settled[scale]]
        launch("settle", tiles, tile_block, [data, *of_launches])
        memory.states = [settled, b, a]


def _launches(settings: Tvl1) -> list[tuple[int, int]]:
    """(iterations done before, iterations) of each launch between two linearisations."""
    return [
        (turn * settings.iterations + done, min(HALO, settings.iterations - done))
        for turn in range(settings.outer_iterations)
        for done in range(0, settings.iterations, HALO)
    ]


def _resize(launch: Launch, planes: Any, out: Any, step: float | None, gain: float) -> None:
    """[..., h, w] into another h and w; `step` input pixels per output pixel, None: as they ask."""
    from_height, from_width = planes.shape[-2:]
    *leading, height, width = out.shape
    steps = (step, step) if step else (from_height / height, from_width / width)
    arguments = [
        planes,
        *_int32(from_height, from_width),
        *(np.float32(value) for value in (*steps, gain)),
        *_int32(height, width),
        out,
    ]
    launch("resize", _grid(height, width, math.prod(leading)), PIXEL_BLOCK, arguments)


def _kernels(device: Device) -> Launch:
    defines: Defines = (
        ("TILE_W", TILE_W),
        ("TILE_H", TILE_H),
        ("ROWS", ROWS),
        ("HALO", HALO),
        ("FLOW_LIMIT_PX", FLOW_LIMIT_PX),
    )
    return device.module(("flow/tvl1.cu",), defines)


def _portions(clips: int, t: int, settings: Tvl1) -> list[slice]:
    """Slices of the clips that keep the pairs at work, with their padding, to `PAIRS_AT_ONCE`."""
    count = max(1, PAIRS_AT_ONCE // (t - 1))
    while _padded(count, settings) > count:
        count -= 1
    return [slice(start, start + count) for start in range(0, clips, count)]


def _padded(clips: int, settings: Tvl1) -> int:
    """How many clips are worked on for so many: few numbers, so that they come again and again.

    Still clips make up the next power of two. They rest at once; where no pair can rest, they would
    cost as much as others, so there are none.
    """
    return 1 << (clips - 1).bit_length() if settings.epsilon else clips


def _grid(height: int, width: int, planes: int) -> tuple[int, int, int]:
    return -(-width // PIXEL_BLOCK[0]), -(-height // PIXEL_BLOCK[1]), planes


def _int32(*values: int) -> list[np.int32]:
    return [np.int32(value) for value in values]


def _checked(frames: Any) -> tuple[int, int, int, int]:
    shape, dtype = tuple(frames.shape), str(frames.dtype).removeprefix("torch.")
    if len(shape) != 5 or shape[1] < 2 or shape[4] != 3 or dtype != "uint8":
        raise ValueError(
            f"frames must be uint8 [N,T,H,W,3] with T of at least 2, got {dtype} {list(shape)}"
        )
    return shape[:4]
