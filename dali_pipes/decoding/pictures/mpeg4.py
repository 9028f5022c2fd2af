"""MPEG-4 part 2: what its packets show. Clauses and names are those of ISO/IEC 14496-2."""

from dataclasses import dataclass

from dali_pipes.decoding.pictures.bits import Bits, Unsure
from dali_pipes.decoding.pictures.picture import Coded, Window

PICTURE = b"\0\0\1\xb6"  # vop_start_code
_GROUP, _START = b"\0\0\1\xb3", b"\0\0\1"
_I, _B, _SPRITE = 0, 2, 3  # vop_coding_type
_MOST_EMPTY = 19  # bytes: what is longer holds a picture; the limit of mpeg4_unpack_bframes
_MOST_TIME = 1 << 16  # ticks between pictures: decoders keep 16 bits of it


@dataclass(frozen=True)
class _Layer:
    """What the header of the video object layer says."""

    window: Window
    ticks: int  # a second
    reorders: bool  # says that B pictures may come


class Mpeg4:
    hides = False
    held = 1, 1

    def __init__(self, extradata: bytes) -> None:
        self._extradata = extradata
        self._headers = b""  # in front of the first picture
        self._layer: _Layer | None = None
        self._count = self._anchors = 0  # anchors: pictures that others refer to
        self._second = self._second_before = 0  # of the last two anchors: modulo_time_base adds
        self._time = self._interval = 0  # of the last anchor, and since the one before, in ticks

    @property
    def window(self) -> Window:
        if self._layer is None:
            raise Unsure("has no packets")
        return self._layer.window

    def read(self, packet: bytes) -> Coded:
        at = packet.find(PICTURE)
        if at < 0 or packet.find(PICTURE, at + 4) >= 0:
            raise Unsure(f"a packet holds {packet.count(PICTURE)} pictures")
        if len(packet) <= _MOST_EMPTY:
            raise Unsure("has empty pictures")
        front, group = _split(packet[:at])
        if self._layer is None:
            self._layer = _layer(front + self._extradata)  # decoders follow the later of the two
            self._headers = front
        # Decoders look there for the encoder's name, too, to work around its errors.
        if front and front != self._headers and front not in self._extradata:
            raise Unsure("changes its headers on the way")
        return self._picture(self._layer, packet[at + 4 : at + 20], group)

    def _picture(self, layer: _Layer, header: bytes, group: int | None) -> Coded:
        bits = Bits(header)
        kind, seconds = bits.u(2), 0
        if kind == _SPRITE:
            raise Unsure("has sprites")
        while bits.u(1):
            seconds += 1
        before = bits.u(1)
        ticks = bits.u(max(1, (layer.ticks - 1).bit_length()))
        if not (before and bits.u(1)):  # markers
            raise Unsure("has a header that makes no sense")
        if not bits.u(1):  # vop_coded
            raise Unsure("has empty pictures")
        self._count += 1
        if kind != _B:
            self._second_before = self._second if group is None else group
            self._second = self._second_before + seconds
            time = self._second * layer.ticks + ticks
            self._interval, self._time = time - self._time, time
            self._anchors += 1
            return Coded((self._anchors, 1, 0), kind == _I, True)  # waits for the next of its kind
        if not layer.reorders:  # a decoder finds out on the way, and shows a picture twice
            raise Unsure("has B pictures and does not say so")
        ahead = self._time - (self._second_before + seconds) * layer.ticks - ticks
        if not 0 < ahead < self._interval < _MOST_TIME:  # decoders leave it out
            raise Unsure("has B pictures of times that make no sense")
        return Coded((self._anchors, 0, self._count), False, False)


def _split(front: bytes) -> tuple[bytes, int | None]:
    """What stands in front of a picture but for the head of a group, and the second that says."""
    at = front.find(_GROUP)
    if at < 0:
        return front, None
    bits = Bits(front[at + 4 : at + 8])
    hours, minutes, _, seconds = bits.u(5), bits.u(6), bits.u(1), bits.u(6)
    after = front.find(_START, at + 4)
    rest = front[after:] if after >= 0 else b""
    if _GROUP in rest:
        raise Unsure("has two groups in front of a picture")
    return front[:at] + rest, seconds + 60 * (minutes + 60 * hours)


def _layer(header: bytes) -> _Layer:
    """Raises Unsure, also if the pictures are interlaced."""
    at = header.find(_START)
    while at >= 0 and not 0x20 <= header[at + 3] <= 0x2F:  # video_object_layer_start_code
        at = header.find(_START, at + 3)
    if at < 0:
        raise Unsure("has no header of its video layer")
    bits = Bits(header[at + 4 : at + 64])
    bits.u(1 + 8)  # random_accessible_vol, video_object_type_indication
    version = 1
    if bits.flag():
        version = bits.u(4)
        bits.u(3)
    if bits.u(4) == 15:  # aspect_ratio_info
        bits.u(16)
    reorders = False
    if bits.flag():  # vol_control_parameters
        bits.u(2)
        reorders = not bits.flag()  # low_delay
        if bits.flag():
            bits.u(79)  # vbv parameters
    if bits.u(2):  # video_object_layer_shape
        raise Unsure("is not rectangular")
    bits.u(1)
    resolution = bits.u(16)
    bits.u(1)
    if bits.flag():  # fixed_vop_rate
        bits.u(max(1, (resolution - 1).bit_length()))
    bits.u(1)
    width = bits.u(13)
    bits.u(1)
    height = bits.u(13)
    bits.u(1)
    if bits.flag():
        raise Unsure("is interlaced")
    bits.u(1)  # obmc_disable
    if bits.u(1 if version == 1 else 2):  # sprite_enable
        raise Unsure("has sprites")
    return _Layer(Window.whole(height, width), resolution, reorders)
