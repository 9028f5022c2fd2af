"""What a clip costs: for every video that can be used, and only if its frames are right."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decoding
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    frames = Synthetic.make(1, frames=40, size=(48, 64)).read_clip(0, range(40), None)[0]
    write_video(folder / "a.mp4", frames)
    write_video(folder / "b.avi", frames, "mpeg4")
    write_video(folder / "short.mp4", frames[:9])
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_a_row_a_video(
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(videos)
    flags = ["--videos", f"../{videos.name}", "--clips", "3", "--rounds", "1"]
    decoding.main([*flags, "--results", str(tmp_path)])
    said = capsys.readouterr().out
    assert "short.mp4" in said
    assert "broken.mp4" in said
    (row,) = map(json.loads, (tmp_path / "decoding.jsonl").read_text().splitlines())
    assert [result["video"] for result in row["results"]] == ["a.mp4", "b.avi"]
    assert [result["codec"] for result in row["results"]] == ["h264", "mpeg4"]
    assert all(result["counting_seconds"] > 0 < result["seconds"] for result in row["results"])


def test_other_frames_are_not_timed(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = decoding.as_workers

    def late(path: str, numbers: range) -> np.ndarray:
        return right(path, range(numbers[0] - 1, numbers[-1]) if numbers[0] > 9 else numbers)

    monkeypatch.setattr(decoding, "as_workers", late)
    with pytest.raises(SystemExit, match=r"a\.mp4: frames from .* are others than by counting"):
        decoding.main(["--videos", str(videos)])
