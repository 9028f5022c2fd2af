"""HEVC: what its packets show. Clauses and names are those of ITU-T H.265."""

from dataclasses import dataclass

from dali_pipes.decoding.pictures.bits import (
    HEADER_BYTES,
    Bits,
    Unsure,
    check_messages,
    first_slice,
    one_of_each,
    order_near,
    payload,
    units,
)
from dali_pipes.decoding.pictures.picture import Coded, Window

# nal_unit_type
_RADL_AND_RASL = range(6, 10)
_BLA, _IDR, _CRA, _RESET = range(16, 19), (19, 20), 21, range(16, 24)
_SPS, _PPS, _ENDS, _MESSAGES, _PICTURES = 33, 34, (36, 37), (39, 40), range(32)


@dataclass(frozen=True)
class _Stream:
    order_bits: int
    separate_planes: bool
    extra_bits: int  # num_extra_slice_header_bits
    sublayers: int
    held: tuple[int, int]  # by sps_max_num_reorder_pics
    window: Window


class Hevc:
    hides = False

    def __init__(self, extradata: bytes) -> None:
        self._length_bytes, self._parameters = configuration(extradata)
        self._stream = _stream(self._parameters)
        self.held, self.window = self._stream.held, self._stream.window
        self._period = 0
        self._last: int | None = None  # the order of the picture before that counts, 8.3.1

    def read(self, packet: bytes) -> Coded:
        found = []
        for unit in units(packet, self._length_bytes):
            kind = unit[0] >> 1 & 63
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
                raise Unsure("has more than one layer")
            if kind in _ENDS:
                raise Unsure("ends a sequence on the way")
            if kind in (_SPS, _PPS) and unit not in self._parameters:
                raise Unsure("changes its parameters on the way")
            if kind in _MESSAGES:
                check_messages(unit[2:])
            if kind in _PICTURES:
                found.append(unit)
        unit = first_slice(found, 2)  # first_slice_segment_in_pic_flag
        kind, sublayer = unit[0] >> 1 & 63, unit[1] & 7
        if kind in _BLA:
            raise Unsure("was cut and joined without encoding")
        bits = Bits(payload(unit[2:HEADER_BYTES]))
        bits.u(1)  # first_slice_segment_in_pic_flag
        is_first, is_idr = self._last is None, kind in _IDR
        if kind in _RESET and bits.flag() and is_idr and not is_first:
            raise Unsure("may hide pictures")  # no_output_of_prior_pics_flag
        bits.ue(), bits.u(self._stream.extra_bits), bits.ue()  # pps id, reserved, slice_type
        if self._stream.separate_planes:
            bits.u(2)
        order = 0
        if is_idr:
            self._period += 1
        else:
            order = bits.u(self._stream.order_bits)
            if self._last is not None:  # a CRA picture may begin the stream
                order = order_near(order, self._last, 1 << self._stream.order_bits)
        counts = kind > 15 or kind % 2 == 1  # others refer to it, in its own sublayer too
        if is_first or (sublayer == 1 and counts and kind not in _RADL_AND_RASL):  # TemporalId 0
            self._last = order
        referred = counts or sublayer < self._stream.sublayers
        return Coded((self._period, order), kind in (*_IDR, _CRA), referred)


def configuration(extradata: bytes) -> tuple[int, list[bytes]]:
    """(bytes of a unit's length, parameter sets) of hvcC (ISO/IEC 14496-15) or start codes."""
    if extradata[:1] != b"\1":
        return 0, list(units(extradata, 0))
    found: list[bytes] = []
    at = 23
    for _ in range((extradata[22:23] or b"\0")[0]):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            found.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return (extradata[21:22] or b"\0")[0] % 4 + 1, found


def _stream(parameters: list[bytes]) -> _Stream:
    def of(kind: int) -> list[bytes]:
        return [unit for unit in parameters if unit and unit[0] >> 1 & 63 == kind]

    bits = Bits(payload(one_of_each(of(_SPS), "sequence parameter sets")[2:]))
    bits.u(4)  # sps_video_parameter_set_id
    sublayers = bits.u(3)  # sps_max_sub_layers_minus1
    bits.u(1)
    bits.u(8 + 32)  # profile
    progressive, interlaced = bits.flag(), bits.flag()
    if interlaced and not progressive:
        raise Unsure("is interlaced")
    bits.u(46 + 8)  # other flags, level
    present = [(bits.flag(), bits.flag()) for _ in range(sublayers)]
    if sublayers:
        bits.u(2 * (8 - sublayers))
    for profile, level in present:
        bits.u(88 * profile + 8 * level)
    bits.ue()  # sps_seq_parameter_set_id
    chroma = bits.ue()
    separate = chroma == 3 and bits.flag()
    width, height = bits.ue(), bits.ue()
    left = right = top = bottom = 0
    if bits.flag():
        left, right, top, bottom = (2 * bits.ue() for _ in range(4))
    bits.ue(), bits.ue()  # bit depths
    order_bits = bits.ue() + 4
    held = 0
    for _ in range(sublayers + 1 if bits.flag() else 1):  # the last is of the whole stream
        _, held, _ = bits.ue(), bits.ue(), bits.ue()
    window = Window(height, width, top, left, height - top - bottom, width - left - right)

    said = set()
    for unit in of(_PPS):
        bits = Bits(payload(unit[2:]))
        bits.ue(), bits.ue(), bits.u(1)  # ids, dependent_slice_segments_enabled_flag
        if bits.flag():  # output_flag_present_flag
            raise Unsure("may hide pictures")
        said.add(bits.u(3))
    if len(said) != 1:
        raise Unsure("has picture parameter sets that differ")
    return _Stream(order_bits, separate, said.pop(), sublayers + 1, (held, held), window)
