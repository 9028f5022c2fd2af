"""Frames of a video by number, exactly, on the CPU through PyAV.

Frame n is the n-th picture a decoder shows, counted from 0. Seeking by time stamps finds another
one in many real files (AVI has no presentation times; packed B-frames make them up), so the rule
is to decode from the start and count. Two ways give the same for less: where headers prove which
picture is which, only those that the clip needs are decoded (`needed`); elsewhere a video is
counted through once, and what was seen proves what is decoded later (`counted`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.counted import Shelf, read_counted
from dali_pipes.decoding.needed import needed_frames
from dali_pipes.decoding.opening import BadVideo, TooShort, opened
from dali_pipes.decoding.packets import shown_pictures
from dali_pipes.decoding.pictures import Unsure
from dali_pipes.decoding.pixels import Images
from dali_pipes.decoding.showing import decoded, packets_of

_COUNT_UP_TO = 64  # frames: decoding them costs less than to look for a shorter way


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
        packets = sum(not packet.is_discard for packet in packets_of(container, stream))
        if not packets:
            raise BadVideo(path, "open", "has no frames")
        return VideoInfo(packets, context.height, context.width, context.name)


def picture_count(path: Path | str) -> int:
    """How many frames a video has: as its headers prove, or else by decoding it.

    Raises BadVideo.
    """
    told = told_pictures(path)
    return sum(1 for _ in decoded(path)) if told is None else told


def told_pictures(path: Path | str) -> int | None:
    """How many frames a video's headers prove; None if they do not. Raises BadVideo."""
    try:
        with opened(path, "open") as (container, stream):
            known, shown = shown_pictures(container, stream)
            known.check_held(shown)
            return len(shown)
    except Unsure:
        return None


def frame_rate(path: Path | str) -> float:
    """Frames a second, as the container says; 0 if it says nothing."""
    with opened(path, "open") as (_, stream):
        return float(stream.average_rate or 0)


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
    path: Path | str,
    numbers: Sequence[int],
    resize: tuple[int, int] | None = None,
    shelf: Shelf | None = None,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`read_frames`, and the native (height, width) of the first frame.

    `shelf`: keeps what counting showed where headers prove nothing, for other clips of the file.
    """
    if not len(numbers) or numbers[0] < 0 or any(b <= a for a, b in pairwise(numbers)):
        raise ValueError(f"frame numbers must rise from 0 or later, got {list(numbers)}")
    images = None
    if numbers[-1] >= len(numbers):  # or there is nothing to leave out
        images = _read_needed(path, numbers, resize)
        if images is None and shelf is not None and numbers[0] >= _COUNT_UP_TO:
            images = read_counted(path, numbers, resize, shelf)
    return images or read_by_counting(path, numbers, resize)


def _read_needed(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """Decode what shows the frames and nothing else; None where that is not certain to be exact."""
    images = Images(path, len(numbers), resize)
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
    images = Images(path, len(numbers), resize)
    wanted = iter(numbers)
    number, count = next(wanted), 0
    for frame in decoded(path, up_to=numbers[-1]):
        if count == number:
            images.add(frame)
            if images.full:
                return images.result()
            number = next(wanted)
        count += 1
    raise TooShort.asked(path, "decode", count, numbers[-1])
