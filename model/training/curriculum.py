"""From easy clips to all: which clips of a batch are learned from, and when.

The TPAMI paper names a curriculum, but its details could not be checked; this design is ours. Early
in training a batch gives only the clips whose labels are clearest
(`kernels.labels.difficulty`). Their share grows linearly and is 1 from the middle of the training
on.
"""

from math import ceil

from torch import Tensor

ALL_FROM = 0.5  # of the training: from here on no clip is left out


def kept(clips: int, start: float, progress: float) -> int:
    """How many clips of a batch are learned from: the share `start` at first, all at the end.

    `progress` is the part of the training that is done, 0..1. Of a batch that has any clip, one
    is always kept.
    """
    share = min(1.0, start + (1 - start) * progress / ALL_FROM)
    return ceil(share * clips)


def clearest(confidence: Tensor, count: int) -> Tensor:
    """The `count` clips of highest confidence [N], in the order of the batch: int64 [count]."""
    return confidence.topk(count).indices.sort().values
