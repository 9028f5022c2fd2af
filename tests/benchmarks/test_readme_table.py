"""The README's figures are those of the last report, and nobody typed them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme, timing
from benchmarks.compare import read_run

RUN: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m benchmarks",
    "commit": "abc",
    "machine": {"cpu": "some CPU", "cores": 2, "memory_gib": 24, "load": 0.5},
    "versions": {},
    "results": [
        {"section": "ceiling", "what": "copy, 1 core", "gb_per_s": 9},
        {"section": "stage", "stage": "resize", "clips_per_s": 70, "iqr_percent": 3, "repeats": 5},
        {"section": "stage", "stage": "flow: NVIDIA's unit", "note": "not on this machine"},
        {"section": "peers", "loader": "plain", "clips_per_s": 7, "iqr_percent": 4}
        | {"ratio": 2.1, "ratio_low": 1.9, "ratio_high": 2.3, "frames": "3 of 9 are others"}
        | {"published_labels": 52.4},
        {"section": "network", "network": "compiled", "clips_per_s": 2, "iqr_percent": 1},
        {"section": "growth", "what": "labels", "batch": 1, "clips_per_s": 1, "iqr_percent": 1},
    ],
}


def test_the_committed_readme_holds_the_committed_report() -> None:
    if not (timing.RESULTS / "report.jsonl").exists():
        pytest.skip("no report is committed yet: python -m benchmarks")
    text = readme.README.read_text()
    assert readme.with_benchmark(text, read_run(str(timing.RESULTS / "report.jsonl"))) == text


def test_only_what_stands_between_the_marks_is_rewritten(tmp_path: Path) -> None:
    (tmp_path / "report.jsonl").write_text("\n".join(map(json.dumps, [RUN | {"commit": "x"}, RUN])))
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nbelow\n")
    for _ in ("once", "again"):
        assert readme.main(page, tmp_path) == 0
        assert page.read_text().splitlines() == [
            "above",
            "<!-- benchmark -->",
            "some CPU, 2 cores, 24 GiB, load 0.5 at the end; 2026-01-02, commit abc, "
            "`python -m benchmarks`:",
            "",
            "| | | clips/s | spread | ratio | frames | published labels |",
            "|---|---|--:|--:|--:|---|--:|",
            "| peers | plain | 7 | 4 % | 2.1 (1.9–2.3) | 3 of 9 are others | 52.4 % |",
            "| stage | resize | 70 | 3 % |  |  |  |",
            "<!-- /benchmark -->",
            "below",
        ]


@pytest.mark.parametrize("text", ["", "<!-- benchmark -->\n", "<!-- /benchmark -->"])
def test_a_page_without_the_marks_is_left_alone(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.jsonl").write_text(json.dumps(RUN))
    page = tmp_path / "README.md"
    page.write_text(text)
    assert readme.main(page, tmp_path) == 2
    assert page.read_text() == text
    assert "README.md: has no lines" in capsys.readouterr().err
