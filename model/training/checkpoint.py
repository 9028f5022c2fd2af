"""Checkpoints that survive a crash at any moment: written whole or not at all, checked when read.

A run keeps its last few in a folder of its own, `<save_dir>/<run>/step_00000012.pt`. They hold
tensors and plain values only. They may come from strangers: `read` takes no more memory than the
file's size suggests, and runs nothing of it.
"""

import os
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor


class NoCheckpoint(ValueError):
    """There is no readable checkpoint where one was asked for."""


class NotFinite(ArithmeticError):
    """Numbers with which there is no going on: infinite, or none."""


def check_room(folder: Path, size: int) -> None:
    """Raise OSError unless a file of so many bytes can be written in the folder."""
    try:
        with NamedTemporaryFile(dir=folder, suffix=".partial") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} for {size} bytes", str(folder)) from None


def save(folder: Path, state: dict[str, Any], step: int, keep: int) -> Path:
    """Write a checkpoint atomically, then delete all but the last `keep` of the folder.

    Raises OSError, e.g. on a full disk, and NotFinite, for `read` would refuse such a checkpoint;
    the checkpoints before are untouched then.
    """
    if name := _not_finite(state):
        raise NotFinite(f"{name} has numbers that are not finite")
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


def read(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU. Raises NoCheckpoint if it is missing, damaged, larger
    than its file, or holds numbers that are not finite."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                    raise NoCheckpoint(f"{path}: declares more content than it has bytes")
                damaged = archive.testzip()  # torch.load checks no checksums
            if damaged:
                raise NoCheckpoint(f"{path}: damaged ({damaged})")
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in _tensors(state):
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise NoCheckpoint(f"{path}: {name} declares more numbers than it has")
        if strange := _not_finite(state):
            raise NoCheckpoint(f"{path}: {strange} has numbers that are not finite")
    except FileNotFoundError:
        raise NoCheckpoint(f"{path}: no such checkpoint") from None
    except NoCheckpoint:
        raise
    except Exception as error:  # damage shows in many ways: zip, pickle, torch, unicode errors
        raise NoCheckpoint(f"{path}: no readable checkpoint ({one_line(error)})") from error
    return state


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote. Raises NoCheckpoint, as `read`."""
    return of_training(read(path), path)


def of_training(state: Any, path: Path) -> dict[str, Any]:
    """What was read from `path`, if `save` wrote it. Raises NoCheckpoint if not."""
    if not isinstance(state, dict) or "step" not in state:
        raise NoCheckpoint(f"{path}: no checkpoint of train.py")
    if type(state["step"]) is not int or state["step"] < 0:
        raise NoCheckpoint(f"{path}: step is {state['step']!r:.40}, not a count of steps")
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


def one_line(error: Exception) -> str:
    """An error's words on one line, not all of them if they are many."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]} ..."


def _not_finite(state: Any) -> str | None:
    """The first tensor with a number that is not finite."""
    return next((name for name, tensor in _tensors(state) if not tensor.isfinite().all()), None)


def _tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts and lists, by its place."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


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
