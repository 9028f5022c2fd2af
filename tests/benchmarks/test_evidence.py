"""The evidence: every variant judged, figures as the commands left them, nothing done twice."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import evidence
from dali_pipes.prepare.encode import write_video
from tests.faults.damage import moving

TINY = ["--seeds", "1", "--steps", "1", "--width", "0.05", "--videos_per_class", "2"]


def few_and_small(videos: Path, per_class: int, split: str, *, seed: int, height: int) -> None:
    """In place of the sample videos: as many of each class, long enough for a clip."""
    for motion in evidence.MOTIONS:
        (videos / motion).mkdir(parents=True)
        for number in range(per_class):
            write_video(videos / motion / f"{number}.mp4", moving((48, 64), 56, seed=number))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.battery)])
def test_evidence_is_what_the_commands_found_and_is_kept(
    whole: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two variants, end to end; then again, when there is nothing left to do."""
    if not whole:
        monkeypatch.setattr(evidence, "MOTIONS", ("up", "left"))
        monkeypatch.setattr(evidence, "write_samples", few_and_small)
    variants = {"untrained": None, "from reels": evidence.PreTraining("tvl1", [])}
    monkeypatch.setattr(evidence, "VARIANTS", variants)
    out = tmp_path / "out"
    arguments = [*TINY, "--out", str(out), "--results", str(tmp_path)]
    assert evidence.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "[1 of 6]" in printed
    found = {
        (variant, task): json.loads((folder / task / "result.json").read_text())["result"][figure]
        for variant in evidence.VARIANTS
        for folder in [evidence.folder(out, variant, 0)]
        for task, figure in evidence.TASKS.items()
    }
    row = json.loads((tmp_path / "evidence.jsonl").read_text())
    assert {
        (one["variant"], task): one[task] for one in row["results"] for task in evidence.TASKS
    } == {key: pytest.approx(100 * value, abs=0.06) for key, value in found.items()}
    assert (out / "evidence.md").read_text() in printed + "\n"
    assert (out / "evidence.png").stat().st_size > 5000
    trained = evidence.checkpoint.newest(evidence.folder(out, "from reels", 0) / "models")
    assert trained is not None
    assert trained[1]["args"]["size"] == 32  # the clips that the evidence speaks of
    assert trained[1]["args"]["reels"] == str(out / "reels")

    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert evidence.main(arguments) == 0
    assert not re.search(r"\[1 of", capsys.readouterr().out)
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}

    assert evidence.main([*arguments, "--steps", "2"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_labels_come_from_the_flow_that_the_variant_names(tmp_path: Path) -> None:
    args = evidence.parse([*TINY, "--out", str(tmp_path)])
    words = [command.words for command in evidence.commands(args)]
    flows = [training.flow for training in evidence.VARIANTS.values() if training is not None]
    trained = [" ".join(command) for command in words if "train.py" in command]
    assert len(trained) == len(flows)
    for command, flow in zip(trained, flows, strict=True):
        from_videos = f"--videos {tmp_path / 'train'} --flow tvl1-fast"
        assert (from_videos in command) == (flow == "tvl1-fast")
        assert (f"--reels {tmp_path / 'reels'}" in command) == (flow == "tvl1")


def test_a_failing_command_ends_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in evidence.SPLITS:
        (tmp_path / split).mkdir()
    failing = evidence.Command(["python", "-c", "raise SystemExit(3)"], lambda: False)
    monkeypatch.setattr(evidence, "commands", lambda _: iter([failing]))
    assert evidence.main([*TINY, "--out", str(tmp_path), "--results", str(tmp_path)]) == 1
    assert "ended with status 3" in capsys.readouterr().err
    assert not (tmp_path / "evidence.jsonl").exists()


def test_the_table_gives_mean_spread_and_ratio() -> None:
    rows = [
        {"variant": variant, "seed": seed, "retrieval": base + seed, "linear-probe": 2.0 * base}
        for variant, base in zip(
            evidence.VARIANTS, (10.0, 20.0, 25.0, 30.0, 35.0, 40.0), strict=True
        )
        for seed in range(3)
    ]
    lines = evidence.table(rows, 3).splitlines()
    assert lines[2] == "| untrained | 11.0 ± 1.0 | 1.00 | 20.0 ± 0.0 | 1.00 |"
    assert lines[5] == "| classification | 31.0 ± 1.0 | 2.82 | 60.0 ± 0.0 | 3.00 |"
    assert "chance is 12.5 %" in lines[-1]


@pytest.mark.parametrize("flag", ["--seeds=0", "--steps=x"])
def test_bad_flags_end_in_a_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        evidence.main([flag])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
