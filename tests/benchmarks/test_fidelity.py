"""Fidelity: labels are compared with those of the same pixels, and of no others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fidelity
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Reels, Synthetic


@pytest.fixture(scope="session")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    textures = Synthetic.make(2, frames=20, size=(64, 80))
    for item in range(2):
        frames, _ = textures.read_clip(item, range(20), None)
        write_video(folder / f"{item}.mp4", frames)
    return folder


def test_a_run_appends_a_row_with_agreement_and_sizes(moving: Path, tmp_path: Path) -> None:
    fidelity.main(["--videos", str(moving), "--crops", "2", "--results", str(tmp_path)])
    rows = json.loads((tmp_path / "fidelity.jsonl").read_text())["results"]
    ways = [("reels", 90), ("reels", 95), ("reels", 98), ("JPEG folders", 95)]
    assert [(row["stored"], row["quality"], row["rule"]) for row in rows] == [
        (*way, rule) for way in ways for rule in ("corrected", "reference")
    ]
    for row in rows:
        assert row["crops"] == 4
        assert all(0 <= row[column] <= 100 for column in fidelity.COLUMNS)
    for size in ("kb_a_frame", "kb_a_field"):
        assert rows[0][size] < rows[2][size] < rows[4][size]


def test_what_reels_show_has_the_labels_of_reels_and_other_pixels_have_not(few_reels: Path) -> None:
    reels = Reels.found(few_reels)
    exact = []
    for item in range(len(reels)):
        numbers = range(reels.probe(item).frames - 1)
        images, fields = reels.read_encoded(item, numbers, numbers)
        shown = np.stack(list(reels.frames_of(item, images, numbers)))
        flow = np.stack(list(reels.fields_of(item, fields, numbers)))
        exact.append(fidelity.Exact(shown, flow))
    arguments = {"videos": replace(reels, paths=[f"{n}.mp4" for n in range(len(reels))])}
    row = fidelity.compared(arguments, "reference", exact, crops=3)
    assert all(row[column] == 100 for column in fidelity.COLUMNS)
    shuffled = fidelity.compared(arguments, "reference", exact[::-1], crops=3)
    assert all(shuffled[column] < 100 for column in fidelity.COLUMNS)


def test_clips_that_were_not_written_without_loss_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, _ = Synthetic.make(1, size=(64, 80)).read_clip(0, range(3), None)
    lossy = fidelity.write_video
    monkeypatch.setattr(fidelity, "write_video", lambda file, frames, *a, **k: lossy(file, frames))
    with pytest.raises(SystemExit, match=r"000\.mkv: was not written without loss"):
        fidelity.write_clips([clip], tmp_path / "clips")
