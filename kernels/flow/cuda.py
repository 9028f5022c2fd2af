"""TV-L1 optical flow on a GPU, for many frame pairs at once: what `cpu.py` computes, to rounding.

The published data set has the flow of OpenCV's DualTVL1OpticalFlow with default settings, which
`NATIVE` are. Nothing is read back while the kernels in tvl1.cu run: which pairs have come to rest
is decided, and known, on the GPU alone.
"""

from collections.abc import Sequence
from typing import Any

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
    for at_once in _portions(clips, t):
        planes = _planes(device, frames[at_once], settings)
        for component in range(2):
            flow[at_once, ..., component] = planes[component].reshape(-1, t - 1, height, width)
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
        for at_once in _portions(len(members), shape[0]):
            clips = members[at_once]
            together = device.empty((len(clips), *shape), np.uint8)
            for i, clip in enumerate(clips):
                together[i] = frames[clip]
            planes = _planes(device, together, settings)
            for i, clip in enumerate(clips):
                native_height, native_width = native_sizes[clip] if native_sizes else shape[1:3]
                arguments = [
                    planes,
                    *_int32(len(clips) * fields, i * fields, height, width),
                    *(np.float32(native_width / width), np.float32(native_height / height)),
                    *_int32(*resize, *crops[clip], flips[clip], size),
                    coded[clip],
                ]
                launch("crop_flow", _grid(size, size, fields), PIXEL_BLOCK, arguments)
    return coded


def _planes(device: Device, frames: Any, settings: Tvl1) -> Any:
    """uint8 [N,T,H,W,3] -> float32 [2,N(T-1),H,W]: u of all pairs, then v of all pairs."""
    clips, t, height, width = _checked(frames)
    pairs = clips * (t - 1)
    launch = _kernels(device)
    sizes = pyramid_sizes(height, width, settings)

    images = [device.empty((clips * t, height, width), np.float32)]
    launch(
        "grey",
        _grid(height, width, clips * t),
        PIXEL_BLOCK,
        [frames, *_int32(height, width), images[0]],
    )
    for size in sizes[1:]:
        images.append(_resize(device, launch, images[-1], size, 1 / settings.scale_step, 1.0))

    flow = device.zeros((2, pairs, *sizes[-1]), np.float32)
    for size, image in zip(reversed(sizes), reversed(images), strict=True):
        if tuple(flow.shape[2:]) != size:
            flow = _resize(device, launch, flow, size, None, 1 / settings.scale_step)
        flow = _solve(device, launch, image, t, flow, settings)
    return flow


def _solve(device: Device, launch: Launch, image: Any, t: int, flow: Any, settings: Tvl1) -> Any:
    """Improve flow [2,n,h,w] at one scale. image [clips*t,h,w]."""
    pairs, height, width = flow.shape[1:]
    hw = _int32(height, width)
    rest = np.uint64(settings.epsilon**2 * height * width * CHANGE_UNITS)
    may_rest = bool(rest > 0)  # if not, the last launch's result is the result
    dual = device.zeros((4, pairs, height, width), np.float32)
    buffers = [(flow, dual), *[_empty_like(device, flow, dual) for _ in range(1 + may_rest)]]
    filtered = _empty_like(device, flow)[0] if settings.median else flow
    data = device.empty((3, pairs, height, width), np.float32)
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
        a, b = target, source = buffers[:2]
        launch(warp, pixels, PIXEL_BLOCK, [image, a[0], np.int32(t), *hw, data])
        change = device.zeros((total if may_rest else 0, pairs), np.uint64)
        before = 0
        for done, steps in launches:
            source, target = target, source
            flow, dual = source
            seen = [change, rest, *_int32(before, done)]
            if settings.median and done % settings.iterations == 0:
                grid = (*pixels[:2], 2 * pairs)
                launch("median", grid, PIXEL_BLOCK, [flow, *seen, *hw, filtered])
                flow = filtered
            arguments = [data, flow, dual, *hw, np.int32(steps), *weights, *seen, *target]
            launch("iterate", tiles, tile_block, arguments)
            before = done
        if not may_rest:
            buffers = [target, source]
            continue
        settled = buffers[2]
        counts = device.empty((pairs,), np.int32)
        of_pairs = [change, rest, *_int32(total, pairs), counts]
        launch("count", (-(-pairs // 32),), (32,), of_pairs)
        rounds = [filtered, *_int32(settings.median), *hw, *_int32(settings.iterations)]
        launch("settle", tiles, tile_block, [data, *a, *b, *rounds, *weights, counts, *settled])
        buffers = [settled, b, a]
    return buffers[0][0]


def _launches(settings: Tvl1) -> list[tuple[int, int]]:
    """(iterations done before, iterations) of each launch between two linearisations."""
    return [
        (turn * settings.iterations + done, min(HALO, settings.iterations - done))
        for turn in range(settings.outer_iterations)
        for done in range(0, settings.iterations, HALO)
    ]


def _empty_like(device: Device, *arrays: Any) -> tuple[Any, ...]:
    return tuple(device.empty(array.shape, np.float32) for array in arrays)


def _resize(
    device: Device,
    launch: Launch,
    planes: Any,
    size: tuple[int, int],
    step: float | None,
    gain: float,
) -> Any:
    """[..., h, w] -> [..., *size]; `step` input pixels per output pixel, None: as sizes ask."""
    *leading, from_height, from_width = planes.shape
    height, width = size
    out = device.empty((*leading, height, width), np.float32)
    steps = (step, step) if step else (from_height / height, from_width / width)
    arguments = [
        planes,
        *_int32(from_height, from_width),
        *(np.float32(value) for value in (*steps, gain)),
        *_int32(height, width),
        out,
    ]
    launch("resize", _grid(height, width, int(np.prod(leading))), PIXEL_BLOCK, arguments)
    return out


def _kernels(device: Device) -> Launch:
    defines: Defines = (
        ("TILE_W", TILE_W),
        ("TILE_H", TILE_H),
        ("ROWS", ROWS),
        ("HALO", HALO),
        ("FLOW_LIMIT_PX", FLOW_LIMIT_PX),
    )
    return device.module(("flow/tvl1.cu",), defines)


def _portions(clips: int, t: int) -> list[slice]:
    """Slices of the clips that keep the pairs at work below `PAIRS_AT_ONCE`."""
    count = max(1, PAIRS_AT_ONCE // (t - 1))
    return [slice(start, start + count) for start in range(0, clips, count)]


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
