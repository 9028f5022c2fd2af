"""The network to be judged: from a checkpoint of train.py, a published one, or untrained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model import BACKBONES
from model.networks.backbone import Backbone
from model.networks.published import from_state_dict, is_published
from model.training import checkpoint

RANDOM = "random"


@dataclass(frozen=True)
class Loaded:
    """A backbone, where it comes from, and the clips that it was trained on, if known."""

    backbone: Backbone
    words: str
    clips: dict[str, Any] = field(default_factory=dict)  # clip_len, size, resize, stride


def load(place: str, model: str, width: float, seed: int) -> Loaded:
    """The backbone of a checkpoint file or of a folder's newest; or "random".

    `model` and `width` say which network an untrained one is; a checkpoint knows it. Raises
    ValueError if there is no such checkpoint or it is neither train.py's nor a published one.
    """
    if place == RANDOM:
        torch.manual_seed(seed)
        words = f"{model}, width {width:g}, untrained (seed {seed})"
        return Loaded(_ready(BACKBONES[model](width)), words)
    path = Path(place)
    if path.is_file():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            state = None  # train.py's reader below finds the words
        if is_published(state):
            backbone = from_state_dict(state["state_dict"]).backbone
            return Loaded(_ready(backbone), f"published {type(backbone).__name__}, {path}")
    found = checkpoint.newest(path)
    if found is None:
        raise ValueError(f"{path}: no checkpoint there")
    path, state = found
    if "args" not in state or "net" not in state:
        raise ValueError(f"{path}: no checkpoint of train.py")
    args = state["args"]
    backbone = BACKBONES[args["model"]](args["width"])
    prefix = "backbone."
    weights = state["net"].items()
    backbone.load_state_dict(
        {name.removeprefix(prefix): value for name, value in weights if name.startswith(prefix)}
    )
    words = f"{args['model']}, width {args['width']:g}, {state['step']} steps, {path}"
    clips = {name: args[name] for name in ("clip_len", "size", "resize", "stride")}
    return Loaded(_ready(backbone), words, clips)


def _ready(backbone: Backbone) -> Backbone:
    return backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
