"""The index of a folder of reels: where the pictures of every video lie. See docs/reels.md.

One NumPy file, `index.npz`: a few columns with a row a video, read when the folder is opened, and
the table of all steps, of which a clip needs some rows: it is mapped into memory, not read.
"""

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.reel import STEP

INDEX_FILE = "index.npz"
_STEPS = "steps.npy"


@dataclass(frozen=True)
class Columns:
    """What is known of V videos, ordered by name."""

    names: list[str]  # [V], class/video
    shards: list[str]  # file names
    shard: NDArray[np.int32]  # [V], position in `shards`
    frames: NDArray[np.int32]  # [V]
    sizes: NDArray[np.int32]  # [V,2], (height, width) of the videos themselves, px
    fps: NDArray[np.float32]  # [V], frames a second, 0 where not known

    @property
    def first(self) -> NDArray[np.int64]:
        """[V], the row of each video's first step. A video has a row more than frames."""
        return np.cumsum(self.frames + np.int64(1)) - (self.frames + np.int64(1))


Stamp = tuple[int, int, int]  # which file it is: inode, size, time of change


def stamp(path: Path | str) -> Stamp:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def write(
    file: Path,
    columns: Columns,
    steps: Iterable[NDArray[np.void]],
    origins: Iterable[str],
) -> None:
    """Write columns, the tables of steps and what the videos were, in the order of the videos."""
    np.savez(
        file,
        names=_packed(columns.names),
        shards=_packed(columns.shards),
        shard=columns.shard,
        frames=columns.frames,
        sizes=columns.sizes,
        fps=columns.fps,
        origins=_packed(origins),
        steps=np.concatenate([np.zeros(0, STEP), *steps]),
    )


def read(file: Path | str) -> Columns:
    """Raises OSError, or ValueError if it is damaged."""
    stamp(file)
    try:
        with np.load(file) as columns:  # checks the checksums of what it reads
            return Columns(
                _unpacked(columns["names"]),
                _unpacked(columns["shards"]),
                columns["shard"],
                columns["frames"],
                columns["sizes"],
                columns["fps"],
            )
    except Exception as error:  # there is little that NumPy does not raise for a damaged file
        raise ValueError(f"{file}: is damaged ({error})") from error


def is_whole(file: Path) -> bool:
    """Whether the file has the bytes that were written, of the table of steps too."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read_origins(file: Path | str) -> list[str]:
    """What each video was (`prepare.origins`), "" where not known. Raises ValueError if damaged.

    Apart: only `prepare reels` needs it.
    """
    try:
        with np.load(file) as columns:
            if "origins" in columns:
                return _unpacked(columns["origins"])
            return [""] * len(columns["frames"])
    except Exception as error:
        raise ValueError(f"{file}: is damaged ({error})") from error


@lru_cache(maxsize=4)
def steps(file: str, same: Stamp) -> NDArray[np.void]:
    """The steps of all videos [sum of frames + 1], mapped. Raises OSError, or ValueError if it is
    damaged, or another file than `same` by now."""
    if stamp(file) != same:
        raise ValueError(f"{file} was replaced while it was in use; start again")
    try:
        with zipfile.ZipFile(file) as archive, archive.open(_STEPS) as member:
            np.lib.format.read_magic(member)
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            info = archive.getinfo(_STEPS)
            begins = _data_offset(file, info.header_offset) + member.tell()
        if dtype != STEP or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("no table of steps")
        table = np.memmap(file, STEP, "r", begins, shape)
    except Exception as error:  # there is little that is not raised for a damaged file
        raise ValueError(f"{file}: is damaged ({error})") from error
    return np.asarray(table)  # plain: slices sooner


def _data_offset(file: str, header: int) -> int:
    """Where the data of a member begin: after a header of 30 bytes, its name and an extra field."""
    with open(file, "rb") as archive:
        archive.seek(header + 26)
        name, extra = np.frombuffer(archive.read(4), "<u2").tolist()
    return header + 30 + int(name) + int(extra)


def _packed(names: Iterable[str]) -> NDArray[np.uint8]:
    """Names as bytes, each ended by a zero."""
    return np.frombuffer(b"".join(os.fsencode(name) + b"\0" for name in names), np.uint8)


def _unpacked(data: NDArray[np.uint8]) -> list[str]:
    return os.fsdecode(data.tobytes()).split("\0")[:-1]
