"""H.264: what its packets show. Clauses and names are those of ITU-T H.264."""

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
_SLICE, _PARTITIONS, _IDR, _MESSAGES, _SPS, _PPS = 1, (2, 3, 4), 5, 6, 7, 8
_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profile_idc
_MOST_HELD = 16


@dataclass(frozen=True)
class _Stream:
    """What the slices' headers cannot be read without."""

    frame_num_bits: int
    order_bits: int  # of pic_order_cnt_lsb; 0: shown in the order of decoding
    with_bottom: bool  # slices say where the bottom field stands
    held: tuple[int, int]  # by max_num_reorder_frames
    window: Window


class H264:
    hides = False

    def __init__(self, extradata: bytes) -> None:
        self._length_bytes, self._parameters = configuration(extradata)
        self._stream = _stream(self._parameters)
        self.held, self.window = self._stream.held, self._stream.window
        self._period = self._count = 0
        self._last = 0  # the order of the picture before that others may refer to

    def read(self, packet: bytes) -> Coded:
        slices = []
        for unit in units(packet, self._length_bytes):
            kind = unit[0] & 31
            if kind in _PARTITIONS:
                raise Unsure("has data partitions")
            if kind in (_SPS, _PPS) and unit not in self._parameters:
                raise Unsure("changes its parameters on the way")
            if kind == _MESSAGES:
                check_messages(unit[1:])
            if kind in (_SLICE, _IDR):
                slices.append(unit)
        unit = first_slice(slices, 1)  # first_mb_in_slice 0
        is_idr, referred = unit[0] & 31 == _IDR, bool(unit[0] >> 5 & 3)
        bits = Bits(payload(unit[1:HEADER_BYTES]))
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.ue()
        bits.u(self._stream.frame_num_bits)
        if is_idr:
            bits.ue()  # idr_pic_id
            self._period, self._last = self._period + 1, 0
        order = self._count
        self._count += 1
        if self._stream.order_bits:
            size = self._stream.order_bits
            top = order_near(bits.u(size), self._last, 1 << size)
            order = top + min(0, bits.se() if self._stream.with_bottom else 0)
            if referred:
                self._last = top
        return Coded((self._period, order), is_idr, referred)


def configuration(extradata: bytes) -> tuple[int, list[bytes]]:
    """(bytes of a unit's length, parameter sets) of avcC (ISO/IEC 14496-15) or start codes."""
    if extradata[:1] != b"\1":
        return 0, list(units(extradata, 0))
    found: list[bytes] = []
    at = 5
    for mask in (31, 255):  # so many sequence, then so many picture parameter sets
        count = (extradata[at : at + 1] or b"\0")[0] & mask
        at += 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            found.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return (extradata[4:5] or b"\0")[0] % 4 + 1, found


def _stream(parameters: list[bytes]) -> _Stream:
    kinds = [unit[0] & 31 if unit else 0 for unit in parameters]
    sets = [unit for unit, kind in zip(parameters, kinds, strict=True) if kind == _SPS]
    bits = Bits(payload(one_of_each(sets, "sequence parameter sets")[1:]))
    profile = bits.u(8)
    bits.u(16)  # constraints, level
    bits.ue()  # seq_parameter_set_id
    chroma = 1
    if profile in _WITH_CHROMA:
        chroma = bits.ue()
        if chroma == 3:
            raise Unsure("is no 4:2:0")
        bits.ue(), bits.ue(), bits.u(1)  # bit depths, qpprime_y_zero_transform_bypass_flag
        if bits.flag():
            for size in (*(16,) * 6, *(64,) * 2):
                if bits.flag():
                    _skip_scaling_list(bits, size)
    frame_num_bits = bits.ue() + 4
    order_type = bits.ue()
    if order_type == 1:
        raise Unsure("shows its pictures in an order of type 1")
    order_bits = bits.ue() + 4 if order_type == 0 else 0
    bits.ue(), bits.u(1)  # max_num_ref_frames, gaps_in_frame_num_value_allowed_flag
    width, height = 16 * (bits.ue() + 1), 16 * (bits.ue() + 1)
    if not bits.flag():  # frame_mbs_only_flag
        raise Unsure("may be interlaced")
    bits.u(1)  # direct_8x8_inference_flag
    left = right = top = bottom = 0
    if bits.flag():
        left, right, top, bottom = (2 * bits.ue() for _ in range(4))
    window = Window(height, width, top, left, height - top - bottom, width - left - right)
    said = _reordered(bits) if bits.flag() else None
    held = (0, _MOST_HELD) if said is None else (said, said)
    return _Stream(frame_num_bits, order_bits, _with_bottom(parameters), held, window)


def _reordered(bits: Bits) -> int | None:
    """max_num_reorder_frames of the usability information, E.1.1, if it says that."""
    if bits.flag() and bits.u(8) == 255:  # aspect_ratio_idc
        bits.u(32)
    if bits.flag():  # overscan_info_present_flag
        bits.u(1)
    if bits.flag():  # video_signal_type_present_flag
        bits.u(4)
        if bits.flag():
            bits.u(24)
    if bits.flag():  # chroma_loc_info_present_flag
        bits.ue(), bits.ue()
    if bits.flag():  # timing_info_present_flag
        bits.u(65)
    schedules = 0
    for _ in range(2):  # of units and of the whole stream
        if bits.flag():
            schedules += 1
            count = bits.ue() + 1
            bits.u(8)
            for _ in range(count):
                bits.ue(), bits.ue(), bits.u(1)
            bits.u(20)
    bits.u(2 if schedules else 1)  # low_delay_hrd_flag, pic_struct_present_flag
    if not bits.flag():  # bitstream_restriction_flag
        return None
    bits.u(1)
    for _ in range(4):
        bits.ue()
    return bits.ue()


def _with_bottom(parameters: list[bytes]) -> bool:
    """Whether slices have delta_pic_order_cnt_bottom: all picture parameter sets must agree."""
    said = set()
    for unit in parameters:
        if unit and unit[0] & 31 == _PPS:
            bits = Bits(payload(unit[1:]))
            bits.ue(), bits.ue(), bits.u(1)  # ids, entropy_coding_mode_flag
            said.add(bits.flag())
    if len(said) != 1:
        raise Unsure("has picture parameter sets that differ")
    return said.pop()


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last
