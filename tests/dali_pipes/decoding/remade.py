"""Videos changed without encoding: packets dropped, doubled, of other times, with other bytes."""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

Packets = list[av.Packet]


def remade(source: Path, target: Path, change: Callable[[Packets], Packets]) -> Path:
    """A copy of `source` with its packets as `change` leaves them, times included."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for packet in change([packet for packet in reading.demux(video=0) if packet.size]):
            packet.stream = stream
            writing.mux(packet)
    return target


def packet_like(packet: av.Packet, data: bytes, later: int = 0) -> av.Packet:
    made = av.Packet(data)
    made.pts, made.dts, made.duration = packet.pts + later, packet.dts, packet.duration
    made.time_base, made.is_keyframe = packet.time_base, packet.is_keyframe
    return made


def decoding_times_for_showing(packets: Packets) -> Packets:
    """As old remuxers, and AVIs copied to other containers, have it."""
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number * packet.duration
    return packets


def joined_late(packets: Packets) -> Packets:
    """From between two keyframes on, as what records a camera or television leaves it."""
    keyframes = [n for n, packet in enumerate(packets) if packet.is_keyframe]
    late = packets[keyframes[0] + 5 :]
    first = min(packet.pts for packet in late)
    for packet in late:
        packet.pts -= first
        packet.dts = None if packet.dts is None else packet.dts - first
    return late


def hidden_with_times(packets: Packets) -> Packets:
    """VP8: show_frame of every fifth picture is cleared; each has a time of its own."""
    changed = []
    for n, packet in enumerate(packets):
        data = bytes(packet)
        if n % 5 == 2:
            data = bytes([data[0] & ~0x10]) + data[1:]
        changed.append(packet_like(packet, data))
    return changed


def with_message(packets: Packets, unit: bytes, every: int = 12) -> Packets:
    """A unit of messages before every `every`-th picture of an MP4 or Matroska file."""
    framed = len(unit).to_bytes(4, "big") + unit
    return [
        packet_like(packet, framed + bytes(packet)) if n % every == 0 else packet
        for n, packet in enumerate(packets)
    ]


def turned(source: Path, target: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A copy of an MP4 whose header says (a, b, c, d) of the display matrix."""
    a, b, c, d = (n << 16 for n in matrix)
    data = source.read_bytes()
    same = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(same, data.index(b"tkhd"))
    said = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data[:at] + said + data[at + len(said) :])
    return target


def _bits(*numbers: tuple[str, int] | str) -> str:
    """("ue", n), ("u8", n), ... or bits as they are."""
    written = ""
    for number in numbers:
        if isinstance(number, str):
            written += number
            continue
        kind, value = number
        if kind == "ue":
            code = format(value + 1, "b")
            written += "0" * (len(code) - 1) + code
        else:
            written += format(value, f"0{int(kind[1:])}b")
    return written


def _unit(header: int, bits: str) -> bytes:
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    data = bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits), 8))
    while b"\0\0\0" in data or b"\0\0\1" in data or b"\0\0\2" in data:
        for n in range(3):
            data = data.replace(b"\0\0" + bytes([n]), b"\0\0\3" + bytes([n]))
    return b"\0\0\0\1" + bytes([header]) + data


_SIDE = 64  # px
_MACROBLOCKS = _SIDE // 16 * _SIDE // 32  # of a field


def _field(grey: int, bottom: bool, is_idr: bool, number: int, idr: int) -> bytes:
    """An I slice of raw samples: H.264, 7.3.3 to 7.3.5."""
    bits = _bits(("ue", 0), ("ue", 7), ("ue", 0), ("u8", number), "1", "01"[bottom])
    bits += _bits(("ue", idr), "00") if is_idr else "0"  # idr_pic_id, dec_ref_pic_marking
    bits += "1"  # slice_qp_delta 0
    for _ in range(_MACROBLOCKS):
        bits += _bits(("ue", 25))  # I_PCM
        bits += "0" * (-len(bits) % 8)
        bits += format(grey, "08b") * 256 + format(128, "08b") * 128
    return _unit(0x65 if is_idr else 0x61, bits)


def field_coded(path: Path, pictures: int = 100, keyframe_every: int = 10) -> Path:
    """Interlaced H.264, a field a packet as camcorders write it; shows its number as grey."""
    head = _unit(0x67, _bits(  # a sequence parameter set of Main: fields, shown as decoded
        ("u8", 77), ("u8", 0), ("u8", 30), ("ue", 0), ("ue", 4), ("ue", 2), ("ue", 2), "0",
        ("ue", _SIDE // 16 - 1), ("ue", _SIDE // 32 - 1), "0", "0", "1", "0", "0",
    ))  # fmt: skip
    head += _unit(0x68, _bits(("ue", 0), ("ue", 0), "00", *[("ue", 0)] * 3, "000", "111", "000"))
    begin = b"".join(head + _field(40, False, True, 0, n) + _field(40, True, False, 0, n)
                     for n in (0, 1))  # fmt: skip
    with (
        av.open(io.BytesIO(begin), format="h264") as template,
        av.open(str(path), "w") as container,
    ):
        stream = container.add_stream_from_template(template.streams.video[0])
        stream.time_base = Fraction(1, 50)
        for n in range(pictures):
            first, number = n % keyframe_every == 0, n % keyframe_every
            for bottom in (False, True):
                is_idr = first and not bottom
                data = _field(grey_of(n), bottom, is_idr, number, n // keyframe_every % 2)
                packet = av.Packet(head * is_idr + data)
                packet.pts = packet.dts = 2 * n + bottom
                packet.duration, packet.time_base = 1, Fraction(1, 50)
                packet.is_keyframe, packet.stream = is_idr, stream
                container.mux(packet)
    return path


def grey_of(n: int) -> int:
    """Luma of a field-coded picture."""
    return 16 + n % 200
