"""Checkpoints of the authors' published code, read by a map of their key names.

Repository laura-wang/video_repres_sts: networks c3d, r3d and r21d, saved with torch.save as
{"epoch", "state_dict", "opt_dict"}. Those networks saw BGR frames of 0..255 without
normalisation; the loaded backbone carries that convention.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.networks import BACKBONES
from model.networks.backbone import Pixels
from model.networks.heads import StatisticsHeads, StatisticsNet

PIXELS = Pixels(order="BGR", offset=0.0, scale=1.0)

# Published name -> ours, tried in order; what follows the name (".weight", ...) stays.
_HEADS = {r"motion_linear": "heads.motion", r"app_linear": "heads.app"}
_C3D = {
    r"conv1": "backbone.conv1.0",
    r"bn1": "backbone.conv1.1",
    r"conv2": "backbone.conv2.1",
    r"bn2": "backbone.conv2.2",
    r"conv([345])a": r"backbone.conv\1.1",
    r"bn([345])a": r"backbone.conv\1.2",
    r"conv([345])b": r"backbone.conv\1.4",
    r"bn([345])b": r"backbone.conv\1.5",
}
_RESNET = {
    r"conv1\.": "backbone.conv1.0.",
    r"bn1": "backbone.conv1.1",
    r"conv([2345])\.block1\.": r"backbone.conv\1.0.",
    r"conv([2345])\.blocks\.0\.": r"backbone.conv\1.1.",  # the second of the 18-layer network
}
_INSIDE_RESNET = (
    ("downsampleconv.", "shortcut.0."),
    ("downsamplebn.", "shortcut.1."),
    ("temporal_spatial_conv.", ""),
    ("spatial_conv.", "spatial."),
    ("temporal_conv.", "temporal."),
)


def is_published(checkpoint: Any) -> bool:
    """Whether a loaded checkpoint has the published layout and key names."""
    return isinstance(checkpoint, dict) and any(
        key.endswith("motion_linear.weight") for key in checkpoint.get("state_dict", {})
    )


def load_published(path: str | Path) -> StatisticsNet:
    """The network of a published checkpoint, with its weights and its input convention.

    Raises ValueError if the file is not such a checkpoint or its weights do not fit.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not is_published(checkpoint):
        raise ValueError(f"{path} is no checkpoint of the published code (no motion_linear in it)")
    try:
        return from_state_dict(checkpoint["state_dict"])
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def from_state_dict(state: dict[str, Tensor]) -> StatisticsNet:
    """The network that holds a published state_dict; name, depth and width are read from it."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    name, first = _architecture(state)
    backbone = BACKBONES[name](width=state[first].shape[0] / 64)
    backbone.pixels = PIXELS
    net = StatisticsNet(backbone, StatisticsHeads(backbone.channels))
    names = _C3D if name == "c3d" else _RESNET
    ours = {_rename(key, names | _HEADS): value for key, value in state.items()}
    net.load_state_dict(ours | {"backbone._extra_state": backbone.get_extra_state()})
    return net


def _architecture(state: dict[str, Tensor]) -> tuple[str, str]:
    """The backbone's name, and the key whose first dimension is its 64 first channels."""
    depth = "18" if any(".blocks." in key for key in state) else ""
    if "conv3a.weight" in state:
        return "c3d", "conv1.weight"
    if "conv1.temporal_spatial_conv.weight" in state:
        return "r3d" + depth, "conv1.temporal_spatial_conv.weight"
    if "conv1.temporal_conv.weight" in state:
        return "r21d" + depth, "conv1.temporal_conv.weight"
    raise ValueError("the weights are those of no published network (c3d, r3d, r21d)")


def _rename(key: str, names: dict[str, str]) -> str:
    for published, ours in names.items():
        if match := re.match(published, key):
            key = match.expand(ours) + key[match.end() :]
            break
    for published, ours in _INSIDE_RESNET:
        key = key.replace(published, ours)
    return key
