"""The network to be judged: from a checkpoint of train.py, a published one, or untrained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model import BACKBONES
from model.networks.backbone import Backbone
from model.networks.build import check_width
from model.networks.published import from_state_dict, is_published
from model.training import checkpoint
from model.training.checkpoint import one_line
from model.training.restore import is_number

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
        check_width(model, width)
        torch.manual_seed(seed)
        words = f"{model}, width {width:g}, untrained (seed {seed})"
        return Loaded(_ready(BACKBONES[model](width)), words)
    path = Path(place)
    if path.is_file():
        state = checkpoint.read(path)
        if is_published(state):
            try:
                backbone = from_state_dict(state["state_dict"]).backbone
            except Exception as error:  # as many kinds as there are wrong weights
                raise ValueError(f"{path}: state_dict does not fit ({one_line(error)})") from error
            return Loaded(_ready(backbone), f"published {type(backbone).__name__}, {path}")
        state = checkpoint.of_training(state, path)
    else:
        found = checkpoint.newest(path)
        if found is None:
            raise ValueError(f"{path}: no checkpoint there")
        path, state = found
    if "args" not in state or "net" not in state:
        raise ValueError(f"{path}: no checkpoint of train.py")
    args = _checked(state["args"], path)
    prefix = "backbone."
    try:
        with torch.device("meta"):  # memory for the weights that the file has, and no others
            backbone = BACKBONES[args["model"]](args["width"])
        weights = state["net"].items()
        backbone.load_state_dict(
            {
                name.removeprefix(prefix): value
                for name, value in weights
                if name.startswith(prefix)
            },
            assign=True,
        )
    except Exception as error:  # as many kinds as there are wrong weights
        raise ValueError(f"{path}: net does not fit ({one_line(error)})") from error
    words = f"{args['model']}, width {args['width']:g}, {state['step']} steps, {path}"
    clips = {name: args[name] for name in ("clip_len", "size", "resize", "stride")}
    return Loaded(_ready(backbone), words, clips)


def _checked(args: Any, path: Path) -> dict[str, Any]:
    """The options that a network and its clips are made by. Raises ValueError that names the one
    that is missing or absurd."""
    pixels = range(1, 4097)
    known = {
        "model": lambda value: isinstance(value, str) and value in BACKBONES,
        "width": lambda value: is_number(value) and value > 0,
        "resize": lambda value: len(value) == 2 and all(side in pixels for side in value),
        **dict.fromkeys(("clip_len", "size", "stride"), lambda value: value in pixels),
    }
    for name, fits in known.items():
        try:
            good = fits(args[name])
        except (KeyError, TypeError):
            good = False
        if not good:
            found = args.get(name, "missing") if isinstance(args, dict) else "missing"
            raise ValueError(f"{path}: args.{name} is {found!r:.40}")
    return args


def _ready(backbone: Backbone) -> Backbone:
    backbone = backbone.float()  # whatever the file had
    return backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
