"""The benchmark of reels in an object store: every way is checked and timed, wrong clips end it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import remote
from dali_pipes.sources import Reels

FEW = (remote.WAYS[0], remote.WAYS[-1])


@pytest.fixture
def command(few_reels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(remote, "EPOCH", 12)
    monkeypatch.setattr(remote, "WAYS", FEW)
    monkeypatch.setattr(remote, "WORKERS", (1,))
    flags = f"--reels {few_reels} --rounds 2 --seconds 0.01 --out {tmp_path / 'out'}"
    return [*flags.split(), "--results", str(tmp_path)]


def test_a_row_a_way(command: list[str], tmp_path: Path, few_reels: Path) -> None:
    assert remote.main(command) == 0
    (run,) = map(json.loads, (tmp_path / "remote.jsonl").read_text().splitlines())
    rows = run["results"]
    assert [row["reels"] for row in rows] == [way.name for way in FEW]
    assert rows[0]["of_folder"] == 1
    assert all(row["clips_per_s"] > 0 for row in rows)
    assert [row.get("latency_ms") for row in rows] == [None, 50]
    assert rows[1]["fetcher_ms"] >= 0 <= rows[1]["store_ms"]

    copies, given = Reels.found(tmp_path / "out/bucket/reels"), Reels.found(few_reels)
    assert len(copies) == 12
    frames, _ = given.read_clip(1, range(8), None)
    for item in range(1, 12, len(given)):
        copy, _ = copies.read_clip(item, range(8), None)
        np.testing.assert_array_equal(copy, frames)


def test_other_clips_end_it(
    command: list[str], tmp_path: Path, few_reels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Reels.found(few_reels)
    swapped = replace(given, paths=given.paths[::-1])
    remote.copied(swapped, tmp_path / "other/bucket/reels")
    served = remote.serving
    monkeypatch.setattr(remote, "serving", lambda _, late: served(tmp_path / "other", late))
    with pytest.raises(SystemExit, match="gives other frames than the folder"):
        remote.main(command)
    assert not (tmp_path / "remote.jsonl").exists()
