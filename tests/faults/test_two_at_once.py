"""Two of the same at once: one owner, whom the other names; a crash leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import train
from dali_pipes.lock import locked
from dali_pipes.prepare.__main__ import main as prepare
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic
from model.training import report

ROOT = Path(__file__).parents[2]
SMALL = "--width 0.05 --clip_len 8 --size 32 --resize 36x48 --num_workers 0 --precision float32"
HOLDER = """
import sys
from pathlib import Path
from dali_pipes.lock import locked
with locked(Path(sys.argv[1]), "command"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold() -> Callable[[Path], subprocess.Popen]:
    """Another process that owns a lock until it is killed."""
    started = []

    def start(file: Path) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(file)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_owner_is_named_and_a_crash_lets_go(
    hold: Callable[[Path], subprocess.Popen], tmp_path: Path
) -> None:
    file = tmp_path / ".lock"
    owner = hold(file)
    with (
        pytest.raises(ValueError, match=rf"another thing works there \(process {owner.pid} on "),
        locked(file, "thing"),
    ):
        pytest.fail("two owners")
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    with locked(file, "thing"):
        assert file.read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("command", ["frames", "flow"])
def test_one_prepare_at_a_time(
    command: str,
    hold: Callable[[Path], subprocess.Popen],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    (videos / "a").mkdir(parents=True)
    write_video(videos / "a" / "v.mp4", np.zeros((17, 32, 48, 3), np.uint8))
    assert prepare(["frames", str(videos), "--out", str(out), "--workers", "1"]) == 0
    given = [str(videos), "--out", str(out)] if command == "frames" else [str(out)]
    owner = hold(out / f".{command}.lock")
    assert prepare([command, *given, "--workers", "1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"another `prepare {command}` works there (process {owner.pid} on" in error
    owner.kill()
    owner.wait()
    assert prepare([command, *given, "--workers", "1"]) == 0


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "open_source", lambda *_: Synthetic.make(6, 16, (48, 64)))
    monkeypatch.setattr(train, "picture", lambda *_: np.zeros((8, 8, 3), np.uint8))


def run(place: Path, flags: str, logs: str = "logs") -> int:
    folders = f"--log_dir {place / logs} --model_save_dir {place / 'saved'}"
    return train.main(f"--videos synthetic {SMALL} {folders} {flags}".split())


def test_a_run_that_trains_is_not_resumed(
    synthetic: None,
    hold: Callable[[Path], subprocess.Popen],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path, "--steps 1") == 0
    (folder,) = (tmp_path / "saved").iterdir()
    owner = hold(folder / ".lock")
    before = sorted(folder.iterdir())
    assert run(tmp_path, "--steps 2 --resume") == 2
    error = capsys.readouterr().err
    assert f"{folder}: another training works there (process {owner.pid} on" in error
    assert error.count("\n") == 1
    assert sorted(folder.iterdir()) == before
    owner.kill()
    owner.wait()
    assert run(tmp_path, "--steps 2 --resume") == 0
    assert len(list(folder.glob("step_*.pt"))) == 2


def test_runs_begun_in_one_second_share_nothing(
    synthetic: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 1, 1)

    monkeypatch.setattr(report, "datetime", Stopped)
    assert run(tmp_path, "--steps 1", "logs") == 0
    assert run(tmp_path, "--steps 1", "elsewhere") == 0
    assert run(tmp_path, "--steps 1", "logs") == 0
    assert run(tmp_path, "--steps 1", "saved") == 0  # one folder for both
    for folder in (tmp_path / "saved").iterdir():
        assert len(list(folder.glob("step_*.pt"))) == 1
    assert len(list((tmp_path / "saved").iterdir())) == 4


def test_two_flows_of_one_folder_started_together(tmp_path: Path) -> None:
    """Either may be first; the other says so, and the flow is whole."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for n in range(2):
        pictures = rng.integers(0, 256, (30, 64, 96, 3), np.uint8)
        write_video(tmp_path / "videos" / f"v{n}.mp4", pictures)
    out = tmp_path / "out"
    assert prepare(["frames", str(tmp_path / "videos"), "--out", str(out), "--workers", "1"]) == 0
    command = [sys.executable, "-m", "dali_pipes.prepare", "flow", str(out), "--workers", "1"]
    started = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = {process.wait(120): process.communicate()[1] for process in started}
    assert set(ended) in ({0, 2}, {0})  # or the second began when the first had ended
    if 2 in ended:
        assert "another `prepare flow` works there" in ended[2]
    assert len(list((out / "flow/u").glob("*/frame*.jpg"))) == 2 * 29
