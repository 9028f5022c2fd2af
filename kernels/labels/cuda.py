"""The labels on a GPU: the same functions as in `cpu.py`, for CUDA tensors.

Work is queued on torch's current stream; nothing waits for it. The functions are custom operators,
so that `torch.compile` keeps a graph whole around them. The first call for a size, a rule and a
device compiles kernels and copies tables: make it before capturing a CUDA graph.
"""

from functools import cache
from typing import Any

import torch

from kernels.cuda_module import CudaDevice
from kernels.labels import launches as cuda_launches
from kernels.labels.schema import APPEARANCE, MOTION, Rule

ALIGNMENT = 16  # bytes: the kernels load vectors


def motion_labels(flow: torch.Tensor, rule: Rule) -> torch.Tensor:
    """uint8-coded or float32 flow [N,F,S,S,2] (u right, v down) -> int64 [N,14].

    All F fields are used: T - 1 of a clip's T frames under `corrected`, T under `reference`.
    `kernels.labels.clip_labels` checks arguments; this does not.
    """
    return motion_operator(flow, rule)


def appearance_labels(frames: torch.Tensor, rule: Rule) -> torch.Tensor:
    """uint8 RGB frames [N,T,S,S,3] -> int64 [N,13]. Arguments are not checked."""
    return appearance_operator(frames, rule)


def to_cupy(labels: torch.Tensor) -> Any:
    """The same memory as a CuPy array, ordered after torch's current stream."""
    import cupy

    return cupy.from_dlpack(labels)


@torch.library.custom_op("sts_dali::motion_labels", mutates_args=(), device_types="cuda")
def motion_operator(flow: torch.Tensor, rule: str) -> torch.Tensor:
    return cuda_launches.motion(_device(flow.device), _aligned(flow), rule)  # type: ignore[arg-type]


@motion_operator.register_fake
def _(flow: torch.Tensor, rule: str) -> torch.Tensor:
    return flow.new_empty((flow.shape[0], MOTION.stop - MOTION.start), dtype=torch.int64)


@torch.library.custom_op("sts_dali::appearance_labels", mutates_args=(), device_types="cuda")
def appearance_operator(frames: torch.Tensor, rule: str) -> torch.Tensor:
    return cuda_launches.appearance(
        _device(frames.device),
        _aligned(frames),
        rule,  # type: ignore[arg-type]
    )


@appearance_operator.register_fake
def _(frames: torch.Tensor, rule: str) -> torch.Tensor:
    return frames.new_empty(
        (frames.shape[0], APPEARANCE.stop - APPEARANCE.start), dtype=torch.int64
    )


@cache
def _device(device: torch.device) -> CudaDevice:
    return CudaDevice(device)


def _aligned(array: torch.Tensor) -> torch.Tensor:
    array = array.contiguous()
    return array if array.data_ptr() % ALIGNMENT == 0 else array.clone()
