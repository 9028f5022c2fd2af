"""The training objective: squared error of values (TPAMI 2021) or of points, or cross-entropy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.networks.heads import GeometricHeads, StatisticsHeads


@dataclass(frozen=True)
class StatisticsLoss:
    """Mean squared error of both families of labels, weighted as published.

    The mean is over the label columns of a family and over the clips of all processes.
    """

    heads: StatisticsHeads
    motion_w: float = 1.0
    app_w: float = 0.1

    def __call__(
        self, motion: Tensor, app: Tensor, labels: Tensor, clips: int
    ) -> tuple[Tensor, Tensor]:
        """This process's share of (motion loss, appearance loss), both weighted, float32 scalars.

        `motion` and `app` are what the heads put out, `labels` int64 [N,27]; `clips` is the number
        of clips on all processes, so that shares add up to the loss of the global batch. A family
        without columns has loss 0.
        """
        return (
            self.motion_w * self._family(motion, labels, self.heads.motion_columns, clips),
            self.app_w * self._family(app, labels, self.heads.app_columns, clips),
        )

    def _family(self, predicted: Tensor, labels: Tensor, columns: list[int], clips: int) -> Tensor:
        errors = predicted - columns_of(labels, columns)
        return errors.square().sum() / (clips * max(1, len(columns)))


@dataclass(frozen=True)
class ClassificationLoss(StatisticsLoss):
    """Cross-entropy for `ClassificationHeads`; means and weights as above.

    A label of 0 (no motion, under the `reference` rule) is no class and adds nothing.
    """

    def _family(self, predicted: Tensor, labels: Tensor, columns: list[int], clips: int) -> Tensor:
        total = predicted.sum() * 0  # where a family has no columns
        for column, logits in self.heads.parts(predicted, columns):
            target = labels[:, column] - 1
            total = total + cross_entropy(logits, target, ignore_index=-1, reduction="sum")
        return total / (clips * max(1, len(columns)))


@dataclass(frozen=True)
class GeometricLoss(StatisticsLoss):
    """Squared distance from the meant points for `GeometricHeads`; means and weights as above.

    A label of 0 (no motion, under the `reference` rule) means nothing and adds nothing.
    """

    heads: GeometricHeads

    def _family(self, predicted: Tensor, labels: Tensor, columns: list[int], clips: int) -> Tensor:
        total = predicted.sum() * 0  # where a family has no columns
        for column, part in self.heads.parts(predicted, columns):
            value = labels[:, column]
            meant = self.heads.points(column, part.device)[(value - 1).clamp(min=0)]
            total = total + ((part - meant).square().sum(dim=1) * (value > 0)).sum()
        return total / (clips * max(1, len(columns)))


LOSSES: dict[str, Callable[..., StatisticsLoss]] = {  # as heads.HEADS
    "regression": StatisticsLoss,
    "classification": ClassificationLoss,
    "geometric": GeometricLoss,
}


def columns_of(labels: Tensor, columns: Sequence[int]) -> Tensor:
    """Some columns, [N,27] -> [N,K]. (To index with a list, the host would wait for the GPU.)"""
    chosen = [labels[:, column : column + 1] for column in columns]
    return torch.cat([labels[:, :0], *chosen], dim=1)


def absolute_errors(predicted: Tensor, labels: Tensor, clips: int) -> Tensor:
    """This process's share of the mean distance from every label: [N,K], int64 [N,K] -> [K]."""
    return (predicted.detach() - labels).abs().sum(dim=0, dtype=torch.float32) / clips
