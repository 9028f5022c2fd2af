"""What every backbone has in common: the pixels it takes, its stages, its pooled features."""

from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pixels:
    """The input convention of a network's weights: it sees (pixel - offset) / scale.

    By default 0..255 becomes -1..1, so that the zeros of padding are mid-grey. Weights trained
    elsewhere bring their own convention.
    """

    order: Literal["RGB", "BGR"] = "RGB"
    offset: float = 127.5
    scale: float = 127.5

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR") or not (isfinite(self.offset) and 0 < self.scale < inf):
            raise ValueError(f"{self} is no input convention")


class Backbone(nn.Module):
    """A stack of stages over clips. A subclass names its stages and has a child module for each.

    `channels` is what the last stage puts out; `width` scales the channels of all stages.
    """

    stages: tuple[str, ...]
    channels: int

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        self.pixels = Pixels()

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames uint8 [N,T,S,S,3] RGB -> [N,3,T,S,S] in channels-last-3d memory.

        Runs on the frames' device, in the dtype that autocast or the weights ask for.
        """
        if self.pixels.order == "BGR":
            frames = frames.flip(-1)
        x = frames.permute(0, 4, 1, 2, 3)  # a view: the loader's layout is channels-last-3d
        return (x.to(_compute_dtype(self, x)) - self.pixels.offset) / self.pixels.scale

    def features(self, frames: Tensor, stage: str | None = None) -> Tensor:
        """The feature map [N,C,t,h,w] that `stage` (default: the last) makes of uint8 frames.

        Raises ValueError for a stage that the backbone does not have.
        """
        stage = stage or self.stages[-1]
        if stage not in self.stages:
            raise ValueError(f"no stage {stage!r}; choose one of {', '.join(self.stages)}")
        x = self.normalise(frames)
        for name in self.stages[: self.stages.index(stage) + 1]:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, frames: Tensor) -> Tensor:
        """Frames uint8 [N,T,S,S,3] -> features averaged over time and space, float32 [N,channels].

        The average leaves reduced precision: a label of 16 in bfloat16 would be off by up to 0.06.
        """
        return self.features(frames).mean(dim=(2, 3, 4), dtype=torch.float32)

    # The convention travels with the weights, in the state_dict.
    def get_extra_state(self) -> dict[str, Any]:
        return asdict(self.pixels)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.pixels = Pixels(**state)


def _compute_dtype(module: nn.Module, x: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return next(module.parameters()).dtype


def scaled(channels: int, width: float) -> int:
    """A channel count scaled by the width of the network, at least 1."""
    return max(1, round(channels * width))


def conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """The layers of a 3x3x3 convolution with batch norm, resolution kept."""
    return [
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    ]
