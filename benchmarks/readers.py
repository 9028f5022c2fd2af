"""Decoders of videos as their users call them: one thread, frames by number."""

from collections.abc import Callable

import cv2
import numpy as np

from benchmarks.rivals import Array
from dali_pipes.decoding.video import read_frames

Read = Callable[[str, range], Array]  # (file, frame numbers) -> uint8 RGB [T,H,W,3], native size


def read_pyav(path: str, numbers: range) -> Array:
    """Seek by the time stamp that the frame rate gives, decode on to it."""
    import av

    with av.open(path, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        assert stream.average_rate is not None
        assert stream.time_base is not None
        wanted = round(numbers[0] / stream.average_rate / stream.time_base)
        wanted += stream.start_time or 0
        container.seek(wanted, stream=stream)
        images = []
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= wanted:
                images.append(frame.to_ndarray(format="rgb24"))
                if len(images) == len(numbers):
                    break
    return _padded(images, numbers)


def read_opencv(path: str, numbers: range) -> Array:
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    video.set(cv2.CAP_PROP_POS_FRAMES, numbers[0])
    images: list[Array] = []
    while len(images) < len(numbers):
        more, image = video.read()
        if not more:
            break
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    video.release()
    return _padded(images, numbers)


def _padded(images: list[Array], numbers: range) -> Array:
    """Where a seek led too far, the last frame again, as many do."""
    if not images:
        raise ValueError(f"no frame from {numbers[0]} on")
    return np.stack(images + images[-1:] * (len(numbers) - len(images)))


def read_torchcodec(path: str, numbers: range) -> Array:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    images: Array = video.get_frames_in_range(numbers.start, numbers.stop).data.numpy()
    return images


def read_decord(path: str, numbers: range) -> Array:
    from decord import VideoReader

    images: Array = VideoReader(path, num_threads=1).get_batch(list(numbers)).asnumpy()
    return images


def _opencv() -> Read:
    return read_opencv


def _torchcodec() -> Read:
    import torchcodec.decoders  # noqa: F401  # fails here where FFmpeg's libraries are missing

    return read_torchcodec


def _decord() -> Read:
    import decord  # noqa: F401

    return read_decord


READERS: dict[str, Callable[[], Read]] = {
    "PyAV, counting": lambda: read_frames,
    "PyAV, seeking": lambda: read_pyav,
    "OpenCV": _opencv,
    "torchcodec": _torchcodec,
    "decord2": _decord,
}


def reason(name: str, error: Exception) -> str:
    """Why a decoder has no times, in a few words."""
    if isinstance(error, ModuleNotFoundError):
        return f"{name} is not installed: pip install '.[peers]'"
    words = str(error).strip()
    if "libtorchcodec" in words:
        return f"{name} does not load: no FFmpeg libraries"
    return f"{name} fails: {(words or type(error).__name__).splitlines()[0][:100]}"
