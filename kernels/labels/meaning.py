"""What a label's value means, as a point: near each other are values that say nearly the same.

block of squares or triangles   its centre
ring                            its radius
direction                       cosine and sine
frame                           its place in the clip
colour                          its corner of the colour cube
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from kernels.labels.partitions import BLOCKS, PATTERN_SLICES, partition
from kernels.labels.schema import LABELS, REFERENCE_CLIP_LEN, REFERENCE_SIZE, Label
from kernels.labels.words import octant_rgb

RINGS = 2  # the pattern whose blocks share their centre


@cache
def points(column: int, clip_len: int = REFERENCE_CLIP_LEN) -> NDArray[np.float32]:
    """The point of each value of the label in `column`, float32 [classes,D], value 1 first.

    Scaled so that all labels count alike: their mean is 0 and their mean squared length 1, so a
    guess that is always 0 is wrong by 1 in the mean, if all values are equally frequent.
    """
    label = LABELS[column]
    raw = _points(label, label.classes(clip_len))
    centred = raw - raw.mean(axis=0)
    scaled = centred / max(np.sqrt((centred**2).sum(axis=1).mean()), np.finfo(np.float32).tiny)
    scaled = scaled.astype(np.float32)
    scaled.flags.writeable = False
    return scaled


def _points(label: Label, classes: int) -> NDArray[np.float64]:
    values = range(classes)
    match label.kind:
        case "position":
            assert label.pattern is not None
            return _blocks(label.pattern)
        case "orientation":
            angles = 2 * np.pi * np.array(values) / classes
            return np.stack([np.cos(angles), np.sin(angles)], axis=1)
        case "colour":
            return np.array([octant_rgb(value + 1) for value in values])
        case "frame":
            return np.array([[float(value)] for value in values])


def _blocks(pattern: int) -> NDArray[np.float64]:
    """Centres (x, y) of the blocks of a pattern, or radii of its rings, in pixels from the middle
    of the frame; a ring's is the mean over its pixels of their distance along the longer axis."""
    blocks = partition(REFERENCE_SIZE)
    y, x = np.mgrid[:REFERENCE_SIZE, :REFERENCE_SIZE] - (REFERENCE_SIZE - 1) / 2
    masks = [blocks.mask(block) for block in range(BLOCKS)[PATTERN_SLICES[pattern - 1]]]
    if pattern == RINGS:
        distance = np.maximum(abs(x), abs(y))
        return np.array([[distance[mask].mean()] for mask in masks])
    return np.array([[x[mask].mean(), y[mask].mean()] for mask in masks])
