"""Two regression heads on a backbone: motion and appearance statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels.label_schema import LABELS, PATTERN_BLOCKS
from model.backbone import Backbone

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
    """A linear regression head for each family of labels.

    `motion_columns` and `app_columns` are the label columns that the heads put out, in order.
    """

    def __init__(
        self,
        channels: int,
        motion_flag: Flags = (1,) * N_FLAGS,
        app_flag: Flags = (1,) * N_FLAGS,
    ) -> None:
        super().__init__()
        self.motion_columns = label_columns("motion", motion_flag)
        self.app_columns = label_columns("appearance", app_flag)
        if not self.motion_columns and not self.app_columns:
            raise ValueError("--motion_flag and --app_flag leave no label to learn")
        self.columns = self.motion_columns + self.app_columns
        self.motion = _head(channels, len(self.motion_columns))
        self.app = _head(channels, len(self.app_columns))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features float32 [N,channels] -> label values, motion [N,M] and appearance [N,A].

        Always in float32: the heads cost nothing, and label values need the digits.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.motion(features), self.app(features)

    def labels(self, predicted: Tensor, clip_len: int) -> Tensor:
        """The labels nearest to predicted values: int64 [N,27], 0 where a label is not learned.

        `predicted` [N,M+A]: what forward returns, motion first.
        """
        labels = predicted.new_zeros(len(predicted), len(LABELS), dtype=torch.int64)
        classes = labels.new_tensor([LABELS[column].classes(clip_len) for column in self.columns])
        nearest = predicted.nan_to_num().round().long()
        labels[:, self.columns] = torch.minimum(nearest.clamp(min=1), classes)
        return labels


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
