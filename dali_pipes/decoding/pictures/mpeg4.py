"""MPEG-4 part 2: what its packets show. Clauses and names are those of ISO/IEC 14496-2."""

from collections.abc import Sequence

from dali_pipes.decoding.pictures.bits import Bits, Unsure
from dali_pipes.decoding.pictures.picture import Picture, Window, by_order

PICTURE = b"\0\0\1\xb6"  # vop_start_code
_I, _B, _SPRITE = 0, 2, 3  # vop_coding_type
_MOST_EMPTY = 19  # bytes: what is longer holds a picture; the limit of mpeg4_unpack_bframes


def pictures(extradata: bytes, packets: Sequence[bytes]) -> tuple[list[Picture], Window]:
    """Raises Unsure."""
    window = _window(extradata + packets[0])
    kinds = []
    for packet in packets:
        count = packet.count(PICTURE)
        if count != 1:
            raise Unsure(f"a packet holds {count} pictures")
        if len(packet) <= _MOST_EMPTY:
            raise Unsure("has empty pictures")
        kinds.append((packet[packet.index(PICTURE) + 4 :] or b"\0")[0] >> 6)
    if _SPRITE in kinds:
        raise Unsure("has sprites")
    return by_order(_shown(kinds), [kind == _I for kind in kinds]), window


def _shown(kinds: list[int]) -> list[int]:
    """When each picture is shown: one that others refer to waits for the next of its kind."""
    shown, waiting, count = [0] * len(kinds), None, 0
    for number, kind in enumerate(kinds):
        due: int | None = number
        if kind != _B:
            waiting, due = number, waiting
        if due is not None:
            shown[due], count = count, count + 1
    if waiting is not None:
        shown[waiting] = count
    return shown


def _window(header: bytes) -> Window:
    """The size in the header of the video object layer. Raises Unsure if it is interlaced."""
    at = header.find(b"\0\0\1")
    while at >= 0 and not 0x20 <= header[at + 3] <= 0x2F:  # video_object_layer_start_code
        at = header.find(b"\0\0\1", at + 3)
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
    if bits.flag():  # vol_control_parameters
        bits.u(2 + 1)
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
    return Window.whole(height, width)
