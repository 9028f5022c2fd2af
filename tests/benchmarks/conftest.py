"""Videos to measure on: few, short, rendered once."""

from pathlib import Path

import pytest

from benchmarks import inputs
from dali_pipes.prepare.samples import write_sample


@pytest.fixture(scope="session")
def few_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for motion in ("up", "left"):
        (folder / motion).mkdir()
        for number in range(2):
            path = folder / motion / f"{motion}_{number}.{('mp4', 'avi')[number]}"
            write_sample(path, motion, number, "train", 0)
    return folder


@pytest.fixture(scope="session")
def few_reels(few_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs.as_reels(few_samples, tmp_path_factory.mktemp("reels"))
