"""Files and folders that are whole or absent, and the record of how a folder was made."""

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

from dali_pipes.prepare.work import BadInput


def write_whole(path: Path, data: bytes) -> None:
    """Write a file such that no reader, and no later run, finds a part of it."""
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_whole` of UTF-8; bytes of file names that are none are written as they were."""
    write_whole(path, text.encode(errors="surrogateescape"))


def publish(part: Path, target: Path) -> None:
    """Move a finished folder to its place, at once; a folder left there is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    discard(target)
    part.rename(target)


def discard(folder: Path) -> None:
    """Remove a folder, if it is there, such that no one finds a part of it."""
    gone = folder.with_name(f".{uuid4().hex}.part")
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone)


def claim(
    record: Path, made: Path, settings: dict[str, Any], notes: dict[str, Any] | None = None
) -> None:
    """Write down how the folder `made` is made, or check that it is continued in the same way.

    `notes` are written down with the settings, but need not be the same later. Raises BadInput if
    `made` was begun with other settings, or by something else.
    """
    try:
        before = json.loads(record.read_text())
    except FileNotFoundError:
        if made.is_dir() and any(made.iterdir()):
            raise BadInput(
                f"{made} holds data, but there is no {record} that says how it was made; "
                "move it away, or choose another folder"
            ) from None
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps({**settings, **(notes or {})}, indent=2) + "\n")
        return
    except ValueError as error:
        raise BadInput(f"{record} is damaged ({error}); remove it and {made}") from error
    changed = [
        f"{name} {before.get(name)!r} (now {value!r})"
        for name, value in settings.items()
        if before.get(name) != value
    ]
    if changed:
        raise BadInput(
            f"{made} was begun with {', '.join(changed)}; continue with the same, or choose "
            f"another folder, or remove {made} and {record}"
        )
