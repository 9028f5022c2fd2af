"""Reading files that memory does not hold: what the system has kept of them is dropped first."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.timing import Timing, settle, summary


@dataclass(frozen=True)
class Read:
    """One read, and the files that it reads."""

    call: Callable[[], object]
    files: Sequence[str]


@dataclass(frozen=True)
class Cold:
    """Seconds of a read, and bytes of it that came from the disk."""

    timing: Timing
    from_disk: float


def timed_cold(reads: Mapping[str, Sequence[Read]], rounds: int) -> dict[str, Cold]:
    """Each list of reads in `rounds` turns, its files dropped from memory before every read.

    A list is absent from the result if some read of it was answered from memory all the same: the
    file system, or the machine, does not allow it. Two rounds or more.
    """
    os.sync()  # what is not written yet cannot be dropped
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    fetched: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(rounds):
        for name in [*seconds]:
            settle()
            spent, came = zip(*map(_cold, reads[name]), strict=True)
            if min(came):
                seconds[name].append(sum(spent) / len(spent))
                fetched[name].append(sum(came) / len(came))
            else:
                del seconds[name]
    return {
        name: Cold(summary(values), sum(fetched[name]) / rounds) for name, values in seconds.items()
    }


def _cold(read: Read) -> tuple[float, int]:
    """Seconds of a read whose files have been dropped, and its bytes from the disk."""
    drop(read.files)
    before, start = bytes_from_disk(), time.perf_counter()
    read.call()
    return time.perf_counter() - start, bytes_from_disk() - before


def drop(files: Iterable[str]) -> None:
    """Drop what memory holds of the files, as far as nothing has them mapped."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def bytes_from_disk() -> int:
    """That this process has caused to be read so far; 0 where the system does not tell."""
    try:
        with open("/proc/self/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
    except OSError:
        return 0
