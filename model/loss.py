"""The training objective: mean squared error on label values (TPAMI 2021, section 3.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StatisticsLoss:
    """Mean squared error of both families of labels, weighted as published.

    The mean is over the label columns of a family and over the clips of all processes.
    """

    motion_columns: list[int]
    app_columns: list[int]
    motion_w: float = 1.0
    app_w: float = 0.1

    def __call__(
        self, motion: Tensor, app: Tensor, labels: Tensor, clips: int
    ) -> tuple[Tensor, Tensor]:
        """This process's share of (motion loss, appearance loss), both weighted, float32 scalars.

        Predicted `motion` [N,M] and `app` [N,A], `labels` int64 [N,27]; `clips` is the number of
        clips on all processes, so that shares add up to the loss of the global batch. A family
        without columns has loss 0.
        """
        return (
            self.motion_w * _squares(motion, labels[:, self.motion_columns], clips),
            self.app_w * _squares(app, labels[:, self.app_columns], clips),
        )


def _squares(predicted: Tensor, labels: Tensor, clips: int) -> Tensor:
    return (predicted - labels).square().sum() / (clips * max(1, labels.shape[1]))


def absolute_errors(predicted: Tensor, labels: Tensor, clips: int) -> Tensor:
    """This process's share of the mean distance from every label: [N,K], int64 [N,K] -> [K]."""
    return (predicted.detach() - labels).abs().sum(dim=0, dtype=torch.float32) / clips
