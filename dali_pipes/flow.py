"""Where optical flow comes from, and what each source means for the labels.

The motion labels are derivatives of flow and react strongly to the algorithm. The published data
set used TV-L1 at native resolution, 8 bits a component; how far the 14 motion labels of another
source agree with that was measured on 222 crops of 29 real videos (`reference` rule).
"""

from itertools import pairwise
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kernels.flow.code import encode

FlowName = Literal["stored", "tvl1", "nvof", "dis"]
FLOW_CHOICES = ("auto", "stored", "tvl1", "nvof", "dis")
NO_FLOW = "none"  # of a loader that yields frames only

# What a start-up summary says. Agreement is that of block positions, where chance is 16 %.
MEANING: dict[FlowName, str] = {
    "stored": "flow images as prepared; the published ones give the published labels",
    "tvl1": "TV-L1 at native resolution as published: 96 % of positions agree with it",
    "nvof": "NVIDIA hardware flow: at most 84 % of positions agree with TV-L1, and no faster",
    "dis": "DIS on resized frames: other labels, 44 % of positions agree with TV-L1",
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
    return cast(NDArray[np.uint8], cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def resolve_flow(choice: str, device: str, stored: bool) -> tuple[FlowName, str]:
    """(the flow source to use, why and what it means for the labels).

    `choice`: one of `FLOW_CHOICES`; `device`: "cpu" or "cuda"; `stored`: whether the clips come
    with flow images. Raises ValueError if the choice cannot be had, and says what can.
    """
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
            "store it once with `python -m dali_pipes.prepare flow`, or choose flow 'dis'"
        )
    if choice == "nvof" and device == "cpu":
        raise ValueError("flow 'nvof' is a unit of NVIDIA GPUs; choose flow 'dis' on a CPU")
    name = cast(FlowName, choice)
    why = "asked for"
    if choice == "auto":
        if stored:
            name, why = "stored", "flow images are given"
        elif device == "cuda":
            name, why = "tvl1", "the faithful source on a GPU"
        else:
            name, why = "dis", "no flow images and no GPU"
    return name, f"{why}; {MEANING[name]}"


def dis_flow(frames: NDArray[np.uint8], native_size: tuple[int, int]) -> NDArray[np.uint8]:
    """DIS (preset medium) between neighbours: uint8 RGB [T,h,w,3] -> uint8 coded [T-1,h,w,2].

    `native_size` (height, width) of the video: vectors found on the resized frames are scaled to
    pixels of `flow_size(native_size)` before they are clipped and coded (kernels.flow.code).
    """
    height, width = frames.shape[1:3]
    full_height, full_width = flow_size(native_size)
    scale = np.array([full_width / width, full_height / height], np.float32)  # u, v
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    start = np.zeros((height, width, 2), np.float32)
    return np.stack([encode(scale * solver.calc(*pair, start.copy())) for pair in pairwise(grey)])


def tvl1_flow(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """TV-L1 as in the published data set, on one core; for preparing offline.

    uint8 RGB [T,H,W,3] at `flow_size` -> float32 pixels per frame [T-1,H,W,2]. Some 0.1 s a pair at
    320x240. Equal to OpenCV's DualTVL1OpticalFlow with default settings, to rounding.
    """
    from kernels.flow import cpu as cpu_flow  # compiles; workers that do without start faster

    return cpu_flow.tvl1_flow(frames)
