"""The five tasks from the command line, on small videos whose classes differ in colour."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipes.prepare.__main__ import main as prepare
from dali_pipes.prepare.encode import write_video
from model import BACKBONES, evaluate
from model.evaluation import videos as videos_module
from model.evaluation.features import FeatureCache
from model.evaluation.network import load
from model.networks.heads import StatisticsHeads, StatisticsNet
from tests.model.networks.test_zoo import published_weights

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
SMALL = ["--clip_len", "8", "--size", "32", "--resize", "32x40"]
SMALL += ["--clips_per_video", "2", "--num_workers", "0", "--bs", "3"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four videos, one more that is no video, one too short for a clip."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for group in range(4):
            noise = rng.integers(-30, 30, (14 + group, 32, 40, 3))
            frames = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            write_video(folder / name / f"v_{name}_g{group:02}_c01.avi", frames, "mpeg4")
    (folder / "red" / "text.mp4").write_text("no video")
    write_video(folder / "red" / "short.mp4", frames[:5])
    return folder


def run(task: str, videos: Path, out: Path, *more: str, checkpoint: str = "random") -> dict:
    arguments = [task, "--checkpoint", checkpoint, "--width", "0.05", "--videos", str(videos)]
    assert evaluate.main([*arguments, "--out", str(out / task), *SMALL, *more]) == 0
    assert (out / task / "report.html").read_text().startswith("<!doctype html>")
    return json.loads((out / task / "result.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tasks: they share the features."""
    return tmp_path_factory.mktemp("out")


def left_out(result: dict) -> dict[str, str]:
    return {Path(entry["what"]).name: entry["why"] for entry in result["left_out"]}


def test_retrieval(videos: Path, out: Path, capsys: pytest.CaptureFixture) -> None:
    result = run("retrieval", videos, out)
    assert result["result"]["top-1"] == 1.0  # an untrained network sees colours
    assert result["videos"] == 12
    assert set(left_out(result)) == {"text.mp4", "short.mp4"}
    assert "has 5 frames" in left_out(result)["short.mp4"]
    assert result["protocol"]["split"] == "30% of each class held out, seed 0"
    printed = capsys.readouterr().out
    assert "12, 2 left out" in printed
    assert "cosine" in printed
    # Another time only the bad files are tried again; other settings do not meet these features.
    assert run("retrieval", videos, out) == result
    assert "computing features of 2 of" in capsys.readouterr().out
    run("retrieval", videos, out, "--clip_len", "9")
    assert "computing features of 10 of 10" in capsys.readouterr().out


def test_reels_are_judged_as_their_videos_are(videos: Path, tmp_path: Path) -> None:
    reels = tmp_path / "reels"
    flags = ["--flow", "tvl1-fast", "--resize", "32x40", "--quality", "100", "--workers", "1"]
    assert prepare(["reels", str(videos), "--out", str(reels), *flags]) == 1  # text.mp4
    result = run("retrieval", reels, tmp_path)
    assert result["result"]["top-1"] == 1.0
    assert result["videos"] == 12
    assert set(left_out(result)) == {"short.mp4"}
    assert "data:image/jpeg" in (tmp_path / "retrieval/report.html").read_text()


def test_linear_probe(videos: Path, out: Path) -> None:
    result = run("linear-probe", videos, out)
    assert result["result"] == {"clip accuracy": 1.0, "video accuracy": 1.0}
    assert result["per_class"] == dict.fromkeys(COLOURS, 1.0)


def test_scenes(videos: Path, out: Path) -> None:
    result = run("scenes", videos, out)
    assert result["result"]["accuracy"] == 1.0
    assert np.trace(result["confusion"]) == 12


def test_similarity(videos: Path, out: Path, tmp_path: Path) -> None:
    names = [f"v_{name}_g{group:02}_c01" for name in COLOURS for group in range(4)]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    lines = [f"{i % 3 + 1},{a},{b},{int(a[:5] == b[:5])}" for i, (a, b) in enumerate(pairs)]
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, "1,text,v_red_g00_c01,1"]))
    result = run("similarity", videos, out, "--pairs", str(tmp_path / "pairs.csv"))
    assert result["result"]["accuracy"] > 0.95
    assert result["result"]["AUC"] > 0.95
    assert "pair text v_red_g00_c01" in left_out(result)
    assert len(result["protocol"]["distances"].split(", ")) == 12


@pytest.mark.parametrize(("channels", "accuracy"), [([2, 1, 0], 1.0), ([0, 2, 1], 0.0)])
def test_finetune_judges_every_clip_by_its_own_video(
    channels: list[int],
    accuracy: float,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a classifier that knows colours (or mixes them up) instead of a trained one."""
    monkeypatch.setattr(evaluate, "train", lambda *_: None)
    monkeypatch.setattr(
        evaluate.Classifier, "forward", lambda _, x: x.float().mean((1, 2, 3))[:, channels]
    )
    result = run("finetune", videos, tmp_path)
    assert result["result"] == {"clip accuracy": accuracy, "video accuracy": accuracy}
    assert result["videos"] == 12


def test_finetune_learns_and_resumes(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--epochs", "5", "--lr", "0.02", "--dropout", "0", "--bs", "5", "--width", "0.1"]
    whole = run("finetune", videos, tmp_path / "whole", *flags)
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", capsys.readouterr().out)]
    assert len(losses) == 5
    assert losses[-1] < 0.75 * losses[0]

    save = evaluate.train.__globals__["checkpoint"].save

    def fail_after(*args: object, step: int, **more: object) -> None:
        save(*args, step=step, **more)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("model.training.checkpoint.save", fail_after)
        with pytest.raises(KeyboardInterrupt):
            run("finetune", videos, tmp_path / "cut", *flags)
    capsys.readouterr()
    resumed = run("finetune", videos, tmp_path / "cut", *flags)
    printed = capsys.readouterr().out
    assert "resuming after epoch 2" in printed
    assert "epoch 2/5" not in printed
    assert "epoch 3/5" in printed
    assert resumed["result"] == whole["result"]
    last = [
        tmp_path / side / "finetune" / "finetuned" / "step_00000005.pt" for side in ("whole", "cut")
    ]
    one, two = (torch.load(path, weights_only=True)["net"] for path in last)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(two[name], value)


def test_extraction_continues_where_it_was_interrupted(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, computed = videos_module.extract, []

    def interrupted(*args: object) -> object:
        for n, item in enumerate(real(*args)):
            if n == 5 and not computed:
                raise KeyboardInterrupt
            yield item

    def counted(*args: object) -> object:
        for item in real(*args):
            computed.append(item)
            yield item

    monkeypatch.setattr(videos_module, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("scenes", videos, tmp_path)
    monkeypatch.setattr(videos_module, "extract", counted)
    result = run("scenes", videos, tmp_path)
    assert len(computed) == 12 - 5
    assert result["videos"] == 12
    (folder,) = (tmp_path / "features").iterdir()
    assert len(FeatureCache(folder)._places) == 12


def test_two_tasks_at_once_fill_one_cache_and_find_what_each_finds_alone(
    videos: Path, out: Path, tmp_path: Path
) -> None:
    tasks = ("retrieval", "scenes")
    command = [sys.executable, "-m", "model.evaluate"]
    network = ["--checkpoint", "random", "--width", "0.05", "--videos", str(videos)]
    started = [
        subprocess.Popen([*command, task, *network, "--out", str(tmp_path / task), *SMALL])
        for task in tasks
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    for task in tasks:
        result = json.loads((tmp_path / task / "result.json").read_text())
        assert result["result"] == run(task, videos, out)["result"]
    (folder,) = (tmp_path / "features").iterdir()
    assert len(FeatureCache(folder)._places) == 12
    assert not list(folder.glob("*.partial"))


def test_test_videos_in_a_folder_of_their_own_and_shared_groups(
    videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "test" / "red").mkdir(parents=True)
    name = "v_red_g01_c01.avi"
    (tmp_path / "test" / "red" / name).write_bytes((videos / "red" / name).read_bytes())
    result = run("retrieval", videos, tmp_path, "--test_videos", str(tmp_path / "test"))
    assert result["result"]["top-1"] == 1.0
    assert "1 UCF101 groups have videos on both sides (v_red_g01" in result["warnings"][0]


@pytest.mark.parametrize("data_set", ["UCF101", "HMDB51"])
def test_published_split_files(data_set: str, videos: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    names = {c: [f"v_{c}_g{group:02}_c01" for group in range(4)] for c in COLOURS}
    if data_set == "UCF101":
        train = [f"{c}/{v}.avi {n}" for n, c in enumerate(names) for v in names[c][1:]]
        (lists / "trainlist01.txt").write_text("\n".join(train))
        test = [f"{c}/{names[c][0]}.avi" for c in names] + ["red/v_red_g99_c01.avi"]
        (lists / "testlist01.txt").write_text("\n".join(test))
    else:
        for c, (first, *rest) in names.items():
            lines = [f"{first}.avi 2", *(f"{video}.avi 1" for video in rest[1:])]
            lines += [f"{rest[0]}.avi 0", "v_red_g99_c01.avi 2"]
            (lists / f"{c}_test_split1.txt").write_text(" \n".join(lines))
    result = run("retrieval", videos, tmp_path, "--split", str(lists))
    assert result["result"]["top-1"] == 1.0
    assert result["protocol"]["split"] == f"{data_set} split 1"
    assert result["protocol"]["queries"].startswith("3 test videos")
    train_videos = 9 if data_set == "UCF101" else 6
    assert result["protocol"]["gallery"] == f"{train_videos} training videos"
    assert "v_red_g99_c01" in left_out(result)


def test_checkpoints_of_train_bring_their_clips(videos: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    backbone = BACKBONES["r3d"](0.05)
    net = StatisticsNet(backbone, StatisticsHeads(backbone.channels))
    args = {
        "model": "r3d",
        "width": 0.05,
        "clip_len": 6,
        "size": 24,
        "resize": (30, 36),
        "stride": 2,
    }
    state = {"net": net.state_dict(), "args": args, "step": 7, "run": "x"}
    torch.save(state, tmp_path / "step_00000007.pt")
    loaded = load(str(tmp_path / "step_00000007.pt"), "c3d", 1.0, 0)
    clip = torch.randint(0, 256, (1, 6, 24, 24, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.backbone.eval()(clip), backbone.eval()(clip))
    arguments = ["scenes", "--checkpoint", str(tmp_path / "step_00000007.pt"), "--num_workers", "0"]
    arguments += ["--videos", str(videos), "--out", str(tmp_path / "out"), "--clips_per_video", "1"]
    assert evaluate.main(arguments) == 0
    protocol = json.loads((tmp_path / "out" / "result.json").read_text())["protocol"]
    assert protocol["network"].startswith("r3d, width 0.05, 7 steps")
    assert "6 frames (every 2.), resized to 30x36, centre crop 24" in protocol["clips"]


def test_published_checkpoints_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "C3D_epoch-18.pth.tar"
    weights = published_weights("c3d", 1, c=4)
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=False)
    loaded = load(str(path), "r3d", 1.0, 0)
    assert loaded.words.startswith("published C3D")
    assert loaded.backbone.pixels.order == "BGR"
    assert torch.equal(loaded.backbone.conv1[0].weight, weights["conv1.weight"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--checkpoint missing.pt", "missing.pt"),
        ("--checkpoint random --split .", "trainlist01.txt"),
        ("--checkpoint random --videos nowhere", "nowhere"),
        ("--checkpoint random --resize 20x20", "does not fit"),
    ],
)
def test_bad_input_is_one_line(
    flags: str, words: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ["retrieval", "--videos", str(videos), "--out", str(tmp_path), *SMALL]
    assert evaluate.main([*common, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
