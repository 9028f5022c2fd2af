"""Names that are formulas, markup, control characters or no text: drawn, written and printed as
names, whole and exact."""

import base64
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from dali_pipes import labels, show
from dali_pipes.drawing.picture import clip_picture
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic
from model import evaluate
from model.evaluation.report import Outcome, _bars, _confusion, text

CLASSES = (b"$_$ <b>|\\x^", b"\xff\x1b[31m")
NAMES = (b"$\\frac$_{.mp4", b"\xfe.mp4", b"a\nb\x1b[2J.mp4", b'<b>|`"&.mp4')
CLIPS = "--clip_len 8 --size 32 --resize 36x48 --num_workers 0 --device cpu"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of four videos of odd names, and one that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    frames, _ = Synthetic.make(1, 20, (48, 64)).read_clip(0, range(20), None)
    write_video(folder / "plain.mp4", frames)
    for number, of_class in enumerate(CLASSES):
        (folder / os.fsdecode(of_class)).mkdir()
        for name in NAMES[number:]:
            shutil.copy(folder / "plain.mp4", folder / os.fsdecode(of_class + b"/" + name))
    (folder / "plain.mp4").unlink()
    (folder / os.fsdecode(CLASSES[0] + b"/bad\n\x1b[2J\xff.mp4")).write_text("no video")
    return folder


BAD = r"bad\n\x1b[2J\xff.mp4"  # as it is printed


def plain_text(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, if it is text that cannot do anything to a terminal."""
    out, err = capsys.readouterr()
    out.encode()
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "Traceback" not in err
    return out


def test_training_draws_and_names_them(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = f"--log_dir {tmp_path / 'logs'} --model_save_dir {tmp_path / 'saved'}"
    flags = f"{CLIPS} {places} --width 0.05 --precision float32 --bs 4 --steps 2"
    assert train.main(["--videos", str(videos), *flags.split()]) == 0
    assert plain_text(capsys).count(f"skipped: {videos}/$_$ <b>|\\x^/{BAD}: invalid data") == 1
    (folder,) = (tmp_path / "logs").iterdir()
    assert EventAccumulator(str(folder)).Reload().Tags()["images"] == ["clip"]
    (entry,) = map(json.loads, (folder / "skipped.jsonl").read_text().splitlines())
    assert os.fsencode(entry["path"]).endswith(b"bad\n\x1b[2J\xff.mp4")


@pytest.mark.parametrize("title", ["$_$", "$\\frac$_{", "\udcff.mp4"])
def test_any_title_can_be_drawn(title: str) -> None:
    assert ink(title) > ink("") + 5


def test_a_title_is_no_formula() -> None:
    """A formula has no dollars."""
    assert ink("$a$ $a$ $a$") > ink("a a a") + 20


def ink(title: str) -> int:
    """How far to the right a picture's title reaches, in pixels."""
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    flow = np.full((3, 16, 16, 2), 128, np.uint8)
    picture = clip_picture(frames, flow, np.ones(27, np.int64), title=title or " ")
    return int(max(np.nonzero((picture[20:50] < 128).any(axis=(0, 2)))[0], default=0))


def test_show_draws_them(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / os.fsdecode(b"$_$\xff\x1b.png")
    long = tmp_path / os.fsdecode(NAMES[2])
    write_video(long, np.zeros((20, 48, 64, 3), np.uint8))
    assert show.main([str(long), "--out", str(out), "--flow", "tvl1-fast"]) == 0
    assert out.stat().st_size > 10_000
    assert plain_text(capsys) == f"{tmp_path}/$_$\\xff\\x1b.png\n"


def test_an_evaluation_reports_them(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "$_$"
    flags = f"--checkpoint random --width 0.05 --clips_per_video 1 {CLIPS}".split()
    assert evaluate.main(["retrieval", "--videos", str(videos), "--out", str(out), *flags]) == 0
    assert f"/{BAD}: open: invalid data" in plain_text(capsys)
    result = json.loads((out / "result.json").read_text())
    assert [os.fsencode(name) for name in result["classes"]] == sorted(CLASSES)
    (left_out,) = (os.fsencode(entry["what"]) for entry in result["left_out"])
    assert left_out.endswith(b"bad\n\x1b[2J\xff.mp4")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<td>\n" not in page
    assert "<b>" not in page
    for words in ("$_$ &lt;b&gt;|\\x^", r"\xff\x1b[31m", "$\\frac$_{.mp4", r"a\nb\x1b[2J.mp4"):
        assert words in page
    assert base64.b64decode(re.findall(r"png;base64,([^\"]+)", page)[0]).startswith(b"\x89PNG")


def test_classes_stand_beside_their_rows_and_bars() -> None:
    names = ["$_$", "\udcff", "a\nb"]
    outcome = Outcome("x", {"$": "\x1b"}, {}, 3, (), (), names, np.diag([1, 1, 1]))
    for axes in (_confusion(outcome).axes[0], _bars(outcome.per_class).axes[0]):
        labels = axes.get_yticklabels()
        assert [label.get_text() for label in labels] == ["$_$", r"\xff", r"a\nb"]
        assert not any(label.get_parse_math() for label in labels)
    assert r"$       \x1b" in text(outcome)


def test_tables_of_labels_hold_them(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("npz", "parquet"):
        out = ["--out", str(tmp_path / f"labels.{suffix}")]
        assert labels.main([str(videos), *CLIPS.split(), *out]) == 1
        assert f"/{BAD}: open: invalid data" in plain_text(capsys)
    there = sorted(
        os.fsdecode(of_class + b"/" + name)
        for number, of_class in enumerate(CLASSES)
        for name in NAMES[number:]
    )
    assert sorted(np.load(tmp_path / "labels.npz")["video"].tolist()) == there
    written = parquet.read_table(tmp_path / "labels.parquet")["video"].to_pylist()
    assert sorted(written) == sorted(  # no bytes but those of UTF-8
        os.fsencode(name).decode("utf-8", "backslashreplace") for name in there
    )
