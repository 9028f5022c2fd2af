"""Clips handed to GPU decoders: the same frames by number, time stamps that tell them apart."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from dali_pipes.decoding.encoded import GPU_CODECS, encoded_clip, unsure
from dali_pipes.decoding.opening import TooShort
from dali_pipes.decoding.pictures import Unsure, pictures
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources import Synthetic
from tests.dali_pipes.decoding.remade import hidden_with_times, packet_like, remade


def counted(file: Path | io.BytesIO) -> list[tuple[int | None, np.ndarray]]:
    """Time stamp and picture of all frames, decoded from the first."""
    name = file if isinstance(file, io.BytesIO) else str(file)
    with av.open(name, metadata_errors="replace") as container:
        return [(f.pts, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def check(path: Path, numbers: range) -> int:
    """Decode what a GPU decoder would get; returns how many frames that is."""
    clip = encoded_clip(path, numbers, GPU_CODECS)
    with av.open(io.BytesIO(clip.data)) as container:
        stream = container.streams.video[0]
        codec, header = stream.codec_context.name, stream.codec_context.extradata
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert min(packet.pts for packet in packets) == 0
    shown, window = pictures(codec, header or b"", [bytes(packet) for packet in packets])
    assert not window.cuts, "a GPU would make a decoder anew for each clip"
    frames = counted(io.BytesIO(clip.data))
    # A decoder finds frame n by counting what it decodes, or by the n-th time stamp.
    assert len(frames) == len(packets)
    assert [stamp for stamp, _ in frames] == sorted(packet.pts for packet in packets)
    assert sorted(picture.rank for picture in shown) == list(range(len(frames)))
    whole, kept = counted(path), clip.window
    assert (kept.height, kept.width) == whole[0][1].shape[:2]
    for number in numbers:
        found = frames[clip.first + number - numbers[0]][1]
        assert found.shape == (kept.coded_height, kept.coded_width, 3)
        found = found[kept.top : kept.top + kept.height, kept.left : kept.left + kept.width]
        assert np.array_equal(found, whole[number][1]), f"{path.name}, frame {number}"
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
        ("a.mp4", "libx264", {"pix_fmt": "yuvj420p"}),
        ("a.ts", "libx264", {"b_frames": 2}),
        ("a.ts", "libx265", {"b_frames": 2}),
        ("a.mp4", "libx264", {"options": {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}}),
        ("a.mp4", "libx264", {"options": {"x264-params": "intra-refresh=1"}}),
        ("a.mkv", "libx265", {"options": {"x265-params": "open-gop=1:bframes=3"}}),
        ("a.mp4", "mpeg4", {"options": {"flags": "+qpel+mv4"}}),
    ],
)
def test_codecs(
    tmp_path: Path,
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
    one_keyframe = {"open-gop=1:bframes=3:b-adapt=0", "intra-refresh=1"} & {
        *options.get("options", {}).values()
    }
    if not one_keyframe or codec != "libx264":
        assert check(path, range(44, 60)) < 30, "it begins at the keyframe before the clip"


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("size", [(240, 426), (256, 340), (180, 320)])
def test_what_is_coded_and_not_shown_is_decoded_and_cut_off(
    tmp_path: Path, codec: str, size: tuple[int, int]
) -> None:
    frames = Synthetic.make(1, frames=30, size=size).read_clip(0, range(30), None)[0]
    for name in ("a.mp4", "a.mkv", "a.ts"):
        write_video(tmp_path / name, frames, codec)
        for start in (0, 13):
            check(tmp_path / name, range(start, start + 16))


UNUSUAL = [
    ("a.mkv", {"pix_fmt": "yuv444p"}, "is no 8-bit 4:2:0"),
    ("a.mkv", {"pix_fmt": "yuv420p10le"}, "is no 8-bit 4:2:0"),
    ("a.mkv", {"codec": "ffv1"}, "its codec is ffv1"),
    ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, "its codec is mjpeg"),
    ("a.mp4", {"codec": "libsvtav1"}, "its codec is libdav1d"),
    ("a.mkv", {"size": (96, 96)}, "its sides are not within 144 to 4096 pixels"),
    ("a.webm", {"codec": "libvpx-vp9", "size": (151, 208)}, "has an odd side"),
    ("a.webm", {"codec": "libvpx-vp9", "size": (150, 208)}, "its sides are not multiples of 16"),
    ("a.mp4", {"codec": "mpeg4", "size": (150, 208)}, "its sides are not multiples of 16"),
    ("a.avi", {}, "is in an AVI"),
    ("a.mp4", {"options": {"x264-params": "interlaced=1"}}, "may be interlaced"),
    ("a.mp4", {"codec": "libx265", "options": {"x265-params": "interlace=tff"}}, "is interlaced"),
    ("a.mp4", {"codec": "mpeg4", "options": {"flags": "+ildct+ilme"}}, "is interlaced"),
    ("a.mp4", {"options": {"colorspace": "bt709"}}, "its colours are not BT.601"),
    ("a.webm", {"codec": "libvpx-vp9", "options": {"colorspace": "bt709"}}, "its colours are not"),
    ("a.webm", {"codec": "libvpx-vp9", "options": {"color_range": "pc"}}, "are of full range"),
]


@pytest.mark.parametrize(("name", "how", "why"), UNUSUAL)
def test_what_a_gpu_may_not_take_is_left_to_the_cpu(
    tmp_path: Path, texture: np.ndarray, name: str, how: dict, why: str
) -> None:
    height, width = how.pop("size", texture.shape[1:3])
    path = tmp_path / name
    write_video(
        path, [np.ascontiguousarray(frame[:height, :width]) for frame in texture[:20]], **how
    )
    with pytest.raises(Unsure, match=why):
        encoded_clip(path, range(16), GPU_CODECS)
    assert why in unsure(path)


def test_colours_said_to_be_bt601_are_handed_over(tmp_path: Path, texture: np.ndarray) -> None:
    for tag in ("smpte170m", "bt470bg"):
        write_video(tmp_path / f"{tag}.mp4", texture[:20], options={"colorspace": tag})
        check(tmp_path / f"{tag}.mp4", range(16))


def repacked(
    source: Path, target: Path, change: Callable[[list[av.Packet]], list[av.Packet]]
) -> Path:
    """A copy without encoding; `change` may alter, drop or add packets."""

    def retimed(packets: list[av.Packet]) -> list[av.Packet]:
        changed = change(packets)
        for number, packet in enumerate(changed):  # times of decoding: any that rise
            packet.dts, packet.pts = number, packet.pts + len(changed)
        return changed

    return remade(source, target, retimed)


def show_again(packets: list[av.Packet]) -> list[av.Packet]:
    """VP9: after the sixth picture a packet that only shows one that is kept (slot 0)."""
    again = packet_like(packets[5], bytes([0b10001000]), later=3)
    return [*packets[:6], again, *packets[6:]]


def join_two(packets: list[av.Packet]) -> list[av.Packet]:
    """VP9: the sixth and seventh picture in one packet with an index, a superframe."""
    both = [bytes(packet) for packet in packets[5:7]]
    marker = bytes([0b11001001])  # sizes of two bytes, two pictures
    sizes = b"".join(len(data).to_bytes(2, "little") for data in both)
    joined = packet_like(packets[5], b"".join(both) + marker + sizes + marker)
    return [*packets[:5], joined, *packets[7:]]


def pack_two(packets: list[av.Packet]) -> list[av.Packet]:
    """Two pictures in a packet, as old AVIs have them."""
    joined = packet_like(packets[5], bytes(packets[5]) + bytes(packets[6]))
    return [*packets[:5], joined, *packets[7:]]


def forget_when_shown(packets: list[av.Packet]) -> list[av.Packet]:
    """Times of decoding taken for those of showing."""
    for number, packet in enumerate(packets):
        packet.pts = number
    return packets


BROKEN = [
    ("libvpx", "a.webm", hidden_with_times, "has hidden pictures"),
    ("libvpx-vp9", "a.webm", show_again, "has hidden pictures"),
    ("libvpx-vp9", "a.webm", join_two, "has hidden pictures"),
    ("mpeg4", "a.mp4", pack_two, "a packet holds 2 pictures"),
    ("libx264", "a.mp4", pack_two, "a packet holds 2 pictures"),
    ("libx265", "a.mp4", pack_two, "a packet holds 2 pictures"),
    ("libx264", "a.mkv", forget_when_shown, "its time stamps are not in the order"),
    ("libx265", "a.mkv", forget_when_shown, "its time stamps are not in the order"),
    ("mpeg4", "a.mkv", forget_when_shown, "its time stamps are not in the order"),
    ("libx264", "a.mkv", lambda packets: packets[1:], "begins between keyframes"),
    ("libx265", "a.mkv", lambda packets: packets[1:], "begins between keyframes"),
    ("mpeg4", "a.mkv", lambda packets: packets[1:], "begins between keyframes"),
    ("libvpx-vp9", "a.webm", lambda packets: packets[1:], "begins between keyframes"),
]


@pytest.mark.parametrize(("codec", "name", "change", "why"), BROKEN)
def test_streams_whose_packets_are_not_the_frames_are_left_to_the_cpu(
    tmp_path: Path, texture: np.ndarray, codec: str, name: str, change: Callable, why: str
) -> None:
    whole = tmp_path / f"whole{Path(name).suffix}"
    write_video(whole, texture[:40], codec)
    check(whole, range(16))
    with pytest.raises(Unsure, match=why):
        encoded_clip(repacked(whole, tmp_path / name, change), range(16), GPU_CODECS)


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "h264"), ("libx265", "hevc")])
def test_parameters_that_change_on_the_way_are_left_to_the_cpu(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    joined = tmp_path / f"joined.{suffix}"
    parts = []
    for side in (160, 192):
        frames = Synthetic.make(1, frames=20, size=(side, 208)).read_clip(0, range(20), None)[0]
        write_video(tmp_path / f"{side}.{suffix}", frames, codec)
        parts.append((tmp_path / f"{side}.{suffix}").read_bytes())
    joined.write_bytes(b"".join(parts))
    with pytest.raises(Unsure, match="changes its parameters"):
        encoded_clip(joined, range(16), GPU_CODECS)


def test_headers_that_make_no_sense_are_left_to_the_cpu(
    tmp_path: Path, texture: np.ndarray
) -> None:
    """Whatever the bits, the answer is pictures or Unsure."""
    random = np.random.default_rng(0)
    for codec, name in (("libx264", "a.mp4"), ("libx265", "b.mp4"), ("mpeg4", "c.mp4"),
                        ("libvpx", "d.webm"), ("libvpx-vp9", "e.webm")):  # fmt: skip
        write_video(tmp_path / name, texture[:20], codec)
        with av.open(str(tmp_path / name)) as container:
            stream = container.streams.video[0]
            codec, header = stream.codec_context.name, stream.codec_context.extradata or b""
            packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        refused = 0
        for _ in range(150):
            damaged = [bytearray(data[:200]) for data in (header, *packets)]
            for data in damaged:
                for at in random.integers(0, max(1, min(len(data), 40)), 2 if len(data) else 0):
                    data[at] = random.integers(256)
            try:
                pictures(codec, bytes(damaged[0]), [bytes(data) for data in damaged[1:]])
            except Unsure:
                refused += 1
        assert refused > 75


def test_rotated_videos_and_codecs_without_trust_are_left_to_the_cpu(
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
    assert unsure(path) == ""
    assert unsure(turned) == "is rotated"
    with pytest.raises(Unsure, match="its codec is h264"):
        encoded_clip(path, range(16), ("hevc",))


def test_what_is_wrong_with_a_file_is_a_reason_and_no_error(
    tmp_path: Path, texture: np.ndarray
) -> None:
    """Whether it can be used at all is for the worker to find out."""
    path = tmp_path / "a.mp4"
    path.write_text("no video")
    assert unsure(path) == "invalid data found when processing input"
    write_video(path, texture[:20])
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at : at + 2000] = bytes(2000)
    path.write_bytes(data)
    assert unsure(path)
