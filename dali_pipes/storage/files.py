"""What sources ask of the place where their files lie, and a folder as the first such place."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Stamp = tuple[int, int]  # (size in bytes, which content): when it changes, so has the file


class NotFetched(OSError):
    """A file, or a part of it, that does not come, while others do. `strerror` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EIO, why)

    def __reduce__(self) -> tuple[type["NotFetched"], tuple[str]]:
        return type(self), (self.strerror or "",)


class Unreachable(RuntimeError):
    """Nothing comes from there any more: no single file is to blame."""


class Files(Protocol):
    """Files by name in one place. Pickled to the decoding workers."""

    @property
    def place(self) -> str:
        """Of a file is `place`/name."""

    def stamp(self, name: str) -> Stamp:
        """Raises OSError if the file is not there."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of a file; fewer where it has fewer. Raises OSError; Unreachable."""

    def read_whole(self, name: str) -> bytes:
        """All of a small file. Raises OSError, FileNotFoundError if there is none."""

    def read_again(self, name: str, offset: int, size: int) -> bytes | None:
        """The same anew from where they came from, for the first were wrong; None: these were."""


@dataclass(frozen=True)
class LocalFiles:
    """The files of a folder."""

    place: str

    def stamp(self, name: str) -> Stamp:
        """Size and time of change. Raises OSError."""
        status = os.stat(self._path(name))
        return status.st_size, status.st_mtime_ns

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Raises OSError. Fewer bytes where the file has fewer, whatever is asked for."""
        file = os.open(self._path(name), os.O_RDONLY)
        try:
            size = min(size, os.fstat(file).st_size - offset)
            data = os.pread(file, size, offset) if size > 0 else b""
            while len(data) < size and (
                more := os.pread(file, size - len(data), offset + len(data))
            ):
                data += more
            return data
        finally:
            os.close(file)

    def read_whole(self, name: str) -> bytes:
        """Raises OSError."""
        return self._path(name).read_bytes()

    def read_again(self, name: str, offset: int, size: int) -> bytes | None:
        """Would be the same."""
        return None

    def _path(self, name: str) -> Path:
        return Path(self.place, name)
