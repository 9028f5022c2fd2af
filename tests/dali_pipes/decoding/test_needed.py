"""Frames from the pictures that a clip needs, against decoding from frame 0 and counting."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dali_pipes.decoding import needed, video
from dali_pipes.decoding.encoded import encoded_clip
from dali_pipes.decoding.needed import needed_frames
from dali_pipes.decoding.opening import BadVideo, TooShort, opened
from dali_pipes.decoding.pictures import Unsure, mpeg4
from dali_pipes.decoding.video import read_clip, read_frames
from dali_pipes.prepare.encode import write_video

SIZE = (32, 40)
FRAMES = 60


def counted(path: Path) -> np.ndarray:
    """All frames, resized, in the plainest way there is: uint8 [N,h,w,3]."""
    with av.open(str(path), metadata_errors="replace") as container:
        return np.stack(
            [
                cv2.resize(frame.to_ndarray(format="rgb24"), SIZE[::-1])
                for frame in container.decode(video=0)
            ]
        )


def needed_clip(path: Path, numbers: range) -> np.ndarray:
    """The clip, without a way out to counting. Raises Unsure."""
    with opened(path, "decode") as (container, stream):
        frames = [
            frame.to_ndarray(format="rgb24") for frame in needed_frames(container, stream, numbers)
        ]
    return np.stack([cv2.resize(frame, SIZE[::-1]) for frame in frames])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each clip takes."""
    taken: list[int] = []
    choose = needed._chosen

    def noting(*arguments) -> list[int]:
        chosen = choose(*arguments)
        taken.append(len(chosen))
        return chosen

    monkeypatch.setattr(needed, "_chosen", noting)
    return taken


def check(path: Path, clips: list[range]) -> None:
    whole = counted(path)
    for numbers in clips:
        assert np.array_equal(needed_clip(path, numbers), whole[numbers]), f"{path.name}, {numbers}"
        assert np.array_equal(read_clip(path, numbers, SIZE)[0], whole[numbers])


def random_clips(frames: int, count: int, seed: int) -> list[range]:
    """Of 16 frames or, near the end, fewer, at strides of 1 to 5."""
    random = np.random.default_rng(seed)
    starts, strides = random.integers(1, frames, count), random.integers(1, 6, count)
    return [
        range(s, min(frames, s + 16 * n), n)
        for s, n in zip(starts.tolist(), strides.tolist(), strict=True)
    ]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [6, pytest.param(300, marks=pytest.mark.battery)])
def test_every_real_video(real_data: Path, decoded: list[int], count: int) -> None:
    for path in sorted((real_data / "videos").rglob("*.*")):
        frames = len(counted(path))
        clips = random_clips(frames, count, seed=frames)
        check(path, [*clips, range(frames - 1, frames)])
        whole = sum(numbers[-1] + 1 for numbers in clips) * 2  # checked twice
        assert sum(decoded) < 0.8 * whole, f"{path.name}: {sum(decoded)} of {whole} pictures"
        decoded.clear()


def moving(count: int = FRAMES, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """A texture that moves unevenly and brightens, so that no two frames are alike."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 30, 190, cv2.NORM_MINMAX)
    return [
        np.roll(texture, (n * n // 9, 2 * n), axis=(0, 1)) + np.uint8(n % 60) for n in range(count)
    ]


OPEN_H264 = {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}
OPEN_HEVC = {"x265-params": "open-gop=1:bframes=3:b-adapt=0:log-level=error"}
PYRAMID = {"x264-params": "bframes=5:b-adapt=0:b-pyramid=normal"}
HEVC = {"x265-params": "bframes=3:b-adapt=0:log-level=error"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5", "b": "200k"}
LAYERS = {"x265-params": "bframes=3:b-adapt=0:temporal-layers=3:log-level=error"}
# Name, codec, how it is encoded, and which share of pictures the clips below may take at most.
PROVEN = [
    ("a.mp4", "libx264", {"options": PYRAMID}, 0.5),
    ("a.mp4", "libx264", {"options": PYRAMID, "keyframe_every": 250}, 0.85),
    ("a.mkv", "libx264", {"options": OPEN_H264}, 0.8),
    ("a.ts", "libx264", {}, 0.6),
    ("a.mp4", "libx264", {"b_frames": 0}, 0.6),
    ("a.mp4", "libx264", {"pix_fmt": "yuv420p10le"}, 0.6),
    ("a.mp4", "libx265", {"options": HEVC}, 0.6),
    # Every fourth picture is no B: three are shown before a keyframe and stored after it.
    ("a.mkv", "libx265", {"options": OPEN_HEVC, "keyframe_every": 12}, 0.6),
    ("a.mp4", "libx265", {"options": LAYERS, "keyframe_every": 250}, 0.9),
    ("a.avi", "mpeg4", {}, 0.6),
    ("a.avi", "mpeg4", {"keyframe_every": 250}, 0.85),
    ("a.mp4", "mpeg4", {"b_frames": 4}, 0.6),
    ("a.mkv", "mpeg4", {"options": {"flags": "+qpel+mv4"}}, 0.6),
    ("a.avi", "mpeg4", {"b_frames": 0, "keyframe_every": 1}, 0.4),
    ("a.webm", "libvpx", {"options": {"auto-alt-ref": "0"}}, 0.6),
    ("a.webm", "libvpx-vp9", {"options": {"auto-alt-ref": "0"}}, 0.6),
    ("a.webm", "libvpx-vp9", {"options": ALT_REF, "keyframe_every": 30}, 0.8),
    ("a.mp4", "libsvtav1", {"options": {"preset": "10"}, "keyframe_every": 15}, 0.8),
    ("a.ivf", "libsvtav1", {"options": {"preset": "12"}, "keyframe_every": 15}, 0.8),
]


@pytest.mark.parametrize(("name", "codec", "how", "share"), PROVEN)
def test_codecs(
    tmp_path: Path, decoded: list[int], name: str, codec: str, how: dict, share: float
) -> None:
    path = tmp_path / name
    write_video(path, moving(), codec, **{"keyframe_every": 10} | how)
    clips = [*random_clips(FRAMES, 10, 1), range(3, 59, 7), range(59, 60)]
    check(path, clips)
    assert sum(decoded) <= share * 2 * sum(numbers[-1] + 1 for numbers in clips)
    with pytest.raises(TooShort) as caught:
        read_frames(path, range(50, 66))
    assert caught.value.frames == FRAMES


@pytest.mark.battery
@pytest.mark.parametrize(("name", "codec", "how", "share"), PROVEN)
def test_codecs_at_every_start(
    tmp_path: Path, name: str, codec: str, how: dict, share: float
) -> None:
    path = tmp_path / name
    write_video(path, moving(150), codec, **{"keyframe_every": 10} | how)
    check(path, [range(s, min(150, s + 9 * n), n) for s in range(150) for n in (1, 2, 3, 5)])


@pytest.mark.parametrize(
    ("name", "codec", "how"),
    [
        ("a.mkv", "mpeg2video", {}),
        ("a.mpg", "mpeg2video", {}),
        ("a.avi", "libx264", {"b_frames": 2}),
        ("a.mp4", "libx264", {"options": {"x264-params": "interlaced=1"}}),
        ("a.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
    ],
)
def test_the_rest_is_counted(tmp_path: Path, name: str, codec: str, how: dict) -> None:
    path = tmp_path / name
    write_video(path, moving(90), codec, **how)
    whole = counted(path)
    for numbers in (range(1, 17), range(66, 90, 2), range(70, 86)):
        with pytest.raises(Unsure):
            needed_clip(path, numbers)
        assert np.array_equal(read_clip(path, numbers, SIZE)[0], whole[numbers])


def repacked(
    source: Path,
    target: Path,
    change: Callable[[list[bytes]], list[bytes]],
    header: Callable[[bytes], bytes] = lambda header: header,
) -> Path:
    """A copy without encoding; `change` may alter the packets' bytes, `header` the container's."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        extradata = stream.codec_context.extradata
        stream.codec_context.extradata = header(extradata) if extradata else None
        packets = [packet for packet in reading.demux(video=0) if packet.size]
        for packet, data in zip(packets, change([bytes(p) for p in packets]), strict=False):
            made = av.Packet(data)
            made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
            made.duration, made.is_keyframe, made.stream = (
                packet.duration,
                packet.is_keyframe,
                stream,
            )
            writing.mux(made)
    return target


def unit(kind: int, payload: bytes) -> bytes:
    """An H.264 unit of a message, after its length."""
    data = bytes([6, kind, len(payload)]) + payload + b"\x80"
    return len(data).to_bytes(4, "big") + data


X264 = bytes(range(1, 17)) + b"x264 - core "
FRONT = [
    ("says how to change pictures", unit(47, b"\x40\0\0\x40")),
    ("says how to change pictures", unit(19, b"\x80\x80\x80")),
    ("encoder with errors", unit(5, X264 + b"33 r1")),
    (None, unit(5, X264 + b"34 r1")),
    (None, unit(5, bytes(40))),
    (None, bytes([0, 0, 0, 9, 6, 5, 22, *range(6)])),  # says it is longer than it is
]


@pytest.mark.parametrize(("why", "message"), FRONT)
def test_what_holds_beyond_a_picture(tmp_path: Path, why: str | None, message: bytes) -> None:
    """Said once, at the front, it would be missed by who begins at a later keyframe."""
    write_video(tmp_path / "whole.mp4", moving(), "libx264")
    path = repacked(
        tmp_path / "whole.mp4", tmp_path / "a.mp4", lambda data: [message + data[0], *data[1:]]
    )
    if why is None:
        check(path, [range(30, 46)])
    else:
        with pytest.raises(Unsure, match=why):
            needed_clip(path, range(30, 46))


def b_pictures_undeclared(data: list[bytes]) -> list[bytes]:
    """MPEG-4 that says low_delay: decoders believe it, and show B pictures late."""
    front = int.from_bytes(data[0], "big")
    bits = f"{front:0{8 * len(data[0])}b}"
    at = bits.index(f"{0x120:032b}") + 32 + 9
    at += 1 + 7 * int(bits[at])  # is_object_layer_identifier
    at += 4 + 16 * (bits[at : at + 4] == "1111")
    assert bits[at : at + 4] == "1010", "control parameters, 4:2:0, no low_delay"
    bits = bits[: at + 3] + "1" + bits[at + 4 :]
    return [int(bits, 2).to_bytes(len(data[0]), "big"), *data[1:]]


def other_encoder(data: list[bytes]) -> list[bytes]:
    """MPEG-4 whose second keyframe names another encoder, by which decoders work around errors."""
    number = [n for n, one in enumerate(data) if b"\0\0\1\xb2" in one][1]
    return [*data[:number], data[number].replace(b"Lavc", b"XviD"), *data[number + 1 :]]


def b_picture_of_odd_time(data: list[bytes]) -> list[bytes]:
    """MPEG-4 with a B picture of the time of the anchor after it: decoders leave it out."""
    kinds = [one[one.index(b"\0\0\1\xb6") + 4] >> 6 for one in data]
    number = next(n for n, kind in enumerate(kinds) if kind == 2 and n > 12)
    at, anchor = (data[n].index(b"\0\0\1\xb6") + 4 for n in (number, number - 1))
    changed = bytearray(data[number])
    changed[at : at + 2] = data[number - 1][anchor : anchor + 2]
    changed[at] = changed[at] & 0x3F | 0x80
    return [*data[:number], bytes(changed), *data[number + 1 :]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (b_pictures_undeclared, "does not say so"),
        (other_encoder, "changes its headers"),
        (b_picture_of_odd_time, "of times that make no sense"),
    ],
)
def test_mpeg4_that_decoders_have_their_own_mind_about(
    tmp_path: Path, change: Callable, why: str
) -> None:
    write_video(tmp_path / "whole.avi", moving(), "mpeg4")
    path = repacked(tmp_path / "whole.avi", tmp_path / "a.avi", change)
    with pytest.raises(Unsure, match=why):
        needed_clip(path, range(30, 46))
    whole = counted(path)
    assert np.array_equal(read_clip(path, range(30, 46), SIZE)[0], whole[30:46])


def test_only_as_far_out_of_order_as_a_decoder_waits(tmp_path: Path) -> None:
    """Told that nothing is out of order, it shows pictures too early, and drops others."""
    path = tmp_path / "a.mp4"
    write_video(path, moving(), "libx264", options=PYRAMID)
    with opened(path, "open") as (container, stream):
        known = needed.Stream("h264", stream.codec_context.extradata or b"")
        for packet in needed.coded_packets(container, stream):
            known.add(bytes(packet))
        pictures = known.pictures()
        known.check_held(pictures)
        least, _ = known._reader.held
        assert least >= 2
        known._reader.held = least - 1, 16
        with pytest.raises(Unsure, match="out of order"):
            known.check_held(pictures)


def test_superframes_and_pictures_shown_again(tmp_path: Path, decoded: list[int]) -> None:
    """VP9 whose later keyframes are hidden, in one packet with the picture after, and some of whose
    packets only show again what is kept."""

    def hide_keyframes(data: list[bytes]) -> list[bytes]:
        packets, hidden = [], b""
        for n, one in enumerate(data):
            if n and not one[0] & 0b100:  # frame_type: a keyframe, of which show_frame is cleared
                hidden = bytes([one[0] & ~0b10]) + one[1:]
                continue
            if hidden:
                marker = bytes([0b110_11_001])  # sizes of four bytes, two pictures
                sizes = b"".join(len(part).to_bytes(4, "little") for part in (hidden, one))
                one, hidden = hidden + one + marker + sizes + marker, b""
            packets.append(one)
            if n % 9 == 5:
                packets.append(bytes([0b1000_1000]))  # show_existing_frame, of slot 0
        return packets

    write_video(tmp_path / "whole.webm", moving(), "libvpx-vp9", keyframe_every=15)
    path = repacked(tmp_path / "whole.webm", tmp_path / "a.webm", hide_keyframes)
    frames = len(counted(path))
    clips = random_clips(frames, 10, 1)
    check(path, clips)
    assert sum(decoded) <= 0.8 * 2 * sum(numbers[-1] + 1 for numbers in clips)
    with pytest.raises(Unsure, match="has hidden pictures"):  # a GPU would count them
        encoded_clip(path, clips[0], ["vp9"])


def test_hidden_pictures_and_odd_times_are_counted(tmp_path: Path) -> None:
    """Late clips of files that time stamps would mislead about."""

    def hide(data: list[bytes]) -> list[bytes]:  # VP8: show_frame of every fifth picture
        return [
            bytes([one[0] & ~0x10]) + one[1:] if n % 5 == 2 else one for n, one in enumerate(data)
        ]

    write_video(tmp_path / "whole.webm", moving(150), "libvpx")
    write_video(tmp_path / "whole.mp4", moving(150), "libx264", options=OPEN_H264)
    with (
        av.open(str(tmp_path / "whole.mp4")) as source,
        av.open(str(tmp_path / "b.mkv"), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for n, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.pts = packet.dts = n * packet.duration
            packet.stream = stream
            target.mux(packet)
    for path in (repacked(tmp_path / "whole.webm", tmp_path / "a.webm", hide), tmp_path / "b.mkv"):
        whole = counted(path)
        for numbers in (range(70, 86), range(66, 110, 3), range(70, 110, 5)):
            with pytest.raises(Unsure):
                needed_clip(path, numbers)
            assert np.array_equal(read_clip(path, numbers, SIZE)[0], whole[numbers])


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mp4", "libx264")])
def test_damage_matters_where_it_is_needed(tmp_path: Path, name: str, codec: str) -> None:
    """Elsewhere the clip is what it is in the sound file; there, it is refused by counting."""
    sound, bad = tmp_path / name, tmp_path / f"bad.{name}"
    options = {"x264-params": "bframes=2:b-adapt=0"} if codec == "libx264" else {}
    write_video(sound, moving(), codec, keyframe_every=20, options=options)
    whole = counted(sound)
    with opened(sound, "open") as (container, stream):
        packets, shown = needed._read(container, stream, range(FRAMES - 6))
    noise = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8).tobytes()

    def damage(number: int) -> None:
        data, packet = sound.read_bytes(), bytes(packets[number])
        assert data.count(packet) == 1
        worse = packet[:16] + noise[: len(packet) - 16]
        bad.write_bytes(data.replace(packet, worse))

    clip = range(46, 50)
    needs = {n for n, p in enumerate(shown) if p.rank in clip or (40 <= p.rank < 46 and p.referred)}
    unneeded_b = next(n for n, p in enumerate(shown) if 41 <= p.rank < 46 and not p.referred)
    for number in (5, unneeded_b):
        assert number not in needs
        damage(number)
        assert np.array_equal(read_clip(bad, clip, SIZE)[0], whole[clip])
    for number in (min(needs), max(needs)):
        damage(number)
        with pytest.raises(BadVideo, match=r"decode: "):
            read_clip(bad, clip, SIZE)


def test_a_surprise_is_left_to_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoder shows is looked at one by one: headers read wrongly come to light."""
    write_video(tmp_path / "whole.avi", moving(), "mpeg4")
    path = repacked(tmp_path / "whole.avi", tmp_path / "a.avi", b_pictures_undeclared)
    real = mpeg4._layer
    monkeypatch.setattr(mpeg4, "_layer", lambda front: replace(real(front), reorders=True))
    numbers = range(19, 30)
    with pytest.raises(Unsure, match="shows other pictures"):
        needed_clip(path, numbers)
    assert np.array_equal(read_clip(path, numbers, SIZE)[0], counted(path)[numbers])


def test_what_only_the_first_picture_says(tmp_path: Path) -> None:
    """MPEG-4 of XviD, which has an inverse transform of its own, as decoders learn in front."""
    write_video(tmp_path / "whole.avi", moving(), "mpeg4", b_frames=0)

    def front_of(one: bytes) -> int:
        return one.index(mpeg4.PICTURE)

    def xvid(data: list[bytes]) -> list[bytes]:
        named = data[0].replace(b"Lavc", b"XviD0050\0\0\1\xb2Lavc")
        return [named, *(one[front_of(one) :] for one in data[1:])]

    def headers(data: bytes) -> bytes:  # without the names
        return data[: data.index(b"\0\0\1\xb2")]

    path = repacked(tmp_path / "whole.avi", tmp_path / "a.avi", xvid, headers)
    whole = counted(path)
    assert not np.array_equal(whole, counted(tmp_path / "whole.avi"))
    assert np.array_equal(needed_clip(path, range(30, 46)), whole[30:46])


def test_hevc_that_others_refer_to_from_higher_layers(tmp_path: Path) -> None:
    """Whoever says that no picture of its own layer refers to it may have others that do."""
    write_video(tmp_path / "whole.mp4", moving(), "libx265", options=LAYERS, keyframe_every=250)

    def unreferred(data: list[bytes]) -> list[bytes]:  # TRAIL_R of the lowest layer: TRAIL_N
        return [one[:4] + b"\0" + one[5:] if one[4:6] == b"\2\1" else one for one in data]

    path = repacked(tmp_path / "whole.mp4", tmp_path / "a.mp4", unreferred)
    check(path, [range(30, 46), range(41, 60, 3)])


def test_long_videos_do_not_lie_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, moving(200), "mpeg4", keyframe_every=10)
    with opened(path, "open") as (container, stream):
        packets, shown = needed._read(container, stream, range(170, 186))
    assert len(packets) == len(shown) > 186
    assert sum(packet is not None for packet in packets) < 100
    check(path, [range(170, 186)])


def test_video_tells_the_ways_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames from the first on are counted: there is nothing to leave out."""
    path = tmp_path / "a.mp4"
    write_video(path, moving(20), "libx264")
    taken = []
    monkeypatch.setattr(video, "_read_needed", lambda *arguments: taken.append(arguments))
    read_frames(path, range(20))
    assert not taken
    read_frames(path, range(0, 20, 2))
    read_frames(path, [19])
    assert len(taken) == 2
