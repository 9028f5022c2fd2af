"""Which files of a folder are videos: none is passed over without a word."""

from pathlib import Path

import numpy as np
import pytest

from dali_pipes import ClipLoader
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import VideoFiles
from dali_pipes.sources.suffixes import VIDEO_SUFFIXES, is_video_name

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
CONTAINERS = {  # suffix: codec
    ".mp4": "libx264",
    ".avi": "mpeg4",
    ".mkv": "ffv1",
    ".ts": "libx264",
    ".flv": "libx264",
    ".asf": "mpeg4",
    ".mpg": "mpeg2video",
    ".m2v": "mpeg2video",
    ".nut": "mpeg4",
    ".3g2": "libx264",
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("encoded")
    for suffix, codec in CONTAINERS.items():
        write_video(folder / f"v{suffix}", FRAMES, codec)
    return {suffix: (folder / f"v{suffix}").read_bytes() for suffix in CONTAINERS}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_videos_are_found_by_their_suffix(
    suffix: str, encoded: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / f"v{suffix.upper()}").write_bytes(encoded[suffix])
    source = VideoFiles.found(tmp_path)
    assert [Path(path).suffix.lower() for path in source.paths] == [suffix]
    assert source.read_clip(0, range(6), None)[0].shape == FRAMES.shape
    assert not source.left_out


def test_every_suffix_that_is_promised() -> None:
    promised = ".ts .ogg .m2v .gif .asf .divx .mxf .m2t .f4v .3g2 .dv .qt .rm .h264"
    for suffix in promised.split(" "):
        assert is_video_name(f"a.b{suffix}")
    for name in ("a.jpg", "a.json", "mp4", "a.mp4.part", "a", ".mp4", "a.wav"):
        assert not is_video_name(name)
    assert all(suffix == suffix.lower() for suffix in VIDEO_SUFFIXES)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".ts", ".flv", ".asf", ".mpg"])
def test_what_looks_like_video_is_named(
    suffix: str, encoded: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "good.mp4").write_bytes(encoded[".mp4"])
    odd = [tmp_path / name for name in ("clip", "clip.dat", "clip.mp4.part")]
    for path in odd:
        path.write_bytes(encoded[suffix])
    others = {"a.jpg": b"\xff\xd8\xff", "notes.txt": b"x", "empty": b"", "x.npz": b"PK\x03\x04"}
    others |= {"sound.m4a": b"\0\0\0\x20ftypM4A ", "still": b"\0\0\0\x20ftypheic"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    source = VideoFiles.found(tmp_path)
    assert [Path(path).name for path in source.paths] == ["good.mp4"]
    assert sorted(bad.path for bad in source.left_out) == sorted(map(str, odd))
    assert {bad.reason for bad in source.left_out} == {
        "looks like a video, but is not named like one (.mp4, .avi, ...)"
    }


def test_the_loader_and_an_empty_folder_say_so(encoded: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "clip.dat").write_bytes(encoded[".mp4"])
    with pytest.raises(ValueError, match=r"no video files .*clip\.dat: open: looks like a video"):
        VideoFiles.found(tmp_path)
    (tmp_path / "good.mp4").write_bytes(encoded[".mp4"])
    arguments = {"clip_len": 4, "size": 32, "resize": (36, 48), "num_workers": 0}
    loader = ClipLoader(tmp_path, batch_size=1, **arguments)
    assert [Path(skip.path).name for skip in loader.skipped] == ["clip.dat"]
    loader.close()
