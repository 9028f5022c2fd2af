"""The scripts that show DALI's defects: input as described, graphs that DALI accepts."""

import importlib.util
import io
import shutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "dali"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@cache
def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def video(name: str) -> Any:
    source = (FOLDER / f"{name}.py").read_text()
    if "ffmpeg command" in source and shutil.which("ffmpeg") is None:
        pytest.skip("needs the ffmpeg command")
    return script(name).video()


@pytest.mark.parametrize("name", NAMES)
def test_graph_is_accepted(name: str) -> None:
    graph = script(name).graph(video(name), device_id=None).serialize()
    assert b"OpticalFlow" in graph if name == "flow_direction" else b"ideo" in graph
    assert b"mixed" in graph or b"gpu" in graph


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_what_when_and_with_which_card(name: str) -> None:
    text = script(name).__doc__ or ""
    for words in ("expected  ", "seen      ", "with      nvidia-dali-cuda130 2.4.0, NVIDIA H"):
        assert f"\n{words}" in text
    assert f"[{name}.py]({name}.py)" in (FOLDER / "README.md").read_text()


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def packets(data: bytes) -> list[av.Packet]:
    with av.open(io.BytesIO(data)) as file:
        return [packet for packet in file.demux(video=0) if packet.size]


def nearest(frames: np.ndarray, wanted: list[np.ndarray]) -> list[int]:
    whole = np.stack(wanted).astype(np.int16)
    return [int(np.abs(whole - frame).mean((1, 2, 3)).argmin()) for frame in frames]


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("vp9_hidden_frames", 60, (240, 320)),
        ("odd_sides", 48, (241, 321)),
        ("coded_size", 48, (240, 426)),
    ],
)
def test_ffmpeg_counts_the_frames_that_were_encoded(
    name: str, count: int, size: tuple[int, int]
) -> None:
    frames = decoded(video(name))
    assert frames.shape == (count, *size, 3)
    assert nearest(frames, script(name).moving(count, *size)) == list(range(count))


def test_five_packets_of_vp9_hold_two_frames() -> None:
    """The marker of a superframe, the last byte, counts its frames."""
    data = video("vp9_hidden_frames")
    assert [bytes(packet)[-1] & 0xE7 for packet in packets(data)].count(0xC1) == 5
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_vp8_has_two_hidden_frames_before_the_clip() -> None:
    data, first = video("vp8_hidden_frames"), script("vp8_hidden_frames").FIRST
    shown = [bool(bytes(packet)[0] & 0x10) for packet in packets(data)]
    assert len(decoded(data)) == sum(shown) == 300
    assert shown.index(True) == 0
    place = [n for n, visible in enumerate(shown) if visible][first]
    assert place - first == 2


def test_fields_have_packets_of_their_own() -> None:
    data = video("field_coded")
    frames = decoded(data)
    assert len(packets(data)) == 2 * len(frames) == 200
    levels = frames[:, 8:-8, 8:-8].mean((1, 2, 3))
    grey = np.arange(100) * 255 / 219  # level 16 is black
    np.testing.assert_allclose(levels, grey, atol=1.5)


def test_a_far_start_is_a_keyframe() -> None:
    keyframes = [n for n, packet in enumerate(packets(video("far_start"))) if packet.is_keyframe]
    assert keyframes == [0, 240, 480]


@pytest.mark.parametrize(("codec", "name"), [("mjpeg", "mjpeg"), ("libsvtav1", "libdav1d")])
def test_refused_codecs_are_sound_files(codec: str, name: str) -> None:
    data = script("refused_codecs").video(codec)
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].codec_context.name == name
    assert len(decoded(data)) == 24


def test_the_picture_moves_as_said() -> None:
    clip = video("flow_direction")
    assert (clip[1, 2:, 3:] == clip[0, :-2, :-3]).all()
    assert clip[0].std() > 20
