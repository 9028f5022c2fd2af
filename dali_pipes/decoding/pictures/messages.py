"""Messages (SEI) that stand before the pictures of H.264 and HEVC: what they say is seldom needed,
and cameras write some that decoders take for damage."""

from dali_pipes.decoding.pictures import h264, hevc
from dali_pipes.decoding.pictures.bits import Unsure, first_slice, units


def _is_h264_message(unit: bytes) -> bool:
    return unit[0] == 6  # nal_ref_idc is 0, 7.4.1


def _is_hevc_message(unit: bytes) -> bool:
    return unit[0] == 39 << 1 and not unit[1] >> 3  # PREFIX_SEI_NUT, of the first layer


_FORMS = {  # the configuration, what is a message, what is a slice, its flag for `first_slice`
    "h264": (h264.configuration, _is_h264_message, lambda unit: unit[0] & 31 in (1, 2, 5), 1),
    "hevc": (hevc.configuration, _is_hevc_message, lambda unit: unit[0] >> 1 & 63 < 32, 2),
}


def without_messages(codec: str, extradata: bytes, packet: bytes) -> bytes | None:
    """The packet without the messages before its one picture.

    None where there are none, or not surely: a damaged slice must not be taken for one.
    """
    if codec not in _FORMS:
        return None
    configuration, is_message, is_slice, flag_at = _FORMS[codec]
    try:
        length_bytes, _ = configuration(extradata)
        found = list(units(packet, length_bytes))
        slices = [unit for unit in found if is_slice(unit)]
        front = found.index(first_slice(slices, flag_at))
        kept = [unit for n, unit in enumerate(found) if n > front or not is_message(unit)]
    except (Unsure, IndexError):
        return None
    if len(kept) == len(found):
        return None
    return b"".join(
        (len(unit).to_bytes(length_bytes, "big") if length_bytes else b"\0\0\1") + unit
        for unit in kept
    )
