"""DIS flow, what people take on a CPU: the rival of `tvl1-fast`."""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.flow import flow_size
from kernels.flow.code import encode


def dis_flow(frames: NDArray[np.uint8], native_size: tuple[int, int]) -> NDArray[np.uint8]:
    """DIS (preset medium) between neighbours: uint8 RGB [T,h,w,3] -> coded uint8 [T-1,2,h,w].

    As `dali_pipes.flow.fast_flow`: vectors are scaled to pixels of `flow_size(native_size)`.
    """
    height, width = frames.shape[1:3]
    full_height, full_width = flow_size(native_size)
    scale = np.array([full_width / width, full_height / height], np.float32)  # u, v
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    start = np.zeros((height, width, 2), np.float32)
    fields = [encode(scale * solver.calc(*pair, start.copy())) for pair in pairwise(grey)]
    return np.moveaxis(np.stack(fields), -1, 1)
