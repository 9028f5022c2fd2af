"""`check`: what it finds in sound, damaged and strange files."""

import json
import os
import time
from pathlib import Path

import av
import pytest


@pytest.fixture
def folder(tmp_path: Path, make_video) -> Path:  # type: ignore[no-untyped-def]
    good = make_video(tmp_path / "in/class/good.avi", frames=30).read_bytes()
    matroska = make_video(tmp_path / "in/class/good.mkv", frames=30).read_bytes()
    (tmp_path / "in/class/cut.avi").write_bytes(good[: len(good) // 2])
    (tmp_path / "in/class/cut.mkv").write_bytes(matroska[: len(matroska) // 2])
    (tmp_path / "in/class/empty.mp4").touch()
    (tmp_path / "in/class/text.avi").write_text("no video " * 99)
    (tmp_path / "in/class/loop.avi").symlink_to("loop.avi")
    (tmp_path / "in/class/back").symlink_to("..")
    os.mkfifo(tmp_path / "in/class/pipe.mp4")
    make_video(tmp_path / "in/class/short.mp4", frames=5)
    odd = tmp_path / "in" / os.fsdecode(b"cl\xe9 ss") / ("long " * 40 + "name.avi")
    odd.parent.mkdir()
    odd.write_bytes(good)
    return tmp_path / "in"


def test_report_names_what_is_wrong(prepare, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "report.json"
    status, text = prepare("check", folder, "--json", file)
    assert status == 1
    report = json.loads(file.read_text())
    found = {os.path.basename(row["path"]): row for row in report["videos"]}
    sound = {"good.avi", "good.mkv", "long " * 40 + "name.avi"}
    assert {name for name, row in found.items() if not row["wrong"]} == sound
    wrong = {name: " ".join(row["wrong"]) for name, row in found.items() if row["wrong"]}
    assert set(wrong) == {
        "cut.avi", "cut.mkv", "empty.mp4", "text.avi", "loop.avi", "pipe.mp4", "short.mp4"
    }  # fmt: skip
    assert "no regular file" in wrong["pipe.mp4"]
    assert "5 frames, a clip needs 16" in wrong["short.mp4"]
    assert "ended prematurely" in wrong["cut.mkv"]
    row = found["good.avi"]
    assert (row["codec"], row["width"], row["height"]) == ("mpeg4", 64, 48)
    assert row["header_frames"] == row["packets"] == row["frames"] == 30
    assert found["cut.avi"]["frames"] < 30
    assert "long " * 40 + "name.avi" in text  # in full
    assert r"cl\xe9 ss" in text
    assert "10 checked, 7 with something wrong" in text


def test_fewer_frames_than_the_header_says(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = make_video(tmp_path / "in/video.avi", frames=30)
    data = path.read_bytes()
    stated = (30).to_bytes(4, "little")
    assert data.count(stated) >= 2
    path.write_bytes(data.replace(stated, (60).to_bytes(4, "little")))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 60
    status, text = prepare("check", tmp_path / "in")
    assert status == 1
    assert "its header says 60 frames, 30 are there" in text


def test_real_videos_are_sound(prepare, real_data: Path) -> None:  # type: ignore[no-untyped-def]
    status, text = prepare("check", real_data / "videos")
    assert status == 0
    assert "14 checked, 0 with something wrong" in text


def test_an_interrupted_check_continues(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("a", "b", "c"):
        make_video(tmp_path / f"in/{name}.avi")
    report = tmp_path / "report.json"
    prepare("check", tmp_path / "in", "--json", report)
    rows = {os.path.basename(row["path"]): row for row in json.loads(report.read_text())["videos"]}
    # As an interrupted run leaves it: a and b are in the journal, its last line is half written;
    # b has changed since. What is taken from the journal shows by its codec.
    lines = []
    for name in ("a.avi", "b.avi"):
        status = (tmp_path / "in" / name).stat()
        stamp = [status.st_size, status.st_mtime_ns, {"min_frames": 16}]
        finding = {**rows[name], "codec": "remembered"}
        lines.append(json.dumps({"stamp": stamp, "finding": finding}))
    (tmp_path / "report.json.part-0").write_text("\n".join([*lines, lines[0][:40]]))
    os.utime(tmp_path / "in/b.avi", (time.time(), time.time() + 5))
    status, _ = prepare("check", tmp_path / "in", "--json", report)
    assert status == 0
    codecs = [row["codec"] for row in json.loads(report.read_text())["videos"]]
    assert codecs == ["remembered", "mpeg4", "mpeg4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "report.json"]


def test_nothing_to_check(prepare, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert prepare("check", tmp_path / "missing")[0] == 2
    status, text = prepare("check", tmp_path)
    assert status == 2
    assert f"{tmp_path}: no video files" in text
