"""The evidence: every network judged, figures as the commands left them, nothing done twice."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import plan, tables, work
from dali_pipes.prepare.encode import write_video
from dali_pipes.prepare.samples import MOTIONS
from model.training import checkpoint
from tests.faults.damage import moving

TINY = ["--seeds", "1", "--steps", "2", "--width", "0.05", "--videos_per_class", "2", "--jobs", "2"]
CLASSES = ("up", "left")


def few_and_small(args: object) -> list[work.Command]:
    """In place of the sample videos: two classes, as long as a clip takes."""
    for name in plan.VIDEOS:
        for motion in CLASSES:
            (args.out / name / motion).mkdir(parents=True, exist_ok=True)
            for number in range(2):
                video = args.out / name / motion / f"{number}.mp4"
                write_video(video, moving((48, 64), 56, seed=number))
    return [command for command in all_data(args) if "samples" not in command.words]


all_data = plan.data


@pytest.mark.timeout(900)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.battery)])
def test_evidence_is_what_the_commands_found_and_is_kept(
    whole: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network of each kind, end to end; then again, when there is nothing left to do."""
    networks = plan.NETWORKS
    if not whole:
        networks = (plan.UNTRAINED, "geometric", plan.SUPERVISED)
        monkeypatch.setattr(plan, "MOTIONS", CLASSES)
        monkeypatch.setattr(plan, "data", few_and_small)
        monkeypatch.setattr(plan, "JUDGES", ("textures",))
        monkeypatch.setattr(plan, "VIDEOS", {"train": [], "textures": []})
        for module in (plan, tables):
            monkeypatch.setattr(module, "NETWORKS", networks)
        monkeypatch.setattr(tables, "JUDGES", ("textures",))
        monkeypatch.setattr(tables, "SHOWN", tables.SHOWN[:2])
    out = tmp_path / "out"
    arguments = [*TINY, "--out", str(out), "--results", str(tmp_path)]
    assert evidence.main(arguments) == 0
    printed = capsys.readouterr().out
    for todo in re.findall(r"\[1 of (\d+)\]", printed):  # data, then networks
        assert len(re.findall(rf"\[\d+ of {todo}[],]", printed)) == int(todo)

    (line,) = (tmp_path / "evidence.jsonl").read_text().splitlines()
    rows = {row["network"]: row for row in json.loads(line)["results"]}
    assert tuple(rows) == networks
    for network, row in rows.items():
        place = plan.folder(out, network, 0)
        for judge in tables.JUDGES:
            found = json.loads((place / judge / "linear-probe" / "result.json").read_text())
            for name, figure in [("probe", ""), ("probe, 1", ", 1 a class")]:
                percent = 100 * found["result"][f"video accuracy{figure}"]
                assert row[f"{judge}, {name}"] == pytest.approx(percent, abs=0.06)
            found = json.loads((place / judge / "retrieval" / "result.json").read_text())
            percent = 100 * found["result"]["top-1"]
            assert row[f"{judge}, retrieval"] == pytest.approx(percent, abs=0.06)
            epochs = f"{plan.epochs(evidence.parse(arguments))} epochs of fine-tuning"
            kind = {plan.UNTRAINED: "untrained", plan.SUPERVISED: epochs}
            assert kind.get(network, "2 steps") in found["protocol"]["network"]
    assert (out / "evidence.md").read_text() in printed + "\n"
    assert (out / "evidence.png").stat().st_size > 5000
    trained = checkpoint.newest(plan.folder(out, "geometric", 0) / "models")
    assert trained is not None
    assert trained[1]["args"]["size"] == 32  # the clips that the evidence speaks of
    assert trained[1]["args"]["reels"] == str(out / "train-reels")

    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert evidence.main(arguments) == 0
    assert not re.search(r"\[1 of", capsys.readouterr().out)
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}

    assert evidence.main([*arguments, "--steps", "3"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_every_network_learns_and_is_judged_by_what_it_should_be(tmp_path: Path) -> None:
    args = evidence.parse([*TINY, "--out", str(tmp_path), "--videos_per_class", "20"])
    trained = {}
    for network in plan.NETWORKS:
        commands = [" ".join(command.words) for command in plan.chain(args, network, 7)]
        judging = [
            command for command in commands if "--few" in command or " retrieval " in command
        ]
        assert len(judging) == 2 * len(plan.JUDGES)
        trained[network] = " ".join(command for command in commands if command not in judging)
        assert all("--seed 7" in command for command in commands)
        reels = [re.search(r"--videos (\S+)", command).group(1) for command in judging]
        assert reels == [str(tmp_path / f"{judge}-reels") for judge in plan.JUDGES for _ in (0, 1)]
    assert trained[plan.UNTRAINED] == ""
    assert "finetune --checkpoint random" in trained[plan.SUPERVISED]
    assert "--no_flip" in trained[plan.SUPERVISED]
    for network in plan.VARIANTS:
        assert f"train.py --reels {tmp_path / 'train-reels'}" in trained[network]
        assert ("--shuffle_labels" in trained[network]) == network.endswith("shuffled")
        assert ("--app_flag 0,0,0,0" in trained[network]) == network.endswith("motion labels only")
    seen = plan.epochs(evidence.parse(["--steps", "100"])) * 20 * len(MOTIONS)
    assert seen == 100 * plan.BATCH


def test_a_failing_command_ends_the_evidence_once_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shell(words: str, done: Path) -> work.Command:
        code = f"import pathlib, time; {words}; pathlib.Path({str(done)!r}).touch()"
        return work.Command(["python", "-c", code], done.exists)

    late, never = tmp_path / "late", tmp_path / "never"
    chains = iter([
        [shell("print('why'); raise SystemExit(3)", never)],
        [shell("time.sleep(1)", late), shell("time.sleep(0)", never)],
        [shell("time.sleep(0)", never)],
    ])  # fmt: skip
    monkeypatch.setattr(plan, "data", lambda _: [])
    monkeypatch.setattr(plan, "NETWORKS", ("a", "b", "c"))
    monkeypatch.setattr(plan, "chain", lambda *_: next(chains))
    out = tmp_path / "out"
    assert evidence.main([*TINY, "--out", str(out), "--results", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "ended with status 3" in error
    assert f"see {out / 'a-0' / 'log.txt'}" in error
    assert len(error.splitlines()) == 1
    assert "why\n" in (out / "a-0" / "log.txt").read_text()
    assert late.exists()
    assert not never.exists()
    assert not (tmp_path / "evidence.jsonl").exists()


def test_tables_give_mean_spread_ratio_and_the_share_of_the_gap() -> None:
    bases = dict(zip(plan.NETWORKS, (10, 20, 30, 35, 25, 15, 10, 50), strict=True))
    figures = [*tables.SHOWN, *(f"{judge}, probe, {n}" for judge in plan.JUDGES for n in plan.FEW)]
    rows = [
        {"network": network, "seed": seed} | dict.fromkeys(figures, base + seed)
        for network, base in bases.items()
        for seed in range(3)
    ]
    lines = tables.report(rows, 3).splitlines()
    assert lines[2].startswith("| untrained | 11.0 ± 1.0 | 11.0 ± 1.0 |")
    assert lines[5].startswith("| classification | 36.0 ± 1.0 (3.27) |")
    gap = lines.index(next(line for line in lines if line.startswith("| of the gap")))
    assert lines[gap + 2].startswith("| regression | 25 | 25 | 25 | 25 |")
    assert lines[gap + 4].startswith("| classification | 62 |")
    assert lines[gap + 7].startswith("| labels shuffled | 0 |")
    assert len(lines[gap + 8]) == 0  # neither end of the gap is a part of it
    assert "chance is 12.5 %" in lines[-1].lower()
    assert tables.share(rows, "regression", "textures, probe") == 0.25
    flat = [row | {"textures, probe": 5.0} for row in rows]
    assert tables.share(flat, "regression", "textures, probe") is None


@pytest.mark.parametrize("flag", ["--seeds=0", "--steps=x"])
def test_bad_flags_end_in_a_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        evidence.main([flag])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
