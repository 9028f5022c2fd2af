"""Folders on disk, each walked once, and the classes that they stand for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes.decoding.opening import BadVideo, words
from dali_pipes.sources.lists import NO_CLASS, Entry


def existing_folder(path: Path | str, what: str) -> Path:
    """The absolute path. Raises ValueError unless it is a folder; `what` names the argument."""
    root = Path(os.path.abspath(path))
    if not root.is_dir():
        problem = "is no folder" if root.exists() else "no such folder"
        raise ValueError(f"{root}: {problem} ({what})")
    return root


def walk(
    root: Path, unreadable: list[BadVideo], stop_at: str | None = None
) -> Iterator[tuple[str, list[os.DirEntry[str]] | None]]:
    """Every folder under `root` once, through symlinks too: (its path inside root, its entries).

    A folder that holds a file `stop_at` is not read: it comes with None instead of entries.
    Hidden names are passed over.
    """
    seen = set()  # a symlink may lead back up
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        path = os.path.join(root, inner)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if stop_at is not None and os.path.exists(os.path.join(path, stop_at)):
                yield inner, None
                continue
            entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        except OSError as error:
            unreadable.append(BadVideo(path, "open", words(error)))
            continue
        waiting += [os.path.join(inner, entry.name) for entry in entries if is_folder(entry)]
        yield inner, entries


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself
        return False


def by_folder(folders: list[str], root: Path | str) -> dict[str, Any]:
    """Class columns where the class of an item is its folder, "" for the root itself."""
    names = sorted(set(folders))
    number = {name: class_id for class_id, name in enumerate(names)}
    return {
        "class_ids": np.array([number[folder] for folder in folders], np.int64),
        "class_names": [name or os.path.basename(root) for name in names],
    }


def classes(entries: list[Entry], root: Path | str) -> dict[str, Any]:
    """Class columns of a list: its class ids, named by the folders, or else the folders."""
    folders = [os.path.dirname(entry.path) for entry in entries]
    if entries[0].class_id == NO_CLASS:
        return by_folder(folders, root)
    ids = np.array([entry.class_id for entry in entries], np.int64)
    names = [str(class_id) for class_id in range(ids.max() + 1)]
    for class_id, folder in zip(ids[::-1], folders[::-1], strict=True):
        names[class_id] = folder or str(class_id)
    return {"class_ids": ids, "class_names": names}
