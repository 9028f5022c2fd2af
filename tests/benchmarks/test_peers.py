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
    found = VideoFiles.found(few_samples)
    source, frames, left_out = peers._sound(found, found.paths)
    assert left_out == 0
    samples = list(
        peers._samples(peers.Clips(source, frames, ClipSpec(), read_frames, peers.as_people))
    )
    assert peers.returned(read_frames, samples) == {"frames": "same"}
    brighter = lambda *a: (read_frames(*a) * 0.9 + 8).astype("uint8")  # noqa: E731
    assert peers.returned(brighter, samples) == {"frames": "same"}
    first = samples[0].numbers[0]
    told = peers.returned(off_by_one, samples)
    assert told["frames"] == "48 of 48 are others"
    assert told["note"].endswith(f"frame {first}: is frame {first + 1}")
    assert "no frame near" in peers.returned(upside_down, samples)["note"]
    source, _, left_out = peers._sound(found, found.paths[1:])
    assert (source.paths, left_out) == (found.paths[1:], 1)


def test_peers_are_timed_beside_the_loader_or_say_why_not(
    few_samples: Path, few_reels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> peers.Read:
        raise ModuleNotFoundError

    readers = {"exact": lambda: read_frames, "late": lambda: off_by_one, "absent": missing}
    monkeypatch.setattr(peers, "READERS", readers)
    monkeypatch.setattr(peers, "ROUNDS", 2)
    monkeypatch.setattr(peers, "SAMPLED", 2)
    ours, of_reels, *rivals = peers.peers(few_samples, few_reels, 0.01, batch_size=1, workers=0)
    assert [(row["loader"], row["input"]) for row in (ours, of_reels)] == [
        ("ClipLoader", "videos"),
        ("ClipLoader", "reels"),
    ]
    by_name = {row["loader"]: row for row in rivals}
    assert list(by_name) == [f"DataLoader + {name}" for name in readers]
    exact, late = by_name["DataLoader + exact"], by_name["DataLoader + late"]
    assert exact["frames"] == "same"
    for row in (exact, late):
        for column, loader in (("ratio", ours), ("reels_ratio", of_reels)):
            wanted = row["us_per_clip"] / loader["us_per_clip"]
            assert row[column] == pytest.approx(wanted, rel=0.02)
    assert exact["ratio_low"] <= exact["ratio"] <= exact["ratio_high"]
    assert late["frames"] == "32 of 32 are others"
    assert of_reels["frames"] == "same"
    assert of_reels["ratio"] == exact["reels_ratio"]  # the late one counts for nothing
    assert of_reels["note"] == "ratio to DataLoader + exact"
    assert by_name["DataLoader + absent"]["note"].startswith("absent is not installed")
    assert "us_per_clip" not in by_name["DataLoader + absent"]


def test_other_labels_are_not_timed(
    few_samples: Path, few_reels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = peers.clip_labels
    monkeypatch.setattr(peers, "clip_labels", lambda *a: right(*a) + 1)
    with pytest.raises(SystemExit, match=r"DataLoader: \d+ labels differ"):
        peers.peers(few_samples, few_reels, 0.01, batch_size=1, workers=0)


def test_reels_of_other_clips_are_not_timed(
    few_samples: Path, few_reels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subset = peers.Reels.subset
    monkeypatch.setattr(peers.Reels, "subset", lambda reels, items: subset(reels, items[::-1]))
    with pytest.raises(SystemExit, match="reels: start of their clips is not that of the videos"):
        peers.peers(few_samples, few_reels, 0.01, batch_size=1, workers=0)
