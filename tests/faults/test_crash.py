"""Runs that are killed, at any moment, and go on as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from dali_pipes.prepare.encode import write_video
from tests.faults.damage import moving

ROOT = Path(__file__).parents[2]
SMALL = "--width 0.05 --clip_len 8 --size 32 --resize 36x48 --precision float32 --device cpu --bs 2"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven small videos, one of them cut off."""
    folder = tmp_path_factory.mktemp("videos")
    for n in range(7):
        write_video(folder / f"{n}.mp4", moving((48, 64), 24, seed=n))
    data = (folder / "3.mp4").read_bytes()
    (folder / "3.mp4").write_bytes(data[: len(data) // 2])
    return folder


def command(videos: Path, out: Path, flags: str) -> list[str]:
    folders = f"--log_dir {out / 'logs'} --model_save_dir {out / 'saved'}"
    return f"--videos {videos} {SMALL} {folders} --save_minutes 0 {flags}".split()


def checkpoints(out: Path) -> list[Path]:
    return sorted((out / "saved").rglob("*.pt"))


def losses(out: Path) -> dict[int, float]:
    """The loss of every step, whatever runs its events come from."""
    found = {}
    for folder in (out / "logs").iterdir():
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        if "mse_loss" in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars("mse_loss")}
    return found


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "train.py", *arguments], cwd=ROOT)


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Ended, or ended and not yet reaped by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.battery)])
def test_killed_at_random_equals_an_uninterrupted_run(
    videos: Path, tmp_path: Path, kills: int
) -> None:
    """Killed again and again: while starting, in a step, while a checkpoint is written."""
    out, moments = tmp_path / "killed", random.Random(kills)
    progress = 0
    for kill in range(kills):
        process = start(command(videos, out, "--steps 999999 --num_workers 1 --resume"))
        # One of four dies while it starts, the others at some moment after a step of their own.
        if kill % 4 == 1:
            time.sleep(moments.uniform(0.5, 6))
        else:
            before = checkpoints(out)[-1:]
            wait_for(lambda b=before: checkpoints(out)[-1:] != b, 120, "a checkpoint")
            time.sleep(moments.uniform(0, 1))
        workers = children(process.pid)
        assert process.poll() is None, "the run ended by itself"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        wait_for(lambda w=workers: all(map(gone, w)), 30, "orphaned workers to end")
        newest = int(checkpoints(out)[-1].stem.removeprefix("step_"))
        assert newest >= progress
        progress = newest

    flags = f"--steps {progress + 2}"
    assert train.main(command(videos, out, f"{flags} --num_workers 1 --resume")) == 0
    assert train.main(command(videos, tmp_path / "whole", f"{flags} --num_workers 1")) == 0
    assert losses(out) == losses(tmp_path / "whole")
    assert list(losses(out)) == list(range(1, progress + 3))
    ours, theirs = (
        torch.load(checkpoints(place)[-1], weights_only=True) for place in (out, tmp_path / "whole")
    )
    assert ours["loader"] == theirs["loader"]
    for name, weight in ours["net"].items():
        if isinstance(weight, torch.Tensor):
            assert torch.equal(weight, theirs["net"][name]), name


def test_a_rank_that_dies_ends_all(videos: Path, tmp_path: Path) -> None:
    flags = command(videos, tmp_path, "--steps 999999 --num_workers 1")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         "train.py", *flags],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        wait_for(lambda: len(checkpoints(tmp_path)) > 1, 120, "two checkpoints")
        ranks = children(launcher.pid)
        everybody = [*ranks, *(worker for rank in ranks for worker in children(rank))]
        os.kill(ranks[1], signal.SIGKILL)
        assert launcher.wait(60) != 0
        wait_for(lambda: all(map(gone, everybody)), 30, "all processes to end")
    finally:
        launcher.kill()
