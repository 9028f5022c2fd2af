"""The 27 labels of a batch of clips, computed where the clips are.

Worth knowing of the labels themselves: the overlap of a block's colours over time grows with its
area, so that pattern 2's appearance positions hardly vary (2dp is the centre for nine clips in
ten, 2cp the border for eight); and a label says where a statistic is largest, not how large it is.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from kernels.labels import cpu as cpu_labels
from kernels.labels.schema import Rule, check_domain, flow_fields

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = TypeVar("Array", "NDArray[Any]", torch.Tensor, Any)


def clip_labels(frames: Array, flow: Array, rule: Rule = "corrected") -> Array:
    """uint8 RGB frames [N,T,S,S,3] and flow [N,F,S,S,2] -> int64 [N,27].

    `flow` is (u right, v down), uint8-coded (`kernels.flow.code`) or float32 in any unit; `rule`
    needs F >= flow_fields(rule, T) and ignores more. NumPy arrays, torch tensors and CuPy arrays
    are labelled where they lie and give labels of the same kind on the same device; on a GPU
    without waiting for it. Order and ranges: `kernels.labels.schema.LABELS`.

    Raises ValueError on arrays or sizes for which the rule is not defined, and on float32 flow
    that is not finite (a GPU does not look: the motion labels of that clip mean nothing).

    Source: Wang et al., TPAMI 2021 (arXiv 2008.13426), section 3.
    """
    flow = _checked_flow(frames, flow, rule)
    if isinstance(frames, np.ndarray):
        return _cpu(frames, flow, rule)
    if isinstance(frames, torch.Tensor) and frames.device.type == "cpu":
        return torch.from_numpy(_cpu(frames.detach().numpy(), flow.detach().numpy(), rule))

    from kernels.labels import cuda as cuda_labels

    if isinstance(frames, torch.Tensor):
        return torch.cat(
            [cuda_labels.motion_labels(flow, rule), cuda_labels.appearance_labels(frames, rule)], 1
        )
    tensors = torch.from_dlpack(frames), torch.from_dlpack(flow)
    return cuda_labels.to_cupy(clip_labels(*tensors, rule))


def _cpu(frames: "NDArray[Any]", flow: "NDArray[Any]", rule: Rule) -> "NDArray[np.int64]":
    return np.concatenate(
        [cpu_labels.motion_labels(flow, rule), cpu_labels.appearance_labels(frames, rule)], axis=1
    )


def _checked_flow(frames: Any, flow: Any, rule: Rule) -> Any:
    """The fields of `flow` that count; ValueError unless `rule` is defined for these arrays."""
    given = f"frames {_words(frames)}, flow {_words(flow)}"
    if _place(frames) != _place(flow) or _place(frames) is None:
        raise ValueError(
            "frames and flow must both be NumPy arrays, or torch tensors or CuPy arrays on the "
            f"same CPU or CUDA device; got {given}"
        )
    shape = tuple(frames.shape)
    if len(shape) != 5 or shape[4] != 3 or shape[2] != shape[3] or _dtype(frames) != "uint8":
        raise ValueError(f"frames must be uint8 [N,T,S,S,3], got {given}")
    clips, clip_len, size = shape[:3]
    check_domain(rule, size, clip_len)
    fields = flow_fields(rule, clip_len)
    if _dtype(flow) not in ("uint8", "float32"):
        raise ValueError(f"flow must be uint8 (coded) or float32, got {given}")
    wanted = (clips, size, size, 2)
    if len(flow.shape) != 5 or (flow.shape[0], *flow.shape[2:]) != wanted:
        raise ValueError(f"flow must be [{clips},F,{size},{size},2] for these frames, got {given}")
    if flow.shape[1] < fields:
        raise ValueError(
            f"rule {rule!r} needs {fields} flow fields for {clip_len} frames, got {given}"
        )
    return flow[:, :fields]


def _place(array: Any) -> str | None:
    """Where and as what an array lives, e.g. "numpy", "torch cpu", "torch cuda:0"; else None."""
    if isinstance(array, np.ndarray):
        return "numpy"
    if isinstance(array, torch.Tensor):
        return f"torch {array.device}" if array.device.type in ("cpu", "cuda") else None
    if hasattr(array, "__cuda_array_interface__"):
        return f"cupy {array.device}"
    return None


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _words(array: Any) -> str:
    place = _place(array)
    if place is None and not isinstance(array, torch.Tensor):
        return type(array).__name__
    device = "" if place == "numpy" else f" on {array.device}"
    return f"{type(array).__name__} {_dtype(array)} {list(array.shape)}{device}"
