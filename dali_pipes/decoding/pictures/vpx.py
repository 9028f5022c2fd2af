"""VP8 and VP9: what their packets show. Sources: RFC 6386, 9.1; VP9 bitstream specification 0.6.

Every picture counts as referred to. One that refreshes no reference still leaves its mark on the
next: VP9 predicts motion vectors from the picture decoded before, both keep probabilities, segments
and strengths of the loop filter.
"""

from dali_pipes.decoding.pictures.bits import Bits, Unsure
from dali_pipes.decoding.pictures.picture import Coded, Window

_HIDDEN = "has hidden pictures"


class _Vpx:
    """What both have in common: shown as decoded, of one size."""

    held = 0, 0
    hides = False

    def __init__(self, _: bytes) -> None:
        self._count = 0
        self._size: tuple[int, int] | None = None

    def _shown(self, key: bool) -> Coded:
        self._count += 1
        return Coded(self._count, key, True)

    def _check_size(self, height: int, width: int) -> None:
        if self._size not in (None, (height, width)):
            raise Unsure("changes its size")
        self._size = height, width

    @property
    def window(self) -> Window:
        if self._size is None:
            raise Unsure("has no keyframe")
        return Window.whole(*self._size)


class Vp8(_Vpx):
    def read(self, packet: bytes) -> Coded:
        if not packet[0] & 0x10:  # show_frame
            raise Unsure(_HIDDEN)
        key = not packet[0] & 1
        if key:
            if packet[3:6] != b"\x9d\x01\x2a":
                raise Unsure("is no VP8")
            width, height = (packet[at] | packet[at + 1] << 8 for at in (6, 8))
            self._check_size(height & 0x3FFF, width & 0x3FFF)
        return self._shown(key)


class Vp9(_Vpx):
    def read(self, packet: bytes) -> Coded:
        # A hidden picture comes in one packet with the next that is shown, a superframe.
        pictures = [self._picture(data) for data in _superframe(packet)]
        if sum(shows for shows, _ in pictures) != 1:
            raise Unsure(_HIDDEN)
        self.hides |= len(pictures) > 1
        return self._shown(pictures[0][1])  # a keyframe, shown or not, is all that follow refer to

    def _picture(self, data: bytes) -> tuple[bool, bool]:
        """Whether it is shown, and whether it is a keyframe."""
        bits = Bits(data[:32])
        if bits.u(2) != 2:
            raise Unsure("is no VP9")
        if bits.u(2):
            raise Unsure("is no 8-bit 4:2:0")  # profile
        if bits.flag():  # show_existing_frame
            self.hides = True
            return True, False
        inter, shows, resilient = (bits.flag() for _ in range(3))
        intra_only = inter and not shows and bits.flag()
        if inter:
            bits.u(0 if resilient else 2)  # reset_frame_context
        if inter and not intra_only:
            bits.u(8 + 3 * 4)  # refresh, references
            if not (bits.flag() or bits.flag() or bits.flag()):  # as large as a reference
                raise Unsure("may change its size")
            return shows, False
        if bits.u(24) != 0x498342:  # frame_sync_code
            raise Unsure("is no VP9")
        if intra_only:
            bits.u(8)  # refresh
        elif bits.u(3) == 7:  # color_space: RGB
            raise Unsure("is no 8-bit 4:2:0")
        else:
            bits.u(1)
        width, height = bits.u(16) + 1, bits.u(16) + 1
        self._check_size(height, width)
        return shows, not inter


def _superframe(packet: bytes) -> list[bytes]:
    """The pictures of a packet, Annex B."""
    marker = packet[-1]
    size, count = (marker >> 3 & 3) + 1, (marker & 7) + 1
    index = len(packet) - 2 - size * count
    if marker >> 5 != 0b110 or index < 0 or packet[index] != marker:
        return [packet]
    pictures, at = [], 0
    for n in range(count):
        first = index + 1 + size * n
        end = at + int.from_bytes(packet[first : first + size], "little")
        if not at < end <= index:
            raise Unsure("a packet is cut short")
        pictures.append(packet[at:end])
        at = end
    return pictures
