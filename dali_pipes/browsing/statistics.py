"""What the values of a label say: how they are spread, and how much they tell of the classes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.labels.schema import LABELS, Label

ONE_ANSWER = 0.8  # a label that has one value so often teaches next to nothing
SHUFFLES = 200


@dataclass(frozen=True)
class Told:
    """Bits that a label tells of the classes, and what chance makes of as many clips."""

    bits: float
    by_chance: float  # mean
    seldom: float  # what chance exceeds once in twenty times

    @property
    def is_real(self) -> bool:
        return self.bits > self.seldom


@dataclass(frozen=True)
class Spread:
    """How the values of a label are spread."""

    label: Label
    counts: NDArray[np.int64]  # [1 + values], how many clips have 0 (none), 1, 2, ...
    told: Told | None  # None: there are not two classes

    @property
    def entropy(self) -> float:
        """Bits."""
        return max(0.0, float(_entropy(self.counts)))  # not -0

    @property
    def most_entropy(self) -> float:
        """Bits, were all values as frequent; none counts where there is any."""
        return float(np.log2(len(self.counts) - (self.counts[0] == 0)))

    @property
    def commonest(self) -> int:
        return int(self.counts.argmax())

    @property
    def free(self) -> float:
        """The share of the commonest value: how often always the same answer is right."""
        return float(self.counts.max() / self.counts.sum())

    @property
    def says_little(self) -> bool:
        return self.free >= ONE_ANSWER


def spreads(
    labels: NDArray[np.int64], clip_len: int, classes: NDArray[np.int64], videos: NDArray[np.int64]
) -> list[Spread]:
    """Of every label: labels [N,27], and the class and the video of each clip [N]."""
    told = _told(labels, classes, videos)
    return [
        Spread(label, np.bincount(column, minlength=label.classes(clip_len) + 1), of_classes)
        for label, column, of_classes in zip(LABELS, labels.T, told, strict=True)
    ]


def _told(
    labels: NDArray[np.int64], classes: NDArray[np.int64], videos: NDArray[np.int64]
) -> list[Told] | list[None]:
    """Mutual information of each label with the classes.

    Of few clips any label seems to tell something, and clips of one video are alike. So classes
    are dealt out anew among the videos, many times: what a label tells then is chance.
    """
    _, classes = np.unique(classes, return_inverse=True)
    if classes.max(initial=0) == 0:
        return [None] * len(LABELS)
    _, first, video = np.unique(videos, return_index=True, return_inverse=True)
    of_video = classes[first]
    rng = np.random.default_rng(0)
    dealt = [rng.permutation(of_video)[video] for _ in range(SHUFFLES)]
    values = np.eye(labels.max() + 1)[labels]  # [N,27,V]
    bits, *by_chance = (_mutual_information(values, one) for one in (classes, *dealt))
    return [
        Told(float(real), float(chance.mean()), float(np.quantile(chance, 0.95)))
        for real, chance in zip(bits, np.transpose(by_chance), strict=True)
    ]


def _mutual_information(
    values: NDArray[np.float64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Bits [27] that values, one-hot [N,27,V], tell of classes [N]."""
    joint = np.tensordot(values, np.eye(classes.max() + 1)[classes], (0, 0))  # [27,V,C]
    apart = _entropy(joint.sum(axis=2)) + _entropy(joint.sum(axis=1))
    return apart - _entropy(joint.reshape(len(joint), -1))


def _entropy(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits, over the last axis."""
    shares = counts / counts.sum(axis=-1, keepdims=True)
    return -(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares))).sum(axis=-1)
