"""The command line: published names and defaults, units in the help, clear errors."""

import argparse
import re
from pathlib import Path

import pytest

from model.training.options import check_same_run, parse, plain


def add_flow(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--flow", choices=("auto", "stored"), default="auto", help="of clips")


def error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(add_flow, argv)
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1  # one line, no usage page
    return text


def test_published_flags_and_defaults() -> None:
    published = {
        "lr": 5e-4, "bs": 4, "num_workers": 2, "motion_w": 1, "app_w": 0.1, "epoch_num": 18,
        "max_save_num": 3, "momentum": 0.9, "wd": 5e-3, "step_s": 6, "gamma": 0.1,
        "model_save_dir": Path("pretrain_models"), "log_dir": Path("visual_logs"),
        "motion_flag": (1, 1, 1, 1), "app_flag": (1, 1, 1, 1), "model": "c3d",
    }  # fmt: skip
    args = vars(parse(add_flow, ["--videos", "v"]))
    assert {name: args[name] for name in published} == published


def test_published_command_takes_the_published_list_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--rgb_prefix", "R", "--flow_x_prefix", "X", "--flow_y_prefix", "Y"]
    assert parse(add_flow, command).data_list is None
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "ucf101_train.list").touch()
    assert parse(add_flow, command).data_list == Path("list/ucf101_train.list")
    assert parse(add_flow, [*command, "--data_list", "mine"]).data_list == Path("mine")
    assert parse(add_flow, ["--videos", "v"]).data_list is None


def test_ignored_flags_cost_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    ignored = ["--motion_dims", "14", "--app_dims", "13", "--plt", "linux", "--dataset", "ucf101"]
    parse(add_flow, ["--videos", "v", *ignored])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ignored[::2]
    assert all("ignored" in line for line in lines)


def test_values_are_read_with_their_meaning() -> None:
    line = "--videos v --motion_flag 1,0,0,1 --resize 256x340 --gpu 1 --resume --labels reference"
    args = parse(add_flow, line.split())
    assert args.motion_flag == (1, 0, 0, 1)
    assert args.resize == (256, 340)
    assert args.device == "cuda:1"
    assert args.resume is True
    assert parse(add_flow, ["--videos", "v", "--resume", "there"]).resume == "there"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "pass --videos DIR, --reels REELS, or --rgb_prefix"),
        ("--videos v --motion_flag 1111", "--motion_flag: '1111' is not 4 times 0 or 1"),
        ("--videos v --motion_flag 0,0,0,0 --app_flag 0,0,0,0", "leave no label"),
        ("--videos v --resize 128", "'128' is not HEIGHTxWIDTH"),
        ("--videos v --gpu 1 --device cpu", "contradict"),
        ("--videos v --lr -1", "--lr: '-1' is not a number above 0"),
        ("--videos v --lr nan", "'nan' is not a number above 0"),
        ("--videos v --log_dir \udcff", "'\\udcff' is not UTF-8"),
        *(
            (f"--videos v --{flag} {value}", f"--{flag}: '{value}' is not a")
            for flag, value in (
                ("seed", 2**64),
                ("bs", 10**10),
                ("clips_per_video", 10**12),
                ("stride", 10**20),
                ("steps", 10**30),
                ("epoch_num", "9" * 5000),
                ("num_workers", 10**5),
                ("decode_threads", 10**5),
                ("prefetch", -1),
                ("max_save_num", 10**30),
                ("gpu", 10**20),
                ("lr", "1e308"),
                ("gamma", 2),
                ("momentum", "inf"),
                ("width", "nan"),
                ("motion_w", "1e300"),
                ("val_fraction", "nan"),
            )
        ),
        ("--videos v --bs 0", "'0' is not a whole number from 1 to 1000000000"),
        ("--videos v --val_fraction 1", "'1' is not a number from 0 to below 1"),
        ("--videos v --flow magic", "choose from auto, stored"),
        ("--videos v --batch 3", "unrecognized arguments: --batch 3"),
    ],
)
def test_bad_flags_are_one_line(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in error(line.split(), capsys).replace("'auto', 'stored'", "auto, stored")


def test_help_is_grouped_and_states_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(add_flow, ["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for group in ("data", "labels:", "network:", "optimisation:", "machine:", "output:"):
        assert group in text
    assert "--lr RATE learning rate; biases take twice this (default: 0.0005)" in text
    assert "(default: 128x171)" in text
    assert "(default: None)" not in text


def test_a_resumed_run_may_change_its_length_but_not_its_learning_rate() -> None:
    saved = plain(parse(add_flow, ["--videos", "v", "--steps", "2", "--motion_flag", "1,0,0,1"]))
    flags = ["--videos", "moved", "--prefetch", "3", "--motion_flag", "1,0,0,1", "--resume"]
    check_same_run(parse(add_flow, [*flags, "--steps", "4"]), saved)
    for precision in ("float32", "tf32", "bf16"):
        check_same_run(parse(add_flow, [*flags, "--precision", precision]), saved)
    with pytest.raises(ValueError, match=r"--lr 0.0005, not 0.001"):
        check_same_run(parse(add_flow, [*flags, "--lr", "1e-3"]), saved)
    with pytest.raises(ValueError, match=r"--motion_flag 1,0,0,1, not 1,1,1,1"):
        check_same_run(parse(add_flow, ["--videos", "v"]), saved)
    check_same_run(parse(add_flow, flags), saved | {"curriculum": None})  # before there was none
    with pytest.raises(ValueError, match="--curriculum, which is no more"):
        check_same_run(parse(add_flow, flags), saved | {"curriculum": 0.5})
