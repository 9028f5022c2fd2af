"""Who is at work on what, and for how long: workers leave notes, which a stalled run reads."""

import fcntl
import os
import time
import weakref
from collections import Counter
from dataclasses import dataclass
from io import FileIO

from dali_pipes.decoding.opening import printable

_NAME = "sts-dali-notes"
_ROOM = 8192  # bytes: the longest path is half of that
_MOST = 1024  # workers


@dataclass(frozen=True)
class Note:
    """What a worker process is doing."""

    pid: int
    seconds: float  # since it began
    stage: str
    path: str

    def __str__(self) -> str:
        return f"worker {self.pid}: {self.stage} {printable(self.path)} for {self.seconds:.0f} s"


class Notes:
    """What the workers of a pipeline are doing: memory, so that no kill leaves anything behind."""

    def __init__(self) -> None:
        self._file = FileIO(os.memfd_create(_NAME))
        # Where `Trace`, in this or in another process, finds it.
        self.place = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    @property
    def rooms(self) -> int:
        """How many workers have begun a clip."""
        return -(-os.fstat(self._file.fileno()).st_size // _ROOM)

    def read(self) -> list[Note]:
        """What all are doing, the longest at it first; also who died at it."""
        found: list[Note] = []
        if self._file.closed:
            return found
        self._file.seek(0)
        while room := self._file.read(_ROOM):
            if note := room.partition(b"\0")[0]:
                pid, began, stage, path = os.fsdecode(note).split("\n", 3)
                found.append(Note(int(pid), time.monotonic() - float(began), stage, path))
        return sorted(found, key=lambda note: -note.seconds)

    def close(self) -> None:
        self._file.close()


class Trace:
    """A worker's note. Cheap enough for several a clip.

    Also adds up the time of each stage of a clip: what a clock on the wall shows, so that reading
    from a slow disk counts, and so does standing in line for a core.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._file: int | None = None
        self._at = 0
        self._stage, self._began_ns = "", 0
        self.spent_ns = Counter[str]()  # by stage, of the current clip or the last

    def write(self, stage: str, path: str) -> None:
        """This process begins `stage` of `path`; empty: it is idle, the clip is done."""
        now_ns = time.monotonic_ns()
        if self._stage:
            self.spent_ns[self._stage] += now_ns - self._began_ns
        else:
            self.spent_ns.clear()
        self._stage, self._began_ns = stage, now_ns
        if self._file is None:
            try:
                self._file = self._open()
            except OSError:  # a stalled run cannot name its files then; nothing else is lost
                self._file = os.open(os.devnull, os.O_WRONLY)
            weakref.finalize(self, os.close, self._file)
        note = f"{os.getpid()}\n{time.monotonic()}\n{stage}\n{path}" if stage else ""
        os.pwrite(self._file, os.fsencode(note) + b"\0", self._at)

    def _open(self) -> int:
        """Take the first room that is free, for as long as this process lives."""
        file = os.open(self._place, os.O_RDWR | os.O_CLOEXEC)
        if _NAME not in os.readlink(f"/proc/self/fd/{file}"):  # the loader has closed it meanwhile
            raise FileNotFoundError(self._place)
        for self._at in range(0, _MOST * _ROOM, _ROOM):
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._at)
            except OSError:
                continue
            return file
        raise OSError(f"more than {_MOST} workers")

    def __getstate__(self) -> str:
        return self._place

    def __setstate__(self, place: str) -> None:
        self.__init__(place)  # type: ignore[misc]


def bytes_read(process: str) -> int:
    """What a process of /proc has read from files so far; 0 where the system does not tell."""
    try:
        with open(f"/proc/{process}/io") as counters:
            return int(counters.read().split("rchar:")[1].split()[0])
    except OSError:
        return 0
