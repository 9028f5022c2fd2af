"""What is told of a packet and of a stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """The one picture of a packet."""

    rank: int  # how many are shown before it
    resets: bool  # nothing decoded after it and shown after it refers to what came before


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


def by_order(keys: Sequence[Any], resets: Sequence[bool]) -> list[Picture]:
    """Pictures of packets in the order of decoding; `keys` rise in the order of showing."""
    ranks = [0] * len(keys)
    for rank, place in enumerate(sorted(range(len(keys)), key=keys.__getitem__)):
        ranks[place] = rank
    return [Picture(*picture) for picture in zip(ranks, resets, strict=True)]
