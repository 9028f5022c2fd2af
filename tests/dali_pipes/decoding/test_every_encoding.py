"""Frames by number of every encoding and of real videos, against counting in the plainest way."""

from pathlib import Path

import av
import numpy as np
import pytest

from dali_pipes.decoding.video import picture_count
from dali_pipes.prepare.check import inspect
from dali_pipes.sources import VideoFiles
from tests.dali_pipes.decoding.encodings import FRAMES, write_all


def counted(path: Path) -> list[np.ndarray]:
    """All frames, as a decoder shows them that is told nothing."""
    with av.open(str(path), metadata_errors="replace") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def check(path: Path, every: int, strides: range) -> int:
    """Compare clips from every `every`-th start; how many."""
    frames, source, clips = counted(path), VideoFiles.one(path), 0
    for stride in strides:
        for start in range(0, len(frames) - 15 * stride, every):
            numbers = range(start, start + 15 * stride + 1, stride)
            got, _ = source.read_clip(0, numbers, None)
            assert np.array_equal(got, [frames[n] for n in numbers]), (path.name, numbers)
            clips += 1
    return clips


@pytest.mark.parametrize(
    ("every", "strides"),
    [(41, range(1, 3)), pytest.param(10, range(1, 5), marks=pytest.mark.battery)],
    ids=["some", "all"],
)
def test_every_encoding_is_read_as_counted(tmp_path: Path, every: int, strides: range) -> None:
    files = list(write_all(tmp_path))
    assert len(files) > 100
    for path in files:
        assert check(path, every, strides) > 2
        found = inspect(str(path), 16)
        assert found.wrong == (), path.name
        assert found.frames == picture_count(path)
        assert FRAMES - 3 <= picture_count(path) <= FRAMES


@pytest.mark.battery
def test_every_real_video_is_read_as_counted(real_data: Path) -> None:
    videos = sorted(p for p in (real_data / "videos").rglob("*") if p.is_file())
    for path in videos:
        assert check(path, 10, range(1, 5)) > 2
