"""The pictures of a video as players show them, one after another.

Counted from 0 they are the video's frames: whatever else tells frames apart must agree with this.
"""

from collections.abc import Iterable
from contextlib import closing
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.claims import too_much_to_decode
from dali_pipes.decoding.opening import BadVideo, opened
from dali_pipes.decoding.pictures import begins, without_messages
from dali_pipes.decoding.pixels import UprightRgb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av

    Numbered = tuple[int, av.Packet]

_UNTOLD, _I_PICTURE = 0, 1  # FFmpeg's AV_PICTURE_TYPE_NONE and _I
# Decoders that show anything, or nothing at all, where a stream begins between keyframes; others
# show nothing until they can.
_NEED_A_KEYFRAME = ("hevc", "mpeg4", "vp8", "vp9", "libdav1d")
_START_ANYWHERE = ("mpegts", "mpeg")  # containers whose times do not begin with 0


def packets_of(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> "Iterator[av.Packet]":
    """Packets that hold something, from here on. Empty ones would end decoding."""
    # Unfinished and not closed, it would leak.
    with closing(container.demux(stream)) as packets:  # type: ignore[type-var]
        for packet in packets:
            if packet.size:
                yield packet


def frames_of(stream: "av.VideoStream", packets: "Iterable[Numbered]") -> "Iterator[av.VideoFrame]":
    """What a decoder shows of numbered packets: a frame's `pts` is its packet's number."""
    for number, packet in packets:
        packet.pts, packet.dts = number, None
        yield from _decode(stream, packet)
    yield from stream.codec_context.decode(None)


def _decode(stream: "av.VideoStream", packet: "av.Packet") -> "list[av.VideoFrame]":
    import av

    context = stream.codec_context
    try:
        return context.decode(packet)
    except av.error.InvalidDataError:
        # Messages beside the picture may be what the decoder objects to, and no picture needs them.
        bare = without_messages(context.name, context.extradata or b"", bytes(packet))
        if bare is None or packet.is_discard or any(packet.iter_sidedata()):
            raise
        mended = av.Packet(bare)
        mended.pts, mended.time_base = packet.pts, packet.time_base
        mended.is_keyframe = packet.is_keyframe
        return context.decode(mended)


def packets_to_decode(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> "Iterator[Numbered]":
    """All packets, numbered from 0, but for those that a recording has before its first keyframe.

    The container has just been opened.
    """
    numbered = enumerate(packets_of(container, stream))
    first = next(numbered, None)
    if first is None:
        return
    if _begins_late(container, stream, first[1]):
        for number, packet in numbered:
            if packet.is_keyframe and _begins(stream, packet):
                first = number, packet
                break
        else:
            return
    yield first
    yield from numbered


def _begins_late(
    container: "av.container.InputContainer", stream: "av.VideoStream", packet: "av.Packet"
) -> bool:
    """Whether a recording was joined late. If nothing but its header says so, it is damaged."""
    if stream.codec_context.name not in _NEED_A_KEYFRAME or packet.is_keyframe:
        return False
    return _is_the_first(container, stream, packet) and _begins(stream, packet) is False


def _is_the_first(
    container: "av.container.InputContainer", stream: "av.VideoStream", packet: "av.Packet"
) -> bool:
    """Whether time says that nothing was lost before this packet."""
    if container.format.name in _START_ANYWHERE:
        return True
    if container.format.name == "avi" or packet.pts is None or not stream.average_rate:
        return False
    return abs(packet.pts * packet.time_base * stream.average_rate) < Fraction(1, 2)  # frames


def _begins(stream: "av.VideoStream", packet: "av.Packet") -> bool | None:
    context = stream.codec_context
    return begins(context.name, context.extradata or b"", bytes(packet))


def decoded(path: Path | str, up_to: int = 0) -> "Iterator[av.VideoFrame]":
    """Every frame of a video, from the first. Raises BadVideo where it cannot go on soundly.

    `pts` is the number of the packet that it came in. `up_to`: the last frame that a clip needs,
    which is refused if too much is to be decoded for it.
    """
    with opened(path, "decode") as (container, stream):
        check_reach(path, stream, up_to)
        yield from sound_frames(path, stream, packets_to_decode(container, stream))


def check_reach(path: Path | str, stream: "av.VideoStream", number: int) -> None:
    """Raises BadVideo if to decode all frames up to that number would take for ever."""
    context = stream.codec_context
    if absurd := too_much_to_decode(number + 1, context.height, context.width):
        raise BadVideo(path, "decode", absurd)


def sound_frames(
    path: Path | str, stream: "av.VideoStream", packets: "Iterable[Numbered]"
) -> "Iterator[av.VideoFrame]":
    """The frames of a whole video's packets. Raises BadVideo as `decoded` does."""
    packets = iter(packets)
    count = 0
    for first in packets:
        frames = frames_of(stream, chain((first,), packets))
        begin = list(islice(frames, 2))
        # An edit list hides what a clip that was cut out begins with.
        if not ((first[1].is_discard and first[1].is_keyframe) or _begin_with_a_keyframe(begin)):
            raise BadVideo(path, "decode", "its first frame is no keyframe")
        for frame in chain(begin, frames):
            if frame.is_corrupt:
                raise BadVideo(path, "decode", f"frame {count} is damaged")
            yield frame
            count += 1
    if not count:
        raise BadVideo(path, "decode", "has no frames that can be shown")


def _begin_with_a_keyframe(begin: "list[av.VideoFrame]") -> bool:
    """Some decoders never say what a picture is. Others make one up, of which they say nothing."""
    told = [frame.pict_type != _UNTOLD for frame in begin]
    return not any(told) or begin[0].key_frame or begin[0].pict_type == _I_PICTURE


def decoded_rgb(path: Path | str) -> "Iterator[NDArray[np.uint8]]":
    """Every frame of a video, uint8 RGB [H,W,3], upright. Raises BadVideo as `decoded` does."""
    return map(UprightRgb(path), decoded(path))
