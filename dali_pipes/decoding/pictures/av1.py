"""AV1: what its packets show. Clauses and names are those of the AV1 bitstream specification.

A packet is a temporal unit: of one layer, it shows one picture, and may hold hidden ones besides.
Every picture counts as referred to, as those of VP9 do.
"""

from collections.abc import Iterator

from dali_pipes.decoding.pictures.bits import Bits, Unsure
from dali_pipes.decoding.pictures.picture import Coded, Window

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # obu_type
_KEY_FRAME = 0


class Av1:
    held = 0, 0
    hides = False

    def __init__(self, _: bytes) -> None:
        # The header beside the packets is often another than theirs: encoders write it beforehand.
        self._count = 0
        self._sequence: bytes | None = None

    @property
    def window(self) -> Window:
        raise Unsure("its codec is AV1")

    def read(self, packet: bytes) -> Coded:
        shown, key = 0, None
        for kind, data in _units(packet):
            if kind == _SEQUENCE:
                self._check(data)
            if kind in (_FRAME_HEADER, _FRAME):
                shows, is_key = _picture(data)
                shown += shows
                key = is_key and shows if key is None else key
        if shown != 1 or (key and self._sequence is None):
            raise Unsure("has hidden pictures")
        self._count += 1
        return Coded(self._count, bool(key), True)

    def _check(self, sequence: bytes) -> None:
        """Raises Unsure unless this is the one header of the sequence, of one layer."""
        if self._sequence is None:
            self._sequence = sequence
            _check_one_layer(sequence)
        elif sequence != self._sequence:
            raise Unsure("changes its parameters on the way")


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """obu_type and payload of each unit, 5.3."""
    at = 0
    while at < len(data):
        header = data[at]
        at += 1
        if header & 4:  # obu_extension_flag
            if data[at] >> 3 & 3:  # spatial_id
                raise Unsure("has more than one layer")
            at += 1
        end = len(data)
        if header & 2:  # obu_has_size_field
            size = shift = 0
            while True:
                byte = data[at]
                size, shift, at = size | (byte & 127) << shift, shift + 7, at + 1
                if byte < 128:
                    break
            end = at + size
        if end > len(data):
            raise Unsure("a packet is cut short")
        yield header >> 3 & 15, data[at:end]
        at = end


def _check_one_layer(sequence: bytes) -> None:
    bits = Bits(sequence)  # 5.5.1
    bits.u(3 + 1)  # seq_profile, still_picture
    if bits.flag():  # reduced_still_picture_header
        raise Unsure("is a still picture")
    if bits.flag():  # timing_info_present_flag
        bits.u(32 + 32)
        if bits.flag():  # equal_picture_interval
            bits.ue()  # the same code as uvlc()
        if bits.flag():  # decoder_model_info_present_flag
            bits.u(5 + 32 + 5 + 5)
    bits.u(1)  # initial_display_delay_present_flag
    if bits.u(5):  # operating_points_cnt_minus_1
        raise Unsure("has more than one layer")


def _picture(data: bytes) -> tuple[bool, bool]:
    """Whether a picture is shown, and whether it is a keyframe: 5.9.2."""
    bits = Bits(data[:1])
    if bits.flag():  # show_existing_frame
        return True, False
    kind = bits.u(2)
    return bits.flag(), kind == _KEY_FRAME
