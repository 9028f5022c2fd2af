"""What each packet of a stream shows, read from its headers: no decoding, no time stamps.

A packet is taken to be one picture only where the headers say so. Whatever is not certain raises
`Unsure`: fields, hidden pictures, several pictures in a packet, parameters that change.
"""

from bisect import bisect, insort
from collections.abc import Callable, Iterable

from dali_pipes.decoding.pictures import av1, h264, hevc, mpeg4, vpx
from dali_pipes.decoding.pictures.bits import Unsure
from dali_pipes.decoding.pictures.messages import without_messages
from dali_pipes.decoding.pictures.picture import Coded, Picture, Reader, Window, by_order

__all__ = [
    "READ", "Coded", "Picture", "Stream", "Unsure", "Window", "begins", "pictures",
    "without_messages",
]  # fmt: skip

READ: dict[str, Callable[[bytes], Reader]] = {  # by FFmpeg's names of the decoders
    "h264": h264.H264,
    "hevc": hevc.Hevc,
    "mpeg4": mpeg4.Mpeg4,
    "vp8": vpx.Vp8,
    "vp9": vpx.Vp9,
    "libdav1d": av1.Av1,
}


class Stream:
    """The pictures of a stream, a packet each, told as its packets come in the order of decoding.

    What raises Unsure says the reason.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        """Raises Unsure."""
        if codec not in READ:
            raise Unsure(f"its codec is {codec}")
        self._reader = READ[codec](extradata)
        self._coded: list[Coded] = []

    def add(self, packet: bytes) -> Coded:
        """Raises Unsure, also if the first picture is not one that decoding can begin at."""
        try:
            coded = self._reader.read(packet)
        except IndexError:
            raise Unsure("a packet is cut short") from None
        self._coded.append(coded)
        if not self._coded[0].resets:
            raise Unsure("begins between keyframes")
        return coded

    def pictures(self) -> list[Picture]:
        """All so far, in the order of the packets. Raises Unsure."""
        if not self._coded:
            raise Unsure("has no packets")
        found = by_order(self._coded)
        if found[0].rank:
            raise Unsure("begins between keyframes")
        return found

    @property
    def window(self) -> Window:
        """Which pixels are shown. Raises Unsure before the first packet."""
        return self._reader.window

    @property
    def held(self) -> int:
        """How many pictures a decoder keeps back at most."""
        return self._reader.held[1]

    @property
    def hides(self) -> bool:
        """Whether some packet so far holds a hidden picture besides, or shows one again."""
        return self._reader.hides

    def check_held(self, found: Iterable[Picture]) -> None:
        """Raises Unsure if a decoder might not wait for a picture that is to be shown earlier."""
        seen: list[int] = []
        for picture in found:
            if len(seen) - bisect(seen, picture.rank) > self._reader.held[0]:
                raise Unsure("does not say how far its pictures are out of order")
            insort(seen, picture.rank)


def pictures(
    codec: str, extradata: bytes, packets: Iterable[bytes]
) -> tuple[list[Picture], Window]:
    """A picture a packet, in the order of the packets, and which pixels are shown.

    Raises Unsure, with the reason, also if the first picture is not one that decoding can begin at.
    """
    stream = Stream(codec, extradata)
    for packet in packets:
        stream.add(packet)
    return stream.pictures(), stream.window


def begins(codec: str, extradata: bytes, packet: bytes) -> bool | None:
    """Whether decoding can begin at a packet; None where its headers do not say."""
    try:
        return READ[codec](extradata).read(packet).resets if codec in READ else None
    except (Unsure, IndexError):
        return None
