"""Videos at training size as raw arrays and as H.264: two formats nobody prepares here but to
compare them. `benchmarks.formats` measures both beside those that the project reads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dali_pipes.clips import ClipSpec
from dali_pipes.decoding.opening import BadVideo, opened
from dali_pipes.decoding.pixels import UprightRgb, resized
from dali_pipes.decoding.showing import decoded_rgb
from dali_pipes.prepare.encode import write_video

Images = NDArray[np.uint8]  # RGB [T,128,171,3]

SPEC = ClipSpec()
HEIGHT, WIDTH = SPEC.resize
FRAME_BYTES = HEIGHT * WIDTH * 3

KEYFRAMES = (8, 16)  # frames from one to the next
# As near to the frames as JPEG images of quality 95: of seven real videos H.264 has a PSNR of
# 40.3 dB (39.9 with 8, 40.6 with 4), the images 40.5 dB.
CRF = 6
FPS = 25


def raw_file(folder: Path, name: str) -> Path:
    return folder / "raw" / f"{name}.rgb"


def h264_file(folder: Path, name: str, every: int) -> Path:
    return folder / f"h264-crf{CRF}-every{every}" / f"{name}.mp4"


def small_files(folder: Path, name: str) -> list[Path]:
    """All that `make_small` makes of a video."""
    return [raw_file(folder, name), *(h264_file(folder, name, every) for every in KEYFRAMES)]


def make_small(job: tuple[str, str], folder: Path) -> None:
    """The raw array and the H.264 files of (path, name), below `folder`. Raises BadVideo."""
    path, name = job
    raw = raw_file(folder, name)
    with _whole(raw) as part, open(part, "wb") as file:
        count = 0
        for image in resized_frames(path):
            file.write(image.tobytes())
            count += 1
        if count < SPEC.needs:
            raise BadVideo(path, "clip", f"has {count} frames, {SPEC.needs} needed")
    # 4:2:0 has even sides: the last column is there twice, and reading cuts it off.
    images = np.memmap(raw, np.uint8, "r").reshape(-1, HEIGHT, WIDTH, 3)
    even = ((0, HEIGHT % 2), (0, WIDTH % 2), (0, 0))
    for every in KEYFRAMES:
        with _whole(h264_file(folder, name, every)) as part:
            # No B-frames: with keyframes this near they save next to nothing at the same error.
            write_video(
                part, (np.pad(image, even, "edge") for image in images), fps=FPS,
                keyframe_every=every, b_frames=0, options={"crf": str(CRF), "threads": "1"},
            )  # fmt: skip


def resized_frames(path: str) -> Iterator[Images]:
    """All frames of a video, counted from the first, [128,171,3] each. Raises BadVideo."""
    size = None
    for number, image in enumerate(decoded_rgb(path)):
        if size not in (None, image.shape):
            raise BadVideo(path, "decode", f"its frame size changes at frame {number}")
        size = image.shape
        yield resized(image, SPEC.resize)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file that becomes `target` unless something is raised; it has the suffix, from which an
    encoder takes the container."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid4().hex}{target.suffix}")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def raw_frames(folder: Path, name: str) -> int:
    """How many frames a raw array holds. Raises OSError."""
    return raw_file(folder, name).stat().st_size // FRAME_BYTES


def read_raw(path: str, numbers: range) -> Images:
    """Fewer frames where the file is shorter. Raises OSError."""
    images = np.empty((len(numbers), HEIGHT, WIDTH, 3), np.uint8)
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.preadv(file, [images.data], numbers.start * FRAME_BYTES)
    finally:
        os.close(file)
    return images[: size // FRAME_BYTES]


def read_h264(path: str, numbers: range) -> Images:
    """Frames of an H.264 file of `make_small`, from the keyframe before them on. Raises BadVideo.

    Frame n is shown at n/FPS seconds. `read_clip` cannot know that: it reads the headers of all
    packets up to them.
    """
    upright_rgb = UprightRgb(path)
    images = np.empty((len(numbers), HEIGHT, WIDTH, 3), np.uint8)
    with opened(path, "decode") as (container, stream):
        assert stream.time_base is not None
        a_frame = 1 / (FPS * stream.time_base)  # in units of time stamps
        container.seek(round(numbers.start * a_frame), stream=stream)
        for frame in container.decode(stream):
            assert frame.pts is not None
            place = round(frame.pts / a_frame) - numbers.start
            if place >= 0:
                images[place] = upright_rgb(frame)[:HEIGHT, :WIDTH]
            if place == len(numbers) - 1:
                return images
    raise BadVideo(path, "decode", f"ends before frame {numbers[-1]}")
