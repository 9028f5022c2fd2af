"""What a pre-trained network predicts, and which of its mistakes are near misses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from kernels.labels.partitions import PATTERN_SLICES, partition
from kernels.labels.schema import LABELS, OCTANTS, ORIENTATIONS, Label

if TYPE_CHECKING:
    import torch

    from model.networks.heads import StatisticsNet


Predict = Callable[["torch.Tensor"], NDArray[np.int64]]  # frames [N,T,S,S,3] -> labels [N,27]


def predictor(net: "StatisticsNet", device: "torch.device") -> Predict:
    """What a network predicts of uint8 frames on that device; 0 where a label is not learned."""
    import torch

    net.to(device).eval()

    def predict(frames: torch.Tensor) -> NDArray[np.int64]:
        with torch.inference_mode():
            return net.heads.labels(torch.cat(net(frames), dim=1)).cpu().numpy()

    return predict


# What a mistake of each kind of label can be: (near, far).
MISTAKES = {
    "position": ("a block beside it", ""),
    "orientation": ("off by one octant", "off by half a turn"),
    "colour": ("one of three channels wrong", "all three channels wrong"),
    "frame": ("off by one field", ""),
}


@dataclass(frozen=True)
class Hits:
    """How often a label is predicted right, nearly, and as wrong as can be: shares of the clips."""

    label: Label
    right: float
    near: float
    far: float
    free: float  # what always the commonest value would reach

    @property
    def other(self) -> float:
        return max(0.0, 1 - self.right - self.near - self.far)


def hits(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> list[Hits]:
    """Of every label that is learned: labels and predictions [N,27], 0 where there is none."""
    found = []
    for label, true, guess in zip(LABELS, labels.T, predicted.T, strict=True):
        known = (true > 0) & (guess > 0)
        if not known.any():
            continue
        true, guess = true[known], guess[known]
        kinds = _near_and_far(label, true, guess)
        right, near, far = (float(mask.mean()) for mask in (true == guess, *kinds))
        free = float(np.bincount(true).max() / len(true))
        found.append(Hits(label, right, near, far, free))
    return found


def _near_and_far(
    label: Label, true: NDArray[np.int64], guess: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    none = np.zeros(len(true), bool)
    match label.kind:
        case "position":
            assert label.pattern is not None
            return _beside(label.pattern)[true - 1, guess - 1], none
        case "orientation":
            turn = (guess - true) % ORIENTATIONS
            return (turn == 1) | (turn == ORIENTATIONS - 1), turn == ORIENTATIONS // 2
        case "colour":
            bits = np.bitwise_count((true - 1) ^ (guess - 1))
            return bits == 1, bits == OCTANTS.bit_length() - 1
        case "frame":
            return np.abs(guess - true) == 1, none


def _beside(pattern: int) -> NDArray[np.bool_]:
    """Which blocks of pattern 1, 2 or 3 share a side, not a corner only: [B,B]."""
    size, reach = 64, 2
    cells = partition(size)
    chosen = PATTERN_SLICES[pattern - 1]
    masks = [cells.mask(block) for block in range(chosen.start, chosen.stop)]
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    wider = np.array([cv2.dilate(mask.astype(np.uint8), kernel).ravel() for mask in masks], float)
    shared = wider @ wider.T  # [B,B] px: along a side 2 reach wide and at least a square long
    np.fill_diagonal(shared, 0)
    return np.asarray(shared >= 2 * reach * size // 4)


def wrong(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of its learned labels are wrong, of every clip: [N]. A label 0 is no answer."""
    return ((labels != predicted) & (labels > 0) & (predicted > 0)).sum(axis=1)
