"""Late frames of videos whose headers prove nothing: counted once, compared ever after."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from dali_pipes.decoding import counted, video
from dali_pipes.decoding.opening import BadVideo, TooShort
from dali_pipes.decoding.showing import decoded_rgb
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import VideoFiles
from dali_pipes.sources.index import Index, index_at
from tests.dali_pipes.decoding.remade import (
    decoding_times_for_showing,
    field_coded,
    hidden_with_times,
    packet_like,
    remade,
)

FRAMES, KEYFRAME_EVERY = 140, 20


class Shelf:
    def __init__(self) -> None:
        self.data: bytes | None = None
        self.puts = 0

    def get(self) -> bytes | None:
        return self.data

    def put(self, data: bytes) -> None:
        self.data, self.puts = data, self.puts + 1


def images() -> np.ndarray:
    """No two alike, and none like its neighbours mirrored or moved."""
    found = np.zeros((FRAMES, 64, 80, 3), np.uint8)
    for n, image in enumerate(found):
        image[:] = n + 20
        image[:, n % 80] = 255
    return found


def encoded(codec: str, **how: object) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        write_video(path, images(), codec, keyframe_every=KEYFRAME_EVERY, **how)  # type: ignore[arg-type]
        return path

    return make


def of(make: Callable[[Path], Path], change: Callable) -> Callable[[Path], Path]:
    return lambda path: remade(make(path.with_name(f"whole{path.suffix}")), path, change)


FILES = {
    "fields.mp4": lambda path: field_coded(path, FRAMES, KEYFRAME_EVERY),
    "fields.mkv": lambda path: field_coded(path, FRAMES, KEYFRAME_EVERY),
    "hidden.webm": of(encoded("libvpx"), hidden_with_times),
    "dts for pts.mkv": of(encoded("libx264"), decoding_times_for_showing),
    "dts for pts.mp4": of(encoded("mpeg4"), decoding_times_for_showing),
    "h264.avi": encoded("libx264"),
    "open.ts": encoded("mpeg2video", options={"bf": "2"}),
    "open.mpg": encoded("mpeg2video", options={"bf": "2"}),
    "fast.mjpeg": encoded("mjpeg", pix_fmt="yuvj420p"),
    "10 bit.avi": encoded("ffv1", pix_fmt="yuv420p10le"),
    "rgb.mov": encoded("qtrle", pix_fmt="rgb24"),
    "wmv.asf": encoded("wmv2"),
    "interlaced.mp4": encoded("libx264", options={"x264-params": "interlaced=1:open-gop=1"}),
}


@pytest.fixture
def never_counts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        for module, name in ((counted, "_count"), (video, "read_by_counting")):
            monkeypatch.setattr(module, name, lambda *_: pytest.fail("decoded from the first"))

    return forbid


@pytest.mark.parametrize("name", FILES)
def test_late_frames_are_those_that_counting_shows(
    tmp_path: Path, name: str, never_counts: Callable[[], None]
) -> None:
    path = FILES[name](tmp_path / name)
    frames = list(decoded_rgb(path))
    assert len(frames) >= 112
    shelf = Shelf()
    for n, stride in enumerate((1, 2, 3)):
        for start in range(64, len(frames) - 15 * stride):
            numbers = range(start, start + 15 * stride + 1, stride)
            got, size = video.read_clip(path, numbers, None, shelf)
            assert size == frames[0].shape[:2]
            assert np.array_equal(got, [frames[k] for k in numbers]), (n, numbers)
            never_counts()  # but for the first time
    assert shelf.puts == 1
    with pytest.raises(TooShort) as caught:
        video.read_clip(path, range(len(frames) - 15, len(frames) + 1), None, shelf)
    assert caught.value.frames == len(frames)


def test_one_pass_also_tells_that_a_video_is_too_short(tmp_path: Path) -> None:
    path = FILES["h264.avi"](tmp_path / "a.avi")
    shelf = Shelf()
    with pytest.raises(TooShort, match=r"has 140 frames, frame 143 was asked for"):
        video.read_clip(path, range(128, 144), None, shelf)
    assert shelf.puts == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: counted._Counted([7] * FRAMES, [], True).packed(),
        lambda data: counted._Counted(
            [7] * FRAMES, counted._Counted.unpacked(data).keyframes, True
        ).packed(),
    ],
    ids=["cut off", "empty", "no keyframes", "other pictures"],
)
def test_what_is_kept_is_not_believed(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    """A keyframe that shows something else is left; counting gives the frames."""
    path = FILES["h264.avi"](tmp_path / "a.avi")
    frames = list(decoded_rgb(path))
    shelf = Shelf()
    video.read_clip(path, range(100, 116), None, shelf)
    assert shelf.data
    shelf.data = spoil(shelf.data)
    got, _ = video.read_clip(path, range(100, 116), None, shelf)
    assert np.array_equal(got, frames[100:116])


def test_another_video_in_its_place_is_noticed(tmp_path: Path) -> None:
    shelf = Shelf()
    path = FILES["h264.avi"](tmp_path / "a.avi")
    video.read_clip(path, range(100, 116), None, shelf)
    write_video(path, images()[::-1], keyframe_every=KEYFRAME_EVERY)
    frames = list(decoded_rgb(path))
    got, _ = video.read_clip(path, range(100, 116), None, shelf)
    assert np.array_equal(got, frames[100:116])


def test_damage_further_on_leaves_the_frames_before_it(tmp_path: Path) -> None:
    def damage(packets: list[av.Packet]) -> list[av.Packet]:
        return [
            packet if n < 120 else packet_like(packet, bytes(packet)[:9] * 20)
            for n, packet in enumerate(packets)
        ]

    whole = FILES["h264.avi"](tmp_path / "whole.avi")
    frames = list(decoded_rgb(whole))
    path, shelf = remade(whole, tmp_path / "a.avi", damage), Shelf()
    for start in (80, 90, 70):
        got, _ = video.read_clip(path, range(start, start + 16), None, shelf)
        assert np.array_equal(got, frames[start : start + 16])
    assert shelf.puts == 1
    for _ in range(2):
        with pytest.raises(BadVideo, match="invalid data"):
            video.read_clip(path, range(115, 131), None, shelf)


def test_the_index_keeps_it_between_processes(
    tmp_path: Path, never_counts: Callable[[], None]
) -> None:
    path = FILES["h264.avi"](tmp_path / "a.avi")
    frames = list(decoded_rgb(path))
    source = VideoFiles.found(tmp_path)
    source.read_clip(0, range(100, 116), None)
    index_at.cache_clear()
    assert Index(source.index_path).counted(str(path), source.stamp(0)).get()
    never_counts()
    got, _ = source.read_clip(0, range(90, 106), None)
    assert np.array_equal(got, frames[90:106])


def test_a_fault_of_the_system_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FILES["h264.avi"](tmp_path / "a.avi")
    frames, shelf = list(decoded_rgb(path)), Shelf()
    checksum, seen = counted._checksum, []

    def fails(frame: av.VideoFrame) -> int:
        seen.append(frame.pts)
        if len(seen) == 110:
            raise OSError(5, "Input/output error")
        return checksum(frame)

    with monkeypatch.context() as patch:
        patch.setattr(counted, "_checksum", fails)
        video.read_clip(path, range(70, 86), None, shelf)
    for start in (120, 90, 124):
        got, _ = video.read_clip(path, range(start, start + 16), None, shelf)
        assert np.array_equal(got, frames[start : start + 16])
    assert shelf.puts == 2
