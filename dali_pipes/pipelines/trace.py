"""Who is at work on what, and for how long: workers leave notes, which a stalled run reads."""

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dali_pipes.decoding.opening import printable


@dataclass(frozen=True)
class Note:
    """What a worker process is doing."""

    pid: int
    seconds: float  # since it began
    stage: str
    path: str

    def __str__(self) -> str:
        return f"worker {self.pid}: {self.stage} {printable(self.path)} for {self.seconds:.0f} s"


class Trace:
    """A worker's note, one small file a process. Cheap enough for several a clip.

    Also adds up the time of each stage of a clip: what a clock on the wall shows, so that reading
    from a slow disk counts, and so does standing in line for a core.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: int | None = None
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
            self._file = os.open(self.folder / str(os.getpid()), os.O_CREAT | os.O_WRONLY, 0o600)
        note = os.fsencode(f"{time.monotonic()}\n{stage}\n{path}") if stage else b""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, note, 0)

    def __getstate__(self) -> Path:
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]


def bytes_read(process: str) -> int:
    """What a process of /proc has read from files so far; 0 where the system does not tell."""
    try:
        counters = Path("/proc", process, "io").read_text()
    except OSError:
        return 0
    return int(counters.split("rchar:")[1].split()[0])


def notes(folder: Path) -> list[Note]:
    """What all workers are doing, the longest at it first."""
    found = []
    for file in folder.iterdir():
        if file.name.isdecimal():
            began, *rest = os.fsdecode(file.read_bytes()).split("\n", 2)
            if began:
                found.append(Note(int(file.name), time.monotonic() - float(began), *rest))
    return sorted(found, key=lambda note: -note.seconds)
