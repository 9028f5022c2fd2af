"""What each packet of a stream shows, read from its headers: no decoding, no time stamps.

A packet is taken to be one picture only where the headers say so. Whatever is not certain raises
`Unsure`: fields, hidden pictures, several pictures in a packet, parameters that change.
"""

from collections.abc import Callable, Sequence

from dali_pipes.decoding.pictures import h264, hevc, mpeg4, vpx
from dali_pipes.decoding.pictures.bits import Unsure
from dali_pipes.decoding.pictures.picture import Picture, Window

__all__ = ["READ", "Picture", "Unsure", "Window", "pictures"]

Reader = Callable[[bytes, Sequence[bytes]], tuple[list[Picture], Window]]
READ: dict[str, Reader] = {  # by FFmpeg's names of the decoders
    "h264": h264.pictures,
    "hevc": hevc.pictures,
    "mpeg4": mpeg4.pictures,
    "vp8": vpx.vp8,
    "vp9": vpx.vp9,
}


def pictures(
    codec: str, extradata: bytes, packets: Sequence[bytes]
) -> tuple[list[Picture], Window]:
    """A picture a packet, in the order of the packets, and which pixels are shown.

    Raises Unsure, with the reason, also if the first picture is not one that decoding can begin at.
    """
    if codec not in READ:
        raise Unsure(f"its codec is {codec}")
    if not packets:
        raise Unsure("has no packets")
    try:
        found, window = READ[codec](extradata, packets)
    except IndexError:
        raise Unsure("a packet is cut short") from None
    if not found[0].resets or found[0].rank:
        raise Unsure("begins between keyframes")
    return found, window
