"""`frames` and `flow`: the published layout, what interrupts it, and what does not fit in it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from dali_pipes.decoding.showing import decoded
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import FrameFolders
from dali_pipes.sources.lists import read_list
from kernels.flow.code import decode

ROOT = Path(__file__).parents[3]


def tree(folder: Path) -> dict[str, int]:
    """Images and other files of a folder, and when each was written; unfinished files are not."""
    found = {}
    for inner, _, files in os.walk(folder):
        for name in files:
            path = Path(inner, name)
            with suppress(FileNotFoundError):  # being worked on
                if not name.startswith("."):
                    found[str(path.relative_to(folder))] = path.stat().st_mtime_ns
    return found


def images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names(count: int) -> list[str]:
    return [f"frame{number:06d}.jpg" for number in range(1, count + 1)]


def test_two_commands_make_the_published_layout(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    videos, out = tmp_path / "in", tmp_path / "out"
    one = make_video(videos / "class a/one.avi", frames=33, height=96, width=128)
    make_video(videos / os.fsdecode(b"b\xff") / "two.mp4", frames=20, height=96, width=128)
    assert prepare("frames", videos, "--out", out)[0] == 0
    assert images(out / "rgb/class a/one") == names(33)
    stored = [cv2.imread(str(path)) for path in sorted((out / "rgb/class a/one").iterdir())]
    for number, frame in enumerate(decoded(one)):
        image = frame.to_ndarray(format="bgr24")
        differences = np.array([np.abs(other.astype(int) - image).mean() for other in stored])
        assert np.argmin(differences) == number
        assert differences[number] < np.delete(differences, number).min() / 3
    listed = [(entry.path, entry.start) for entry in read_list(out / "train.list")]
    assert listed == [("b\udcff/two", 0), ("class a/one", 0), ("class a/one", 16)]

    status, text = prepare("flow", out)
    assert status == 0
    assert "flow: TV-L1 on the CPU" in text
    for side, expected in (("u", 2.0), ("v", -1.0)):
        assert images(out / f"flow/{side}/one") == names(32)
        stored = cv2.imread(str(out / f"flow/{side}/one/frame000009.jpg"), cv2.IMREAD_UNCHANGED)
        assert stored.shape == (96, 128)
        assert np.median(decode(stored)) == pytest.approx(expected, abs=0.15)
    assert [(entry.path, entry.start) for entry in read_list(out / "train.list")] == listed
    source = FrameFolders.listed(out / "train.list", out / "rgb", out / "flow/u", out / "flow/v")
    assert [source.probe(item).frames for item in range(len(source))] == [20, 33, 33]
    assert {path.name for path in out.iterdir()} == {
        "rgb", "flow", "train.list",
        "frames.json", "flow.json", ".frames.lock", ".flow.lock", ".made",
    }  # fmt: skip


def test_one_window_a_video(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    videos, out = tmp_path / "in", tmp_path / "out"
    make_video(videos / "c/long.avi", frames=40)
    make_video(videos / "c/short.avi", frames=16)
    status, text = prepare("frames", videos, "--out", out)
    assert status == 0
    status, text = prepare("flow", out, "--clip-frames", "17")
    assert status == 1
    assert "c/short: flow: has 16 frames, --clip-frames is 17" in text
    assert images(out / "flow/u/long") == images(out / "flow/v/long") == names(16)
    assert (out / "train.list").read_text() == "c/long 1 0\n"  # all that has flow
    status, text = prepare("frames", videos, "--out", tmp_path / "out17", "--clip-frames", "17")
    assert status == 1
    assert "short.avi: decode: has 16 frames, --clip-frames asks for 17" in text
    assert images(tmp_path / "out17/rgb/c/long") == names(17)


def test_large_frames_are_made_smaller(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_video(tmp_path / "in/large.mp4", frames=2, height=384, width=512)
    prepare("frames", tmp_path / "in", "--out", tmp_path / "out")
    image = cv2.imread(str(tmp_path / "out/rgb/large/frame000001.jpg"))
    assert image.shape == (256, 341, 3)


def test_tvl1_on_the_cpu(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_video(tmp_path / "in/one.avi", frames=3)
    prepare("frames", tmp_path / "in", "--out", tmp_path / "out")
    status, text = prepare("flow", tmp_path / "out", "--device", "cpu")
    assert status == 1  # too short for a clip, which is said of the list; the flow is there
    assert "TV-L1 on the CPU" in text
    for side, expected in (("u", 2.0), ("v", -1.0)):
        path = tmp_path / f"out/flow/{side}/one/frame000002.jpg"
        field = decode(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        assert np.median(field[12:-12, 16:-16]) == pytest.approx(expected, abs=0.2)


@pytest.mark.gpu
def test_tvl1_on_the_gpu(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_video(tmp_path / "in/one.avi", frames=20, height=96, width=128)
    prepare("frames", tmp_path / "in", "--out", tmp_path / "out")
    assert prepare("flow", tmp_path / "out")[0] == 0
    for side, expected in (("u", 2.0), ("v", -1.0)):
        for path in (tmp_path / f"out/flow/{side}/one").iterdir():
            field = decode(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
            assert np.median(field[12:-12, 16:-16]) == pytest.approx(expected, abs=0.2)


def test_a_gpu_is_used_where_there_is_one(  # type: ignore[no-untyped-def]
    prepare, make_video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "in/one.avi", frames=20)
    out = tmp_path / "out"
    prepare("frames", tmp_path / "in", "--out", out)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA A100")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    still = np.zeros((19, 48, 64, 2), np.float32)
    monkeypatch.setattr("dali_pipes.prepare.compute._tvl1_on_gpu", lambda frames: still + 20)
    status, text = prepare("flow", out)
    assert status == 0
    assert "TV-L1 on the GPU" in text
    image = cv2.imread(str(out / "flow/v/one/frame000019.jpg"), cv2.IMREAD_UNCHANGED)
    assert (image == 255).all()
    status, text = prepare("flow", out, "--device", "cpu")
    assert status == 2
    assert "computed_by 'CUDA' (now 'CPU')" in text


def test_what_is_done_is_not_done_again(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    videos, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        make_video(videos / f"{name}.avi")
    for command in (["frames", videos, "--out", out], ["flow", out]):
        assert prepare(*command)[0] == 0
        made = tree(out)
        (tmp_path / "away").mkdir(exist_ok=True)
        folder = out / ("rgb/a" if command[0] == "frames" else "flow/u/a")
        folder.rename(tmp_path / "away" / command[0])
        status, text = prepare(*command)
        assert status == 0
        assert f"{command[0]}: 1 videos were done before" in text
        again = tree(out)
        assert again.keys() == made.keys()
        kept = [name for name in made if name.endswith(".jpg") and "/a/" not in name]
        assert all(again[name] == made[name] for name in kept)
        assert len(kept) >= 20


def test_another_way_of_making_it_is_refused(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    videos, out = tmp_path / "in", tmp_path / "out"
    make_video(videos / "a.avi")
    prepare("frames", videos, "--out", out)
    prepare("flow", out)
    before = tree(out)
    for command, words in (
        (["frames", videos, "--out", out, "--clip-frames", 17], "clip_frames None (now 17)"),
        (["flow", out, "--clip-frames", 1], "at least 2"),
    ):
        status, text = prepare(*command)
        assert status == 2
        assert words in text
    (out / "flow.json").unlink()
    status, text = prepare("flow", out)
    assert status == 2
    assert "how it was made" in text
    del before["flow.json"]
    assert tree(out) == before


def test_names_that_would_collide(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    one = make_video(tmp_path / "in/a/same.avi")
    two = make_video(tmp_path / "in/b/same.mp4")
    status, text = prepare("frames", tmp_path / "in", "--out", tmp_path / "out")
    assert status == 2
    assert f"{one} and {two} have the same name" in text
    assert not (tmp_path / "out").exists()
    for name in ("a/same", "b/same"):
        folder = tmp_path / "made/rgb" / name
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "frame000001.jpg"), np.zeros((16, 16, 3), np.uint8))
    status, text = prepare("flow", tmp_path / "made")
    assert status == 2
    assert "rgb/a/same and " in text
    for inner in ("y.avi", "y/z.avi", "y/z/w.mkv"):
        above = make_video(tmp_path / inner / "x.mp4")
        below = make_video(tmp_path / inner / "x" / inner)
        status, text = prepare("frames", tmp_path / inner, "--out", tmp_path / "out")
        assert status == 2
        assert f"{above} has the name of a folder that {below} is in" in text


def test_bad_videos_and_frames_are_named(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    videos, out = tmp_path / "in", tmp_path / "out"
    good = make_video(videos / "good.avi").read_bytes()
    (videos / "cut.avi").write_bytes(good[: len(good) // 2])
    (videos / "empty.avi").touch()
    status, text = prepare("frames", videos, "--out", out)
    assert status == 1
    assert "frames of 1 videos; 2 failed:" in text
    assert f"{videos}/cut.avi: decode: " in text
    assert f"{videos}/empty.avi: decode: " in text
    assert images(out / "rgb") == ["good"]
    assert not (out / ".frames.part").exists()

    frame = out / "rgb/good/frame000005.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:-20])
    status, text = prepare("flow", out)
    assert status == 1
    assert "good: flow: frame000005.jpg is cut off" in text
    assert not (out / "flow/u").exists()
    assert (out / "train.list").read_text() == "\n"
    frame.write_bytes(whole)
    assert prepare("flow", out)[0] == 0
    assert images(out / "flow/u/good") == names(19)


@pytest.mark.parametrize("command", ["frames", "flow"])
def test_killed_work_continues(prepare, tmp_path: Path, command: str) -> None:  # type: ignore[no-untyped-def]
    videos, out = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(0)
    frames = 200 if command == "frames" else 34  # flow: two chunks of pairs and a bit
    for name in "abc":
        texture = rng.integers(0, 256, (32, 48, 3), np.uint8)
        path = videos / f"{name}.avi"
        path.parent.mkdir(exist_ok=True)
        write_video(path, (np.roll(texture, t, axis=1) for t in range(frames)), "mpeg4")
    arguments = ["frames", videos, "--out", out]
    if command == "flow":
        prepare(*arguments)
        arguments = ["flow", out, "--device", "cpu"]
    part, done = out / f".{command}.part", out / ("rgb" if command == "frames" else "flow")
    with subprocess.Popen(
        [sys.executable, "-m", "dali_pipes.prepare", *map(str, arguments), "--workers", "1"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    ) as run:
        end = time.monotonic() + 240
        while len(tree(part)) + len(tree(done)) < 33:  # past the first chunk
            assert time.monotonic() < end
            assert run.poll() is None
        run.send_signal(signal.SIGKILL)
    before = tree(part) | tree(done)
    videos_of = done if command == "frames" else done / "u"
    whole = images(videos_of) if videos_of.exists() else []
    assert len(whole) < 3
    last = frames if command == "frames" else frames - 1
    assert all(images(videos_of / name) == names(last) for name in whole)
    assert prepare(*arguments)[0] == 0
    assert images(videos_of) == list("abc")
    for name in "abc":
        assert images(videos_of / name) == names(last)
    if command == "flow":  # pairs that were finished are not computed again
        after = tree(done)
        assert len(set(before.values()) & set(after.values())) >= 32


def test_ranks_share_the_work(prepare, make_video, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    videos, out = tmp_path / "in", tmp_path / "out"
    for number in range(5):
        make_video(videos / f"c/{number}.avi")
    (videos / "c/bad.avi").write_text("no video")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = ["-m", "dali_pipes.prepare", "frames", str(videos), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *launch, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0  # for the bad one, once everything else is done
    assert "frames of 5 videos; 1 failed:" in done.stdout
    assert done.stdout.count("bad.avi: ") == 1
    assert images(out / "rgb/c") == list("01234")
    assert len(read_list(out / "train.list")) == 5
    made = tree(out / "rgb")
    (out / "rgb/c/3").rename(tmp_path / "lost")  # what a rank had not got to
    assert prepare("frames", videos, "--out", out)[0] == 1
    again = tree(out / "rgb")
    assert again.keys() == made.keys()
    assert sum(again[name] != made[name] for name in made) == 20
