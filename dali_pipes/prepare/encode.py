"""Frames to a video file, through the encoders of PyAV's wheel."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray


def write_video(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    codec: str = "libx264",
    fps: int = 25,
    keyframe_every: int = 12,
    b_frames: int = 2,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """Encode uint8 RGB frames [H,W,3], all of one even size; the container follows the suffix.

    Codecs: libx264, libx265, mpeg4 (UCF101's MPEG-4 ASP), libvpx-vp9, mjpeg, ffv1.
    """
    frames = iter(frames)
    first = next(frames)
    with _ordinary_priority(), av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=fps, options=options or {}))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = keyframe_every
        if codec in ("libx264", "libx265", "mpeg4"):
            stream.codec_context.max_b_frames = b_frames
        for number, image in enumerate(chain([first], frames)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@contextmanager
def _ordinary_priority() -> Iterator[None]:
    """SVT-AV1 makes its caller a real-time thread where that is allowed (as root)."""
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
