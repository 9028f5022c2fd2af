"""The node's cache: what was fetched of remote files, on a local disk, for all its processes.

    CACHE/pieces/<version of the shard>/<offset>    a video's bytes in a shard, a sparse file:

    | a byte a page: 1 there, 0 not | page 0 | page 1 |        | page 3 | ...

A page is written before its byte says so: a process that dies leaves no page half there. Pages are
not trusted: who reads compares checksums and fetches anew what is wrong, so that whatever becomes
of the files, also while others read, costs time at most. Any of them may be removed at any time.
"""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dali_pipes.lock import held_if_free

PAGE = 2**16  # bytes; a clip of 16 frames of 128x171 takes three or four
_LOOK_EVERY = 64  # the cache is measured whenever a process has written such a part of its limit


class Piece(NamedTuple):
    """Neighbouring bytes of a shard that are kept in one file: those of a video."""

    key: str  # of the shard's version
    begin: int  # in the shard
    size: int

    @property
    def pages(self) -> int:
        return -(-self.size // PAGE)

    @property
    def data(self) -> int:
        """Where the pages begin in the file."""
        return -(-self.pages // 4096) * 4096

    @property
    def name(self) -> str:
        return piece_name(self.key, self.begin)


def piece_name(key: str, begin: int) -> str:
    """Its file below CACHE/pieces."""
    return f"{key}/{begin}"


class Held(NamedTuple):
    """Bytes that the cache has: of a file, which may be gone by the time it is read."""

    path: str
    offset: int
    size: int
    page: int  # the first that has some of them
    pages: int

    def read(self) -> bytes | None:
        """None if they are not there any more, also where a new file has the name of the old."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                marks = os.pread(file.fileno(), self.pages, self.page)
                data = os.pread(file.fileno(), self.size, self.offset)
        except OSError:
            return None
        return data if marks == b"\1" * self.pages and len(data) == self.size else None


@dataclass
class Cache:
    """A folder of at most `limit` bytes, which `sharers` processes of this machine fill.

    next_use: for file names (`Piece.name`), when each is needed next, in any unit; what is not
    among them is not needed. Asked for where room is wanted.
    """

    folder: Path
    limit: int
    sharers: int
    next_use: Callable[[], Mapping[str, int]]

    def __post_init__(self) -> None:
        self._pieces = self.folder / "pieces"
        self._stores = True
        self._written = self.limit  # measured before the first page is written

    def absent(self, piece: Piece, first: int, last: int) -> list[int]:
        """Which of the pages first..last-1 are not there."""
        try:
            with open(self._pieces / piece.name, "rb") as file:
                marks = os.pread(file.fileno(), last - first, first)
        except OSError:
            marks = b""
        marks = marks.ljust(last - first, b"\0")
        return [first + n for n, mark in enumerate(marks) if mark != 1]

    def held(self, piece: Piece, begin: int, size: int) -> Held:
        """Bytes of the piece from `begin` on, if their pages are there."""
        first, last = begin // PAGE, -(-(begin + size) // PAGE)
        path = str(self._pieces / piece.name)
        return Held(path, piece.data + begin, size, first, last - first)

    def write(self, piece: Piece, first: int, data: bytes) -> None:
        """Put whole pages of a piece there, from page `first` on (its last may be shorter)."""
        if not self._stores:
            return
        try:
            self._make_room(len(data))
            path = self._pieces / piece.name
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if os.fstat(file).st_size < piece.data + piece.size:
                    os.ftruncate(file, piece.data + piece.size)
                _write_all(file, data, piece.data + first * PAGE)
                os.pwrite(file, b"\1" * -(-len(data) // PAGE), first)
            finally:
                os.close(file)
        except OSError as error:
            self._stores = False
            why = f"{self.folder}: {error.strerror}: nothing more is put into the cache"
            print(why, file=sys.stderr, flush=True)

    def forget(self, piece: Piece, first: int, last: int) -> None:
        """Pages first..last-1 turned out wrong."""
        with suppress(OSError), open(self._pieces / piece.name, "r+b") as file:
            os.pwrite(file.fileno(), bytes(last - first), first)

    def _make_room(self, size: int) -> None:
        part = max(1, self.limit // _LOOK_EVERY)
        self._written += size
        if self._written < part:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with held_if_free(self.folder / ".evicting") as is_free:
            if not is_free:  # another process is at it
                return
            # Beside it, as much as all may write before they look again.
            self._evict(self.limit - size - 2 * part * self.sharers)
        self._written = 0

    def _evict(self, most: int) -> None:
        """Remove what is needed last until no more than `most` bytes are left."""
        found = []
        for folder in self._pieces.glob("*"):
            for entry in os.scandir(folder):
                with suppress(OSError):
                    status = entry.stat()
                    found.append((f"{folder.name}/{entry.name}", status))
        used = sum(status.st_blocks * 512 for _, status in found)
        if used <= most:
            return
        uses = self.next_use()

        def last_needed_first(one: tuple[str, os.stat_result]) -> tuple[float, float]:
            name, status = one
            return -uses.get(name, float("inf")), status.st_mtime

        for name, status in sorted(found, key=last_needed_first):
            if used <= most:
                return
            with suppress(OSError):
                os.unlink(self._pieces / name)
            used -= status.st_blocks * 512


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
