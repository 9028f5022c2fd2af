"""Files and folders that are whole or absent, and the record of how a folder was made."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from uuid import uuid4

from dali_pipes.decoding.opening import BadVideo, printable, words
from dali_pipes.prepare.work import BadInput

_REPLACEABLE = re.compile(r"frame\d{6,}\.jpg|\..*", re.DOTALL)  # images, and hidden files


def write_whole(path: Path, data: bytes) -> None:
    """Write a file such that no reader, and no later run, finds a part of it."""
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_out(path: Path, suffixes: Sequence[str]) -> None:
    """Raise ValueError if no such file can be written (`--out`), before work goes into it."""
    if path.suffix not in suffixes:
        raise ValueError(f"--out must end in {' or '.join(suffixes)}, got {path}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {words(error)}") from error


def write_text(path: Path, text: str) -> None:
    """`write_whole` of UTF-8; bytes of file names that are none are written as they were."""
    write_whole(path, text.encode(errors="surrogateescape"))


def publish(part: Path, target: Path) -> None:
    """Move a finished folder of images to its place, at once; images left there are replaced.

    Raises BadVideo if anything else is there: these commands did not make it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    before = _set_aside(target, part.parent)
    try:
        part.rename(target)
    except BaseException:
        if before is not None:
            before.rename(target)
        raise
    if before is not None:
        shutil.rmtree(before)


def remove(folder: Path, parts: Path) -> bool:
    """Remove a folder of images such that no one finds a part of it; whether it was there.

    `parts`: a folder of unfinished ones. Raises BadVideo as `publish` does.
    """
    gone = _set_aside(folder, parts)
    if gone is not None:
        shutil.rmtree(gone)
    return gone is not None


def _set_aside(folder: Path, parts: Path) -> Path | None:
    """Where a folder of images is moved to among unfinished ones; None: it is not there."""
    if not os.path.lexists(folder):
        return None
    if folder.is_symlink() or not folder.is_dir():
        raise BadVideo(folder, "write", "is no folder, and in the way; move it away")
    for name in sorted(os.listdir(folder)):
        if not _REPLACEABLE.fullmatch(name):
            reason = f"holds {printable(name)}, which is no image of a video; move it away"
            raise BadVideo(folder, "write", reason)
    parts.mkdir(parents=True, exist_ok=True)
    return folder.rename(parts / uuid4().hex)


def claim(
    record: Path, made: Path, settings: dict[str, Any], notes: dict[str, Any] | None = None
) -> None:
    """Write down how the folder `made` is made, or check that it is continued in the same way.

    `notes` are written down with the settings, but need not be the same later. Raises BadInput if
    `made` was begun with other settings, or by something else.
    """
    try:
        text = record.read_bytes()
    except FileNotFoundError:
        if made.is_dir() and any(made.iterdir()):
            raise unclaimed(record, made) from None
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, recorded(settings, notes))
    else:
        check_claim(text, record, made, settings)


def recorded(settings: dict[str, Any], notes: dict[str, Any] | None = None) -> str:
    """What a record says."""
    return json.dumps({**settings, **(notes or {})}, indent=2) + "\n"


def unclaimed(record: Path | str, made: Path | str) -> BadInput:
    """The error where something is there already that no record speaks of."""
    return BadInput(
        f"{made} holds data, but there is no {record} that says how it was made; "
        "move it away, or choose another folder"
    )


def check_claim(
    text: bytes, record: Path | str, made: Path | str, settings: dict[str, Any]
) -> None:
    """Raises BadInput if a record says that `made` was begun with other settings."""
    try:
        before = json.loads(text)
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
