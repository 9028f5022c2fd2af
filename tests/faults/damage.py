"""Real encodings, damaged in every way that occurs, and unusual ones that are nothing but unusual.

Each maker writes one file (or what stands in its place) and the battery asks of each: is it used,
frame for frame, or is it named with its reason?
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.prepare.encode import write_video

FRAMES = 40
CODECS = {"mp4": "libx264", "avi": "mpeg4", "mkv": "libx264", "webm": "libvpx-vp9"}


@dataclass(frozen=True)
class Fault:
    """A file of the battery: its name in the folder, how it is made, and what must become of it."""

    name: str
    make: Callable[[Path], None]
    reason: str | None  # words of the reason it is left out for; None: it must be used
    noticed: bool = True  # False: what is left may be decodable, and then it is used


def moving(size: tuple[int, int] = (120, 160), frames: int = FRAMES, seed: int = 0) -> Iterator:
    """uint8 RGB [H,W,3] images of a texture that moves and brightens: no two are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 3)
    texture = cv2.normalize(texture, None, 40, 200, cv2.NORM_MINMAX)
    for n in range(frames):
        yield np.roll(texture, (n, 2 * n), axis=(0, 1)) + np.uint8(n)


def whole(suffix: str) -> Callable[[Path], None]:
    """A sound video in the container that `suffix` names."""
    return lambda path: write_video(path, moving(), CODECS[suffix])


def _of_bytes(suffix: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        whole(suffix)(path)
        path.write_bytes(change(path.read_bytes()))

    return make


def truncated(suffix: str, share: float) -> Callable[[Path], None]:
    return _of_bytes(suffix, lambda data: data[: int(share * len(data))])


def flipped(suffix: str, seed: int) -> Callable[[Path], None]:
    """About one byte in 500 replaced by a random one, the first 10 % of the file excepted."""

    def change(data: bytes) -> bytes:
        random = np.random.default_rng(seed)
        array = np.frombuffer(data, np.uint8).copy()
        places = random.integers(len(array) // 10, len(array), max(4, len(array) // 500))
        array[places] = random.integers(0, 256, len(places))
        return array.tobytes()

    return _of_bytes(suffix, change)


def frames_of(count: int, size: tuple[int, int] = (120, 160), **options) -> Callable[[Path], None]:
    return lambda path: write_video(path, moving(size, count), **options)


def text(path: Path) -> None:
    path.write_text("once upon a time " * 100)


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def variable_rate(path: Path) -> None:
    """Every third frame lasts five times as long."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
        time = 0
        for n, image in enumerate(moving()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            time += 5 if n % 3 == 0 else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def resolution_change(path: Path) -> None:
    """Two MPEG streams of different frame sizes, one after the other."""
    second = path.with_name("second" + path.suffix)
    write_video(path, moving((120, 160), 30), "mpeg2video", b_frames=0)
    write_video(second, moving((240, 320), 30), "mpeg2video", b_frames=0)
    with path.open("ab") as file:
        file.write(second.read_bytes())
    second.unlink()


def rotated(path: Path) -> None:
    """Recorded sideways by a phone: the container says to turn it."""
    write_video(path, moving())
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd")
    identity = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    turned = b"".join(
        n.to_bytes(4, "big", signed=True) for n in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    )
    at = data.index(identity, header)
    data[at : at + len(identity)] = turned
    path.write_bytes(bytes(data))


def latin_metadata(path: Path) -> None:
    """A title that is no UTF-8, as in many an HMDB51 file."""
    title = b"Umlaute und so weiter"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title.decode()
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
        for n, image in enumerate(moving()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert title in data
    path.write_bytes(data.replace(title, title.replace(b"u", b"\xfc")))


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def nowhere(path: Path) -> None:
    path.symlink_to("never-written.mp4")


def fifo(path: Path) -> None:
    """Opening a pipe that nobody writes to waits for ever."""
    os.mkfifo(path)


def unreadable(path: Path) -> None:
    write_video(path, moving())
    path.chmod(0)


def unknown_codec(suffix: str, tag: bytes) -> Callable[[Path], None]:
    """A codec that nobody has a decoder for."""
    strange = b"Qzq9" if len(tag) == 4 else b"V_QZQ9".ljust(len(tag), b"\0")
    return _of_bytes(suffix, lambda data: data.replace(tag, strange))


def deep(pix_fmt: str) -> Callable[[Path], None]:
    return lambda path: write_video(path, moving(), "libx264", pix_fmt=pix_fmt)


def faults() -> list[Fault]:
    """The battery, by name of the file."""
    cut_off = [
        Fault(f"cut at {share:.0%}.{suffix}", truncated(suffix, share), ".", noticed=False)
        for suffix in ("avi", "mkv", "webm")
        for share in (0.1, 0.5, 0.9)
    ]
    # An MP4 without its index at the end has no frames at all.
    cut_off += [
        Fault(f"cut at {share:.0%}.mp4", truncated("mp4", share), "open:")
        for share in (0.1, 0.5, 0.9)
    ]
    bytes_flipped = [
        Fault(f"flipped {seed}.{suffix}", flipped(suffix, seed), ".", noticed=False)
        for seed in range(5)
        for suffix in CODECS
    ]
    short = "frames, a clip needs 16"
    bad = [
        Fault("empty.mp4", lambda path: path.touch(), "open:"),
        Fault("text.mp4", text, "open:"),
        Fault("header only.mp4", _of_bytes("mp4", lambda data: data[:48]), "open:"),
        Fault("header only.avi", _of_bytes("avi", lambda data: data[:5000]), "open:"),
        Fault("audio only.mp4", audio_only, "no video stream"),
        Fault("one frame.mp4", frames_of(1), f"1 {short}"),
        Fault("15 frames.mp4", frames_of(15), f"15 {short}"),
        Fault("folder.mp4", lambda path: path.mkdir(), "is a directory"),
        Fault("loop.mp4", loop, "symbolic links"),
        Fault("nowhere.mp4", nowhere, "no such file"),
        Fault("pipe.mp4", fifo, "no regular file"),
    ]
    bad += [
        Fault(f"unknown codec.{suffix}", unknown_codec(suffix, tag), "no decoder for its codec")
        for suffix, tag in {"avi": b"FMP4", "mp4": b"avc1", "mkv": b"V_MPEG4/ISO/AVC"}.items()
    ]
    if os.geteuid():  # nothing is unreadable to root
        bad.append(Fault("unreadable.mp4", unreadable, "permission denied"))
    unusual = [
        Fault("variable rate.mp4", variable_rate, None),
        Fault("size changes.mpg", resolution_change, None),
        Fault("odd size.mkv", frames_of(FRAMES, (121, 163), codec="ffv1"), None),
        Fault("4k.mp4", frames_of(17, (2160, 3840), codec="mpeg4"), None),
        Fault("rotated.mp4", rotated, None),
        Fault("10 bit.mp4", deep("yuv420p10le"), None),
        Fault("444.mp4", deep("yuv444p"), None),
        Fault("""it's "quoted" $HOME `x`; žlutý 猫.mp4""", whole("mp4"), None),
        Fault("title.avi", latin_metadata, None),
        Fault("16 frames.mp4", frames_of(16), None),
        *(Fault(f"whole.{suffix}", whole(suffix), None) for suffix in CODECS),
    ]
    return [*bad, *cut_off, *bytes_flipped, *unusual]


def write_battery(folder: Path) -> list[Fault]:
    """Make all files in `folder/class`, and two ways to run in circles."""
    inner = folder / "class"
    inner.mkdir(parents=True)
    (inner / "up again").symlink_to(folder)
    for fault in (battery := faults()):
        fault.make(inner / fault.name)
    return battery


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    """Every frame by decoding from the start, upright and resized, up to the first damage that the
    decoder notices: what is right, independently."""
    images = []
    with av.open(str(path), metadata_errors="replace") as container, suppress(av.FFmpegError):
        for frame in container.decode(video=0):
            image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            images.append(cv2.resize(image, (171, 128), interpolation=cv2.INTER_LINEAR))
    return images
