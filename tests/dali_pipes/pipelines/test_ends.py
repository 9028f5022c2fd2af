"""However a process that loads clips ends: at once, and nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.dali_pipes.pipelines.test_running import running

SCRIPT = """
import gc, signal, sys, threading, time
from dali_pipes import ClipLoader
from dali_pipes.sources import Synthetic

loader = ClipLoader(Synthetic.make(8, size=(48, 64)), batch_size=2, device="cpu",
                    resize=(32, 40), size=24, num_workers=WORKERS)
batches = iter(loader)
for _ in range(3):
    next(batches)
running = loader._feed._running
print(*(worker.pid for worker in running._work.workers), flush=True)
if WAITS:  # until the batch ahead is there and everybody idle
    time.sleep(2)
print("end", flush=True)
"""
# How it ends, and what it ends with.
ENDS = {
    "falls off the end": ("", 0),
    "exception": ("raise ValueError('the end')", 1),
    "exception that keeps the loader": ("kept = loader, batches\nraise ValueError('the end')", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "collected": ("del loader, batches, running\ngc.collect()\ntime.sleep(0.5)", 0),
    "closed": ("loader.close()", 0),
    "closed twice": ("loader.close()\nloader.close()", 0),
    "generator closed": ("batches.close() if hasattr(batches, 'close') else None", 0),
    "in a thread": ("t = threading.Thread(target=lambda: next(batches))\nt.start()", 0),
    "Ctrl-C": ("while True: next(batches, None)", signal.SIGINT),
    "SIGTERM": ("while True: next(batches, None)", signal.SIGTERM),
    "SIGTERM handled": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\nwhile True: next(batches, None)",
        7,
    ),
    "kill -9": ("while True: next(batches, None)", signal.SIGKILL),
}
QUICK = [
    ("exception", 1, True),
    ("Ctrl-C", 1, False),
    ("kill -9", 2, False),
]
ALL = [(end, workers, waits) for end in ENDS for workers in (0, 1, 2) for waits in (False, True)]
SECONDS = 5
BATTERY = pytest.mark.battery


@pytest.mark.parametrize(
    ("end", "workers", "waits"),
    QUICK + [pytest.param(*case, marks=BATTERY) for case in ALL if case not in QUICK],
)
def test_it_ends_at_once_and_leaves_nothing(
    end: str, workers: int, waits: bool, tmp_path: Path
) -> None:
    last, status = ENDS[end]
    script = tmp_path / "script.py"
    start = SCRIPT.replace("WORKERS", str(workers)).replace("WAITS", str(waits))
    script.write_text(start + last + "\n")
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    root = Path(__file__).parents[3]
    shared = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal has it: Ctrl-C reaches workers, too
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == workers
    for _ in range(2 if end == "SIGTERM handled" else 1):
        process.stdout.readline()
    if status in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL) or end == "SIGTERM handled":
        time.sleep(0.2)
        if end == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM if end.startswith("SIGTERM") else signal.SIGKILL)
    began = time.monotonic()
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    took = time.monotonic() - began
    expected = -status if isinstance(status, signal.Signals) else status
    assert process.returncode == expected, said
    while time.monotonic() - began < SECONDS and (left := remains(pids, scratch, shared)):
        time.sleep(0.1)
    assert took < SECONDS
    # Without a worker nobody is left to tidy up after a kill.
    if workers or not isinstance(status, signal.Signals) or end == "Ctrl-C":
        assert not left
    assert "Fatal Python error" not in said
    assert "LoaderStopped" not in said


INTERRUPTED = """
from dali_pipes import ClipLoader
from dali_pipes.sources import Synthetic

arguments = dict(batch_size=2, device="cpu", resize=(32, 40), size=24)
loader = ClipLoader(Synthetic.make(8, size=(48, 64)), num_workers=WORKERS, **arguments)
loader.next_batch()  # an interrupted import of DALI would be half a DALI
loader.load_state_dict(loader.state_dict() | {"consumed": 0})
taken, interrupts = [], 0
print("ready", flush=True)
while interrupts < INTERRUPTS or len(taken) < 12:
    try:
        while interrupts < INTERRUPTS or len(taken) < 12:
            batch = loader.next_batch()
            taken.append((batch.video.tolist(), batch.start.tolist(), int(batch.labels.sum())))
    except KeyboardInterrupt:
        interrupts += 1
        print("interrupted", flush=True)
loader.close()
again = ClipLoader(Synthetic.make(8, size=(48, 64)), num_workers=0, **arguments)
for n, one in enumerate(taken):
    batch = again.next_batch()
    assert one == (batch.video.tolist(), batch.start.tolist(), int(batch.labels.sum())), n
print(len(taken), loader.consumed == again.consumed, flush=True)
"""


@pytest.mark.parametrize(
    ("workers", "interrupts"),
    [pytest.param(workers, 5, marks=BATTERY) for workers in (0, 1, 2)],
)
def test_after_an_interrupt_the_stream_goes_on_with_the_right_clip(
    workers: int, interrupts: int, tmp_path: Path
) -> None:
    """As in a notebook, whose workers are interrupted with it."""
    script = tmp_path / "script.py"
    script.write_text(
        INTERRUPTED.replace("WORKERS", str(workers)).replace("INTERRUPTS", str(interrupts))
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    for n in range(interrupts):
        time.sleep(1 + 0.37 * n)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    count, equal = said.split()
    assert int(count) >= 12
    assert equal == "True"


STARTED = """
from dali_pipes import ClipLoader
loader = ClipLoader(VIDEOS, batch_size=2, device="cpu", labels=False, num_workers=2)
print("starting", flush=True)
try:
    while True:
        loader.next_batch()
except KeyboardInterrupt:
    print("over")
"""


def test_ctrl_c_while_workers_start_says_nothing_of_them(real_data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STARTED.replace("VIDEOS", repr(str(real_data / "videos"))))
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as a terminal has it: Ctrl-C reaches workers, too
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "starting\n")
    before = list(lines)  # what else a start says
    while not importing(process.pid):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "over\n"), before


def importing(pid: int) -> list[str]:
    """Workers that a process has started, once they are deep in their imports."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            maps = (stat.parent / "maps").read_text()
            worker = b"spawn_main" in (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and worker and "numpy" in maps:
            found.append(stat.parent.name)
    return found


def remains(pids: list[int], scratch: Path, shared: set[str]) -> list[str]:
    """What is left of a process: workers, files, shared memory."""
    workers = [str(pid) for pid in pids if running(pid)]
    files = [path.name for path in scratch.glob("sts-dali-*")]
    alone = "PYTEST_XDIST_WORKER" not in os.environ  # or tests beside this one make some, too
    return workers + files + sorted({*os.listdir("/dev/shm")} - shared if alone else ())
