"""Two runs compared: what counts as a change, what is matched with what, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, timing

MACHINE = {"cpu": "some", "cores": 2, "load": 0.5}


def write_runs(path: Path, *runs: tuple[str, list[dict[str, Any]]], **other: Any) -> str:
    common = {"machine": MACHINE, "versions": {"torch": "2"}} | other
    lines = [json.dumps({"commit": name, "results": rows} | common) for name, rows in runs]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def speed(clips_per_s: float, iqr_percent: float = 2, **about: Any) -> dict[str, Any]:
    return {"clips_per_s": clips_per_s, "iqr_percent": iqr_percent, "repeats": 9} | about


@pytest.mark.parametrize(
    ("old", "new", "word", "code"),
    [
        (speed(100), speed(100), "same", 0),
        (speed(100), speed(80), "slower", 1),
        (speed(100), speed(130), "faster", 0),
        (speed(100, 50), speed(80, 2), "same", 0),  # within the spread
        (speed(100, 2), speed(80, 50), "same", 0),
        (speed(100, 0.1), speed(96, 0.1), "same", 0),  # within the tolerance
        ({"seconds": 1.0, "iqr_percent": 2}, {"seconds": 2.0, "iqr_percent": 2}, "slower", 1),
        ({"pairs_per_s": 9.0}, {"pairs_per_s": 5.0}, "slower", 1),
        ({"mib": 100, "iqr_percent": 90}, {"mib": 150, "iqr_percent": 90}, "more", 1),
    ],
)
def test_a_change_lies_beyond_the_spread(
    old: dict, new: dict, word: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        write_runs(tmp_path / name, ("c", [{"what": "labels"} | row]))
        for name, row in {"old": old, "new": new}.items()
    ]
    assert compare.main(files) == code
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == word


def test_tolerance_is_the_users_to_choose(tmp_path: Path) -> None:
    old = write_runs(tmp_path / "old", ("c", [speed(100, 0, what="labels")]))
    new = write_runs(tmp_path / "new", ("c", [speed(92, 0, what="labels")]))
    assert compare.main([old, new]) == 1
    assert compare.main([old, new, "--tolerance", "10"]) == 0


def test_the_range_holds_every_ratio_of_two_values_between_the_quartiles() -> None:
    found = compare.changed(speed(100, 20), speed(150, 40), "clips_per_s", 0)
    assert found["ratio"] == 1.5
    assert found["range"] == f"{120 / 110:.2f}-{180 / 90:.2f}"


def test_results_are_matched_by_what_they_are_about() -> None:
    old = [speed(10, what="labels", batch=1), speed(20, what="labels", batch=2)]
    new = [speed(40, what="labels", batch=2), speed(9, what="labels", batch=4, note="cold")]
    rows, alone = compare.compare(old, new, 5)
    assert [(row["result"], row["old"], row["new"]) for row in rows] == [
        ("labels, batch 2", 20, 40)
    ]
    assert alone == {"OLD": ["labels, batch 1"], "NEW": ["labels, batch 4"]}


def test_no_measured_value_names_a_result() -> None:
    """A column that is missing from MEASURED would make every result unlike every other."""
    for file in timing.RESULTS.glob("*.jsonl"):
        for run in map(json.loads, file.read_text().splitlines()):
            names = [compare.identity(row) for row in run["results"]]
            assert len(set(names)) == len(names)
            for row in run["results"]:
                numbers = {k for k, v in row.items() if isinstance(v, float) and k != "width"}
                assert numbers <= compare.MEASURED
    assert {*compare.SPEED, compare.MEMORY} <= compare.MEASURED


def test_another_machine_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [speed(1, what="labels")]
    old = write_runs(tmp_path / "old", ("c", rows), machine=MACHINE | {"load": 3})
    same = write_runs(tmp_path / "same", ("c", rows))
    other = write_runs(tmp_path / "other", ("c", rows), machine=MACHINE | {"gpu": "H100"})
    compare.main([old, same])
    assert "warning" not in capsys.readouterr().out
    compare.main([old, other])
    assert "warning: not the same machine: gpu - -> H100\n" in capsys.readouterr().out


def test_a_commit_chooses_its_last_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [("aaa1", [speed(1)]), ("bbb2", [speed(2)]), ("bbb2", [speed(3)]), ("ccc3", [speed(4)])]
    path = write_runs(tmp_path / "runs.jsonl", *runs)
    assert compare.read_run(f"{path}@bbb")["results"] == [speed(3)]
    assert compare.read_run(path)["results"] == [speed(4)]
    assert compare.main([f"{path}@ddd", path]) == 2
    error = capsys.readouterr().err
    assert f"{path}: has no run of commit ddd; there are: aaa1, bbb2, ccc3" in error


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("", "no run"), ("no json", "line is JSON"), ("[1]", "is no run")],
)
def test_bad_input_is_one_line(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    if text is not None:
        path.write_text(text)
    assert compare.main([str(path), str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert words in error
    assert error.count("\n") == 1
