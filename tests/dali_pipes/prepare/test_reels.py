"""`prepare reels`: what it makes, and what becomes of it when it is ended at any moment."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from dali_pipes.decoding.jpeg import read_image
from dali_pipes.decoding.video import read_frames
from dali_pipes.flow import tvl1_flow
from dali_pipes.lock import locked
from dali_pipes.prepare import reels as command
from dali_pipes.prepare import shards
from dali_pipes.prepare.images import jpeg
from dali_pipes.sources import FrameFolders, Reels
from kernels.flow.code import encode
from tests.dali_pipes.prepare.conftest import Run

ROOT = Path(__file__).parents[3]
SMALL = ("--flow", "tvl1-fast", "--resize", "24x32")


def contents(reels: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Frames and fields of all videos, by name; every checksum is compared on the way."""
    source = Reels.found(reels)
    found = {}
    for item, path in enumerate(source.paths):
        count = int(source.frames[item])
        frames, _ = source.read_clip(item, range(count), None)
        found[os.path.relpath(path, reels)] = frames, source.read_flow(item, range(count - 1))
    return found


def same(a: Path, b: Path) -> None:
    first, second = contents(a), contents(b)
    assert first.keys() == second.keys()
    for name, (frames, flow) in first.items():
        np.testing.assert_array_equal(frames, second[name][0])
        np.testing.assert_array_equal(flow, second[name][1])


def leftovers(reels: Path) -> list[str]:
    return sorted(path.name for path in reels.glob(".*") if path.name != ".lock")


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    for n in range(6):
        make_video(tmp_path / f"videos/{'ab'[n % 2]}/{n}.mp4", 18 + n)
    return tmp_path / "videos"


def test_what_is_made(prepare: Run, videos: Path, tmp_path: Path) -> None:
    reels = tmp_path / "reels"
    status, said = prepare("reels", videos, "--out", reels, *SMALL, "--quality", "98")
    assert status == 0, said
    assert "6 videos, 123 frames" in said
    assert "reels: 6 of 6 videos, 0 failed" in said
    made = json.loads((reels / "reels.json").read_text())
    assert (made["resize"], made["flow"], made["jpeg_quality"]) == ([24, 32], "tvl1-fast", 98)
    assert "av" in made["made_with"]
    assert leftovers(reels) == []
    status, said = prepare("check", reels, "--json", tmp_path / "report.json")
    assert status == 0, said
    assert "every checksum is right" in said
    assert "123" in json.loads((tmp_path / "report.json").read_text())["frames"]
    status, said = prepare("check", reels, "--min-frames", 20)
    assert status == 1
    assert said.count("a clip needs 20") == 2


def test_tvl1_is_native_then_coded_then_resized(
    prepare: Run, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    make_video(tmp_path / "videos/a.mp4", 19)
    out = tmp_path / "reels"
    assert prepare("reels", tmp_path / "videos", "--out", out, "--resize", "24x32")[0] == 0
    (_, flow), *_ = contents(out).values()
    native = encode(tvl1_flow(read_frames(tmp_path / "videos/a.mp4", range(19))))
    wanted = np.stack([cv2.resize(field, (32, 24)) for field in native])
    assert np.abs(flow.astype(int) - wanted).mean() < 1


def test_from_the_published_layout(prepare: Run, videos: Path, tmp_path: Path) -> None:
    layout, reels = tmp_path / "layout", tmp_path / "reels"
    assert prepare("frames", videos, "--out", layout)[0] == 0
    assert prepare("flow", layout)[0] == 0
    folders = (layout / "rgb", layout / "flow/u", layout / "flow/v")
    flags = ("--out", reels, "--resize", "24x32", "--quality", "100")
    status, said = prepare("reels", "--from-frames", *folders, *flags)
    assert status == 0, said
    assert json.loads((reels / "reels.json").read_text())["flow"] == "stored"
    source = FrameFolders.found(*folders)
    found = contents(reels)
    assert list(found) == [os.path.relpath(path, layout / "rgb") for path in source.paths]
    for item, (frames, flow) in enumerate(found.values()):
        truth, _ = source.read_clip(item, range(18), (24, 32))
        coded = [np.frombuffer(jpeg(frame, 100), np.uint8) for frame in truth]
        again = [cv2.imdecode(image, cv2.IMREAD_COLOR_RGB) for image in coded]
        np.testing.assert_array_equal(frames[:18], again)
        _, u, v = source.folders(item)
        for component, folder in enumerate((u, v)):
            image = read_image(f"{folder}/frame000003.jpg")[..., 0]
            assert (
                np.abs(flow[2, ..., component] - cv2.resize(image, (32, 24)).astype(int)).max() < 6
            )
    status, said = prepare(
        "reels", "--from-frames", layout / "rgb", "--out", tmp_path / "r2", *SMALL
    )
    assert status == 0, said
    assert json.loads((tmp_path / "r2/reels.json").read_text())["flow"] == "tvl1-fast"


def test_failures_are_named_and_made_up_for(prepare: Run, videos: Path, tmp_path: Path) -> None:
    whole = (videos / "a/2.mp4").read_bytes()
    (videos / "a/2.mp4").write_bytes(whole[: len(whole) // 2])
    reels = tmp_path / "reels"
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert status == 1
    assert "5 videos" in said
    assert "a/2.mp4: " in said
    assert len(contents(reels)) == 5
    (videos / "a/2.mp4").write_bytes(whole)
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert status == 0, said
    assert "5 videos were done before" in said
    assert prepare("reels", videos, "--out", tmp_path / "other", *SMALL)[0] == 0
    same(reels, tmp_path / "other")


def test_lost_shards_are_made_up_for(
    prepare: Run, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 30_000)
    reels = tmp_path / "reels"
    assert prepare("reels", videos, "--out", reels, *SMALL)[0] == 0
    made = sorted(reels.glob("reels-*.tar"))
    assert len(made) > 1
    before = contents(reels)
    made[0].unlink()
    with open(made[1], "r+b") as file:
        file.truncate(file.seek(0, 2) // 2)
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert status == 0, said
    after = contents(reels)
    assert before.keys() == after.keys()
    for name, (frames, _) in before.items():
        np.testing.assert_array_equal(frames, after[name][0])


def test_a_new_shard_is_not_taken_for_a_lost_one_of_its_name(
    prepare: Run, videos: Path, tmp_path: Path
) -> None:
    reels = tmp_path / "reels"
    assert prepare("reels", videos, "--out", reels, *SMALL)[0] == 0
    (shard,) = reels.glob("reels-*.tar")
    shard.unlink()
    for path in list(videos.rglob("*.mp4"))[1:]:
        path.rename(path.with_name(f"another-{path.name}"))  # longer: all lies elsewhere
    first = min(videos.rglob("another-*"))
    first.write_bytes(first.read_bytes()[:500])  # fails
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert status == 1
    assert shard.is_file()
    assert len(contents(reels)) == 5, said
    assert prepare("check", reels)[0] == 0


@pytest.mark.parametrize("index", [None, b"PK damaged"])
def test_an_index_is_made_anew_from_the_shards(
    prepare: Run, videos: Path, tmp_path: Path, index: bytes | None
) -> None:
    reels = tmp_path / "reels"
    assert prepare("reels", videos, "--out", reels, *SMALL)[0] == 0
    before = contents(reels)
    (reels / "index.npz").unlink()
    if index:
        (reels / "index.npz").write_bytes(index)
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert status == 0
    assert "6 videos were done before" in said
    after = contents(reels)
    assert before.keys() == after.keys()
    for name, (frames, flow) in before.items():
        np.testing.assert_array_equal(frames, after[name][0])
        np.testing.assert_array_equal(flow, after[name][1])


def test_what_cannot_be_is_said(prepare: Run, videos: Path, tmp_path: Path) -> None:
    reels = tmp_path / "reels"
    for arguments, words in (
        (("reels", "--out", reels), "give a folder of videos, or --from-frames"),
        (("reels", videos, "--out", reels, "--quality", 0), "--quality must lie between 1 and 100"),
        (("reels", videos, "--out", reels, "--resize", "0x4"), "is not HEIGHTxWIDTH"),
        (("reels", videos, "--out", reels, "--from-frames", videos), "not both"),
        (("reels", "--from-frames", videos, videos, "--out", reels), "takes RGB FLOW_X FLOW_Y"),
        (("reels", tmp_path / "none", "--out", reels), "no such folder"),
        (("reels", videos, "--out", videos, *SMALL), "holds data, but there is no"),
    ):
        status, said = prepare(*arguments)
        assert (status, words in said) == (2, True), said
    assert prepare("reels", videos, "--out", reels, *SMALL)[0] == 0
    status, said = prepare(
        "reels", videos, "--out", reels, "--flow", "tvl1-fast", "--resize", "32x32"
    )
    assert status == 2
    assert "was begun with resize [24, 32] (now [32, 32])" in said
    with locked(reels / ".lock", "`prepare reels`"):
        status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert (status, "another `prepare reels` works there" in said) == (2, True)
    (videos / "a/0_mp4.avi").write_bytes((videos / "a/0.mp4").read_bytes())
    (videos / "a/0_mp4_avi").write_bytes(b"")
    (videos / "a/0.mp4.avi").write_bytes((videos / "a/0.mp4").read_bytes())
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert (status, "would both be a/0_mp4_avi in a shard" in said) == (2, True), said


@pytest.mark.parametrize("place", ["worker", "shard"])
def test_a_full_disk_stops_and_leaves_what_is_whole(
    prepare: Run, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The third video finds the disk full, its pictures or the shard they go to."""
    reels, calls = tmp_path / "reels", []

    def full(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    if place == "worker":
        monkeypatch.setattr(command, "each", in_this_process)
        original = command.jpeg
        monkeypatch.setattr(command, "jpeg", full)
    else:
        original = shards._write_member
        monkeypatch.setattr(shards, "_write_member", full)
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert status == 1
    assert "No space left on device" in said
    monkeypatch.undo()
    status, said = prepare("reels", videos, "--out", reels, *SMALL)
    assert status == 0, said
    assert ("were done before" in said) == (place == "shard")
    assert leftovers(reels) == []
    assert prepare("reels", videos, "--out", tmp_path / "other", *SMALL)[0] == 0
    same(reels, tmp_path / "other")


def in_this_process(stage, items, *_: object, **__: object):  # type: ignore[no-untyped-def]
    for item in items:
        yield item, stage(item)


def start(videos: Path, reels: Path, *launcher: str) -> subprocess.Popen:
    arguments = ["-m", "dali_pipes.prepare", "reels", str(videos), "--out", str(reels), *SMALL]
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments, "--workers", "2"], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.battery)])
def test_killed_at_any_moment(
    prepare: Run, make_video: Callable[..., Path], tmp_path: Path, kills: int
) -> None:
    for n in range(40):
        make_video(tmp_path / f"videos/{n:02}.mp4", 18 + n)
    videos, reels = tmp_path / "videos", tmp_path / "reels"
    draw = random.Random(kills)
    done = 0
    for _ in range(kills):
        process = start(videos, reels)
        journals = list(reels.glob(".done-*"))
        while process.poll() is None and set(reels.glob(".done-*")) <= set(journals):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        with suppress(ProcessLookupError):  # it was done sooner
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = len(shards.read_done(reels))
        assert now >= done, "finished videos were lost"
        done = now
    process = start(videos, reels)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert f"{done} videos were done before" in said
    assert leftovers(reels) == []
    assert prepare("reels", videos, "--out", tmp_path / "other", *SMALL)[0] == 0
    same(reels, tmp_path / "other")
    assert prepare("check", reels)[0] == 0


def test_ranks_share_and_one_alone_makes_up_for_others(
    prepare: Run, videos: Path, tmp_path: Path
) -> None:
    reels = tmp_path / "reels"
    for path in list(videos.rglob("*.mp4"))[1:3]:
        path.rename(path.with_name(f".{path.name}"))
    process = start(
        videos, reels, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"
    )
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert {path.name[:10] for path in reels.glob("reels-*.tar")} == {"reels-0000", "reels-0001"}
    assert len(contents(reels)) == 4
    for path in list(videos.rglob(".*.mp4")):
        path.rename(path.with_name(path.name[1:]))
    assert prepare("reels", videos, "--out", reels, *SMALL)[0] == 0
    assert prepare("reels", videos, "--out", tmp_path / "other", *SMALL)[0] == 0
    same(reels, tmp_path / "other")


def test_a_video_whose_frame_size_changes_fails(tmp_path: Path) -> None:
    images = [np.zeros(shape, np.uint8) for shape in ((8, 8, 3), (8, 8, 3), (8, 16, 3))]
    recipe = command.Recipe((8, 8), 95, "tvl1-fast", "cpu")
    with pytest.raises(Exception, match="frame size changes at frame 2"):
        list(command._with_flow("x.mp4", iter(images), recipe))
