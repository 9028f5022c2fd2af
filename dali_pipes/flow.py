"""Where optical flow comes from, and what each source means for the labels.

The motion labels are derivatives of flow and react strongly to the algorithm. The published data
set used TV-L1 at native resolution, 8 bits a component; docs/flow.md has how far the 14 motion
labels of other flow agree with it.
"""

from argparse import ArgumentTypeError, _ActionsContainer
from collections.abc import Sequence
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kernels.flow.tvl1 import FAST

FlowName = Literal["stored", "tvl1", "tvl1-fast", "nvof"]
FLOW_CHOICES = ("auto", "stored", "tvl1", "tvl1-fast", "nvof")
COMPUTED = ("tvl1", "tvl1-fast")  # what commands compute that prepare or draw
NO_FLOW = "none"  # of a loader that yields frames only

# How near the motion labels of each source are to the published ones. Agreement is that of block
# positions, where chance is 16 %.
AGREEMENT: dict[FlowName, str] = {
    "stored": "flow images as prepared; the published ones give the published labels",
    "tvl1": "TV-L1 at native resolution as published: 96 % of positions agree with it",
    "tvl1-fast": "TV-L1 of the resized frames in few steps: 70 % of positions agree with the "
    "published flow",
    "nvof": "NVIDIA hardware flow: at most 84 % of positions agree with TV-L1",
}
_SPEED: dict[FlowName, str] = {
    "tvl1": "52 to 67 clips/s on an H200",
    "tvl1-fast": "some 30 ms a clip on a CPU core, unmeasured on a GPU",
    "nvof": "27 to 32 clips/s on an H200",
}

# What there was, and what to take instead.
GONE = {
    "dis": "flow 'dis' is no more; 'tvl1-fast' takes about half its time, and its labels are much "
    "nearer to the published ones",
}

# Flow is in pixels of a frame whose short side is at most this, so that clips of one scene in SD
# and in 4K have the same flow and the +-20 px of the code suffice.
MAX_SHORT_SIDE = 256


def flow_size(native_size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) whose pixels flow is measured in: native, short side at most 256."""
    height, width = native_size
    scale = min(1.0, MAX_SHORT_SIDE / min(height, width))
    return round(height * scale), round(width * scale)


def fitted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H,W,3] at `flow_size`: made smaller, area by area, or left as it is."""
    native = (image.shape[0], image.shape[1])
    height, width = flow_size(native)
    if (height, width) == native:
        return image
    return cast(
        "NDArray[np.uint8]", cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    )


def add_flow_argument(
    parser: _ActionsContainer,
    flows: Sequence[str] = FLOW_CHOICES,
    meaning: str = "where optical flow comes from",
) -> None:
    """The flag --flow; the first of `flows` is its default."""
    parser.add_argument("--flow", type=_flow, choices=flows, default=flows[0], help=meaning)


def _flow(name: str) -> str:
    if name in GONE:
        raise ArgumentTypeError(GONE[name])
    return name


def resolve_flow(choice: str, device: str, stored: bool) -> tuple[FlowName, str]:
    """(the flow source to use, why and what it means for the labels).

    `choice`: one of `FLOW_CHOICES`; `device`: "cpu" or "cuda"; `stored`: whether the clips come
    with flow images. Raises ValueError if the choice cannot be had, and says what can.
    """
    if choice in GONE:
        raise ValueError(GONE[choice])
    if choice not in FLOW_CHOICES:
        raise ValueError(f"flow {choice!r} does not exist; choose one of {', '.join(FLOW_CHOICES)}")
    if choice == "stored" and not stored:
        raise ValueError(
            "flow 'stored' needs flow images: give flow_x_prefix and flow_y_prefix (make them with "
            "`python -m dali_pipes.prepare flow`), or choose flow 'auto'"
        )
    if choice in ("tvl1", "nvof") and stored:
        raise ValueError(
            f"flow {choice!r} is computed from videos; flow images are given: use them"
        )
    if choice == "tvl1" and device == "cpu":
        raise ValueError(
            "flow 'tvl1' while training needs a GPU (a CPU core takes some 2 s for a clip); "
            "store it once with `python -m dali_pipes.prepare reels`, or choose flow 'tvl1-fast'"
        )
    if choice == "nvof" and device == "cpu":
        raise ValueError("flow 'nvof' is a unit of NVIDIA GPUs; choose flow 'tvl1-fast' on a CPU")
    name = cast(FlowName, choice)
    why = "asked for"
    if choice == "auto":
        if stored:
            name, why = "stored", "flow images are given"
        elif device == "cuda":
            name, why = "tvl1", "the faithful source on a GPU"
        else:
            name, why = "tvl1-fast", "no flow images and no GPU"
    return name, "; ".join([why, AGREEMENT[name], *([_SPEED[name]] if name in _SPEED else [])])


def fast_flow(frames: NDArray[np.uint8], native_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Flow `tvl1-fast` between neighbours: resized uint8 RGB [T,h,w,3] -> coded uint8 [T-1,2,h,w].

    u above v. `native_size` (height, width) of the video: vectors found on the resized frames are
    scaled to pixels of `flow_size(native_size)` before they are clipped and coded
    (kernels.flow.code).
    """
    from kernels.flow.cpu import tvl1_codes  # compiles; workers that do without start faster

    return tvl1_codes(frames, flow_size(native_size), FAST)


def compile_fast_flow() -> None:
    """What `fast_flow` does the first time: some 10 s, or 1 s where it is in the cache."""
    fast_flow(np.zeros((2, 16, 16, 3), np.uint8), (16, 16))


def tvl1_flow(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """TV-L1 as in the published data set, on one core; for preparing offline.

    uint8 RGB [T,H,W,3] at `flow_size` -> float32 pixels per frame [T-1,H,W,2]. Some 0.1 s a pair at
    320x240. Equal to OpenCV's DualTVL1OpticalFlow with default settings, to rounding.
    """
    from kernels.flow import cpu as cpu_flow  # compiles

    return cpu_flow.tvl1_flow(frames)
