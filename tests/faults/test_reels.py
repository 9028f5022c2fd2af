"""Damaged reels: a clip is right, or it is left out with its reason. Never another frame."""

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.loader import NothingUsable
from dali_pipes.prepare.__main__ import main
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Reels, reel_index
from tests.faults.damage import moving

COUNT = 110  # frames of each video: the index is larger than what is read of it at once
SMALL = {"resize": (24, 32), "size": 24, "device": "cpu", "batch_size": 3, "num_workers": 0}


def make(folder: Path, seeds: range) -> Path:
    for seed in seeds:
        path = folder / f"videos/class/{seed}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving((48, 64), COUNT, seed))
    flags = ["--flow", "tvl1-fast", "--resize", "24x32", "--workers", "1"]
    assert main(["reels", str(folder / "videos"), "--out", str(folder / "reels"), *flags]) == 0
    return folder / "reels"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sound"), range(3))


@pytest.fixture
def reels(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "reels"))


@pytest.fixture(autouse=True)
def _look_again() -> None:
    """Files change here while nothing in their status need."""
    reel_index.steps.cache_clear()


def shard(reels: Path) -> Path:
    (path,) = reels.glob("reels-*.tar")
    return path


def frames(source: Reels) -> dict[int, np.ndarray | str]:
    """All frames and fields of each video, or why there are none."""
    found: dict[int, np.ndarray | str] = {}
    for item in range(len(source)):
        try:
            pictures, _ = source.read_clip(item, range(COUNT), None)
            flow = source.read_flow(item, range(COUNT - 1))
            found[item] = np.concatenate([pictures.ravel(), flow.ravel()])
        except BadVideo as bad:
            found[item] = bad.reason
    return found


def check(found: dict[int, np.ndarray | str], truth: dict[int, np.ndarray | str]) -> int:
    """Every video is right or named; how many are named."""
    named = 0
    for item, pictures in found.items():
        if isinstance(pictures, str):
            named += 1
        else:
            np.testing.assert_array_equal(pictures, truth[item])
    return named


SOME = [400, pytest.param(40_000, marks=pytest.mark.battery)]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("flips", SOME)
def test_a_flipped_byte_of_a_shard(reels: Path, flips: int) -> None:
    source = Reels.found(reels)
    truth = frames(source)
    path, data = shard(reels), bytearray(shard(reels).read_bytes())
    parts = [source.steps(item)["offset"][[0, -1]].tolist() for item in range(3)]
    draw = random.Random(flips)
    for at in draw.sample(range(len(data)), min(flips, len(data))):
        bit = 1 << draw.randrange(8)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ bit]))
            file.flush()
            found = frames(source)
            file.seek(at)
            file.write(data[at : at + 1])
        hit = [item for item, (begin, end) in enumerate(parts) if begin <= at < end]
        assert check(found, truth) == len(hit)
        for item in hit:
            assert "is damaged in reels-0000-00000.tar; copy the shard again" in found[item]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("flips", SOME)
def test_a_flipped_byte_of_the_index(reels: Path, flips: int) -> None:
    truth = frames(Reels.found(reels))
    path = reels / "index.npz"
    data = path.read_bytes()
    draw = random.Random(flips)
    refused = named = 0
    flips = min(flips, len(data))
    for at in draw.sample(range(len(data)), flips):
        changed = bytearray(data)
        changed[at] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        reel_index.steps.cache_clear()
        try:
            source = Reels.found(reels)
        except ValueError as error:
            refused += "index.npz: is damaged" in str(error)
            continue
        assert source.paths == [str(reels / f"class/{seed}.mp4") for seed in range(3)]
        named += check(frames(source), truth) > 0
    assert refused > flips / 20
    assert named > flips / 20


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_shard_cut_short(reels: Path, share: float) -> None:
    source = Reels.found(reels)
    truth = frames(source)
    with open(shard(reels), "r+b") as file:
        file.truncate(int(share * shard(reels).stat().st_size))
    found = frames(source)
    whole = [item for item in range(3) if not isinstance(found[item], str)]
    assert check(found, truth) == 3 - len(whole) > 0
    assert len(whole) < 3


def test_a_missing_shard_is_named_before_the_first_clip(sound: Path, tmp_path: Path) -> None:
    two = make(tmp_path, range(3, 5))
    for path in (tmp_path / "videos").rglob("*.mp4"):
        path.with_stem(f"{path.stem}9").write_bytes(path.read_bytes())
    flags = ["--flow", "tvl1-fast", "--resize", "24x32", "--workers", "1"]
    assert main(["reels", str(tmp_path / "videos"), "--out", str(two), *flags]) == 0
    first, _ = sorted(two.glob("reels-*.tar"))
    first.unlink()
    loader = ClipLoader(reels=two, **SMALL)
    assert [Path(skip.path).name for skip in loader.skipped] == ["3.mp4", "4.mp4"]
    for skip in loader.skipped:
        assert skip.reason == (
            "reels-0000-00000.tar: no such file or directory; copy the shard again, or remove "
            "reels-0000-00000.tar and prepare reels again"
        )
    seen = {video for _ in range(2) for video in loader.next_batch().video.tolist()}
    assert seen == {1, 3}


def _truncated(path: Path) -> None:
    os.truncate(path, 30_000)


def _of_another_set(path: Path) -> None:
    other = make(path.parent.parent / "other", range(7, 10))
    path.unlink()
    shard(other).rename(path)


@pytest.mark.parametrize("change", [_truncated, _of_another_set, Path.unlink])
def test_a_shard_that_changes_during_the_run(
    sound: Path, reels: Path, change: Callable[[Path], None]
) -> None:
    loader, right = ClipLoader(reels=reels, **SMALL), ClipLoader(reels=sound, **SMALL)
    assert len(loader.next_batch()) == len(right.next_batch()) == 3
    change(shard(reels))
    with suppress(NothingUsable):
        for _ in range(8):
            got, wanted = loader.next_batch(), right.next_batch()
            places = [wanted.video.tolist().index(video) for video in got.video.tolist()]
            np.testing.assert_array_equal(got.frames, wanted.frames[places])
            np.testing.assert_array_equal(got.flow, wanted.flow[places])
    assert {Path(skip.path).name for skip in loader.skipped} == {"0.mp4", "1.mp4", "2.mp4"}


def test_an_index_that_is_replaced_during_the_run(reels: Path, tmp_path: Path) -> None:
    """Workers must not read other rows than the main process knows."""
    source = Reels.found(reels)
    other = make(tmp_path / "other", range(2))
    os.replace(other / "index.npz", reels / "index.npz")
    reel_index.steps.cache_clear()
    with pytest.raises(BadVideo, match="was replaced while it was in use; start again"):
        source.read_clip(0, range(4), None)


def test_check_names_what_is_damaged(reels: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = Reels.found(reels)
    offset = int(source.steps(1)["offset"][5])
    header = shard(reels).read_bytes().index(b'"name":"class/2.mp4"')
    for at in (offset + 20, header + 60):
        with open(shard(reels), "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 4]))
    assert main(["check", str(reels), "--workers", "1"]) == 1
    said = capfd.readouterr().out
    assert "class/1.mp4: check: frame 5 is damaged in reels-0000-00000.tar" in said
    assert "class/2.mp4: check: what its shard says of it is damaged" in said
    assert "class/0.mp4" not in said
