"""The label benchmark: it refuses wrong labels before it times any, and its rows tell all."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import labels, timing
from benchmarks.torch_labels import torch_labels
from kernels.labels import clip_labels


def test_a_run_appends_a_row_that_names_machine_versions_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["labels", "--batch", "2", "--seconds", "0", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    timing.record("labels", [{"earlier": True}], tmp_path)
    labels.main()
    earlier, row = map(json.loads, (tmp_path / "labels.jsonl").read_text().splitlines())
    assert earlier["results"] == [{"earlier": True}]
    assert row["command"].startswith("python -m benchmarks.labels --batch 2")
    assert row["machine"]["cores"] >= 1
    assert row["versions"]["torch"] == torch.__version__
    single = next(one for one in row["results"] if one["threads"] == 1)
    assert single["clips_per_s"] == pytest.approx(1e6 / single["us_per_clip"], rel=0.02)
    assert str(single["us_per_clip"]) in capsys.readouterr().out


def test_a_backend_with_other_labels_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(frames: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        found = torch_labels(frames, flow)
        found[1, 3] = found[1, 3] % 8 + 1
        return found

    monkeypatch.setattr(labels, "torch_labels", broken)
    with pytest.raises(SystemExit, match=r"plain torch: 1 labels differ .* clip 1 v1o"):
        labels.verify(*labels.draw_clips(2))


def test_plain_torch_gives_the_same_labels() -> None:
    random = np.random.default_rng(1)
    frames = random.integers(0, 256, (3, 4, 48, 48, 3), np.uint8)
    flow = random.integers(0, 256, (3, 3, 48, 48, 2), np.uint8)
    found = torch_labels(torch.from_numpy(frames), torch.from_numpy(flow))
    np.testing.assert_array_equal(found, clip_labels(frames, flow))


def test_a_table_aligns_what_rows_have() -> None:
    rows = [{"backend": "cpu", "threads": 1, "us": 950.5}, {"backend": "plain torch", "gb": 12}]
    assert timing.table(rows).splitlines() == [
        "backend      threads     us  gb",
        "cpu                1  950.5   -",
        "plain torch        -      -  12",
    ]
