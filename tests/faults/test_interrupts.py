"""Ctrl-C at a terminal: one line, exit code 130."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic

ROOT = Path(__file__).parents[2]
CLIPS = "--clip_len 8 --size 32 --resize 36x48 --clips_per_video 20000 --num_workers 0 --device cpu"


@pytest.mark.parametrize(
    ("command", "begins", "line"),
    [
        ("dali_pipes.labels {videos} --out {out}/a.npz", "memory", "interrupted; nothing written"),
        (
            "model.evaluate scenes --checkpoint random --width 0.05 --videos {videos} --out {out}",
            "computing features",
            "evaluate: interrupted; the same command goes on where it was",
        ),
    ],
)
def test_an_interrupt_is_one_line(command: str, begins: str, line: str, tmp_path: Path) -> None:
    frames, _ = Synthetic.make(1, 20, (48, 64)).read_clip(0, range(20), None)
    for name in ("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "videos" / name, frames)
    arguments = f"{command} {CLIPS}".format(videos=tmp_path / "videos", out=tmp_path).split()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        # A shell in the background has SIGINT ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while not process.stdout.readline().startswith(begins):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == line
    assert "Traceback" not in rest
    assert not list(tmp_path.glob("*.npz"))
