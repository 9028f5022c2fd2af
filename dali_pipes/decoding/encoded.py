"""Clips as GPU decoders take them: encoded, whole, with sound time stamps, in memory.

A GPU decoder finds a frame by the rank of its time stamp, fills what is missing with black, and
ends the pipeline at what it does not know. So a clip's packets are examined before they reach it:
they are all there, each has a time stamp of its own, and format and size are common ones. AVI has
no presentation times and may pack two pictures in a packet: both are put right without encoding.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dali_pipes.decoding.video import TooShort, frames_of, opened

if TYPE_CHECKING:
    import av

# What DALI hands to NVDEC, by FFmpeg's names of the decoders (libdav1d: AV1). Whether a GPU knows
# a codec is seen when it is tried.
GPU_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "libdav1d")
_PIXEL_FORMATS = ("yuv420p", "yuvj420p")  # 8 bits, 4:2:0
_SIDES = (144, 4096)  # px: within the limits of every codec on every GPU

_MAX_EMPTY_VOP = 19  # bytes: what is longer holds a picture; the limit of mpeg4_unpack_bframes

# A longer way to the clip's keyframe than this is left out.
_LEAD_BYTES = 8 << 20


@dataclass(frozen=True)
class Encoded:
    """A video of its own that holds a clip."""

    data: bytes  # MP4 or Matroska
    first: int  # the clip's first frame in it
    height: int
    width: int


def encoded_clip(path: Path | str, numbers: Sequence[int], codecs: Sequence[str]) -> Encoded | None:
    """The packets that frames `numbers` (0-based, rising) need, without decoding.

    None if a GPU decoder could fail or differ from counting, and the CPU must decode: other
    codecs than `codecs`, unusual formats and sizes, rotation, unsound time stamps. Raises BadVideo
    if there is no video, TooShort if it ends before the clip.
    """
    import av

    with opened(path, "open") as (container, stream):
        context = stream.codec_context
        low, high = _SIDES
        if (
            context.name not in codecs
            or context.pix_fmt not in _PIXEL_FORMATS
            or not low <= min(context.height, context.width)
            or not max(context.height, context.width) <= high
            or _is_rotated(container, stream)
        ):
            return None
        packets = [packet for packet in container.demux(stream) if packet.size]
        if container.format.name == "avi":
            packets = _timed(packets, stream)
        chosen, first = _chosen(path, packets, numbers)
        if not chosen:
            return None
        file = io.BytesIO()
        kind = "matroska" if context.name == "vp8" else "mp4"  # of the two, MP4 has exact times
        try:
            with av.open(file, "w", format=kind) as target:
                copy = target.add_stream_from_template(stream)
                for packet in chosen:
                    packet.stream = copy
                    target.mux(packet)
        except (av.FFmpegError, ValueError):
            return None  # a stream that the container cannot hold
        return Encoded(file.getvalue(), first, context.height, context.width)


def _timed(packets: "list[av.Packet]", stream: "av.VideoStream") -> "list[av.Packet]":
    """An AVI's packets with one picture each, and the time stamps that AVI lacks.

    None at all where they cannot be known.
    """
    from av.bitstream import BitStreamFilterContext

    if stream.codec_context.name == "mjpeg":
        ranks = list(range(len(packets)))  # shown as stored
    elif stream.codec_context.name == "mpeg4":
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        single = [one for packet in (*packets, None) for one in unpack.filter(packet)]
        kinds = [_vop_kind(bytes(packet)) for packet in single]
        packets = [packet for packet, kind in zip(single, kinds, strict=True) if kind is not None]
        if any(packet.size <= _MAX_EMPTY_VOP for packet in packets) or _SPRITE in kinds:
            return []
        ranks = _shown_ranks([kind for kind in kinds if kind is not None])
    else:
        return []
    for number, (packet, rank) in enumerate(zip(packets, ranks, strict=True)):
        packet.pts, packet.dts = rank + 1, number
    return packets


_BIDIRECTIONAL, _SPRITE = 2, 3  # vop_coding_type of ISO/IEC 14496-2, 6.2.5


def _vop_kind(data: bytes) -> int | None:
    """The coding type of the picture in an MPEG-4 packet; None if it holds none."""
    at = data.find(b"\0\0\1\xb6")
    return data[at + 4] >> 6 if 0 <= at < len(data) - 4 else None


def _shown_ranks(kinds: list[int]) -> list[int]:
    """When each picture is shown: one that others refer to waits for the next of its kind."""
    ranks, waiting, shown = [0] * len(kinds), None, 0
    for number, kind in enumerate(kinds):
        due = number
        if kind != _BIDIRECTIONAL:
            waiting, due = number, waiting
        if due is not None:
            ranks[due], shown = shown, shown + 1
    if waiting is not None:
        ranks[waiting] = shown
    return ranks


def _chosen(
    path: Path | str, packets: "list[av.Packet]", numbers: Sequence[int]
) -> "tuple[list[av.Packet], int]":
    """The packets needed, in the order of decoding, and the rank of the first frame in them.

    None at all if time stamps do not tell the frames apart.
    """
    times = [packet.pts for packet in packets if packet.pts is not None]
    if (
        len(set(times)) < len(packets)
        or not packets
        or not packets[0].is_keyframe
        or times[0] != min(times)
        or any(packet.is_discard or packet.is_corrupt for packet in packets)
    ):
        return [], 0
    if numbers[-1] >= len(times):
        reason = f"has {len(times)} frames, frame {numbers[-1]} was asked for"
        raise TooShort(path, "open", reason, len(times))
    shown = sorted(times)
    first, last = shown[numbers[0]], shown[numbers[-1]]
    end = max(n for n, time in enumerate(times) if time <= last) + 1
    keys = (n for n, packet in enumerate(packets) if packet.is_keyframe and times[n] <= first)
    begin = max(keys)
    if sum(packet.size for packet in packets[:begin]) <= _LEAD_BYTES:
        begin = 0
    # Pictures shown before the keyframe but stored after it may lack what they refer to.
    chosen = [n for n in range(begin, end) if times[n] >= times[begin]]
    return [packets[n] for n in chosen], sum(times[n] < first for n in chosen)


def _is_rotated(container: "av.container.InputContainer", stream: "av.VideoStream") -> bool:
    """Whether the first frame is to be turned; only MP4 files say so."""
    if "mp4" not in container.format.name:
        return False
    rotation = next(frames_of(container, stream)).rotation
    container.seek(0)
    return bool(rotation % 360)
