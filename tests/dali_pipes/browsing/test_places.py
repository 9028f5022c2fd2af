"""What is drawn lies where the values live."""

import re

import cv2
import numpy as np
import pytest

from dali_pipes.browsing.places import SIDE, blocks, petals
from kernels.labels.partitions import PATTERN_SLICES, partition


def filled(path: str) -> np.ndarray:
    """Which pixels [SIDE,SIDE] a path covers, by the even-odd rule."""
    lines = [
        np.array([point.split(",") for point in line.strip("Z").split("L")], float)
        for line in path.split("M")[1:]
    ]
    picture = np.zeros((8 * SIDE, 8 * SIDE), np.uint8)
    cv2.fillPoly(picture, [np.rint(8 * line - 0.5).astype(int) for line in lines], 1)
    return picture[4::8, 4::8].astype(bool)


@pytest.mark.parametrize("pattern", [1, 2, 3])
def test_outlines_are_those_of_the_blocks(pattern: int) -> None:
    cells, chosen = partition(SIDE), PATTERN_SLICES[pattern - 1]
    places = blocks(pattern)
    assert len(places) == chosen.stop - chosen.start
    for block, place in enumerate(places, start=chosen.start):
        mask = cells.mask(block)
        assert (filled(place.path) != mask).sum() <= (0 if pattern < 3 else 2 * SIDE)
        assert mask[int(place.y), int(place.x)]  # its figure stands in it


def test_petals_turn_clockwise_and_their_areas_are_the_shares() -> None:
    shares = np.array([0.4, 0.1, 0.1, 0, 0.1, 0.1, 0.1, 0.1])
    places = petals(shares)
    middle = SIDE / 2
    for octant, (place, share) in enumerate(zip(places, shares, strict=True)):
        radius = float(re.search(r"A([\d.]+),", place.path)[1])
        assert radius**2 == pytest.approx(share / 0.4 * (middle - 16) ** 2, abs=5)
        angle = np.degrees(np.arctan2(place.y - middle, place.x - middle)) % 360
        assert angle == pytest.approx(45 * octant, abs=1)
    assert places[2].y > middle  # 3 is down, and y points down
    assert len(petals(np.zeros(8))) == 8
