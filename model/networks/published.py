"""Checkpoints of the authors' published code, read by a map of their key names.

Repository laura-wang/video_repres_sts: networks c3d, r3d and r21d, saved with torch.save as
{"epoch", "state_dict", "opt_dict"}. Those networks saw BGR frames of 0..255 without
normalisation; the loaded backbone carries that convention.
"""

import re
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
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    return isinstance(state, dict) and any(
        str(key).endswith("motion_linear.weight") for key in state
    )


def from_state_dict(state: dict[str, Tensor]) -> StatisticsNet:
    """The network that holds a published state_dict, with its input convention; name, depth and
    width are read from it. Raises ValueError or RuntimeError if the weights do not fit."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    name, first = _architecture(state)
    with torch.device("meta"):  # memory for the weights that there are, and no others
        backbone = BACKBONES[name](width=state[first].shape[0] / 64)
        net = StatisticsNet(backbone, StatisticsHeads(backbone.channels))
    backbone.pixels = PIXELS
    names = _C3D if name == "c3d" else _RESNET
    ours = {_rename(key, names | _HEADS): value for key, value in state.items()}
    net.load_state_dict(ours | {"backbone._extra_state": backbone.get_extra_state()}, assign=True)
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
