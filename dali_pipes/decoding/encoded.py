"""Clips as GPU decoders take them: encoded, whole, from a keyframe on, in memory.

DALI counts what NVDEC decodes, so the n-th picture is the n-th frame only where each packet is one
picture that is shown, and only those clips are handed over: `pictures` proves it from the headers.
It knows when each is shown, too, so the time stamps that a clip gets do not come from the file.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.opening import BadVideo, TooShort, opened
from dali_pipes.decoding.packets import last_reset, shown_pictures
from dali_pipes.decoding.pictures import Picture, Stream, Unsure, Window
from dali_pipes.decoding.pixels import turned
from dali_pipes.decoding.showing import frames_of, packets_of

if TYPE_CHECKING:
    import av

# FFmpeg's names. NVDEC knows AV1 as well, but nearly all its streams have hidden pictures.
GPU_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
_PIXEL_FORMATS = ("yuv420p", "yuvj420p")  # 8 bits, 4:2:0
_SAY_HOW_THEY_STAND = ("mp4", "matroska")  # containers
_SIDES = (144, 4096)  # px: within the limits of every codec on every GPU
_BT601 = (2, 5, 6)  # matrix_coefficients: not said, and the two that DALI converts with
_FILTERS = {"h264": "h264_metadata", "hevc": "hevc_metadata"}  # of bit streams, FFmpeg's
_MACROBLOCK = 16  # px
_TICK = Fraction(1, 25)  # s between frames, whatever the file says


@dataclass(frozen=True)
class Encoded:
    """A video of its own that holds a clip."""

    data: bytes  # MP4 or Matroska
    first: int  # the clip's first frame in it
    window: Window  # the pixels that a decoder gives, and which of them to keep

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """For DALI: data uint8 [n], first int32, (top, left) and (height, width) int32 [2]."""
        window = self.window
        return (
            np.frombuffer(self.data, np.uint8),
            np.array(self.first, np.int32),
            np.array((window.top, window.left), np.int32),
            np.array((window.height, window.width), np.int32),
        )


def encoded_clip(path: Path | str, numbers: Sequence[int], codecs: Sequence[str]) -> Encoded:
    """The packets that frames `numbers` (0-based, rising) need, without decoding.

    Raises Unsure, with the reason, where a GPU decoder could fail or differ from counting on a CPU;
    BadVideo if there is no video, TooShort if it ends before the clip.
    """
    import av

    with opened(path, "open") as (container, stream):
        _check_format(stream, codecs)
        name = stream.codec_context.name
        packets: list[av.Packet] = []
        known, shown = shown_pictures(container, stream, packets)
        window = _window(known)
        if numbers[-1] >= len(packets):
            raise TooShort.asked(path, "open", len(packets), numbers[-1])
        _check_size(name, window)
        _check_upright(container, stream, packets)
        chosen, first = _chosen(shown, numbers)
        try:
            data = _packed(name, window, stream, packets, shown, chosen)
        except (av.FFmpegError, ValueError) as error:
            raise Unsure(f"cannot be packed anew: {error}") from error
        return Encoded(data, first, window)


def unsure(path: Path | str) -> str:
    """Why a GPU decoder is not given this video; "" if it is."""
    try:
        with opened(path, "open") as (container, stream):
            _check_format(stream, GPU_CODECS)
            _check_upright(container, stream, packets_of(container, stream))
        with opened(path, "open") as (container, stream):
            _check_size(stream.codec_context.name, _window(shown_pictures(container, stream)[0]))
    except Unsure as error:
        return str(error)
    except BadVideo as error:  # a worker finds out whether it can be used all the same
        return error.reason
    return ""


def _check_format(stream: "av.VideoStream", codecs: Sequence[str]) -> None:
    context = stream.codec_context
    if context.name not in codecs:
        raise Unsure(f"its codec is {context.name}")
    if context.pix_fmt not in _PIXEL_FORMATS:
        raise Unsure("is no 8-bit 4:2:0")
    if context.colorspace not in _BT601:
        raise Unsure("its colours are not BT.601")
    if _is_full_range(context) and context.name not in _FILTERS:
        raise Unsure("its colours are of full range")  # which DALI reads of these two alone


def _check_upright(
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    packets: "Iterable[av.Packet]",
) -> None:
    if not any(kind in container.format.name for kind in _SAY_HOW_THEY_STAND):
        return
    first = next(frames_of(stream, enumerate(packets)), None)
    try:
        if first is None or turned(first):
            raise Unsure("is rotated" if first else "shows nothing")
    except ValueError as error:
        raise Unsure(str(error)) from error


def _window(known: Stream) -> Window:
    if known.hides:  # DALI counts what NVDEC decodes
        raise Unsure("has hidden pictures")
    return known.window


def _is_full_range(context: "av.VideoCodecContext") -> bool:
    return context.pix_fmt == "yuvj420p" or context.color_range == 2  # AVCOL_RANGE_JPEG


def _check_size(codec: str, window: Window) -> None:
    low, high = _SIDES
    sides = (window.height, window.width)
    if not low <= min(sides) or not max(sides) <= high:
        raise Unsure(f"its sides are not within {low} to {high} pixels")
    if any(side % 2 for side in sides):
        raise Unsure("has an odd side")  # DALI 2.4 converts its colours wrongly
    # Pixels beyond what is shown cost a new decoder for each clip; only these can give them too.
    if codec not in _FILTERS and any(side % _MACROBLOCK for side in sides):
        raise Unsure(f"its sides are not multiples of {_MACROBLOCK}")


def _chosen(shown: list[Picture], numbers: Sequence[int]) -> tuple[list[int], int]:
    """The packets needed, in the order of decoding, and the rank of the first frame in them."""
    begin = last_reset(shown, numbers[0])
    end = max(n for n, p in enumerate(shown) if p.rank <= numbers[-1]) + 1
    # Pictures shown before the keyframe but stored after it may lack what they refer to.
    chosen = [n for n in range(begin, end) if shown[n].rank >= shown[begin].rank]
    return chosen, numbers[0] - shown[begin].rank


def _packed(
    codec: str,
    window: Window,
    stream: "av.VideoStream",
    packets: "list[av.Packet]",
    shown: list[Picture],
    chosen: list[int],
) -> bytes:
    """A file of the chosen packets, shown from time 0 on, a tick apart, all coded pixels."""
    import av

    file = io.BytesIO()
    kind = "matroska" if codec == "vp8" else "mp4"  # of the two, MP4 has exact times
    ranks = [shown[n].rank - shown[chosen[0]].rank for n in chosen]
    delay = max(number - rank for number, rank in enumerate(ranks))
    with av.open(file, "w", format=kind) as target:
        copy = target.add_stream_from_template(stream)
        uncropped = _uncropping(codec, window, copy)
        copy.width, copy.height = window.coded_width, window.coded_height
        for number, rank in enumerate(ranks):
            packet = packets[chosen[number]]
            packet.time_base, packet.duration = _TICK, 1
            packet.pts, packet.dts = rank, number - delay
            for whole in uncropped(packet):
                whole.stream = copy
                target.mux(whole)
    return file.getvalue()


def _uncropping(
    codec: str, window: Window, target: "av.VideoStream"
) -> "Callable[[av.Packet], list[av.Packet]]":
    """What makes a packet show all pixels that are coded; the header of `target` says so too.

    DALI 2.4 keeps decoders by the size of what is coded and looks for the size of what is shown:
    where the two differ, it makes a new one for each clip (80 instead of 9 ms on an H100).
    """
    from av.bitstream import BitStreamFilterContext

    if not window.cuts:
        return lambda packet: [packet]
    options = ":".join(f"crop_{side}=0" for side in ("left", "right", "top", "bottom"))
    return BitStreamFilterContext(f"{_FILTERS[codec]}={options}", target, target).filter
