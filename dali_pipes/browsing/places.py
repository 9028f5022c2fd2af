"""Where values live on a page: blocks of a frame, petals of a rose, in SVG path data."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from kernels.labels.partitions import PATTERN_SLICES, partition
from kernels.labels.schema import ORIENTATIONS

SIDE = 112  # of the square that all shapes lie in
_FINE = 4  # outlines are traced on so many points a pixel


@dataclass(frozen=True)
class Place:
    """A shape, and where its figure stands."""

    path: str
    x: float
    y: float


@cache
def blocks(pattern: int) -> tuple[Place, ...]:
    """The blocks of pattern 1, 2 or 3, by value from 1."""
    cells = partition(SIDE)
    chosen = PATTERN_SLICES[pattern - 1]
    return tuple(_block(cells.mask(block)) for block in range(chosen.start, chosen.stop))


def petals(shares: NDArray[np.float64]) -> tuple[Place, ...]:
    """The octants as petals, by value from 1, whose areas are in proportion to `shares` [8].

    The largest reaches out to the edge. y points down, so that the octants turn clockwise.
    """
    middle, reach, half = SIDE / 2, SIDE / 2 - 16, np.pi / ORIENTATIONS * 0.92
    lengths = reach * np.sqrt(shares / max(float(shares.max()), 1e-9))
    places = []
    for octant, length in enumerate(lengths):
        angle = 2 * np.pi * octant / ORIENTATIONS
        (x0, y0), (x1, y1) = (
            (middle + length * np.cos(a), middle + length * np.sin(a))
            for a in (angle - half, angle + half)
        )
        path = f"M{middle},{middle}L{x0:.1f},{y0:.1f}A{length:.1f},{length:.1f},0,0,1,"
        out = min(length, reach) + 9
        places.append(
            Place(
                f"{path}{x1:.1f},{y1:.1f}Z",
                round(float(middle + out * np.cos(angle)), 1),
                round(float(middle + out * np.sin(angle)), 1),
            )
        )
    return tuple(places)


def _block(mask: NDArray[np.bool_]) -> Place:
    fine = np.kron(mask, np.ones((_FINE, _FINE), bool)).astype(np.uint8)
    lines, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    corners = [
        np.rint(cv2.approxPolyDP(line, 1.5 * _FINE, True)[:, 0] / _FINE).astype(int)
        for line in lines
    ]
    path = "".join("M" + "L".join(f"{x},{y}" for x, y in line) + "Z" for line in corners)
    y, x = (float(axis.mean()) + 0.5 for axis in np.nonzero(mask))
    if not mask[int(y), int(x)]:  # a ring: in the middle of its upper side
        y = float(np.flatnonzero(mask[: SIDE // 2, SIDE // 2]).mean()) + 0.5
    return Place(path, round(x, 1), round(y, 1))
