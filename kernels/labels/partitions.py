r"""Where a pixel lies: the three partition patterns of a frame, the only home of geometry.

    squares (16)          rings (4)             triangles (8)
    +--+--+--+--+         +-----------+         +-----+-----+
    | 0| 1| 2| 3|         | 3         |         |\  1 | 2  /|
    +--+--+--+--+         |  +-----+  |         | \   |   / |
    | 4| 5| 6| 7|         |  |2 +-+|  |         |0  \ | / 3 |
    +--+--+--+--+         |  |  |0||  |         +-----+-----+
    | 8| 9|10|11|         |  |  +-+|  |         |4  / | \ 6 |
    +--+--+--+--+         |  +-----+  |         | /   |   \ |
    |12|13|14|15|         |         1 |         |/ 5  |  7 \|
    +--+--+--+--+         +-----------+         +-----+-----+

All three cut the frame into cells that no pattern divides further: 48, plus 16 pieces of the two
diagonals. A statistic summed once per cell gives every block of every pattern as a sum of cells.
Source: Wang et al., TPAMI 2021, section 3.2 (figure 3); diagonals as in the published code.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels.labels.schema import PATTERN_BLOCKS, Rule, check_rule

BLOCKS = sum(PATTERN_BLOCKS)  # 28 blocks: squares, then rings, then triangles
PATTERN_SLICES = tuple(
    slice(sum(PATTERN_BLOCKS[:p]), sum(PATTERN_BLOCKS[: p + 1])) for p in range(len(PATTERN_BLOCKS))
)
NO_BLOCK = -1


@dataclass(frozen=True)
class Partition:
    """The cells and blocks of a size x size frame under one rule.

    `cell_of_pixel` uint8 [S,S]; `blocks_of_cell` int8 [C,4]: the square, the ring and up to two
    triangles (numbered 0..27 through all patterns) that a cell belongs to, -1 for none;
    `area` int64 [28]: pixels of each block.
    """

    size: int
    cell_of_pixel: NDArray[np.uint8]
    blocks_of_cell: NDArray[np.int8]
    area: NDArray[np.int64]

    @property
    def cells(self) -> int:
        return len(self.blocks_of_cell)

    def mask(self, block: int) -> NDArray[np.bool_]:
        """Which pixels [S,S] belong to `block` (0..27, numbered through all patterns)."""
        return (self.blocks_of_cell == block).any(axis=1)[self.cell_of_pixel]


@cache
def partition(size: int, rule: Rule = "corrected") -> Partition:
    """The partition of a size x size frame; ValueError unless size is a multiple of 8.

    A diagonal pixel belongs to both neighbouring triangles under `reference`, to neither under
    `corrected`.
    """
    check_rule(rule)
    if size % 8 or size <= 0:
        raise ValueError(f"frame size must be a positive multiple of 8, got {size}")
    row, column = np.mgrid[:size, :size]

    square = 4 * (row // (size // 4)) + column // (size // 4)
    edge_distance = np.minimum.reduce([row, size - 1 - row, column, size - 1 - column])
    ring = 3 - edge_distance // (size // 8)

    right, low = column >= size // 2, row >= size // 2
    first = 2 * right + 4 * low  # the first of the quadrant's two triangles
    falling = right == low  # the quadrant's diagonal runs from top left to bottom right
    signed = np.where(falling, column - row, row + column - (size - 1))
    # The first triangle lies below a falling diagonal and above a rising one.
    in_first, in_second = signed <= 0, signed >= 0

    on_diagonal = signed == 0
    if rule == "corrected":
        in_first, in_second = in_first & ~on_diagonal, in_second & ~on_diagonal

    squares, rings, triangles = PATTERN_SLICES
    blocks_of_pixel = np.stack(  # [S,S,4]
        [
            squares.start + square,
            rings.start + ring,
            np.where(in_first, triangles.start + first, NO_BLOCK),
            np.where(in_second, triangles.start + first + 1, NO_BLOCK),
        ],
        axis=-1,
    )
    blocks_of_cell, cell_of_pixel = np.unique(
        blocks_of_pixel.reshape(-1, 4), axis=0, return_inverse=True
    )
    area = np.array([(blocks_of_pixel == block).any(axis=-1).sum() for block in range(BLOCKS)])
    result = Partition(
        size,
        cell_of_pixel.reshape(size, size).astype(np.uint8),
        blocks_of_cell.astype(np.int8),
        area.astype(np.int64),
    )
    for table in (result.cell_of_pixel, result.blocks_of_cell, result.area):
        table.flags.writeable = False
    return result
