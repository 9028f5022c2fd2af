"""The flow benchmark: it refuses wrong flow before it times any, and says what it left out."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from benchmarks import flow
from dali_pipes.prepare.encode import write_video
from kernels import cuda_module
from kernels.flow import cuda as cuda_flow


def write_moving_texture(path: Path, frames: int) -> None:
    """A texture in which a square moves otherwise than the rest."""
    noise = np.random.default_rng(2).standard_normal((200, 200, 3))
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    images = []
    for t in range(frames):
        image = texture[20 : 20 + 64, 10 + t : 10 + t + 80].copy()
        image[20:44, 10 + 2 * t : 34 + 2 * t] = texture[100:124, 100:124]
        images.append(image.astype(np.uint8))
    write_video(path, images)


def test_a_run_appends_a_row_with_speed_and_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_moving_texture(tmp_path / "a.mp4", 20)
    write_moving_texture(tmp_path / "b.mp4", 9)
    flow.main(["--videos", str(tmp_path), "--crops", "4", "--results", str(tmp_path)])
    text = capsys.readouterr().out
    assert "b.mp4" in text
    assert "has 9 frames, 17 needed" in text
    row = json.loads((tmp_path / "flow.jsonl").read_text())
    results = {one["flow"]: one for one in row["results"]}
    kinds = ("position", "orientation", "frame")
    assert all(results["TV-L1, OpenCV"][kind] == 100 for kind in kinds)
    same, other = results["TV-L1, kernels.flow.cpu"], results["DIS medium of frames of 128x171"]
    assert all(same[kind] > other[kind] for kind in kinds)
    assert all(one["pairs_per_s"] > 0 and one["crops"] == 4 for one in results.values())


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda frames: flow.dis(frames)[..., ::-1], "px off a known motion"),
        (lambda frames: flow.dis(frames)[1:], "px off a known motion"),
    ],
    ids=["u and v swapped", "a field short"],
)
def test_wrong_flow_is_not_timed(broken, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit, match=words):
        flow.verify(flow.Source("broken", broken))


def test_tvl1_that_is_not_opencvs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "tvl1_flow", flow.farneback)
    with pytest.raises(SystemExit, match="off OpenCV's TV-L1"):
        flow.verify(flow.Source("broken", flow.farneback))


def test_calls_are_timed_launched_one_by_one_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call on a recorder that knows or does not know it."""
    known: set[int] = set()
    calls: list[tuple[int, bool]] = []

    def call(clips: torch.Tensor) -> None:
        calls.append((len(clips), len(clips) in known))
        known.add(len(clips))

    monkeypatch.setattr(cuda_flow, "tvl1_flow", call)
    monkeypatch.setattr(cuda_module, "recorder", SimpleNamespace(cache_clear=known.clear))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    rows = flow.replays(np.zeros((17, 8, 8, 3), np.uint8))
    assert [row["flow"].split(", ")[2:] for row in rows] == [
        [f"{count} clips", name]
        for count in (1, 4, 16)
        for name in ("launched one by one", "replayed")
    ]
    assert all(0 < row["host_ms"] <= row["ms"] and row["pairs_per_s"] > 0 for row in rows)
    for count in (1, 4, 16):
        seen = [was_known for clips, was_known in calls if clips == count]
        assert seen == [False] * (1 + flow.ROUNDS) + [True] * (1 + flow.ROUNDS)


def test_every_source_finds_a_known_motion() -> None:
    for source in flow.cpu_sources():
        flow.verify(source)
