"""Videos to measure on: few, short, rendered once."""

from functools import partialmethod
from pathlib import Path

import pytest
from torch import nn

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
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which reports look for what they are measured on."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="session")
def few_reels(few_samples: Path, bench: Path) -> Path:
    return inputs.as_reels(few_samples, bench)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.compile` traces the network and runs it as it is: no g++, which takes a minute."""
    quick = partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", quick)
