"""Late frames of videos whose headers do not prove which picture is which.

Such a video is decoded whole, once. What that showed is kept: a checksum of every picture, and the
keyframes on the way. Later, decoding begins at the keyframe before a clip, and what it shows is
used if it is, picture for picture, what counting showed; no time stamp and no flag is believed.
"""

import io
import zlib
from array import array
from bisect import bisect
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.claims import too_much_to_decode
from dali_pipes.decoding.opening import BadVideo, TooShort, opened
from dali_pipes.decoding.pixels import Images
from dali_pipes.decoding.showing import (
    check_reach,
    frames_of,
    packets_of,
    packets_to_decode,
    sound_frames,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av

    from dali_pipes.decoding.showing import Numbered

Clip = tuple[NDArray[np.uint8], tuple[int, int]]

_APART = 16  # pictures from one kept keyframe to the next, at least
_TRIES = 3  # keyframes: what follows one may refer to what comes before it
_NEAR = 2000  # packets to look for a keyframe among, after seeking
_NONE = -(2**63)


class Shelf(Protocol):
    """Where what counting showed of one file is kept."""

    def get(self) -> bytes | None: ...

    def put(self, data: bytes) -> None: ...


@dataclass(frozen=True)
class _Keyframe:
    packet: int  # its number
    picture: int  # the number of the picture it holds
    time: int  # dts, or pts where there is none, or _NONE
    position: int  # of its packet in the file, bytes, or _NONE
    size: int  # of the packet, bytes

    def is_of(self, packet: "av.Packet") -> bool:
        return (self.time, self.position, self.size) == _marks(packet)


def _marks(packet: "av.Packet") -> tuple[int, int, int]:
    time = packet.pts if packet.dts is None else packet.dts
    position = packet.pos
    return _NONE if time is None else time, _NONE if position is None else position, packet.size


@dataclass(frozen=True)
class _Counted:
    """What decoding a video from its first packet on showed."""

    checksums: Sequence[int]  # by picture
    keyframes: list[_Keyframe]
    whole: bool  # to the video's end; else to damage, or as far as is decoded for a clip

    def packed(self) -> bytes:
        file = io.BytesIO()
        keyframes = np.array([astuple(k) for k in self.keyframes], np.int64).reshape(-1, 5)
        checksums = np.array(self.checksums, np.uint32)
        np.savez(file, checksums=checksums, keyframes=keyframes, whole=np.array(self.whole))
        return file.getvalue()

    @classmethod
    def unpacked(cls, data: bytes | None) -> Self | None:
        if data is None:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                keyframes = [_Keyframe(*row) for row in arrays["keyframes"].tolist()]
                return cls(arrays["checksums"].tolist(), keyframes, bool(arrays["whole"]))
        except Exception:  # a damaged index: count again
            return None

    def before(self, picture: int) -> list[_Keyframe]:
        """The keyframes to try for a picture, the nearest first."""
        end = bisect(self.keyframes, picture, key=lambda keyframe: keyframe.picture)
        return self.keyframes[max(0, end - _TRIES) : end][::-1]


def read_counted(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None, shelf: Shelf
) -> Clip | None:
    """Frames by number and their native size, as `video.read_clip`; None: only counting can tell.

    Raises as `video.read_clip` does.
    """
    counted = _Counted.unpacked(shelf.get())
    # Where counting ended may have been the system's fault.
    if counted is None or not (counted.whole or numbers[-1] < len(counted.checksums)):
        return _count(path, numbers, resize, shelf)
    if numbers[-1] >= len(counted.checksums):
        raise TooShort.asked(path, "decode", len(counted.checksums), numbers[-1])
    for keyframe in counted.before(numbers[0]):
        try:
            clip = _read_from(path, keyframe, counted, numbers, resize)
        except BadVideo:
            continue
        if clip is not None:
            return clip
    return None


def _count(
    path: Path | str, numbers: Sequence[int], resize: tuple[int, int] | None, shelf: Shelf
) -> Clip:
    """Decode the whole video and keep what it showed."""
    images = Images(path, len(numbers), resize)
    wanted = set(numbers)
    checksums, keyframes = array("I"), []
    whole = True
    passed: dict[int, tuple[int, int, int]] = {}

    def noted(packets: "Iterator[Numbered]") -> "Iterator[Numbered]":
        last = -_APART
        for number, packet in packets:
            if packet.is_keyframe and number - last >= _APART:
                passed[number], last = _marks(packet), number
            yield number, packet

    try:
        with opened(path, "decode") as (container, stream):
            check_reach(path, stream, numbers[-1])
            height, width = stream.codec_context.height, stream.codec_context.width
            packets = noted(packets_to_decode(container, stream))
            for picture, frame in enumerate(sound_frames(path, stream, packets)):
                checksums.append(_checksum(frame))
                if frame.pts in passed:
                    keyframes.append(_Keyframe(frame.pts, picture, *passed.pop(frame.pts)))
                if picture in wanted:
                    images.add(frame)
                if images.full and too_much_to_decode(picture + 2, height, width):
                    whole = False
                    break
    except BadVideo:
        if not images.full:
            raise
        whole = False
    shelf.put(_Counted(checksums, keyframes, whole).packed())
    if not images.full:
        raise TooShort.asked(path, "decode", len(checksums), numbers[-1])
    return images.result()


def _read_from(
    path: Path | str,
    keyframe: _Keyframe,
    counted: _Counted,
    numbers: Sequence[int],
    resize: tuple[int, int] | None,
) -> Clip | None:
    """None where decoding from that keyframe on does not show what counting did."""
    images = Images(path, len(numbers), resize)
    picture = None
    for frame in _frames_from(path, keyframe):
        if picture is not None:
            picture += 1
        elif frame.pts == keyframe.packet:
            picture = keyframe.picture
        if picture == numbers[images.count]:
            if frame.is_corrupt or _checksum(frame) != counted.checksums[picture]:
                return None
            images.add(frame)
            if images.full:
                return images.result()
    return None


def _frames_from(path: Path | str, keyframe: _Keyframe) -> "Iterator[av.VideoFrame]":
    for reach in (_by_seeking, _by_reading):
        with opened(path, "decode") as (container, stream):
            packets = reach(container, stream, keyframe)
            for first in packets:
                yield from frames_of(stream, enumerate(chain((first,), packets), keyframe.packet))
                return


def _by_seeking(
    container: "av.container.InputContainer", stream: "av.VideoStream", keyframe: _Keyframe
) -> "Iterator[av.Packet]":
    """The packets from that of a keyframe on; none where seeking does not lead there."""
    import av

    try:
        if keyframe.time != _NONE:
            container.seek(keyframe.time, stream=stream)
        elif keyframe.position != _NONE:
            container.seek(keyframe.position, unsupported_byte_offset=True)
        else:
            return
        packets = packets_of(container, stream)
        for packet in islice(packets, _NEAR):
            if keyframe.is_of(packet):
                break
        else:
            return
    except av.FFmpegError:
        return
    yield packet
    yield from packets


def _by_reading(
    container: "av.container.InputContainer", stream: "av.VideoStream", keyframe: _Keyframe
) -> "Iterator[av.Packet]":
    """The same by reading all packets before it, which costs less than decoding them."""
    return islice(packets_of(container, stream), keyframe.packet, None)


def _checksum(frame: "av.VideoFrame") -> int:
    """Of all pixels shown, as decoded, and of their size."""
    widths: dict[int, int] = {}  # bytes of a row, by plane; too wide or narrow costs time, no more
    for part in frame.format.components:
        width = part.width * ((part.bits + 7) // 8)
        widths[part.plane] = widths.get(part.plane, 0) + width
    value = zlib.crc32(f"{frame.format.name} {frame.width}x{frame.height}".encode())
    for number, plane in enumerate(frame.planes):
        rows = np.frombuffer(cast(bytes, plane), np.uint8)
        if number in widths and plane.line_size > 0:
            rows = rows[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
            rows = rows[:, : widths[number]]
        value = zlib.crc32(np.ascontiguousarray(rows).data, value)
    return value
