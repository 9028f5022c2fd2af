"""The network that a run asks for: backbone and heads, if its clips fit."""

from collections.abc import Sequence

import torch

from model.networks import BACKBONES
from model.networks.heads import HEADS, StatisticsNet


def check_clips_fit(model: str, clip_len: int, size: int) -> None:
    """Raise ValueError if clips are too short or too small for the network's poolings."""
    thin = BACKBONES[model](width=0.01).eval().requires_grad_(False)
    try:
        thin(torch.zeros((1, clip_len, size, size, 3), dtype=torch.uint8))
    except RuntimeError as error:
        clip = f"{clip_len} frames of {size}x{size}"
        raise ValueError(f"{model} cannot take clips of {clip}: {error}") from error


def statistics_net(
    model: str,
    width: float,
    head: str,
    motion_flag: Sequence[int],
    app_flag: Sequence[int],
    clip_len: int,
) -> StatisticsNet:
    """An untrained network, by the names of `BACKBONES` and `HEADS`."""
    backbone = BACKBONES[model](width=width)
    heads = HEADS[head](backbone.channels, motion_flag, app_flag, clip_len)
    return StatisticsNet(backbone, heads)
