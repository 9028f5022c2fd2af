"""The network that a run asks for: backbone and heads, if its clips fit."""

import os
from collections.abc import Sequence

import torch

from model.networks import BACKBONES
from model.networks.heads import HEADS, StatisticsNet


def check_width(model: str, width: float) -> None:
    """Raise ValueError if the network's weights do not fit in the machine's memory."""
    try:
        with torch.device("meta"):
            weights = sum(p.nbytes for p in BACKBONES[model](width=width).parameters())
    except (RuntimeError, TypeError, OverflowError):  # more than can be counted
        weights = None
    if weights is None or weights > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise ValueError(f"a {model} of width {width:g} does not fit in memory; lower --width")


def check_clips_fit(model: str, clip_len: int, size: int) -> None:
    """Raise ValueError if clips are too short or too small for the network's poolings."""
    try:
        with torch.device("meta"):  # of clips of any size none is made
            thin = BACKBONES[model](width=0.01).eval().requires_grad_(False)
            x = torch.zeros((1, 3, clip_len, size, size))
            for stage in thin.stages:
                x = thin.get_submodule(stage)(x)
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
