"""Where pixels lie, against the formulas that define the three patterns."""

import numpy as np
import pytest

from kernels.labels.partitions import BLOCKS, NO_BLOCK, PATTERN_SLICES, partition
from kernels.labels.schema import RULES, Rule
from tests.kernels.labels.label_oracle import block_masks


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [8, 24, 112, 224])
def test_blocks_are_those_of_the_formulas(size: int, rule: Rule) -> None:
    cells = partition(size, rule)
    squares, rings, triangles = block_masks(size, rule == "reference")
    masks = squares + rings + triangles
    assert len(masks) == BLOCKS == 28
    for block, mask in enumerate(masks):
        np.testing.assert_array_equal(cells.mask(block), mask)
        assert cells.area[block] == mask.sum()


def test_areas_of_112_pixel_frames() -> None:
    areas = {rule: partition(112, rule).area for rule in RULES}
    for area in areas.values():
        assert (area[PATTERN_SLICES[0]] == 784).all()
        assert list(area[PATTERN_SLICES[1]]) == [784, 2352, 3920, 5488]
    assert (areas["reference"][PATTERN_SLICES[2]] == 1596).all()
    assert (areas["corrected"][PATTERN_SLICES[2]] == 1540).all()


@pytest.mark.parametrize("rule", RULES)
def test_cells_are_what_no_pattern_divides(rule: Rule) -> None:
    cells = partition(112, rule)
    pixels = np.bincount(cells.cell_of_pixel.ravel(), minlength=cells.cells)
    blocks = cells.blocks_of_cell
    assert len(np.unique(blocks, axis=0)) == cells.cells == len(pixels)
    on_diagonal = (blocks[:, 2:] == NO_BLOCK).all(axis=1) | (blocks != NO_BLOCK).all(axis=1)
    assert (~on_diagonal).sum() == 48
    assert pixels[~on_diagonal].max() == 392
    assert pixels[on_diagonal].sum() == 2 * 112
    assert (pixels > 0).all()


def test_tables_are_shared_and_cannot_be_changed() -> None:
    assert partition(112) is partition(112)
    for table in (partition(112).cell_of_pixel, partition(112).blocks_of_cell):
        with pytest.raises(ValueError, match="read-only"):
            table[0, 0] = 1


def test_sizes_that_the_patterns_do_not_divide_are_refused() -> None:
    for size in (0, -8, 100):
        with pytest.raises(ValueError, match=f"positive multiple of 8, got {size}"):
            partition(size)
    with pytest.raises(ValueError, match="choose one of"):
        partition(112, "exact")  # type: ignore[arg-type]
