"""The network to be judged: of train.py, of a fine-tuning, published, or untrained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from kernels.labels.schema import RULES, Rule
from model import BACKBONES
from model.networks.backbone import Backbone
from model.networks.build import check_width, statistics_net
from model.networks.heads import HEADS, N_FLAGS, StatisticsNet
from model.networks.published import from_state_dict, is_published
from model.training import checkpoint
from model.training.checkpoint import one_line
from model.training.restore import is_number

RANDOM = "random"
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Loaded:
    """A backbone, where it comes from, and the clips that it was trained on, if known."""

    backbone: Backbone
    words: str
    clips: dict[str, Any] = field(default_factory=dict)  # clip_len, size, resize, stride


def load(place: str, model: str, width: float, seed: int) -> Loaded:
    """The backbone of a checkpoint file or of a folder's newest; or "random".

    `model` and `width` say which network an untrained one is; a checkpoint knows it. Raises
    ValueError if there is no such checkpoint or it is neither of train.py nor of a fine-tuning nor
    published.
    """
    if place == RANDOM:
        check_width(model, width)
        torch.manual_seed(seed)
        words = f"{model}, width {width:g}, untrained (seed {seed})"
        return Loaded(_ready(BACKBONES[model](width)), words)
    path, state = _found(Path(place))
    if is_published(state):
        backbone = _published(state, path).backbone
        return Loaded(_ready(backbone), f"published {type(backbone).__name__}, {path}")
    args = _checked(state["args"], path)
    backbone = _filled(
        lambda: BACKBONES[args["model"]](args["width"]), state["net"], path, prefix="backbone."
    )
    return Loaded(_ready(backbone), _words(args, state, path), _clips(args))


@dataclass(frozen=True)
class Pretrained:
    """A backbone with its heads, where it comes from, and the clips and the rule of its labels."""

    net: StatisticsNet
    words: str
    rule: Rule
    clips: dict[str, Any] = field(default_factory=dict)  # as Loaded.clips


def load_with_heads(place: Path) -> Pretrained:
    """The whole network of a checkpoint file or of a folder's newest. Raises ValueError as `load`
    does."""
    path, state = _found(place)
    if is_published(state):
        net = _published(state, path)
        name = type(net.backbone).__name__
        return Pretrained(_ready(net), f"published {name}, {path}", "reference")
    args = _checked(state["args"], path, heads=True)
    parts = ("model", "width", "head", "motion_flag", "app_flag", "clip_len")
    net = _filled(lambda: statistics_net(*(args[name] for name in parts)), state["net"], path)
    return Pretrained(_ready(net), _words(args, state, path), args["labels"], _clips(args))


def _found(path: Path) -> tuple[Path, Any]:
    """The file that is meant, and what it holds: a published checkpoint, or one of ours with args
    and net."""
    if path.is_file():
        state = checkpoint.read(path)
        if is_published(state):
            return path, state
        state = checkpoint.of_training(state, path)
    else:
        found = checkpoint.newest(path)
        if found is None:
            raise ValueError(f"{path}: no checkpoint there")
        path, state = found
    if "network" in state:  # of a fine-tuning
        state["args"] = state["network"]
    if "args" not in state or "net" not in state:
        raise ValueError(f"{path}: no checkpoint of train.py")
    return path, state


def _published(state: Any, path: Path) -> StatisticsNet:
    try:
        return from_state_dict(state["state_dict"])
    except Exception as error:  # as many kinds as there are wrong weights
        raise ValueError(f"{path}: state_dict does not fit ({one_line(error)})") from error


def _filled(build: Callable[[], Net], weights: Any, path: Path, prefix: str = "") -> Net:
    """The network with those weights of a file whose names begin with `prefix`."""
    try:
        with torch.device("meta"):  # memory for the weights that the file has, and no others
            net = build()
        own = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        net.load_state_dict(own, assign=True)
    except Exception as error:  # as many kinds as there are wrong weights
        raise ValueError(f"{path}: net does not fit ({one_line(error)})") from error
    return net


def _words(args: dict[str, Any], state: Any, path: Path) -> str:
    unit = "epochs of fine-tuning" if "network" in state else "steps"
    return f"{args['model']}, width {args['width']:g}, {state['step']} {unit}, {path}"


def _clips(args: dict[str, Any]) -> dict[str, Any]:
    return {name: args[name] for name in ("clip_len", "size", "resize", "stride")}


def made_by(backbone: Backbone, clips: dict[str, Any]) -> dict[str, Any]:
    """The options by which `load` makes the network of a checkpoint, with the clips it takes."""
    (model,) = (name for name, kind in BACKBONES.items() if type(backbone) is kind)
    return {"model": model, "width": backbone.width} | _clips(clips)


def _checked(args: Any, path: Path, heads: bool = False) -> dict[str, Any]:
    """The options that a network, its clips and if wanted its heads are made by. Raises ValueError
    that names the one that is missing or absurd."""
    pixels = range(1, 4097)
    known = {
        "model": lambda value: isinstance(value, str) and value in BACKBONES,
        "width": lambda value: is_number(value) and value > 0,
        "resize": lambda value: len(value) == 2 and all(side in pixels for side in value),
        **dict.fromkeys(("clip_len", "size", "stride"), lambda value: value in pixels),
    }
    if heads:
        known |= {
            "head": lambda value: isinstance(value, str) and value in HEADS,
            "labels": lambda value: isinstance(value, str) and value in RULES,
            **dict.fromkeys(
                ("motion_flag", "app_flag"),
                lambda value: len(value) == N_FLAGS and set(value) <= {0, 1},
            ),
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


def _ready(net: Net) -> Net:
    net = net.float()  # whatever the file had
    return net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
