"""Parts of a training that take their state from a checkpoint, which may be anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.training.checkpoint import NoCheckpoint, one_line


def restore(parts: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> None:
    """Give each part its state of a checkpoint. Raises NoCheckpoint that names what is missing or
    does not fit."""
    for name, part in parts.items():
        if name not in state:
            raise NoCheckpoint(f"{path}: {name} is missing")
        found = state[name]
        try:
            if isinstance(part, torch.amp.GradScaler) and found == {}:
                continue  # it was off
            if isinstance(part, torch.optim.SGD):
                _check_momentum(part, found)
            elif isinstance(part, torch.optim.lr_scheduler.LRScheduler | torch.amp.GradScaler):
                own = part.state_dict()
                _check_numbers(own, found)
                # Whatever it is given becomes an attribute, a method's name too.
                found = {key: value for key, value in found.items() if key in own}
            part.load_state_dict(found)
        except Exception as error:  # as many kinds as there are wrong states
            raise NoCheckpoint(f"{path}: {name} does not fit ({one_line(error)})") from error


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The random states of this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


@dataclass(frozen=True)
class Generators:
    """The random states of a process, as a part of a checkpoint that holds those of all ranks."""

    rank: int
    device: torch.device

    def load_state_dict(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Take this process's; a rank that was not there before keeps its own."""
        if self.rank < len(states):
            torch.set_rng_state(states[self.rank]["cpu"])
            if self.device.type == "cuda" and "cuda" in states[self.rank]:
                torch.cuda.set_rng_state(states[self.rank]["cuda"], self.device)


def is_number(value: Any) -> bool:
    """Whether it is an int or a float, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _check_momentum(optimizer: torch.optim.SGD, found: Any) -> None:
    """Raise ValueError unless it is the state of such an optimizer, at any learning rate."""
    own = optimizer.state_dict()
    for group, there in zip(own["param_groups"], found["param_groups"], strict=True):
        _check_numbers(group, there)
        if there["params"] != group["params"]:
            raise ValueError("it is of other weights")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, kept in found["state"].items():
        momentum = kept["momentum_buffer"]
        if momentum is not None and momentum.shape != weights[number].shape:
            raise ValueError(f"momentum_buffer {number} has another shape than its weight")


def _check_numbers(own: dict[str, Any], found: Any) -> None:
    """Raise ValueError unless `found` has numbers where `own` has. What begins with _ differs
    between versions of torch and may be missing."""
    if not isinstance(found, dict):
        raise ValueError(f"it is {found!r:.40}")
    for key, value in own.items():
        numbers = value if isinstance(value, list) else [value]
        if all(map(is_number, numbers)) and (key in found or not key.startswith("_")):
            there = found[key] if isinstance(value, list) else [found[key]]
            if len(there) != len(numbers) or not all(map(is_number, there)):
                raise ValueError(f"{key} is {found[key]!r:.40}")
