"""Frames of a video by number, exactly, on the CPU through PyAV.

Frame n is the n-th picture a decoder shows, counted from 0. Seeking by time stamps finds another
one in many real files (AVI has no presentation times; packed B-frames make them up), so the rule
is to decode from the start and count. Two ways give the same for less: where headers prove which
picture is which, only those that the clip needs are decoded (`needed`); of other codecs a late clip
of an MP4 or Matroska file is reached through the keyframe before it, if each frame can be told by
its unique time stamp.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.needed import needed_frames
from dali_pipes.decoding.pictures import READ, Unsure

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av
    from av.video.reformatter import VideoReformatter

# Containers whose packets carry true presentation times and which seek to a keyframe exactly.
_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_SEEK_FROM = 64  # frames: up to here, decoding costs no more than listing the packets
# Codecs whose frames are not told by time stamps: files whose headers prove nothing have hidden
# pictures, fields, or times that are not those of showing. VP9 hides pictures in packets of others.
_COUNTED = frozenset(READ) - {"vp9"}


class BadVideo(Exception):
    """A video, or a clip of it, that cannot be used: which file, at what stage, and why."""

    def __init__(self, path: Path | str, stage: str, reason: str) -> None:
        super().__init__(str(path), stage, reason)
        self.path, self.stage, self.reason = str(path), stage, reason

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.stage}: {self.reason}"


def printable(path: str) -> str:
    """A path on one line: line breaks, control characters and bytes that are not UTF-8 escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TooShort(BadVideo):
    """Decoding ended before the clip did; `frames` is how many frames there are."""

    def __init__(self, path: Path | str, stage: str, reason: str, frames: int) -> None:
        super().__init__(path, stage, reason)
        self.args = (str(path), stage, reason, frames)
        self.frames = frames


@dataclass(frozen=True)
class VideoInfo:
    """What can be known of a video without decoding it."""

    frames: int  # packets; damaged and packed files can decode to fewer
    height: int  # as coded: a rotated video is shown with the two swapped
    width: int
    codec: str  # FFmpeg's name: h264, mpeg4, vp9, ...
    unsure: str | None = None  # why no GPU decodes it, "" if one does; None: not looked at


def probe(path: Path | str) -> VideoInfo:
    """Count a video's packets. Raises BadVideo if there is no video in the file."""
    with opened(path, "open") as (container, stream):
        context = stream.codec_context
        if not (context.height and context.width):
            raise BadVideo(path, "open", "its frame size is unknown")
        packets = sum(
            1 for packet in container.demux(stream) if packet.size and not packet.is_discard
        )
        if not packets:
            raise BadVideo(path, "open", "has no frames")
        return VideoInfo(packets, context.height, context.width, context.name)


def header_frames(path: Path | str) -> int:
    """How many frames a video's header says it has, often wrongly; 0 if it says nothing."""
    with opened(path, "open") as (_, stream):
        return stream.frames


def frame_rate(path: Path | str) -> float:
    """Frames a second, as the container says; 0 if it says nothing."""
    with opened(path, "open") as (_, stream):
        return float(stream.average_rate or 0)


def file_status(path: Path | str) -> os.stat_result:
    """Raises BadVideo if there is no regular file: opening a pipe would wait for ever."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadVideo(path, "open", words(error)) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise BadVideo(path, "open", f"is {kind}")
    return status


def read_frames(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The frames with the given numbers (0-based, rising) -> uint8 RGB [T,H,W,3].

    `resize` (height, width): resized bilinearly without antialiasing, as the published pipeline
    did; None: native size. Rotation metadata is applied. Raises TooShort if the video ends before
    the last frame, BadVideo if what these frames need cannot be decoded without errors: damage
    before the first of them may go unnoticed.
    """
    return read_clip(path, numbers, resize)[0]


def read_clip(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`read_frames`, and the native (height, width) of the first frame."""
    if not len(numbers) or numbers[0] < 0 or any(b <= a for a, b in pairwise(numbers)):
        raise ValueError(f"frame numbers must rise from 0 or later, got {list(numbers)}")
    images = None
    if numbers[-1] >= len(numbers):  # or there is nothing to leave out
        images = _read_needed(path, numbers, resize)
        if images is None and numbers[0] >= _SEEK_FROM:
            images = _read_by_time(path, numbers, resize)
    return images or read_by_counting(path, numbers, resize)


def _read_needed(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """Decode what shows the frames and nothing else; None where that is not certain to be exact."""
    images = _Images(path, len(numbers), resize)
    try:
        with opened(path, "decode") as (container, stream):
            for frame in needed_frames(container, stream, numbers):
                images.add(frame)
    except (Unsure, BadVideo):
        return None  # counting decides, and says what is wrong
    return images.result()


def read_by_counting(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`read_clip` of any video, by decoding it from the first frame on: what is right."""
    images = _Images(path, len(numbers), resize)
    wanted = iter(numbers)
    number, count = next(wanted), 0
    for frame in decoded(path):
        if count == number:
            images.add(frame)
            if images.full:
                return images.result()
            number = next(wanted)
        count += 1
    raise TooShort(path, "decode", f"has {count} frames, frame {numbers[-1]} was asked for", count)


def decoded(path: Path | str) -> "Iterator[av.VideoFrame]":
    """Every frame of a video, from the first. Raises BadVideo where it cannot go on soundly."""
    count = 0
    with opened(path, "decode") as (container, stream):
        for frame in frames_of(container, stream):
            if frame.is_corrupt:
                raise BadVideo(path, "decode", f"frame {count} is damaged")
            if not count and not (frame.key_frame or frame.pict_type == _I_PICTURE):
                raise BadVideo(path, "decode", "its first frame is no keyframe")
            yield frame
            count += 1
    if not count:
        raise BadVideo(path, "decode", "has no frames")


def decoded_rgb(path: Path | str) -> "Iterator[NDArray[np.uint8]]":
    """Every frame of a video, uint8 RGB [H,W,3], upright. Raises BadVideo as `decoded` does."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all frames: it caches its set-up
    return (upright_rgb(frame, reformatter) for frame in decoded(path))


def upright_rgb(frame: "av.VideoFrame", reformatter: "VideoReformatter") -> NDArray[np.uint8]:
    """A decoded frame -> uint8 RGB [H,W,3], turned as its rotation metadata says."""
    # By default as many threads as cores wake up for each frame.
    image = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    if frame.rotation % 360:
        image = np.rot90(image, frame.rotation // 90)
    return cast(NDArray[np.uint8], image)


def resized(
    image: NDArray[np.uint8], size: tuple[int, int], into: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """uint8 [H,W,3] -> (height, width) bilinearly without antialiasing, as published.

    `into`: the array to write to, contiguous.
    """
    small = cv2.resize(image, size[::-1], dst=into, interpolation=cv2.INTER_LINEAR)
    return cast(NDArray[np.uint8], small)


def words(error: "OSError | av.FFmpegError") -> str:
    """What the system or FFmpeg says of an error, without numbers and paths."""
    reason = error.strerror or type(error).__name__
    return reason[0].lower() + reason[1:]


def _read_by_time(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """Read from the keyframe before the first frame; None where that is not certain to be exact."""
    images = _Images(path, len(numbers), resize)
    try:
        status = os.stat(path)
        times = _time_stamps(str(path), status.st_mtime_ns, status.st_size)
        if times is None or numbers[-1] >= len(times.shown):
            return None
        wanted = [int(times.shown[number]) for number in numbers]
        keyframe = int(times.key[np.searchsorted(times.key, wanted[0], side="right") - 1])
        if keyframe == times.key[0]:
            return None  # nothing to skip
        with opened(path, "decode") as (container, stream):
            container.seek(keyframe, stream=stream)
            decodable = False
            for frame in frames_of(container, stream):
                if frame.is_corrupt or frame.pts is None:
                    return None
                # Pictures before the keyframe may lack what they refer to. An I picture: frames
                # that refresh step by step are keyframes to some muxers.
                decodable |= frame.pts in times.key and frame.pict_type == _I_PICTURE
                due = wanted[images.count]
                if frame.pts > due or (frame.pts == due and not decodable):
                    return None
                if frame.pts == due:
                    images.add(frame)
                    if images.full:
                        return images.result()
    except (BadVideo, OSError):
        pass  # counting decides, and says what is wrong
    return None


_I_PICTURE = 1  # FFmpeg's AV_PICTURE_TYPE_I


@dataclass(frozen=True)
class _Times:
    shown: NDArray[np.int64]  # time stamp of every frame in the order shown
    key: NDArray[np.int64]  # of the keyframes among them


@lru_cache(maxsize=8)
def _time_stamps(path: str, mtime_ns: int, size: int) -> _Times | None:
    """The time stamps of a file, or None where frames cannot be told by them."""
    with opened(path, "open") as (container, stream):
        if container.format.name not in _SEEKABLE or stream.codec_context.name in _COUNTED:
            return None
        packets = [packet for packet in container.demux(stream) if packet.size]
        stamps = [packet.pts for packet in packets]
    if None in stamps or len(set(stamps)) < len(stamps) or not stamps:
        return None
    first = packets[0]
    if not first.is_keyframe or first.pts != min(cast(list[int], stamps)):
        return None  # pictures before the first keyframe: a decoder may show them or not
    shown = sorted(cast(int, packet.pts) for packet in packets if not packet.is_discard)
    key = sorted(cast(int, packet.pts) for packet in packets if packet.is_keyframe)
    return _Times(np.array(shown, np.int64), np.array(key, np.int64))


class _Images:
    """The frames kept: converted to RGB, turned upright and resized one by one."""

    def __init__(self, path: Path | str, total: int, resize: tuple[int, int] | None) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._total, self._resize = path, total, resize
        self._reformatter = VideoReformatter()  # one for all frames: it caches its set-up
        self._kept: NDArray[np.uint8] | None = None
        self._native = (0, 0)
        self.count = 0

    @property
    def full(self) -> bool:
        return self.count == self._total

    def add(self, frame: "av.VideoFrame") -> None:
        image = upright_rgb(frame, self._reformatter)
        native = (image.shape[0], image.shape[1])
        if self._kept is None:
            self._native = native
            self._kept = np.empty((self._total, *(self._resize or native), 3), np.uint8)
        if self._resize is not None:
            resized(image, self._resize, self._kept[self.count])
        elif native != self._native:
            raise BadVideo(self._path, "decode", "its frame size changes within the clip")
        else:
            self._kept[self.count] = image
        self.count += 1

    def result(self) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        assert self._kept is not None
        return self._kept, self._native


@contextmanager
def opened(
    path: Path | str, stage: str
) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """The container and its video stream. Whatever FFmpeg, PyAV or the system raise becomes
    BadVideo: it is the file's fault, and others go on."""
    import av

    file_status(path)
    try:
        # Only files: a playlist dressed as a video must not open network addresses. HMDB51 has
        # metadata that is not UTF-8, which is no reason to refuse good files.
        with av.open(
            str(path), metadata_errors="replace", options={"protocol_whitelist": "file"}
        ) as container:
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise BadVideo(path, "open", "has no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise BadVideo(path, "open", "FFmpeg has no decoder for its codec; convert it")
            stream.codec_context.thread_type = "NONE"  # workers are the parallelism
            # A decoder hides damage (grey or repeated blocks) unless it is told to stop at it.
            stream.codec_context.options = {"err_detect": "explode"}
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise BadVideo(path, stage, words(error)) from error
    except (BadVideo, Unsure, AssertionError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadVideo(path, stage, reason) from error


def frames_of(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> "Iterator[av.VideoFrame]":
    """Frames from here on, as the decoder shows them."""
    # Unfinished and not closed, it would leak.
    with closing(container.demux(stream)) as packets:  # type: ignore[type-var]
        for packet in packets:
            yield from packet.decode()


def _is_cover(stream: "av.VideoStream") -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)
