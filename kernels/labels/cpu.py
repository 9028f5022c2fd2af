"""The labels as plain loops, compiled by Numba: specification, CPU backend, oracle of the GPU form.

Source: Wang et al., TPAMI 2021 (arXiv 2008.13426), sections 3.2-3.4. Rule `reference` computes
what the authors' published code computes. Labels are 1-based; every argmax and argmin takes the
first index on a tie.

Arithmetic of the motion labels, the same on every backend, bit for bit. Sums are of integers, so
their order is free. Every float operation is one IEEE operation of the stated width, rounded to
nearest, never contracted to a multiply-add. For each clip and component (u, v):

    flow       q = rint(f * scale), int32
               uint8 flow: scale = 1, q is the code;  FRACTION = 2^20
               float32 flow: scale = 2^e, FRACTION = 1. With the largest |f| of the clip's F fields
               in [2^E, 2^(E+1)): e = min(28 - bit_length(F) - (E + 1), 126), hence
               |q| <= 2^(28 - bit_length(F)). (E = -127 for zero and subnormals.)
    gradients  gx, gy: Prewitt sums of q, border replicated, int32. X, Y: their sums over the F
               fields, int32, below 6 F max|q| < 2^31.
    magnitude  m(x, y) = sqrt(x * x + y * y), float32, of x and y rounded to float32
    field t    sum over pixels of trunc(m(gx, gy) * FRACTION), int64; a summand is below 2^31
    pixel      M = trunc(m(X, Y) * FRACTION), int64; below 2^37 for F <= 64
               t = min(|X|, |Y|) / max(|X|, |Y|, 1), of both rounded to float32
               w = octant_share(t), float32: 0 on an axis, 1 on a diagonal
               D = trunc(m(X, Y) * FRACTION * w), int64
    votes      M - D to the nearest axis (bins 0, 2, 4, 6: right, down, left, up; |X| wins a tie
               with |Y|, where M - D = 0), D to the quadrant's diagonal (bins 1, 3, 5, 7). That is
               the linear vote of an angle between the two bins that enclose it.
    block      mean = (sum of its votes, int64) / area, float64; position = argmax of the mean;
               orientation = argmax of its 8 bins; no motion at all gives the first of each

`reference` has the opposite sign of both gradients, which turns a vote by 4 bins; without any
motion in X and Y its pattern 1 gives position 0 and orientation 0.

The fixed point keeps a relative error below 1e-6 for the smallest magnitude that is not zero.

Appearance is counted in integers; a block's intersection over union is the float64 sum
(red + green) + blue of the channels' quotients. (Their mean, a third of it, has the same order.)
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.labels.partitions import BLOCKS, NO_BLOCK, PATTERN_SLICES, partition
from kernels.labels.schema import APPEARANCE, MOTION, OCTANTS, ORIENTATIONS, PATTERN_BLOCKS, Rule

CODED_FRACTION = 2.0**20  # fixed-point steps of one unit of magnitude, for 8-bit flow
SUM_BITS = 28  # float32 flow has SUM_BITS - bit_length(F) bits, so that X and Y fit in int32
LEVELS = 256  # histogram bins of a colour channel

# octant_share(t) = t + t * ((1 - s) * r(s)), s = t * t, approximates atan(t) / 45 degrees on
# [0, 1] to 1e-7 and is exact at both ends. Coefficients of r, lowest order first; Horner's scheme.
OCTANT_SHARE = (
    0.2732386589050293,
    -0.1511283963918686,
    0.10281568020582199,
    -0.07414927333593369,
    0.04828043654561043,
    -0.022424044087529182,
    0.00506140012294054,
)
_R0, _R1, _R2, _R3, _R4, _R5, _R6 = (np.float32(c) for c in OCTANT_SHARE)
_ONE = np.float32(1)

_N_MOTION = MOTION.stop - MOTION.start
_N_APPEARANCE = APPEARANCE.stop - APPEARANCE.start
_PATTERNS = len(PATTERN_BLOCKS)
_FIRST = tuple(blocks.start for blocks in PATTERN_SLICES)
_END = tuple(blocks.stop for blocks in PATTERN_SLICES)
_RINGS = PATTERN_SLICES[1]
_COLOURS = 2 * _PATTERNS + 1  # of the most diverse and most consistent blocks and of the clip

Array = NDArray[Any]
Int = np.integer | int
_compiled = njit(cache=True, nogil=True, error_model="numpy")


def motion_labels(flow: NDArray, rule: Rule) -> NDArray[np.int64]:
    """uint8-coded or float32 flow [N,F,S,S,2] (u right, v down) -> int64 [N,14].

    All F fields are used: T - 1 of a clip's T frames under `corrected`, T under `reference`.
    `kernels.labels.clip_labels` checks arguments; this only raises ValueError on float32 flow
    that is not finite.
    """
    cells = partition(flow.shape[2], rule)
    labels = np.empty((len(flow), _N_MOTION), np.int64)

    def label(n: int) -> None:
        clip = np.ascontiguousarray(flow[n])
        if flow.dtype == np.uint8:
            scale, fraction = np.ones(2, np.float32), CODED_FRACTION
        else:
            scale, fraction = _flow_scale(clip.view(np.uint32)), 1.0
            if np.isnan(scale).any():
                raise ValueError(f"flow of clip {n} has values that are not finite")
        _motion_clip(
            clip.reshape(*clip.shape[:2], -1),
            scale,
            np.float32(fraction),
            cells.cell_of_pixel,
            cells.blocks_of_cell,
            cells.area,
            rule == "reference",
            labels[n],
        )

    _each_clip(label, len(flow))
    return labels


def appearance_labels(frames: NDArray[np.uint8], rule: Rule) -> NDArray[np.int64]:
    """uint8 RGB frames [N,T,S,S,3] -> int64 [N,13]. Arguments are not checked."""
    cells = partition(frames.shape[2], rule)
    labels = np.empty((len(frames), _N_APPEARANCE), np.int64)

    def label(n: int) -> None:
        _appearance_clip(
            np.ascontiguousarray(frames[n]),
            cells.cell_of_pixel,
            cells.blocks_of_cell,
            cells.area,
            rule == "reference",
            labels[n],
        )

    _each_clip(label, len(frames))
    return labels


def _each_clip(label: Callable[[int], None], clips: int) -> None:
    """Label clips 0..clips-1 on all cores; the compiled loops release the interpreter."""
    if clips == 1 or cores() == 1:
        for n in range(clips):
            label(n)
    else:
        for _ in _pool(cores()).map(label, range(clips)):
            pass


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="labels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


# -- motion ---------------------------------------------------------------------------------------


@_compiled
def _flow_scale(bits: Array) -> Array:
    """The bits of float32 flow, uint32 [F,S,S,2] -> float32 [2], NaN where flow is not finite."""
    fields, size = bits.shape[:2]
    flat = bits.reshape(fields * size * size, 2)
    largest = np.zeros(2, np.uint32)
    for i in range(len(flat)):
        for component in range(2):  # without its sign, a float is ordered as its bits are
            largest[component] = max(largest[component], flat[i, component] & 0x7FFFFFFF)
    length = 0
    while fields >> length:
        length += 1
    scale = np.empty(2, np.float32)
    for component in range(2):
        binade = int(np.int64(largest[component] >> 23)) - 127
        exponent = min(SUM_BITS - length - (binade + 1), 126)
        scale[component] = 2.0**exponent if binade < 128 else np.nan
    return scale


@_compiled
def _motion_clip(
    flow: Array,
    scale: Array,
    fraction: np.float32,
    cell_of_pixel: Array,
    blocks_of_cell: Array,
    area: Array,
    reference: bool,
    labels: Array,
) -> None:
    fields = len(flow)
    candidates = fields - 1 if reference else fields  # frames of the global label
    for component in range(2):
        x, y, field_sum = _boundaries(flow, component, scale[component], fraction)
        votes = _votes(x, y, fraction, cell_of_pixel, len(blocks_of_cell))
        block_votes = np.zeros((BLOCKS, ORIENTATIONS), np.int64)
        for cell in range(len(blocks_of_cell)):
            for block in blocks_of_cell[cell]:
                if block != NO_BLOCK:
                    for bin_ in range(ORIENTATIONS):
                        block_votes[block, bin_] += votes[cell, bin_]
        for pattern in range(_PATTERNS):
            first = _FIRST[pattern]
            best, best_mean = first, -1.0
            for block in range(first, _END[pattern]):
                total = np.int64(0)
                for bin_ in range(ORIENTATIONS):
                    total += block_votes[block, bin_]
                mean = np.float64(total) / np.float64(area[block])
                if mean > best_mean:
                    best, best_mean = block, mean
            turn = 4 if reference else 0
            orientation = 0
            for bin_ in range(1, ORIENTATIONS):
                if (
                    block_votes[best, (bin_ + turn) % ORIENTATIONS]
                    > block_votes[best, (orientation + turn) % ORIENTATIONS]
                ):
                    orientation = bin_
            column = 4 * pattern + 2 * component
            still = reference and pattern == 0 and best_mean == 0
            labels[column] = 0 if still else best - first + 1
            labels[column + 1] = 0 if still else orientation + 1
        labels[4 * _PATTERNS + component] = np.argmax(field_sum[:candidates]) + 1


@_compiled
def _boundaries(
    flow: Array, component: int, scale: float, fraction: np.float32
) -> tuple[Array, Array, Array]:
    """Flow [F,S,2S] -> X, Y int32 [S,S] and the magnitude of each field, int64 [F]."""
    fields, size = flow.shape[:2]
    x_sum = np.zeros((size, size), np.int32)
    y_sum = np.zeros((size, size), np.int32)
    field_sum = np.zeros(fields, np.int64)
    q = np.empty((size + 2, size + 2), np.int32)  # one field, its border replicated
    for t in range(fields):
        for r in range(size):
            for c in range(size):
                q[r + 1, c + 1] = np.int32(
                    np.rint(np.float32(flow[t, r, 2 * c + component]) * scale)
                )
            q[r + 1, 0] = q[r + 1, 1]
            q[r + 1, size + 1] = q[r + 1, size]
        for c in range(size + 2):
            q[0, c] = q[1, c]
            q[size + 1, c] = q[size, c]
        for r in range(size):
            total = np.int64(0)
            for c in range(size):
                gx = np.int32(
                    q[r, c + 2]
                    + q[r + 1, c + 2]
                    + q[r + 2, c + 2]
                    - q[r, c]
                    - q[r + 1, c]
                    - q[r + 2, c]
                )
                gy = np.int32(
                    q[r + 2, c]
                    + q[r + 2, c + 1]
                    + q[r + 2, c + 2]
                    - q[r, c]
                    - q[r, c + 1]
                    - q[r, c + 2]
                )
                x_sum[r, c] += gx
                y_sum[r, c] += gy
                total += np.int64(_magnitude(gx, gy) * fraction)
            field_sum[t] += total
    return x_sum, y_sum, field_sum


@_compiled
def _votes(
    x_sum: Array, y_sum: Array, fraction: np.float32, cell_of_pixel: Array, cells: int
) -> Array:
    """X, Y int32 [S,S] -> orientation votes of each cell, int64 [cells,8]."""
    size = len(x_sum)
    votes = np.zeros((cells, ORIENTATIONS), np.int64)
    for r in range(size):
        for c in range(size):
            x, y = x_sum[r, c], y_sum[r, c]
            wide, high = abs(x), abs(y)
            share = _octant_share(
                np.float32(min(wide, high)) / np.float32(max(wide, high, np.int32(1)))
            )
            magnitude = _magnitude(x, y) * fraction
            to_diagonal = np.int64(magnitude * share)
            to_axis = np.int64(magnitude) - to_diagonal
            axis = (0 if x >= 0 else 4) if wide >= high else (2 if y >= 0 else 6)
            diagonal = (1 if x >= 0 else 3) if y >= 0 else (7 if x >= 0 else 5)
            votes[cell_of_pixel[r, c], axis] += to_axis
            votes[cell_of_pixel[r, c], diagonal] += to_diagonal
    return votes


@_compiled
def _magnitude(x: Int, y: Int) -> np.float32:
    wide, high = np.float32(x), np.float32(y)
    return np.sqrt(wide * wide + high * high)


@_compiled
def _octant_share(t: np.float32) -> np.float32:
    s = t * t
    r = _R6
    r = r * s + _R5
    r = r * s + _R4
    r = r * s + _R3
    r = r * s + _R2
    r = r * s + _R1
    r = r * s + _R0
    return t + t * ((_ONE - s) * r)


# -- appearance -----------------------------------------------------------------------------------


@_compiled
def _appearance_clip(
    frames: Array,
    cell_of_pixel: Array,
    blocks_of_cell: Array,
    area: Array,
    reference: bool,
    labels: Array,
) -> None:
    overlap, octants = _colour_statistics(frames, cell_of_pixel, blocks_of_cell)
    chosen = np.empty(2 * _PATTERNS, np.int64)  # most diverse and most consistent, per pattern
    for pattern in range(_PATTERNS):
        first, end = _FIRST[pattern], _END[pattern]
        chosen[2 * pattern] = first + np.argmin(overlap[first:end])
        chosen[2 * pattern + 1] = first + np.argmax(overlap[first:end])
    if reference:
        colours = _exact_colours(frames, cell_of_pixel, blocks_of_cell, area, chosen)
    else:
        colours = np.empty(_COLOURS, np.int64)
        for i in range(len(chosen)):
            colours[i] = np.argmax(octants[chosen[i]]) + 1
        colours[-1] = np.argmax(octants[BLOCKS]) + 1
    for i in range(len(chosen)):
        labels[2 * i] = chosen[i] - _FIRST[i // 2] + 1
        labels[2 * i + 1] = colours[i]
    labels[2 * len(chosen)] = colours[-1]


@_compiled
def _colour_statistics(
    frames: Array, cell_of_pixel: Array, blocks_of_cell: Array
) -> tuple[Array, Array]:
    """-> overlap float64 [28], the sum of the channels' IoU; octant counts int64 [28+1,8].

    The last row of octants counts the whole clip.
    """
    clip_len, size = frames.shape[:2]
    cells = len(blocks_of_cell)
    octant_count = np.zeros((cells, OCTANTS), np.int64)
    least = np.full((BLOCKS, 3 * LEVELS), size * size, np.int32)
    most = np.zeros((BLOCKS, 3 * LEVELS), np.int32)
    for t in range(clip_len):
        count = np.zeros((cells, 3 * LEVELS), np.int32)
        for r in range(size):
            for c in range(size):
                cell = cell_of_pixel[r, c]
                red, green, blue = frames[t, r, c, 0], frames[t, r, c, 1], frames[t, r, c, 2]
                count[cell, red] += 1
                count[cell, LEVELS + green] += 1
                count[cell, 2 * LEVELS + blue] += 1
                octant_count[cell, _octant(red, green, blue)] += 1
        block_count = np.zeros((BLOCKS, 3 * LEVELS), np.int32)
        for cell in range(cells):
            for block in blocks_of_cell[cell]:
                if block != NO_BLOCK:
                    for level in range(3 * LEVELS):
                        block_count[block, level] += count[cell, level]
        for block in range(BLOCKS):
            for level in range(3 * LEVELS):
                least[block, level] = min(least[block, level], block_count[block, level])
                most[block, level] = max(most[block, level], block_count[block, level])

    overlap = np.zeros(BLOCKS, np.float64)
    octants = np.zeros((BLOCKS + 1, OCTANTS), np.int64)
    for block in range(BLOCKS):
        for channel in range(3):
            intersection, union = np.int64(0), np.int64(0)
            for level in range(channel * LEVELS, (channel + 1) * LEVELS):
                intersection += least[block, level]
                union += most[block, level]
            overlap[block] += np.float64(intersection) / np.float64(union)
    for cell in range(cells):
        for octant in range(OCTANTS):
            octants[BLOCKS, octant] += octant_count[cell, octant]
            for block in blocks_of_cell[cell]:
                if block != NO_BLOCK:
                    octants[block, octant] += octant_count[cell, octant]
    return overlap, octants


@_compiled
def _octant(red: Int, green: Int, blue: Int) -> Int:  # 0..7; the label is one more
    return 4 * (1 - (blue >> 7)) + 2 * (red >> 7) + (green >> 7)


@_compiled
def _exact_colours(
    frames: Array, cell_of_pixel: Array, blocks_of_cell: Array, area: Array, chosen: Array
) -> Array:
    """Octant (1..8) of the most frequent exact colour of each chosen block, then of the clip.

    The smallest blue * 65536 + green * 256 + red wins a tie. Ring 1 counts other samples than its
    own: the published code slices its bottom strip in time instead of space, so that the strip is
    left out, and the first two frames of the ring with its inside, there black, are counted too.

    Samples are sorted by colour once. Their low byte says where they count: the cell (below 64),
    whether in the rows of the bottom strip, whether in the first two frames.
    """
    clip_len, size = frames.shape[:2]
    ring = _RINGS.start + 1
    strip = size - size // 4 - size // 8  # ring 1 ends size / 4 above the border, size / 8 wide
    weight = np.zeros((256, _COLOURS), np.int32)
    count = np.zeros(_COLOURS, np.int32)  # of the current colour; starts with black
    for code in range(256):
        cell, in_strip, early = code & 63, (code >> 6) & 1, code >> 7
        weight[code, -1] = 1
        if cell < len(blocks_of_cell):
            for i in range(len(chosen)):
                for block in blocks_of_cell[cell]:
                    if block == chosen[i]:
                        weight[code, i] = 1 - in_strip + early if block == ring else 1
    for i in range(len(chosen)):
        if chosen[i] == ring:
            count[i] = 2 * area[_RINGS.start]

    samples = np.empty(clip_len * size * size, np.uint32)  # blue, green, red, code: 8 bits each
    n = 0
    for t in range(clip_len):
        for r in range(size):
            place = (np.uint32(r >= strip) << 6) | (np.uint32(t < 2) << 7)
            for c in range(size):
                red, green, blue = frames[t, r, c, 0], frames[t, r, c, 1], frames[t, r, c, 2]
                samples[n] = (
                    (np.uint32(blue) << 24)
                    | (np.uint32(green) << 16)
                    | (np.uint32(red) << 8)
                    | place
                    | cell_of_pixel[r, c]
                )
                n += 1
    spare = np.empty_like(samples)
    for shift in (8, 16, 24):
        _sort_by_byte(samples, shift, spare)
        samples, spare = spare, samples

    colours = np.zeros(_COLOURS, np.int64)
    most = np.zeros(_COLOURS, np.int32)
    colour = np.int64(0)
    for n in range(len(samples) + 1):
        sample = np.int64(samples[n] if n < len(samples) else -1)
        if sample >> 8 != colour:
            for i in range(_COLOURS):
                if count[i] > most[i]:
                    most[i] = count[i]
                    colours[i] = _octant(colour & 255, (colour >> 8) & 255, colour >> 16) + 1
                count[i] = 0
            colour = sample >> 8
        for i in range(_COLOURS):
            count[i] += weight[sample & 255, i]
    return colours


@_compiled
def _sort_by_byte(values: Array, shift: int, into: Array) -> None:
    """Counting sort of uint32 by the byte at bit `shift`; equal bytes keep their order."""
    start = np.zeros(257, np.int64)
    for value in values:
        start[((np.int64(value) >> shift) & 255) + 1] += 1
    for bucket in range(256):
        start[bucket + 1] += start[bucket]
    for value in values:
        byte = (np.int64(value) >> shift) & 255
        into[start[byte]] = value
        start[byte] += 1
