"""What is drawn: a clip, its labels, and what a network predicts for them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.labels.partitions import PATTERN_SLICES, partition
from kernels.labels.schema import INDEX, LABELS, Rule
from kernels.labels.words import value_words

Mask = NDArray[np.bool_]


@dataclass
class LabelledClip:
    frames: NDArray[np.uint8]  # RGB [T,S,S,3]
    flow: NDArray[np.uint8]  # coded [F,S,S,2]
    labels: NDArray[np.int64]  # [27]
    rule: Rule
    predicted: NDArray[np.int64] | None  # [27]

    def value(self, name: str) -> int:
        return int(self.labels[INDEX[name]])

    def guess(self, name: str) -> int | None:
        """The predicted value, or None if there is none."""
        if self.predicted is None:
            return None
        value = int(self.predicted[INDEX[name]])
        return value if 1 <= value <= LABELS[INDEX[name]].classes(len(self.frames)) else None

    def words(self, name: str, value: int) -> str:
        return value_words(name, value, self.rule, len(self.frames))

    def mask(self, pattern: int, value: int) -> Mask:
        """The pixels [S,S] of the block with the 1-based number `value` in pattern 1, 2 or 3."""
        if value == 0:  # `reference`, and nothing moves: no block is chosen
            return np.zeros(self.frames.shape[1:3], bool)
        return partition(len(self.frames[0]), self.rule).mask(
            PATTERN_SLICES[pattern - 1].start + value - 1
        )
