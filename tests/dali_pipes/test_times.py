"""Which stage a loader's time is counted for. Stages are made long by sleeping in them."""

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dali_pipes import ClipLoader, loader
from dali_pipes.pipelines import fetch
from dali_pipes.pipelines.trace import Trace
from dali_pipes.sources import Synthetic

SMALL: dict[str, Any] = {"resize": (32, 40), "size": 24, "sampling": "even", "device": "cpu"}
SLEEP = 0.3  # far more than the work on such clips takes


class Slow(Synthetic):
    """Synthetic videos of which every third takes long to decode."""

    def read_clip(
        self, item: int, numbers: range, resize: tuple[int, int] | None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        if item % 3 == 0:
            time.sleep(3 * SLEEP)
        return super().read_clip(item, numbers, resize)


@pytest.mark.parametrize("workers", [0, 2])
def test_time_of_decoding_is_of_its_batch_and_a_clip(workers: int) -> None:
    clips = ClipLoader(Slow.make(6, size=(48, 64)), batch_size=2, num_workers=workers, **SMALL)
    assert clips.seconds_a_clip == {}
    seen = []
    for _ in range(3):  # items 0 1, 2 3, 4 5: the last has none that is slow
        clips.next_batch()
        seen.append(clips.seconds_a_clip)
    assert [set(seconds) for seconds in seen] == [{"waiting", "decode", "flow", "labels"}] * 3
    slow = [seconds["decode"] for seconds in seen]
    assert min(slow[:2]) >= 1.5 * SLEEP
    assert slow[2] < min(slow[:2]) / 2
    assert all(0 < seconds["flow"] < 1.5 * SLEEP for seconds in seen)
    assert seen[0]["waiting"] >= 1.5 * SLEEP / max(1, workers)  # nothing was prepared ahead
    clips.close()


def test_time_of_flow_is_not_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fetch.fast_flow

    def slow(*arguments: Any) -> np.ndarray:
        time.sleep(SLEEP)
        return real(*arguments)

    monkeypatch.setattr(fetch, "fast_flow", slow)
    clips = ClipLoader(Synthetic.make(2, size=(48, 64)), batch_size=2, num_workers=0, **SMALL)
    clips.next_batch()
    assert clips.seconds_a_clip["flow"] >= SLEEP > clips.seconds_a_clip["decode"] > 0


def test_time_of_labels_is_not_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    real = loader.clip_labels

    def slow(*arguments: Any) -> torch.Tensor:
        time.sleep(2 * SLEEP)
        return real(*arguments)

    clips = ClipLoader(Synthetic.make(6, size=(48, 64)), batch_size=2, num_workers=0, **SMALL)
    clips.next_batch()  # compiles
    monkeypatch.setattr(loader, "clip_labels", slow)
    clips.next_batch()
    assert clips.seconds_a_clip["labels"] >= SLEEP
    clips.next_batch()  # made while the labels slept
    assert clips.seconds_a_clip["waiting"] < SLEEP
    clips.close()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two folders of 16 JPEG images with flow."""
    for name in "xyz":
        for video in "ab":
            folder = tmp_path / name / video
            folder.mkdir(parents=True)
            for n in range(1, 17):
                image = np.full((32, 40, 3) if name == "x" else (32, 40), 100 + n, np.uint8)
                cv2.imwrite(str(folder / f"frame{n:06d}.jpg"), image)
    return {
        "rgb_prefix": tmp_path / "x",
        "flow_x_prefix": tmp_path / "y",
        "flow_y_prefix": tmp_path / "z",
    }


def test_what_dali_does_is_left_out(folders: dict[str, Path]) -> None:
    clips = ClipLoader(**folders, batch_size=2, num_workers=0, **SMALL)
    clips.next_batch()
    assert set(clips.seconds_a_clip) == {"waiting", "labels"}


def test_what_is_not_wanted_is_left_out() -> None:
    videos = Synthetic.make(2, size=(48, 64))
    clips = ClipLoader(videos, batch_size=2, num_workers=0, labels=False, **SMALL)
    clips.next_batch()
    assert set(clips.seconds_a_clip) == {"waiting", "decode"}


def test_a_trace_adds_up_a_clip_and_starts_anew() -> None:
    trace = Trace("")
    for stage in ("open", "decode", "decode", "flow"):  # the second: drawn again
        trace.write(stage, "a.mp4")
        time.sleep(0.1)
    trace.write("", "")
    assert trace.spent_ns["decode"] >= 0.2e9
    assert min(trace.spent_ns["open"], trace.spent_ns["flow"]) >= 0.1e9
    trace.write("open", "b.mp4")
    trace.write("", "")
    assert set(trace.spent_ns) == {"open"}
