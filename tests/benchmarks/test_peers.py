"""Rivals: a decoder that returns other frames is told from one that does not."""

from pathlib import Path

import pytest

from benchmarks import peers
from dali_pipes.clips import ClipSpec
from dali_pipes.decoding.video import read_frames
from dali_pipes.sources import VideoFiles


def off_by_one(path: str, numbers: range) -> peers.Array:
    return read_frames(path, range(numbers.start + 1, numbers.stop + 1))


def upside_down(path: str, numbers: range) -> peers.Array:
    return read_frames(path, numbers)[:, ::-1]


def test_frames_are_told_from_their_neighbours(
    few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "SAMPLED", 3)
    source, frames, left_out = peers._sound(VideoFiles.found(few_samples))
    assert left_out == 0
    samples = list(peers._samples(peers.Clips(source, frames, ClipSpec(), read_frames)))
    assert peers.returned(read_frames, samples) == {"frames": "same"}
    brighter = lambda *a: (read_frames(*a) * 0.9 + 8).astype("uint8")  # noqa: E731
    assert peers.returned(brighter, samples) == {"frames": "same"}
    first = samples[0].numbers[0]
    told = peers.returned(off_by_one, samples)
    assert told["frames"] == "48 of 48 are others"
    assert told["note"].endswith(f"frame {first}: is frame {first + 1}")
    assert "no frame near" in peers.returned(upside_down, samples)["note"]


def test_peers_are_timed_beside_the_loader_or_say_why_not(
    few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> peers.Read:
        raise ModuleNotFoundError

    readers = {"exact": lambda: read_frames, "late": lambda: off_by_one, "absent": missing}
    monkeypatch.setattr(peers, "READERS", readers)
    monkeypatch.setattr(peers, "ROUNDS", 2)
    monkeypatch.setattr(peers, "SAMPLED", 2)
    rows = peers.peers(few_samples, 0.01, batch_size=1, workers=0)
    by_name = {row["loader"]: row for row in rows}
    assert list(by_name) == ["ClipLoader", *(f"DataLoader + {name}" for name in readers)]
    exact, late = by_name["DataLoader + exact"], by_name["DataLoader + late"]
    assert exact["frames"] == "same"
    assert exact["ratio"] == pytest.approx(
        exact["us_per_clip"] / by_name["ClipLoader"]["us_per_clip"], rel=0.02
    )
    assert exact["ratio_low"] <= exact["ratio"] <= exact["ratio_high"]
    assert late["frames"] == "32 of 32 are others"
    assert by_name["DataLoader + absent"]["note"].startswith("absent is not installed")
    assert "us_per_clip" not in by_name["DataLoader + absent"]


def test_other_labels_are_not_timed(few_samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = peers.clip_labels
    monkeypatch.setattr(peers, "clip_labels", lambda *a: right(*a) + 1)
    with pytest.raises(SystemExit, match=r"DataLoader: \d+ labels differ"):
        peers.peers(few_samples, 0.01, batch_size=1, workers=0)
