"""The machinery, with stages of its own."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dali_pipes.decoding.opening import BadVideo
from dali_pipes.prepare.work import BadInput, Ranks, each, ranks, worker_count

ROOT = Path(__file__).parents[3]


def double(item: int) -> int:
    return 2 * item


def some_fail(item: int) -> int:
    if item == 1:
        raise BadVideo("x", "decode", "is damaged")
    if item == 2:
        raise ZeroDivisionError("by zero")
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def disk_full(item: int) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def outcomes(stage, items, workers=2, **more):  # type: ignore[no-untyped-def]
    return dict(
        each(stage, items, Ranks(), title="t", unit="item", name=str, workers=workers, **more)
    )


def test_every_item_has_its_result() -> None:
    assert outcomes(double, range(20)) == {n: 2 * n for n in range(20)}
    assert outcomes(double, range(20), threads=True) == {n: 2 * n for n in range(20)}
    assert not multiprocessing.active_children()


def test_a_failure_fails_its_item_only() -> None:
    found = outcomes(some_fail, range(8))
    assert [n for n, outcome in found.items() if outcome == n] != []
    failed = {n: str(found.pop(n)) for n in (1, 2, 3)}
    assert failed[1] == "x: decode: is damaged"
    assert "ZeroDivisionError: by zero" in failed[2]
    assert "process died" in failed[3]
    assert found == {n: n for n in (0, 4, 5, 6, 7)}


def test_a_full_disk_ends_the_work() -> None:
    with pytest.raises(OSError, match="No space left"):
        outcomes(disk_full, range(8))


PARENT = """
import sys, time
from dali_pipes.prepare.work import Ranks, each

def slow(item):
    open(item, "w").close()
    time.sleep(600)

if __name__ == "__main__":
    items = sys.argv[1:]
    list(each(slow, items, Ranks(), title="t", unit="item", name=str, workers=2))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    started = [tmp_path / "a", tmp_path / "b"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script, *started],
        env=environment,
        stderr=subprocess.DEVNULL,
        # A shell that starts the tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as parent:
        wait_until(lambda: all(path.exists() for path in started))
        workers = children(parent.pid)
        assert len(workers) >= 2
        parent.send_signal(how)
    wait_until(lambda: not any(alive(worker) for worker in workers))


def wait_until(condition, seconds: float = 240) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ranks_share_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(10))
    shares = [Ranks(rank, 4, 4).share(items) for rank in range(4)]
    assert sorted(item for share in shares for item in share) == items
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert ranks() == Ranks(3, 8, 4)
    cores = len(os.sched_getaffinity(0))
    assert worker_count(None, ranks()) == max(1, cores // 4)
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(BadInput, match="RANK=8"):
        ranks()
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(BadInput, match="WORLD_SIZE"):
        ranks()
