"""Which pictures a video has, in files that are odd and not damaged."""

from itertools import product
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dali_pipes.decoding.encoded import unsure
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.showing import decoded_rgb
from dali_pipes.decoding.video import picture_count, probe, read_frames
from dali_pipes.prepare.check import inspect
from dali_pipes.prepare.encode import write_video
from tests.dali_pipes.decoding.remade import (
    field_coded,
    grey_of,
    joined_late,
    packet_like,
    remade,
    turned,
    with_message,
)

FRAMES, KEYFRAME_EVERY = 60, 12


@pytest.fixture(scope="module")
def texture() -> list[np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 255, (200, 320, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return [np.ascontiguousarray(smooth[n : n + 96, 2 * n : 2 * n + 128]) for n in range(FRAMES)]


def encoded(path: Path, texture: list[np.ndarray], codec: str) -> list[np.ndarray]:
    write_video(path, texture, codec, keyframe_every=KEYFRAME_EVERY, b_frames=0)
    return list(decoded_rgb(path))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_two_fields_are_a_picture(tmp_path: Path, container: str) -> None:
    path = field_coded(tmp_path / f"a.{container}", 40)
    assert probe(path).frames == 80
    greys = [int(image[0, 0, 0]) for image in decoded_rgb(path)]
    assert np.abs(np.array(greys) - [(grey_of(n) - 16) * 255 / 219 for n in range(40)]).max() < 1
    assert inspect(str(path), 16).wrong == ()
    assert picture_count(path) == 40


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_what_an_edit_hides_is_no_frame(
    tmp_path: Path, texture: list[np.ndarray], codec: str
) -> None:
    """Cut without encoding: pictures from the keyframe on are there, and not shown."""
    whole = encoded(tmp_path / "whole.mp4", texture, codec)

    def cut(packets: list[av.Packet]) -> list[av.Packet]:
        kept = packets[KEYFRAME_EVERY:]
        for packet in kept:
            later = (KEYFRAME_EVERY + 7) * packet.duration
            packet.pts, packet.dts = packet.pts - later, packet.dts - later
        return kept

    path = remade(tmp_path / "whole.mp4", tmp_path / "cut.mp4", cut)
    with av.open(str(path)) as container:
        assert any(packet.is_discard for packet in container.demux(video=0))
    assert np.array_equal(list(decoded_rgb(path)), whole[KEYFRAME_EVERY + 7 :])
    assert np.array_equal(read_frames(path, range(20, 36)), whole[39:55])
    assert inspect(str(path), 16).wrong == ()
    assert picture_count(path) == FRAMES - KEYFRAME_EVERY - 7
    assert unsure(path)


@pytest.mark.parametrize(
    ("codec", "container"),
    [*product(("libx264", "libx265", "mpeg4"), ("mkv", "mp4", "ts")), ("mpeg2video", "mkv"),
     ("libvpx", "webm"), ("libvpx", "mkv"),
     ("libvpx-vp9", "webm"), ("libvpx-vp9", "mp4")],
)  # fmt: skip
def test_recordings_joined_late_begin_with_their_first_keyframe(
    tmp_path: Path, texture: list[np.ndarray], codec: str, container: str
) -> None:
    whole = encoded(tmp_path / f"whole.{container}", texture, codec)
    with av.open(str(tmp_path / f"whole.{container}")) as file:
        keys = [p.is_keyframe for p in file.demux(video=0) if p.size]
    second = keys.index(True, 1)
    path = remade(tmp_path / f"whole.{container}", tmp_path / f"late.{container}", joined_late)
    assert np.array_equal(list(decoded_rgb(path)), whole[second:])
    assert np.array_equal(read_frames(path, range(20, 36)), whole[second + 20 : second + 36])
    assert picture_count(path) == len(whole) - second


def test_av1_joined_late(tmp_path: Path, texture: list[np.ndarray]) -> None:
    """Of which PyAV copies no packets. IVF: a header of 32 bytes; of a packet 12, size and time."""
    whole = encoded(tmp_path / "whole.ivf", texture, "libsvtav1")
    data = (tmp_path / "whole.ivf").read_bytes()
    late, at = [], 32
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "little")
        late.append(data[at:end])
        at = end
    late = late[5:]
    first = int.from_bytes(late[0][4:12], "little")
    for n, packet in enumerate(late):
        time = int.from_bytes(packet[4:12], "little") - first
        late[n] = packet[:4] + time.to_bytes(8, "little") + packet[12:]
    path = tmp_path / "late.ivf"
    path.write_bytes(data[:32] + b"".join(late))
    assert np.array_equal(list(decoded_rgb(path)), whole[KEYFRAME_EVERY:])


@pytest.mark.parametrize(
    ("codec", "container"), [("mpeg4", "avi"), ("libvpx", "webm"), ("libx265", "mp4")]
)
def test_a_damaged_begin_is_no_late_one(
    tmp_path: Path, texture: list[np.ndarray], codec: str, container: str
) -> None:
    """What is lost was there: numbers would be others."""
    encoded(tmp_path / f"whole.{container}", texture, codec)

    def lose_the_first(packets: list[av.Packet]) -> list[av.Packet]:
        first = bytearray(bytes(packets[0]))
        first[len(first) // 3 :] = b"\x5a" * (len(first) - len(first) // 3)
        return [packet_like(packets[0], bytes(first)), *packets[1:]]

    path = remade(tmp_path / f"whole.{container}", tmp_path / f"a.{container}", lose_the_first)
    if codec != "mpeg4":  # decodes anything
        assert len(list(decoded_rgb(path))) == FRAMES
    else:
        with pytest.raises(BadVideo):
            list(decoded_rgb(path))
    path = remade(tmp_path / f"whole.{container}", tmp_path / f"b.{container}", lambda all: all[1:])
    with pytest.raises(BadVideo, match=r"keyframe|invalid data"):
        list(decoded_rgb(path))


OVERLONG = bytes([5, 22]) + bytes(range(0x40, 0x54)) + b"\x80"  # 20 bytes, says 22


@pytest.mark.parametrize(
    ("codec", "header"), [("libx264", bytes([6])), ("libx265", bytes([39 << 1, 1]))]
)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_messages_longer_than_they_are_are_no_damage(
    tmp_path: Path, texture: list[np.ndarray], codec: str, header: bytes, container: str
) -> None:
    """As cameras and old FLVs have them. The pictures are sound."""
    whole = encoded(tmp_path / f"whole.{container}", texture, codec)
    source, path = tmp_path / f"whole.{container}", tmp_path / f"odd.{container}"
    remade(source, path, lambda packets: with_message(packets, header + OVERLONG))
    with av.open(str(path)) as file:
        file.streams.video[0].codec_context.options = {"err_detect": "explode"}
        with pytest.raises(av.error.InvalidDataError):
            list(file.decode(video=0))
    assert np.array_equal(list(decoded_rgb(path)), whole)
    assert np.array_equal(read_frames(path, range(20, 36)), whole[20:36])
    assert inspect(str(path), 16).wrong == ()

    def damage(packets: list[av.Packet]) -> list[av.Packet]:
        data = bytearray(bytes(packets[24]))
        data[len(data) // 2 :] = b"\x5a" * (len(data) - len(data) // 2)
        return [*packets[:24], packet_like(packets[24], bytes(data)), *packets[25:]]

    remade(source, tmp_path / f"bad.{container}", damage)
    remade(
        source,
        tmp_path / f"both.{container}",
        lambda packets: with_message(damage(packets), header + OVERLONG),
    )
    seen = [outcome(tmp_path / f"{name}.{container}") for name in ("bad", "both")]
    if codec == "libx264":
        assert seen == ["invalid data found when processing input"] * 2
    else:  # HEVC decodes anything, not always alike
        assert [len(frames) for frames in seen] == [FRAMES] * 2


def outcome(path: Path) -> list[bytes] | str:
    try:
        return [image.tobytes() for image in decoded_rgb(path)]
    except BadVideo as error:
        return error.reason


@pytest.mark.parametrize(
    ("codec", "name", "pix_fmt"),
    [
        ("qtrle", "a.mov", "rgb24"),
        ("cfhd", "a.mov", "yuv422p10le"),
        ("msvideo1", "a.avi", "rgb555le"),
        ("flashsv", "a.flv", "bgr24"),
        ("rpza", "a.mov", "rgb555le"),
        ("asv1", "a.avi", "yuv420p"),
    ],
)
def test_codecs_that_do_not_say_what_a_picture_is(
    tmp_path: Path, texture: list[np.ndarray], codec: str, name: str, pix_fmt: str
) -> None:
    write_video(tmp_path / name, texture, codec, pix_fmt=pix_fmt)
    with av.open(str(tmp_path / name)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(plain) == FRAMES
    assert np.array_equal(list(decoded_rgb(tmp_path / name)), plain)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((-1, 0, 0, 1), lambda image: cv2.flip(image, 1)),
        ((1, 0, 0, -1), lambda image: cv2.flip(image, 0)),
        ((-1, 0, 0, -1), lambda image: cv2.rotate(image, cv2.ROTATE_180)),
        ((0, 1, -1, 0), lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)),
        ((0, -1, 1, 0), lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)),
        ((0, 1, 1, 0), cv2.transpose),
        ((0, -1, -1, 0), lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180)),
        ((2, 0, 0, 2), lambda image: image),
        ((0, 0, 0, 0), lambda image: image),
    ],
)
def test_turned_and_mirrored_as_players_show_it(
    tmp_path: Path, texture: list[np.ndarray], matrix: tuple, shown
) -> None:
    plain = encoded(tmp_path / "a.mp4", texture[:20], "libx264")
    path = turned(tmp_path / "a.mp4", tmp_path / "turned.mp4", matrix)
    assert np.array_equal(list(decoded_rgb(path)), [shown(image) for image in plain])
    assert np.array_equal(read_frames(path, [3, 17]), [shown(plain[n]) for n in (3, 17)])
    stands = matrix in ((1, 0, 0, 1), (2, 0, 0, 2), (0, 0, 0, 0))
    write_video(tmp_path / "large.mp4", np.zeros((20, 160, 208, 3), np.uint8))
    large = turned(tmp_path / "large.mp4", tmp_path / "large turned.mp4", matrix)
    assert unsure(large) == ("" if stands else "is rotated")


def test_turned_by_less_than_a_quarter_is_refused(
    tmp_path: Path, texture: list[np.ndarray]
) -> None:
    encoded(tmp_path / "a.mp4", texture[:20], "libx264")
    path = turned(tmp_path / "a.mp4", tmp_path / "turned.mp4", (1, 1, -1, 1))
    for read in (lambda: list(decoded_rgb(path)), lambda: read_frames(path, [3, 17])):
        with pytest.raises(BadVideo, match=r"turned\.mp4: decode: is to be turned by less than"):
            read()
