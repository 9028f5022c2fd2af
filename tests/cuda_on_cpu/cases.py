"""Small runs of every kernel, for the sanitisers, the compiler's log and the mutation run.

A new .cu file joins all three by adding its cases here.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.cuda_module import Device
from kernels.flow import cuda as cuda_flow
from kernels.flow.cuda import tvl1_crops, tvl1_flow
from kernels.flow.tvl1 import Tvl1
from kernels.labels import launches as cuda_launches
from kernels.labels.schema import Rule
from tests.cuda_on_cpu import CpuDevice, Sanitiser


@dataclass(frozen=True)
class Case:
    """`run` launches kernels on small data; `registers` are their ceilings, a thread."""

    run: Callable[[Device], None]
    registers: dict[str, int]


@dataclass(frozen=True)
class PlantedBug:
    """One change of a case's text that a sanitiser must catch: `sound` becomes `broken`."""

    case: str
    sanitize: Sanitiser
    sound: str
    broken: str

    def plant(self, text: str) -> str:
        assert text.count(self.sound) == 1, self.sound
        return text.replace(self.sound, self.broken)


def digest(name: str, device: CpuDevice) -> str:
    """A hash of every array that the case's kernels wrote."""
    CASES[name].run(device)
    return hashlib.sha256(b"".join(array.tobytes() for array in device.arrays)).hexdigest()


def coded_flow(clips: int, fields: int, size: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(1)
    flow = random.integers(0, 256, (clips, fields, size, size, 2), dtype=np.uint8)
    flow[0, :, : size // 2] = 127  # pixels without any motion boundary
    return flow


def float_flow(clips: int, fields: int, size: int) -> NDArray[np.float32]:
    """Ordinary, tiny (down to subnormal) and enormous values."""
    flow = np.random.default_rng(2).standard_normal((clips, fields, size, size, 2))
    scale = np.array([1, 1e-38, 1e37], np.float64)[np.arange(clips) % 3]
    return (flow * scale[:, None, None, None, None]).astype(np.float32)


def moving_ring(clips: int, clip_len: int, size: int) -> NDArray[np.uint8]:
    """Any colours; from the second clip on few, and all is still but the ring around the centre."""
    random = np.random.default_rng(3)
    frames = random.choice(
        np.array([0, 90, 130, 255], np.uint8),
        (clips, clip_len, size, size, 3),
        p=[0.4, 0.3, 0.2, 0.1],
    )
    frames[0] = random.integers(0, 256, frames[0].shape)
    moving = cuda_launches.partition(size, "reference").mask(17)
    frames[1:, 1:, ~moving] = frames[1:, :1, ~moving]
    return frames


def drifting_clips(sizes: list[tuple[int, int]], clip_len: int) -> list[NDArray[np.uint8]]:
    """Random blocks of 3x3 px that drift; from the second clip on they stand still."""
    random = np.random.default_rng(4)
    clips = []
    for i, (height, width) in enumerate(sizes):
        colours = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = colours.repeat(3, 0).repeat(3, 1)[: height + 8, : width + 8]
        at = [(0, 0) if i else (t, 2 * t) for t in range(clip_len)]
        clips.append(np.stack([image[y : y + height, x : x + width] for y, x in at]))
    return clips


def _flow(device: Device) -> None:
    tvl1_crops(
        drifting_clips([(20, 70), (20, 70), (25, 31)], 3),
        crops=[(0, 0), (2, 9), (1, 3)],
        flips=[False, True, True],
        resize=(18, 25),
        size=16,
        settings=Tvl1(scales=2, warps=2, outer_iterations=2, iterations=7),
        device=device,
    )


def _flow_of_noise(device: Device) -> None:
    """The steepest frames there are, each pixel black or white: the data term pulls hardest."""
    random = np.random.default_rng(5)
    frames = random.choice(np.array([0, 255], np.uint8), (1, 3, 37, 70, 3))
    tvl1_flow(frames, Tvl1(scales=2, warps=2, outer_iterations=2, iterations=7), device)


def _flow_of_light(device: Device) -> None:
    """A faint ramp lights up: a data term of great weight pulls each pixel hundreds of pixels.

    A thread's share of the change would leave the range of its integer.
    """
    frames = np.zeros((1, 2, 16, 40, 3), np.uint8)
    frames[0, 1] = 128 + np.arange(40, dtype=np.uint8)[:, None]
    settings = Tvl1(scales=1, warps=1, outer_iterations=1, iterations=2, lambda_=1e4)
    tvl1_flow(frames, settings, device)


def _spline_flow(device: Device) -> None:
    """Resized frames, the flow in native pixels, as a fixed number of iterations finds it."""
    tvl1_crops(
        drifting_clips([(24, 70), (24, 70)], 3),
        crops=[(0, 5), (8, 54)],
        flips=[False, True],
        resize=(24, 70),
        size=16,
        settings=Tvl1(scales=2, warps=2, outer_iterations=1, iterations=7, epsilon=0, spline=True),
        device=device,
        native_sizes=[(48, 105), (24, 70)],
    )


def _wild_flow(device: Device) -> None:
    """Warping and coding take any flow, whatever the minimisation may have made of its input."""
    pairs, height, width, size = 2, 9, 40, 8
    launch = cuda_flow._kernels(device)
    images = np.random.default_rng(6).random((pairs + 1, height, width), np.float32)
    flow = np.zeros((2, pairs, height, width), np.float32)
    for component in range(2):  # one wild, the other 0
        wild = np.array([3e38, -3e38, 25, -25, 1e4], np.float32).repeat(4)
        flow[component, :, :, component::2] = wild
    grid, block = cuda_flow._grid(height, width, pairs), cuda_flow.PIXEL_BLOCK
    for warp in ("warp", "warp_spline"):
        data = device.empty((3, pairs, height, width), np.float32)
        launch(warp, grid, block, [images, flow, *map(np.int32, (pairs + 1, height, width)), data])
    code = device.empty((pairs, size, size, 2), np.uint8)
    planes = map(np.int32, (pairs, 0, height, width))
    gains, place = map(np.float32, (4, 1)), map(np.int32, (height, width, 1, 2, 0, size))
    grid = cuda_flow._grid(size, size, pairs)
    launch("crop_flow", grid, block, [flow, *planes, *gains, *place, code])


def _motion(flow: NDArray, rule: Rule) -> Callable[[Device], None]:
    return lambda device: cuda_launches.motion(device, flow, rule)


def _appearance(frames: NDArray, rule: Rule) -> Callable[[Device], None]:
    return lambda device: cuda_launches.appearance(device, frames, rule)


_MOTION = {
    "largest_flow": 32,
    "motion_boundaries_uint8": 72,
    "motion_boundaries_float32": 80,
    "motion_labels": 64,
}
_APPEARANCE = {
    "colour_overlap": 112,
    "octant_counts": 48,
    "appearance_labels": 80,
    "count_colours": 40,
    "most_frequent_colours": 32,
    "colour_labels": 32,
}
_FLOW = {
    "grey": 16,
    "resize": 32,
    "warp": 48,
    "warp_spline": 48,
    "median": 48,
    "iterate": 128,
    "count": 32,
    "settle": 128,
    "crop_flow": 40,
}

CASES = {
    "motion of coded flow": Case(_motion(coded_flow(2, 3, 48), "corrected"), _MOTION),
    "motion of float flow": Case(_motion(float_flow(6, 12, 64), "corrected"), _MOTION),
    "motion, reference": Case(_motion(coded_flow(1, 16, 112), "reference"), _MOTION),
    "appearance": Case(_appearance(moving_ring(2, 3, 48), "corrected"), _APPEARANCE),
    "appearance, reference": Case(_appearance(moving_ring(2, 16, 112), "reference"), _APPEARANCE),
    "flow": Case(_flow, _FLOW),
    "flow of noise": Case(_flow_of_noise, _FLOW),
    "flow of light": Case(_flow_of_light, _FLOW),
    "spline flow": Case(_spline_flow, _FLOW),
    "wild flow": Case(_wild_flow, _FLOW),
}

BUGS = (
    PlantedBug(
        "motion of coded flow",
        "thread",
        "__syncthreads();\n    if (inside) {",  # shared votes are cleared before they are cast
        "if (inside) {",
    ),
    PlantedBug("motion of coded flow", "address", "max(row - 1, 0)", "row - 1"),
    PlantedBug("appearance", "thread", "atomicAdd(&count[slot], 1u)", "count[slot]++"),
    PlantedBug(
        "appearance",
        "thread",
        # One thread a block: a race between blocks.
        "atomicAdd(&octants[clip * CELLS * OCTANTS + i], static_cast<int>(count[i]))",
        "octants[clip * CELLS * OCTANTS + i] += static_cast<int>(count[i])",
    ),
    PlantedBug(
        "appearance", "address", "count[cell_of_pixel[pixel]", "count[1 + cell_of_pixel[pixel]"
    ),
    PlantedBug(
        "flow",
        "thread",
        # A neighbour's u is read once it is written.
        "        }\n        __syncthreads();\n#pragma",
        "        }\n#pragma",
    ),
    PlantedBug("flow", "address", "min(low + 1, size - 1)", "low + 1"),
    PlantedBug("flow of light", "address", "fminf(squares, 64.f)", "squares"),
    PlantedBug("spline flow", "address", "row(max(y - 1, 0))", "row(y - 1)"),
)
