"""VP8 and VP9: what their packets show. Sources: RFC 6386, 9.1; VP9 bitstream specification 0.6."""

from collections.abc import Sequence

from dali_pipes.decoding.pictures.bits import Bits, Unsure
from dali_pipes.decoding.pictures.picture import Picture, Window

_HIDDEN = "has hidden pictures"


def vp8(_: bytes, packets: Sequence[bytes]) -> tuple[list[Picture], Window]:
    """Raises Unsure."""
    shown, sizes = [], set()
    for rank, packet in enumerate(packets):
        if not packet[0] & 0x10:  # show_frame
            raise Unsure(_HIDDEN)
        key = not packet[0] & 1
        if key:
            width, height = (int.from_bytes(packet[at : at + 2], "little") for at in (6, 8))
            sizes.add((height & 0x3FFF, width & 0x3FFF))
        shown.append(Picture(rank, key))
    return shown, _only(sizes)


def vp9(_: bytes, packets: Sequence[bytes]) -> tuple[list[Picture], Window]:
    """Raises Unsure."""
    shown, sizes = [], set()
    for rank, packet in enumerate(packets):
        if packet[-1] & 0xE0 == 0xC0:  # superframe_header; of one picture it would be of no use
            raise Unsure(_HIDDEN)
        bits = Bits(packet[:32])
        if bits.u(2) != 2:
            raise Unsure("is no VP9")
        if bits.u(2):
            raise Unsure("is no 8-bit 4:2:0")  # profile
        repeats, inter, shows, resilient = (bits.flag() for _ in range(4))
        if repeats or not shows:
            raise Unsure(_HIDDEN)
        if inter:
            bits.u((0 if resilient else 2) + 8 + 3 * 4)  # reset, refresh, references
            if not (bits.flag() or bits.flag() or bits.flag()):  # as large as a reference
                raise Unsure("may change its size")
        else:
            bits.u(24)  # frame_sync_code
            if bits.u(3) == 7:  # color_space: RGB
                raise Unsure("is no 8-bit 4:2:0")
            bits.u(1)
            width, height = bits.u(16) + 1, bits.u(16) + 1
            sizes.add((height, width))
        shown.append(Picture(rank, not inter))
    return shown, _only(sizes)


def _only(sizes: set[tuple[int, int]]) -> Window:
    if len(sizes) != 1:
        raise Unsure("changes its size" if sizes else "has no keyframe")
    return Window.whole(*sizes.pop())
