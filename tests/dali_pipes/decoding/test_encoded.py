"""Clips handed to GPU decoders: the same frames by number, time stamps that tell them apart."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from dali_pipes.decoding import encoded as encoded_module
from dali_pipes.decoding.encoded import GPU_CODECS, encoded_clip
from dali_pipes.decoding.video import TooShort
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic


def counted(file: Path | io.BytesIO) -> list[tuple[int | None, np.ndarray]]:
    """Time stamp and picture of all frames, decoded from the first."""
    name = file if isinstance(file, io.BytesIO) else str(file)
    with av.open(name, metadata_errors="replace") as container:
        return [(f.pts, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def check(path: Path, numbers: range) -> int:
    """Decode what a GPU decoder would get; returns how many frames that is."""
    clip = encoded_clip(path, numbers, GPU_CODECS)
    assert clip is not None, path.name
    with av.open(io.BytesIO(clip.data)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    frames = counted(io.BytesIO(clip.data))
    # A decoder that seeks finds frame n by the n-th time stamp.
    assert [stamp for stamp, _ in frames] == sorted(stamps)
    assert len(set(stamps)) == len(stamps)
    whole = counted(path)
    for number in numbers:
        assert np.array_equal(frames[clip.first + number - numbers[0]][1], whole[number][1]), (
            f"{path.name}, frame {number}"
        )
    assert (clip.height, clip.width) == whole[0][1].shape[:2]
    return len(frames)


def test_every_real_video(real_data: Path) -> None:
    """Packed AVIs among them."""
    for path in sorted((real_data / "videos").rglob("*.*")):
        last = len(counted(path)) - 16
        for start in (0, last // 2, last):
            check(path, range(start, start + 16))
        with pytest.raises(TooShort) as caught:
            encoded_clip(path, range(last + 1, last + 17), GPU_CODECS)
        assert caught.value.frames == last + 16


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    return Synthetic.make(1, frames=60, size=(160, 208)).read_clip(0, range(60), None)[0]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"b_frames": 3}),
        ("a.mkv", "libx265", {"b_frames": 2}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.webm", "libvpx", {}),
        ("a.mov", "mpeg4", {"b_frames": 2}),
        ("a.avi", "mpeg4", {"b_frames": 2}),
        ("a.avi", "mpeg4", {"b_frames": 0}),
        ("a.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
    ],
)
def test_codecs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    texture: np.ndarray,
    name: str,
    codec: str,
    options: dict,
) -> None:
    path = tmp_path / name
    write_video(path, texture, codec, keyframe_every=10, **options)
    for start in (0, 27, 44):
        check(path, range(start, start + 16))
    check(path, range(14, 60, 3))
    monkeypatch.setattr(encoded_module, "_LEAD_BYTES", 0)  # begin at the keyframe before
    for start in (0, 27, 30, 44):
        assert check(path, range(start, start + 16)) < 30


@pytest.mark.parametrize(
    "unusual",
    [
        {"pix_fmt": "yuv444p"},
        {"pix_fmt": "yuv420p10le"},
        {"codec": "ffv1"},
        {"small": True},
        {"name": "a.avi"},  # H.264 in AVI: when pictures are shown cannot be known
    ],
)
def test_what_a_gpu_may_not_take_is_left_to_the_cpu(
    tmp_path: Path, texture: np.ndarray, unusual: dict
) -> None:
    frames = texture[:20, :96, :96] if unusual.pop("small", False) else texture[:20]
    path = tmp_path / unusual.pop("name", "a.mkv")
    write_video(path, [np.ascontiguousarray(frame) for frame in frames], **unusual)
    assert encoded_clip(path, range(16), GPU_CODECS) is None


def test_rotated_and_distrusted_videos_are_left_to_the_cpu(
    tmp_path: Path, texture: np.ndarray
) -> None:
    path, turned = tmp_path / "a.mp4", tmp_path / "turned.mp4"
    write_video(path, texture[:20])
    with av.open(str(path)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert encoded_clip(path, range(16), GPU_CODECS) is not None
    assert encoded_clip(turned, range(16), GPU_CODECS) is None
    assert encoded_clip(path, range(16), ("hevc",)) is None
