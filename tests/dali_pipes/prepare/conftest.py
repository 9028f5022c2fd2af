"""Small videos, and the commands as functions."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dali_pipes.prepare.__main__ import main
from dali_pipes.prepare.encode import write_video

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def prepare(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with one worker: (exit status, everything it printed)."""

    def run(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        try:
            status = main([*map(str, arguments), "--workers", "1"])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, out + err

    return run


@pytest.fixture
def make_video() -> Callable[..., Path]:
    """Writes a video of a texture that moves 2 px to the right and 1 px up in each frame."""

    def make(path: Path, frames: int = 20, height: int = 48, width: int = 64) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(frames)
        coarse = rng.integers(30, 226, (height // 8, width // 8, 3), np.uint8)
        texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        codec = "mpeg4" if path.suffix == ".avi" else "libx264"
        images = [np.roll(texture, (-t, 2 * t), axis=(0, 1)) for t in range(frames)]
        write_video(path, images, codec, options={"qscale": "2", "flags": "+qscale"})
        return path

    return make
