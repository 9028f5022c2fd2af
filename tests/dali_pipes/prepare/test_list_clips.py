"""`list`: its lines, split files, and that the sources read what it writes."""

from pathlib import Path

import numpy as np
import pytest

from dali_pipes.prepare.list_clips import starts
from dali_pipes.sources import FrameFolders, VideoFiles
from dali_pipes.sources.lists import read_list


def test_starts_leave_room_for_the_clip_and_the_frame_after_it() -> None:
    assert list(starts(15, 16, 16)) == []
    assert list(starts(16, 16, 16)) == [1]
    assert list(starts(32, 16, 16)) == [1]
    assert list(starts(33, 16, 16)) == [1, 17]
    assert list(starts(33, 16, 8)) == [1, 9, 17]


def test_a_list_of_videos(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    videos = tmp_path / "in"
    long = make_video(videos / "b c/v 12.avi", frames=40)
    twins = [make_video(videos / f"a/twin{suffix}") for suffix in (".avi", ".mp4")]
    make_video(videos / "a/short.avi", frames=10)
    make_video(videos / "a/line\nbreak.avi")
    file = videos / "clips.list"
    status, text = prepare("list", videos, "--out", file)
    assert status == 1
    assert "short: list: has 10 frames, a clip needs 16" in text
    assert "line break" in text
    assert file.read_text().splitlines() == [
        "a/twin.avi 1 0", "a/twin.mp4 1 0", "b c/v 12 1 1", "b c/v 12 17 1"
    ]  # fmt: skip
    source = VideoFiles.listed(file)
    assert source.paths == [*map(str, twins), str(long), str(long)]
    assert source.starts.tolist() == [0, 0, 0, 16]
    assert source.class_ids.tolist() == [0, 0, 1, 1]


def test_a_list_of_frame_folders(prepare, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import cv2

    for name in ("y/one.avi", "x/two"):
        (tmp_path / "rgb" / name).mkdir(parents=True)
        for number in range(1, 18):
            image = np.zeros((16, 16, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "rgb" / name / f"frame{number:06d}.jpg"), image)
    status, _ = prepare("list", tmp_path / "rgb", "--out", tmp_path / "clips.list")
    assert status == 0
    assert (tmp_path / "clips.list").read_text().splitlines() == ["x/two 1 0", "y/one.avi 1 1"]
    source = FrameFolders.listed(tmp_path / "clips.list", tmp_path / "rgb")
    assert [source.probe(item).frames for item in range(2)] == [17, 17]


@pytest.fixture
def dataset(tmp_path: Path, make_video) -> Path:  # type: ignore[no-untyped-def]
    for name in ("Jump/v_Jump_g01_c01", "Jump/v_Jump_g08_c01", "Run/v_Run_g08_c01"):
        make_video(tmp_path / f"in/{name}.avi")
    return tmp_path / "in"


def test_ucf101_split(prepare, dataset: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    train, test, out = tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt", tmp_path / "l"
    train.write_text("Jump/v_Jump_g08_c01.avi 1\r\nRun/v_Run_g08_c01.avi 2\r\n")
    test.write_text("Jump/v_Jump_g01_c01.avi\nJump/v_Jump_g01_c02.avi\n")
    assert prepare("list", dataset, "--out", out, "--split", train)[0] == 0
    assert [(entry.path, entry.class_id) for entry in read_list(out)] == [
        ("Jump/v_Jump_g08_c01", 0), ("Run/v_Run_g08_c01", 1)
    ]  # fmt: skip
    status, text = prepare("list", dataset, "--out", out, "--split", test)
    assert status == 1
    assert "Jump/v_Jump_g01_c02: list: in the split, but not in the folder" in text
    assert [entry.path for entry in read_list(out)] == ["Jump/v_Jump_g01_c01"]


def test_a_split_that_may_mean_two_videos_is_refused(  # type: ignore[no-untyped-def]
    prepare, make_video, dataset: Path, tmp_path: Path
) -> None:
    """Its suffix is believed where a video has it."""
    avi = dataset / "Jump/v_Jump_g08_c01.avi"
    mkv, mp4 = (make_video(avi.with_suffix(suffix)) for suffix in (".mkv", ".mp4"))
    split, out = tmp_path / "trainlist01.txt", dataset / "out.list"
    split.write_text("Jump/v_Jump_g08_c01.avi 1\n")
    assert prepare("list", dataset, "--out", out, "--split", split)[0] == 0
    assert VideoFiles.listed(out).paths == [str(avi)]
    avi.unlink()
    status, text = prepare("list", dataset, "--out", out, "--split", split)
    assert status == 2
    assert f"Jump/v_Jump_g08_c01.avi of the split may be {mkv} or {mp4}; remove one" in text
    mkv.unlink()
    assert prepare("list", dataset, "--out", out, "--split", split)[0] == 0
    assert VideoFiles.listed(out).paths == [str(mp4)]


def test_hmdb51_split(prepare, dataset: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    jump, run = tmp_path / "Jump_test_split1.txt", tmp_path / "Run_test_split1.txt"
    jump.write_text("v_Jump_g01_c01.avi 2 \nv_Jump_g08_c01.avi 1 \n")
    run.write_text("v_Run_g08_c01.avi 0 \n")
    for subset, expected in (("train", "Jump/v_Jump_g08_c01"), ("test", "Jump/v_Jump_g01_c01")):
        out = tmp_path / subset
        status, _ = prepare("list", dataset, "--out", out, "--subset", subset, "--split", jump, run)
        assert status == 0
        assert [entry.path for entry in read_list(out)] == [expected]


def test_bad_input(prepare, dataset: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out.list"
    split = tmp_path / "split.txt"
    split.write_text("v_Jump_g01_c01.avi 1\n")
    for arguments, words in (
        ([tmp_path / "none"], "none: no such folder"),
        ([dataset, "--every", "0"], "at least 1"),
        ([dataset, "--split", split], "split.txt, line 1"),
        ([dataset, "--split", tmp_path / "gone.txt"], "gone.txt: cannot be read"),
        ([dataset, "--clip-len", "100"], "nothing to write"),
    ):
        status, text = prepare("list", *arguments, "--out", out)
        assert status == 2, arguments
        assert words in text
        assert not out.exists()
