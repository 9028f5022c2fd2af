"""Bits of headers: fixed width, Exp-Golomb, and the units of H.264 and HEVC they stand in."""

from collections.abc import Iterator


class Unsure(Exception):
    """What a stream shows cannot be told for certain from its headers; the text says why."""


class Bits:
    """Reads big-endian bits from the front. Raises Unsure at the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def u(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        if count > self._left:
            raise Unsure("a header is cut short")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def flag(self) -> bool:
        return bool(self.u(1))

    def ue(self) -> int:
        """An unsigned Exp-Golomb number: n zeros, then n + 1 bits of it plus one."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros | self.u(zeros)) - 1

    def se(self) -> int:
        """A signed one: 0, 1, -1, 2, -2, ..."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -code // 2


HEADER_BYTES = 96  # of a unit: longer than any slice's header up to what is read of it


def payload(unit: bytes) -> bytes:
    """The bytes of a unit without those that keep start codes from appearing in it."""
    return unit.replace(b"\0\0\3", b"\0\0")


def units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The units of a packet, each after its length; `length_bytes` 0: after start codes."""
    if not length_bytes:
        for part in data.split(b"\0\0\1")[1:]:
            yield part.rstrip(b"\0")
        return
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if not 0 < size <= len(data) - at:
            raise Unsure("a packet is cut short")
        yield data[at : at + size]
        at += size


# Messages of H.264 and HEVC alike (ITU-T H.274) that a decoder may follow far beyond their picture.
_FILM_GRAIN, _ORIENTATION, _UNREGISTERED = 19, 47, 5
_X264 = b"x264 - core "
_ERRORS_BEFORE = 34  # builds of x264 whose errors decoders repeat; they name themselves once


def check_messages(unit: bytes) -> None:
    """Raises Unsure if a unit of messages (SEI) says what holds for later pictures too.

    `unit`: without its header.
    """
    data = payload(unit)
    at = 0
    while at + 2 <= len(data) and data[at:] != b"\x80":  # the end
        kind, at = _number(data, at)
        size, at = _number(data, at)
        if kind in (_FILM_GRAIN, _ORIENTATION):
            raise Unsure("says how to change pictures after decoding")
        if kind == _UNREGISTERED and data.startswith(_X264, at + 16):
            build = data[at + 16 + len(_X264) : at + size].split()[:1]
            if not build or not build[0].isdigit() or int(build[0]) < _ERRORS_BEFORE:
                raise Unsure("is of an encoder with errors that decoders repeat")
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of a message, in bytes of which all but the last are 255, and where it ends."""
    value = 0
    while data[at] == 255:
        value, at = value + 255, at + 1
    return value + data[at], at + 1


def one_of_each(found: list[bytes], what: str) -> bytes:
    """The one parameter set that is said again and again. Raises Unsure if there are others."""
    if len(set(found)) != 1:
        raise Unsure(f"has {len(set(found)) or 'no'} {what} in its header")
    return found[0]


def first_slice(slices: list[bytes], flag_at: int) -> bytes:
    """The slice that begins the one picture of a packet: its first. Raises Unsure.

    `flag_at`: the byte of a unit whose highest bit says that it begins a picture.
    """
    firsts = [unit for unit in slices if unit[flag_at] & 0x80]
    if len(firsts) != 1 or slices[0] is not firsts[0]:
        raise Unsure(f"a packet holds {len(firsts)} pictures")
    return slices[0]


def order_near(lsb: int, last: int, wrap: int) -> int:
    """The picture order count nearest to `last` that is `lsb` modulo `wrap`, a power of 2.

    As H.264, 8.2.1.1, and HEVC, 8.3.1, have it.
    """
    low = last % wrap
    order = last - low + lsb
    if lsb < low and low - lsb >= wrap // 2:
        return order + wrap
    if lsb > low and lsb - low > wrap // 2:
        return order - wrap
    return order
