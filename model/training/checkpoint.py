"""Checkpoints that survive a crash at any moment: written whole or not at all, checked when read.

A run keeps its last few in a folder of its own, `<save_dir>/<run>/step_00000012.pt`. They hold
tensors and plain values only and load with `weights_only=True`.
"""

import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class NoCheckpoint(ValueError):
    """There is no readable checkpoint where one was asked for."""


def save(folder: Path, state: dict[str, Any], step: int, keep: int) -> Path:
    """Write a checkpoint atomically, then delete all but the last `keep` of the folder.

    Raises OSError, e.g. on a full disk; the checkpoints before are untouched then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    torch.save(state, buffer)
    path = folder / f"step_{step:08d}.pt"
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(folder)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    for old in _by_step(folder)[keep:]:
        old.unlink()
    for left_by_a_crash in folder.glob("*.partial"):
        left_by_a_crash.unlink()
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Raises NoCheckpoint if it is missing, damaged or foreign."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load checks no checksums
        if damaged:
            raise NoCheckpoint(f"{path}: damaged ({damaged})")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NoCheckpoint(f"{path}: no such checkpoint") from None
    except NoCheckpoint:
        raise
    except Exception as error:  # damage shows in many ways: zip, pickle, torch, unicode errors
        first_line = (str(error).splitlines() or [""])[0]
        raise NoCheckpoint(f"{path}: no readable checkpoint ({first_line})") from error
    if not isinstance(state, dict) or "step" not in state:
        raise NoCheckpoint(f"{path}: no checkpoint of train.py")
    return state


def newest(place: Path) -> tuple[Path, dict[str, Any]] | None:
    """(path, content) of the file `place`, or of the newest readable checkpoint below a folder.

    If the newest of a run is damaged, says so and takes the one before. Returns None if there is
    no checkpoint yet; raises NoCheckpoint if none can be read.
    """
    if place.is_file() or place.suffix == ".pt":
        return place, load(place)
    files = list(place.rglob("step_*.pt"))
    if not files:
        return None
    run = max(files, key=lambda file: (file.stat().st_mtime_ns, file.name)).parent
    for path in _by_step(run):
        try:
            return path, load(path)
        except NoCheckpoint as error:
            print(f"warning: {error}; taking the checkpoint before it")
    raise NoCheckpoint(f"{run}: none of its checkpoints can be read; start anew without --resume")


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The random states of this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _by_step(folder: Path) -> list[Path]:
    """A run's checkpoints, newest first; steps are zero-padded, so names sort like numbers."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
