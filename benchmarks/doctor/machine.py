"""What the machine, or the container, allows: cores, memory, shared memory, open files, disks."""

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.doctor.finding import Finding, bad, first_line, ok, warning

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
SHM = Path("/dev/shm")
GIB, MIB = 2**30, 2**20
LEAST_MEMORY, MEMORY = 1 * GIB, 4 * GIB  # a process with torch, two workers; and a network
LEAST_CACHE, LEAST_OUTPUT = 100 * MIB, 2 * GIB  # indexes and kernels; a few checkpoints
BATCHES = {"default": 4, "published": 30}  # --bs
# A run with two workers needs some 30 files open at a time; each further worker adds 4 to all.
LEAST_FILES, FILES, FILES_OF_WORKER = 32, 56, 4


@dataclass(frozen=True)
class Limits:
    """What this process may use."""

    cores: int  # of its affinity, by which all commands count
    cgroup_cores: float | None
    free_bytes: int  # of memory
    cgroup_bytes: int | None
    shared_bytes: int  # free in /dev/shm; 0 where there is none

    @property
    def may_compute(self) -> int:
        """Cores at work at a time."""
        return max(1, min(self.cores, int(self.cgroup_cores or self.cores)))


def limits() -> Limits:
    try:
        shared = shutil.disk_usage(SHM).free
    except OSError:
        shared = 0
    return Limits(
        len(os.sched_getaffinity(0)), allowed_cores(), free_memory(), allowed_memory(), shared
    )


# ---- what a cgroup allows ---------------------------------------------------------------------


def allowed_cores(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float | None:
    """Cores' worth of time that this process may use; None: as many as there are."""
    found = []
    for folder in _folders("cpu", root, own):
        if pair := _words(folder / "cpu.max"):
            quota, period = pair
        else:
            (quota,) = _words(folder / "cpu.cfs_quota_us") or ["-1"]
            (period,) = _words(folder / "cpu.cfs_period_us") or ["0"]
        if quota not in ("max", "-1") and int(period) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def allowed_memory(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> int | None:
    """Bytes that this process may still take; None: as many as there are."""
    found = []
    for folder in _folders("memory", root, own):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            (most,) = _words(folder / limit) or ["max"]
            (now,) = _words(folder / used) or ["0"]
            if most != "max":
                found.append(int(most) - int(now) + _file_pages(folder))
    return min(found, default=None)


def _folders(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """This process's cgroup and those around it, of both versions, as far as they are seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root
        if controllers:
            named = [root / controllers, root / controller]
            top = next((folder for folder in named if folder.is_dir()), root / controller)
        place = top / inner.lstrip("/")
        while place != top:
            yield place
            place = place.parent
        yield top


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _file_pages(folder: Path) -> int:
    """Bytes of files that memory holds and would give back."""
    words = _words(folder / "memory.stat")
    of = dict(zip(words[::2], words[1::2], strict=False))
    return sum(int(of.get(name, 0)) for name in ("inactive_file", "total_inactive_file"))


# ---- checks -----------------------------------------------------------------------------------


def cores(found: Limits) -> Finding:
    seen, allowed = found.cores, found.cgroup_cores
    if allowed is not None and allowed < seen:
        few = max(1, int(allowed))
        return warning(
            f"{seen} are seen, but time of {allowed:g} is allowed (cgroup)",
            f"taskset -c 0-{few - 1} before the command, docker run --cpuset-cpus, or pass "
            f"--num_workers {few}",
        )
    return ok(f"{seen}" + (f" of {os.cpu_count()}" if seen != os.cpu_count() else ""))


def threads(found: Limits, of_torch: int | None = None) -> Finding:
    """Threads that torch computes with on a CPU; None: ask it."""
    may = found.may_compute
    if of_torch is None:
        import torch

        of_torch = torch.get_num_threads()
    said = f"torch computes with {of_torch} on {may} cores"
    if of_torch > may:
        return warning(f"{said}: they wait for one another", f"export OMP_NUM_THREADS={may}")
    # With two threads a core, torch takes the cores.
    if of_torch < may / 2:
        return warning(f"{said}: the others are idle", f"export OMP_NUM_THREADS={may}, or unset it")
    return ok(said)


def memory(found: Limits) -> Finding:
    may = min(
        found.free_bytes, found.free_bytes if found.cgroup_bytes is None else found.cgroup_bytes
    )
    said = f"{may / GIB:.1f} GiB free" + (" (cgroup)" if may < found.free_bytes else "")
    remedy = "end other processes or raise the container's limit; --bs, --num_workers take less"
    if may < LEAST_MEMORY:
        return bad(f"{said}, {LEAST_MEMORY / GIB:g} are needed", remedy)
    return ok(said) if may >= MEMORY else warning(f"{said}: small networks only", remedy)


def free_memory(info: Path = Path("/proc/meminfo")) -> int:
    """Bytes."""
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def batch_bytes(clips: int, device: str) -> int:
    """Of batches under way in a loader with the default flags; they lie in shared memory."""
    from dali_pipes import ClipLoader
    from dali_pipes.sources import Synthetic

    return ClipLoader(Synthetic.make(1), batch_size=clips, device=device)._feed.bytes_ahead


def shared_memory(
    device: str, place: Path = SHM, need: Callable[[int, str], int] = batch_bytes
) -> Finding:
    """Workers hand over clips there; for the batches of `BATCHES`."""
    remedy = "docker run --shm-size=1g (or mount -o remount,size=1g /dev/shm); else --num_workers 0"
    try:
        free = _writable_bytes(place)
    except OSError as error:
        return bad(f"{place}: {first_line(error)}", remedy)
    said = f"{free / MIB:.0f} MiB free"
    for name, clips in BATCHES.items():
        if free < (most := need(clips, device)):
            short = f"{said}, batches of {clips} clips ({name}) may take {most / MIB:.0f}"
            return (bad if name == "default" else warning)(short, f"{remedy}; or a smaller --bs")
    return ok(said)


def _writable_bytes(place: Path) -> int:
    """Free in a folder; OSError unless one byte can be written there."""
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(1))
    return shutil.disk_usage(place).free


def open_files(workers: int, limit: int | None = None) -> Finding:
    """`workers`: that a run is to have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    may = soft if limit is None else limit
    if may == resource.RLIM_INFINITY:
        return ok("no limit")
    remedy = "ulimit -n 4096" if not 0 <= hard < 4096 else "docker run --ulimit nofile=4096"
    if may < LEAST_FILES:
        return bad(f"{may} may be open, {FILES} are needed", remedy)
    need = FILES + FILES_OF_WORKER * workers
    if may < need:
        return warning(f"{may} may be open, {workers} workers may need {need}", remedy)
    return ok(f"{may} may be open")


def disk(place: Path, least: int, what: str, remedy: str) -> Finding:
    """Whether `what` can be written to a folder, which need not exist, and how much of it."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        free = _writable_bytes(place)
    except OSError as error:
        return warning(f"{place}: {first_line(error)}: {what} cannot be written", remedy)
    said = f"{place}: {free / GIB:.1f} GiB free for {what}"
    return ok(said) if free >= least else warning(said, remedy)


def cache() -> Finding:
    from kernels.cache import cache_folder

    remedy = "export XDG_CACHE_HOME=FOLDER of yours; without it kernels and lists are made anew"
    what = "indexes of read-only folders, compiled kernels"
    return disk(cache_folder(), LEAST_CACHE, what, remedy)


def output() -> Finding:
    remedy = "--model_save_dir, --log_dir: folders on a disk with room"
    return disk(Path.cwd(), LEAST_OUTPUT, "checkpoints and events", remedy)


def compiler() -> Finding:
    found = shutil.which("g++")
    return (
        ok(found)
        if found
        else warning(
            "g++ is not there: tests that execute CUDA text fail",
            "apt-get install g++; training does without",
        )
    )
