"""Which kernels label a batch, with what constants, grids and scratch memory.

The same for every `kernels.cuda_module.Device`: a GPU, or the CPU that runs the kernels in tests.
"""

from functools import cache
from typing import Any

import numpy as np

from kernels.cuda_module import Defines, Device, Launch
from kernels.labels.cpu import CODED_FRACTION, LEVELS, OCTANT_SHARE, SUM_BITS
from kernels.labels.partitions import BLOCKS, PATTERN_SLICES, partition
from kernels.labels.schema import (
    APPEARANCE,
    INDEX,
    MOTION,
    OCTANTS,
    ORIENTATIONS,
    PATTERN_BLOCKS,
    Rule,
)

MOTION_FILES = ("labels/reduce.cuh", "labels/partition.cuh", "labels/motion.cu")
APPEARANCE_FILES = ("labels/reduce.cuh", "labels/partition.cuh", "labels/appearance.cu")

THREADS = 256
STRIP_THREADS = 256  # at most, in a block of motion_boundaries
QUAD = 4  # neighbouring pixels of a row that a thread of motion_boundaries owns
MAX_SIZE = STRIP_THREADS * QUAD  # a strip has at least one row
EXACT_CLIPS = 8  # rule `reference`: clips whose colour tables exist at a time, 29 MB each
EXACT_BLOCKS = 64  # for each table

_CHOICES = [f"{pattern}{source}" for pattern in (1, 2, 3) for source in "dc"]


@cache
def defines(size: int, rule: Rule) -> Defines:
    """The constants of the label kernels, from `schema`, `partitions` and `cpu`."""
    cells = partition(size, rule)
    first_motion, first_appearance = MOTION.start, APPEARANCE.start
    patterns = range(1, len(PATTERN_BLOCKS) + 1)
    tables = {
        "BLOCKS_OF_CELL_TABLE": cells.blocks_of_cell.tolist(),
        "BLOCK_AREA_TABLE": cells.area.tolist(),
        "PATTERN_START_TABLE": [*(blocks.start for blocks in PATTERN_SLICES), BLOCKS],
        "POSITION_COLUMN_TABLE": [
            [INDEX[f"{c}{p}p"] - first_motion for p in patterns] for c in "uv"
        ],
        "ORIENTATION_COLUMN_TABLE": [
            [INDEX[f"{c}{p}o"] - first_motion for p in patterns] for c in "uv"
        ],
        "FRAME_COLUMN_TABLE": [INDEX[f"{c}g"] - first_motion for c in "uv"],
        "BLOCK_COLUMN_TABLE": [INDEX[f"{c}p"] - first_appearance for c in _CHOICES],
        "COLOUR_COLUMN_TABLE": [INDEX[f"{c}c"] - first_appearance for c in [*_CHOICES, "g"]],
        "OCTANT_SHARE": list(OCTANT_SHARE),
    }
    return (
        ("SIZE", size),
        ("REFERENCE", int(rule == "reference")),
        ("CELLS", cells.cells),
        ("BLOCKS", BLOCKS),
        ("PATTERNS", len(PATTERN_BLOCKS)),
        ("RING_WIDTH", size // (2 * PATTERN_BLOCKS[1])),
        ("ORIENTATIONS", ORIENTATIONS),
        ("OCTANTS", OCTANTS),
        ("LEVELS", LEVELS),
        ("MOTION_LABELS", MOTION.stop - MOTION.start),
        ("APPEARANCE_LABELS", APPEARANCE.stop - APPEARANCE.start),
        ("CODED_FRACTION", float(CODED_FRACTION)),
        ("SUM_BITS", SUM_BITS),
        ("STRIP_THREADS", STRIP_THREADS),
        ("QUAD", QUAD),
        *((name, _initialiser(table)) for name, table in tables.items()),
    )


def _initialiser(table: Any) -> str:
    """A nested list as a C initialiser; floats become float32 literals."""
    if isinstance(table, list):
        return "{" + ", ".join(_initialiser(entry) for entry in table) + "}"
    return f"{table!r}f" if isinstance(table, float) else str(table)


def motion(device: Device, flow: Any, rule: Rule) -> Any:
    """Contiguous uint8 or float32 flow [N,F,S,S,2], 16-byte aligned -> int64 [N,14]."""
    clips, fields, size = flow.shape[:3]
    labels = device.empty((clips, MOTION.stop - MOTION.start), np.int64)
    if clips == 0:
        return labels
    if size > MAX_SIZE:
        raise ValueError(f"frames of at most {MAX_SIZE}x{MAX_SIZE} on a GPU, got {size}x{size}")
    cells = partition(size, rule)
    launch = device.module(MOTION_FILES, defines(size, rule))
    cell_of_pixel = device.table(cells.cell_of_pixel)
    votes = device.zeros((clips, 2, cells.cells, ORIENTATIONS), np.int64)
    field_sums = device.zeros((clips, 2, fields), np.int64)

    quads_a_row = size // QUAD
    rows = min(STRIP_THREADS // quads_a_row, size)
    threads = -(-rows * quads_a_row // 32) * 32  # whole warps
    grid, block = (-(-size // rows), clips), (threads,)
    strip = [np.int32(fields), np.int32(rows), cell_of_pixel, votes, field_sums]
    if str(flow.dtype).endswith("uint8"):
        launch("motion_boundaries_uint8", grid, block, [flow, *strip])
    else:
        largest = device.zeros((clips, 2), np.int32)
        floats = fields * size * size * 2
        blocks = min(-(-floats // (4 * THREADS)), 32)
        launch("largest_flow", (blocks, clips), (THREADS,), [flow, np.int32(floats), largest])
        launch("motion_boundaries_float32", grid, block, [flow, largest, *strip])
    launch("motion_labels", (clips,), (THREADS,), [votes, field_sums, np.int32(fields), labels])
    return labels


def appearance(device: Device, frames: Any, rule: Rule) -> Any:
    """Contiguous uint8 RGB frames [N,T,S,S,3] -> int64 [N,13]."""
    clips, clip_len, size = frames.shape[:3]
    labels = device.empty((clips, APPEARANCE.stop - APPEARANCE.start), np.int64)
    if clips == 0:
        return labels
    cells = partition(size, rule)
    launch = device.module(APPEARANCE_FILES, defines(size, rule))
    cell_of_pixel = device.table(cells.cell_of_pixel)
    overlap = device.empty((clips, 3, BLOCKS, 2), np.int32)
    octants = device.zeros((clips, cells.cells, OCTANTS), np.int32)
    chosen = device.empty((clips, len(_CHOICES)), np.int32)

    launch(
        "colour_overlap",
        (3, clips),
        (LEVELS,),
        [frames, np.int32(clip_len), cell_of_pixel, overlap],
        shared_bytes=cells.cells * LEVELS * 4,
    )
    if rule == "corrected":
        launch("octant_counts", (clip_len, clips), (THREADS,), [frames, cell_of_pixel, octants])
    launch("appearance_labels", (clips,), (64,), [overlap, octants, labels, chosen])
    if rule == "reference":
        _exact_colours(device, frames, chosen, labels, launch, cell_of_pixel)
    return labels


def _exact_colours(
    device: Device, frames: Any, chosen: Any, labels: Any, launch: Launch, cell_of_pixel: Any
) -> None:
    """The colour labels of rule `reference`, a few clips at a time to bound the scratch memory."""
    clips, clip_len, size = frames.shape[:3]
    tables = len(_CHOICES) + 1
    samples = clip_len * size * size
    slots = 1 << samples.bit_length()  # more than samples, so that a free slot is always found
    best = device.zeros((clips, tables), np.int64)
    for start in range(0, clips, EXACT_CLIPS):
        some = slice(start, start + EXACT_CLIPS)
        grid = (EXACT_BLOCKS, tables, len(best[some]))
        keys = device.zeros((len(best[some]), tables, slots), np.int32)
        counts = device.zeros((len(best[some]), tables, slots), np.int32)
        launch(
            "count_colours",
            grid,
            (THREADS,),
            [
                frames[some],
                np.int32(clip_len),
                cell_of_pixel,
                chosen[some],
                np.int32(slots),
                keys,
                counts,
            ],
        )
        launch(
            "most_frequent_colours",
            grid,
            (THREADS,),
            [keys, counts, np.int32(slots), best[some]],
        )
    launch("colour_labels", (clips,), (32,), [best, labels])
