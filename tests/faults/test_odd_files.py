"""Files that are odd and sound, through everything that reads videos: the frames that players show,
by number."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes import show as show_command
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.showing import decoded_rgb
from dali_pipes.prepare.__main__ import main as prepare
from dali_pipes.prepare.encode import write_video
from tests.dali_pipes.decoding.remade import (
    decoding_times_for_showing,
    field_coded,
    hidden_with_times,
    joined_late,
    remade,
    turned,
    with_message,
)

FRAMES = 100  # each file has 80 or more
RESIZE, SIZE = (48, 64), 32


def texture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    return np.stack([np.roll(noise, (n, 2 * n), (0, 1)) // 2 + np.uint8(n) for n in range(FRAMES)])


def of(codec: str, change: Callable) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        whole = path.parent.parent / f"whole{path.suffix}"
        write_video(whole, texture(), codec, b_frames=0)
        remade(whole, path, change)

    return make


def cut(packets: list) -> list:
    for packet in packets:
        packet.pts, packet.dts = packet.pts - 5 * packet.duration, packet.dts - 5 * packet.duration
    return packets


def mirrored(path: Path) -> None:
    whole = path.parent.parent / "whole.mp4"
    write_video(whole, texture())
    turned(whole, path, (-1, 0, 0, 1))


MESSAGE = bytes([6, 5, 22]) + bytes(range(0x40, 0x54)) + b"\x80"
FILES: dict[str, Callable[[Path], object]] = {
    "fields.mp4": lambda path: field_coded(path, FRAMES),
    "hidden.webm": of("libvpx", hidden_with_times),
    "times of decoding.mkv": of("libx264", decoding_times_for_showing),
    "cut.mp4": of("libx264", cut),
    "no flags.mov": lambda path: write_video(path, texture(), "qtrle", pix_fmt="rgb24"),
    "message.mp4": of("libx264", lambda packets: with_message(packets, MESSAGE)),
    "late hevc.mkv": of("libx265", joined_late),
    "late vp8.webm": of("libvpx", joined_late),
    "mirrored.mp4": mirrored,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd") / "videos"
    root.mkdir()
    for name, make in FILES.items():
        make(root / name)
    return root


@pytest.fixture(scope="module")
def frames(folder: Path) -> dict[str, list[np.ndarray]]:
    """By name; `test_showing` and `test_counted` say that they are right."""
    return {name: list(decoded_rgb(folder / name)) for name in FILES}


def test_loader(folder: Path, frames: dict[str, list[np.ndarray]]) -> None:
    loader = ClipLoader(
        folder, batch_size=4, clips_per_video=5, sampling="even", num_workers=1, device="cpu",
        resize=RESIZE, size=SIZE, labels=False, on_skip=lambda skip: pytest.fail(str(skip)),
    )  # fmt: skip
    names, seen = sorted(FILES), 0
    top, left = (RESIZE[0] - SIZE) // 2, (RESIZE[1] - SIZE) // 2
    for _ in range(len(FILES) * 5 // 4):
        batch = loader.next_batch()
        for item, start, clip in zip(batch.video, batch.start, batch.frames, strict=True):
            right = frames[names[item]][start : start + 16]
            assert len(right) == 16
            small = np.stack([resized(image, RESIZE) for image in right])
            small = small[:, top : top + SIZE, left : left + SIZE]
            assert np.array_equal(np.asarray(clip.cpu()), small), (names[item], start)
            seen += 1
    loader.close()
    assert seen == 44


def test_prepare(folder: Path, frames: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    prepare(["check", str(folder), "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    found = {Path(video["path"]).name: video for video in report["videos"]}
    assert {name: video["frames"] for name, video in found.items()} == {
        name: len(shown) for name, shown in frames.items()
    }
    assert {name for name, video in found.items() if video["wrong"]} <= {
        "late hevc.mkv",
        "late vp8.webm",
    }

    assert prepare(["list", str(folder), "--out", str(tmp_path / "list"), "--every", "1"]) == 0
    last = dict(line.rsplit(" ", 2)[:2] for line in (tmp_path / "list").read_text().splitlines())
    assert {name: int(start) for name, start in last.items()} == {
        Path(name).stem: len(shown) - 16 for name, shown in frames.items()
    }

    assert prepare(["frames", str(folder), "--out", str(tmp_path / "frames")]) == 0
    for name, shown in frames.items():
        images = tmp_path.glob(f"frames/rgb/**/{Path(name).stem}/*.jpg")
        assert len(list(images)) == len(shown), name


def test_show(folder: Path, tmp_path: Path) -> None:
    for name in FILES:
        out = tmp_path / f"{name}.png"
        assert (
            show_command.main([str(folder / name), "--flow", "tvl1-fast", "--out", str(out)]) == 0
        )
        assert out.stat().st_size
