"""Two heads on a backbone, for motion and appearance statistics: what they put out for a label.

regression        its value (published)
classification    a logit for each value
geometric         the point that its value means (kernels/labels/meaning.py)
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from kernels.labels.meaning import points
from kernels.labels.schema import LABELS, PATTERN_BLOCKS, REFERENCE_CLIP_LEN
from model.networks.backbone import Backbone

Flags = Sequence[int]  # one 0 or 1 for each pattern, then one for the labels of the whole clip
N_FLAGS = len(PATTERN_BLOCKS) + 1


def label_columns(family: str, flags: Flags) -> list[int]:
    """The columns of the label matrix that belong to the chosen patterns of a family.

    `flags` are the published `--motion_flag` and `--app_flag`: squares, rings, triangles, clip.
    """
    if len(flags) != N_FLAGS or not set(flags) <= {0, 1}:
        raise ValueError(f"flags must be {N_FLAGS} values of 0 or 1, got {list(flags)}")
    return [
        column
        for column, label in enumerate(LABELS)
        if label.family == family and flags[(label.pattern or N_FLAGS) - 1]
    ]


class StatisticsHeads(nn.Module):
    """A linear regression head for each family of labels, of clips of `clip_len` frames.

    `motion_columns` and `app_columns` are the label columns that the heads put out, in order.
    """

    def __init__(
        self,
        channels: int,
        motion_flag: Flags = (1,) * N_FLAGS,
        app_flag: Flags = (1,) * N_FLAGS,
        clip_len: int = REFERENCE_CLIP_LEN,
    ) -> None:
        super().__init__()
        self.clip_len = clip_len
        self.motion_columns = label_columns("motion", motion_flag)
        self.app_columns = label_columns("appearance", app_flag)
        if not self.motion_columns and not self.app_columns:
            raise ValueError("--motion_flag and --app_flag leave no label to learn")
        self.columns = self.motion_columns + self.app_columns
        self.motion = _head(channels, sum(map(self.outputs, self.motion_columns)))
        self.app = _head(channels, sum(map(self.outputs, self.app_columns)))

    def outputs(self, column: int) -> int:
        """How many numbers the heads put out for a label."""
        return 1

    def parts(self, predicted: Tensor, columns: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """(column, what is put out for it [N,outputs]) of outputs that lie side by side."""
        sizes = [self.outputs(column) for column in columns]
        return zip(columns, predicted.split(sizes, dim=1), strict=True)

    def values(self, predicted: Tensor) -> Tensor:
        """What is predicted for each learned label: [N,M+A] in the order of `columns`.

        `predicted` is what forward returns, motion first, side by side.
        """
        return predicted

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features float32 [N,channels] -> outputs for motion and for appearance labels.

        Regression heads put out label values, [N,M] and [N,A]. Always in float32: the heads cost
        nothing, and label values need the digits.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.motion(features), self.app(features)

    def labels(self, predicted: Tensor) -> Tensor:
        """The labels nearest to predicted values: int64 [N,27], 0 where a label is not learned."""
        labels = predicted.new_zeros(len(predicted), len(LABELS), dtype=torch.int64)
        most = labels.new_tensor([LABELS[column].classes(self.clip_len) for column in self.columns])
        nearest = self.values(predicted).nan_to_num().round().long()
        labels[:, self.columns] = torch.minimum(nearest.clamp(min=1), most)
        return labels


class ClassificationHeads(StatisticsHeads):
    """A logit for each value that a label can take, motion labels side by side, then appearance."""

    def outputs(self, column: int) -> int:
        return LABELS[column].classes(self.clip_len)

    def values(self, predicted: Tensor) -> Tensor:
        parts = self.parts(predicted, self.columns)
        return torch.stack([logits.argmax(dim=1) + 1 for _, logits in parts], dim=1)


class GeometricHeads(StatisticsHeads):
    """The point that a label's value means, motion labels side by side, then appearance."""

    def outputs(self, column: int) -> int:
        return points(column, self.clip_len).shape[1]

    def values(self, predicted: Tensor) -> Tensor:
        """The values whose points lie nearest."""
        distances = [
            torch.cdist(part, self.points(column, part.device))
            for column, part in self.parts(predicted, self.columns)
        ]
        return torch.stack([of_label.argmin(dim=1) + 1 for of_label in distances], dim=1)

    def points(self, column: int, device: torch.device) -> Tensor:
        """The point of each value of a label, float32 [classes,D]."""
        return _points(column, self.clip_len, device)


HEADS = {
    "regression": StatisticsHeads,
    "classification": ClassificationHeads,
    "geometric": GeometricHeads,
}


@cache
@torch.inference_mode(False)  # whoever asks first, training may learn from it
def _points(column: int, clip_len: int, device: torch.device) -> Tensor:
    return torch.tensor(points(column, clip_len), device=device)


def _head(channels: int, outputs: int) -> nn.Module:
    return nn.Linear(channels, outputs) if outputs else _NoLabels()


class _NoLabels(nn.Module):
    """The head of a family that is switched off."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, :0]  # [N,0]


class StatisticsNet(nn.Module):
    """A backbone with the two heads: uint8 frames [N,T,S,S,3] -> motion [N,M], appearance [N,A]."""

    def __init__(self, backbone: Backbone, heads: StatisticsHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        motion, app = self.heads(self.backbone(frames))
        return motion, app
