"""What is told of a packet and of a stream."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Coded(NamedTuple):
    """What the headers of a packet say of its one picture."""

    key: Any  # rises in the order of showing
    resets: bool  # nothing decoded after it and shown after it refers to what came before
    referred: bool  # others may be predicted from it


class Picture(NamedTuple):
    """The one picture of a packet."""

    rank: int  # how many are shown before it
    resets: bool
    referred: bool


@dataclass(frozen=True)
class Window:
    """Pixels decoded, and which of them are shown."""

    coded_height: int
    coded_width: int
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> "Window":
        return cls(height, width, 0, 0, height, width)

    @property
    def cuts(self) -> bool:
        return (self.height, self.width) != (self.coded_height, self.coded_width)


class Reader(Protocol):
    """Reads the packets of a stream one by one, in the order of decoding."""

    hides: bool  # whether a packet read held a hidden picture besides, or shows one again
    held: tuple[int, int]  # pictures a decoder keeps back for those shown before: least, most

    def read(self, packet: bytes) -> Coded:
        """Raises Unsure, or IndexError where a packet is cut short."""

    @property
    def window(self) -> Window:
        """Known once a packet has been read."""


def by_order(coded: Iterable[Coded]) -> list[Picture]:
    """The pictures of packets in the order of decoding."""
    found = list(coded)
    ranks = [0] * len(found)
    keys = [one.key for one in found]
    for rank, place in enumerate(sorted(range(len(keys)), key=keys.__getitem__)):
        ranks[place] = rank
    return [Picture(rank, one.resets, one.referred) for rank, one in zip(ranks, found, strict=True)]
