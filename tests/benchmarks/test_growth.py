"""How speed grows: what is measured, and where cost stops growing linearly."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import growth
from benchmarks.growth import bends

CPU = torch.device("cpu")


def curve(what: str, by: str, cost: dict[int, float]) -> list[dict[str, Any]]:
    return [
        {"section": "growth", "what": what, "by": by, "at": at, "us_per_clip": us}
        for at, us in cost.items()
    ]


def test_a_curve_is_level_from_some_batch_on() -> None:
    cost = {1: 400.0, 2: 200.0, 4: 105.0, 8: 100.0, 16: 104.0}
    assert bends(curve("labels", "batch", cost)) == [
        "labels by batch: a clip costs the same from 4 to 16"
    ]


def test_a_curve_that_rises_again_is_told_from_a_level_one() -> None:
    rows = curve("labels", "batch", {1: 100, 2: 100})
    rows += curve("loader", "list length", {100: 300, 1000: 100, 240_000: 250})
    assert bends([{"section": "stage"}, *rows]) == [
        "labels by batch: a clip costs the same from 1 to 2",
        "loader by list length: a clip costs least at 1,000, 2.5 times as much at 240,000",
    ]


def test_a_curve_may_fall_to_its_end_and_noise_is_no_rise() -> None:
    rows = curve("opening a list", "list length", {100: 300, 1000: 30})
    assert bends(rows) == [
        "opening a list by list length: a clip costs less and less up to 1,000, 10.0 times less"
    ]
    noisy = curve("loader", "batch", {1: 100, 2: 125, 4: 101})
    noisy[1]["iqr_percent"] = 40.0
    assert bends(noisy) == ["loader by batch: a clip costs the same from 1 to 4"]


def test_cost_of_larger_clips_stands_beside_their_pixels() -> None:
    assert bends(curve("labels", "size", {112: 100, 224: 430})) == [
        "labels by size: 224 costs 4.3 times 112, of whose pixels it has 4 times as many"
    ]


@pytest.mark.parametrize(
    ("cost", "sentence"),
    [
        ({1: 100, 2: 50, 4: 48}, "2 are 2.00 times as fast as 1, 4 are 2.08 times as fast as 1: "
         "no gain beyond 2"),
        ({1: 100, 2: 55}, "2 are 1.82 times as fast as 1"),
        ({1: 100}, "only 1 device"),
    ],
)  # fmt: skip
def test_ranks_help_as_long_as_each_makes_it_faster(cost: dict[int, float], sentence: str) -> None:
    assert bends(curve("training", "ranks", cost)) == [f"training by ranks: {sentence}"]


def test_every_curve_has_its_points(few_samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "BATCHES", (1, 9))
    monkeypatch.setattr(growth, "SIZES", {32: (36, 48), 64: (72, 96)})
    monkeypatch.setattr(growth, "LENGTHS", (3, 10))
    monkeypatch.setattr(growth, "cores", lambda: 0)  # no workers to start
    opened: list[int] = []
    real = growth.ClipLoader

    def loader(*source: Path, **arguments: Any) -> Any:
        made = real(*source, **arguments)
        opened.append(len(made.paths))
        return made

    monkeypatch.setattr(growth, "ClipLoader", loader)
    rows = [
        *growth.by_batch(few_samples, CPU, 0.01),
        *growth.by_size(few_samples, CPU, 0.01),
        *growth.by_list_length(few_samples, CPU, 0.01),
    ]
    points = [(row["what"], row["by"], row["at"]) for row in rows if row["us_per_clip"] > 0]
    assert points[:2] == [("labels", "batch", 1), ("labels", "batch", 9)]
    assert points[2:-7] == [("loader", "batch", 1)]
    assert points[-7:-3] == [(w, "size", s) for w in ("labels", "loader") for s in (32, 64)]
    assert points[-3:-1] == [("opening a list", "list length", n) for n in (3, 10)]
    assert points[-1] == ("loader", "list length", 3)
    assert opened[-2:] == [3, 10]
    assert len(bends(rows)) == 6


def test_ranks_train_as_torchrun_starts_them(
    few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "RANKS", (2,))
    network = ["--width", "0.05", "--bs", "1"]
    (row,) = growth.by_ranks(few_samples, CPU, network)
    assert (row["what"], row["at"], row["repeats"]) == ("training", 2, 4)
    with pytest.raises(ValueError, match=r"on 2 processes failed: train.py: .*--width"):
        list(growth.by_ranks(few_samples, CPU, ["--width", "no"]))
