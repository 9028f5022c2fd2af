"""Frames by number, against decoding from frame 0 and counting."""

from pathlib import Path
from typing import NoReturn

import av
import cv2
import numpy as np
import pytest

from dali_pipes.decoding import showing, video
from dali_pipes.decoding.opening import BadVideo, TooShort
from dali_pipes.decoding.video import probe, read_clip, read_frames
from dali_pipes.prepare.encode import write_video


def counted(path: Path) -> list[np.ndarray]:
    """All frames, in the plainest way there is."""
    with av.open(str(path), metadata_errors="replace") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def numbered(n: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames that show their number as a grey level and as a moving bar."""
    images = np.zeros((n, height, width, 3), np.uint8)
    for i, image in enumerate(images):
        image[:] = i % 200 + 20
        image[:, i % width] = 255
    return list(images)


@pytest.fixture(scope="module")
def videos(real_data: Path) -> list[Path]:
    found = sorted(p for p in (real_data / "videos").rglob("*") if p.is_file())
    assert len(found) == 14
    return found


def test_frames_of_every_real_video_are_the_frames_asked_for(videos: list[Path]) -> None:
    for path in videos:
        frames = counted(path)
        last = len(frames) - 16
        # 130 and 151 lie behind a keyframe; 149 and 150 on both sides of one.
        for start in sorted({0, last // 2, last, *(s for s in (130, 149, 150, 151) if s < last)}):
            numbers = range(start, start + 16)
            assert np.array_equal(read_frames(path, numbers), frames[start : start + 16]), (
                f"{path.name} from frame {start}"
            )
            # The headers of all of them prove which picture is which, packed AVIs among them.
            assert video._read_needed(path, numbers, None) is not None
        with pytest.raises(TooShort) as caught:
            read_frames(path, range(last + 1, last + 17))
        assert caught.value.frames == len(frames)


def test_probe_counts_packets(videos: list[Path]) -> None:
    for path in videos:
        surplus = probe(path).frames - len(counted(path))
        assert surplus == ("hmdb51" in path.name)  # one packet there holds no picture


def test_stride_and_resize(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, numbered(90))
    frames = counted(path)
    kept, native = read_clip(path, range(65, 90, 3), resize=(32, 40))
    assert native == (48, 64)
    expected = [
        cv2.resize(frames[n], (40, 32), interpolation=cv2.INTER_LINEAR) for n in range(65, 90, 3)
    ]
    assert np.array_equal(kept, expected)


def test_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, numbered(4))
    turned = tmp_path / "turned.mp4"
    with av.open(str(path)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    capture = cv2.VideoCapture(str(turned))  # OpenCV turns frames upright too
    expected = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    got = read_frames(turned, [0])[0]
    assert np.array_equal(read_frames(turned, [0], (32, 24))[0], cv2.resize(got, (24, 32)))
    assert got.shape == expected.shape == (64, 48, 3)
    assert np.abs(got.astype(int) - expected).mean() < 3


def test_bad_files_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.mp4"
    write_video(good, numbered(20))
    cases = {
        "empty.mp4": b"",
        "text.mp4": b"not a video\n" * 50,
        "cut.mp4": good.read_bytes()[:700],
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        for call in (lambda p: probe(p), lambda p: read_frames(p, [0])):
            with pytest.raises(BadVideo, match=name):
                call(path)
    with pytest.raises(BadVideo, match="no such file"):
        probe(tmp_path / "missing.mp4")
    with pytest.raises(BadVideo, match="is a directory"):
        probe(tmp_path)


def test_damage_is_not_hidden(tmp_path: Path) -> None:
    """Frames before damaged bytes are read, a clip on them is refused: never a grey picture."""
    good = tmp_path / "good.avi"
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (120, 200, 3), np.uint8), (0, 0), 2)
    write_video(good, [np.ascontiguousarray(texture[:96, i : i + 128]) for i in range(48)], "mpeg4")
    with av.open(str(good)) as container:
        keyframes = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    bad = tmp_path / "bad.avi"
    for number, reason in ((0, "no keyframe"), (2, "invalid data")):
        data = bytearray(good.read_bytes())
        at = keyframes[number] - (0 if number else 40)  # the list of packets begins damaged
        data[at : at + 400] = rng.integers(0, 256, 400, np.uint8).tobytes()
        bad.write_bytes(data)
        if number:
            assert np.array_equal(read_frames(bad, range(8)), read_frames(good, range(8)))
        with pytest.raises(BadVideo, match=rf"bad\.avi: decode: .*{reason}"):
            read_frames(bad, range(16, 40))


def test_errors_survive_the_way_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(TooShort("a.avi", "decode", "has 3 frames", 3)))
    assert (error.path, error.stage, error.reason, error.frames) == (
        "a.avi",
        "decode",
        "has 3 frames",
        3,
    )


def test_metadata_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, numbered(20), "mpeg4")
    data = path.read_bytes()
    at = data.index(b"Lavf")  # the encoder's name in the file's metadata
    odd = tmp_path / "odd é'\" .avi"
    odd.write_bytes(data[:at] + b"\xff\xfe" + data[at + 2 :])
    with pytest.raises(UnicodeDecodeError), av.open(str(odd)):
        pass
    assert np.array_equal(read_frames(odd, range(20)), read_frames(path, range(20)))


@pytest.mark.parametrize(
    "error", [ValueError("odd\nlines"), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x")]
)
@pytest.mark.parametrize("where", ["open", "demux"])
def test_whatever_pyav_raises_is_the_files_fault(
    error: Exception, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, np.zeros((20, 32, 32, 3), np.uint8))

    def fails(*_: object, **__: object) -> NoReturn:
        raise error

    if where == "open":
        monkeypatch.setattr(av, "open", fails)
    else:
        monkeypatch.setattr(showing, "packets_of", fails)
    with pytest.raises(BadVideo, match=rf"a\.mp4: \w+: {type(error).__name__}") as caught:
        video.read_by_counting(path, range(16), None)
    assert "\n" not in str(caught.value)
