"""A folder with something wrong in nearly every file, and its page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dali_pipes import browse
from dali_pipes.prepare.encode import write_video
from model.networks.build import statistics_net
from model.training import checkpoint

HOSTILE = "<img src=x onerror=alert(1)>"
SIZE = (96, 128)


def noise(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A picture with large and small spots."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3)), np.ones((8, 8, 1)))
    return (0.8 * coarse + 0.2 * rng.integers(0, 256, (*size, 3))).astype(np.uint8)


def moving(seed: int, frames: int, step: int = 2) -> Iterator[NDArray[np.uint8]]:
    """A square of noise that moves right over noise."""
    ground, square = noise(seed), noise(seed + 100, (32, 32))
    for t in range(frames):
        picture = ground.copy()
        left = 8 + step * t % 80
        picture[32:64, left : left + 32] = square
        yield picture


def write_odd_videos(folder: Path) -> None:
    """Videos of the classes up and HOSTILE: black, static, cut, twins, too short, damaged, ..."""
    for name in ("up", HOSTILE):
        (folder / name).mkdir(parents=True)
    videos = {
        "up/plain.mp4": moving(0, 24),
        "up/black.mp4": (np.zeros((*SIZE, 3), np.uint8) for _ in range(20)),
        "up/static.mp4": (noise(1) for _ in range(20)),
        f"{HOSTILE}/cut.mp4": (frame for seed in (2, 3) for frame in moving(seed, 10)),
        f"{HOSTILE}/twin {HOSTILE.replace('/', '')}.mp4": moving(0, 24),
        "up/short.mp4": moving(4, 5),
    }
    for name, frames in videos.items():
        write_video(folder / name, frames)
    (folder / "up" / "damaged.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(64))
    shutil.copy(folder / "up" / "plain.mp4", folder / "up" / "no suffix")
    plain = os.fsencode(folder / "up" / "plain.mp4")
    shutil.copy(plain, plain.replace(b"plain.mp4", b"not utf-8 \xff.mp4"))


def write_checkpoint(path: Path, head: str = "classification") -> None:
    """An untrained narrow network, as train.py would keep it."""
    torch.manual_seed(0)
    args = {
        "model": "r3d", "width": 0.05, "head": head, "motion_flag": (1, 1, 1, 1),
        "app_flag": (1, 1, 0, 1), "clip_len": 16, "size": 112, "resize": (128, 171), "stride": 1,
        "labels": "corrected",
    }  # fmt: skip
    parts = ("model", "width", "head", "motion_flag", "app_flag", "clip_len")
    net = statistics_net(*(args[name] for name in parts))
    checkpoint.save(path, {"args": args, "net": net.state_dict(), "step": 7}, 7, keep=1)


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "videos"
    write_odd_videos(folder)
    return folder


@pytest.fixture(scope="session")
def odd_page(odd_folder: Path) -> Path:
    """The page of the odd videos, with what an untrained network predicts."""
    write_checkpoint(odd_folder.parent / "runs")
    page = odd_folder.parent / "page.html"
    flags = ["--out", page, "--clips", "12", "--num_workers", "0"]
    flags += ["--checkpoint", odd_folder.parent / "runs"]
    assert browse.main([str(odd_folder), *map(str, flags)]) == 0
    return page
