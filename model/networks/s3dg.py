"""S3D-G: separable 3D Inception with feature gating (Xie et al., ECCV 2018)."""

import torch
from torch import Tensor, nn

from model.networks.backbone import Backbone, scaled

# Channels of an Inception block: 1x1x1; 1x1x1 then 3x3x3, twice; pooling then 1x1x1.
Branches = tuple[int, ...]


class S3DG(Backbone):
    """S3D-G, for 16 or 64 frames of 112x112 or 224x224.

    Stages, each one after a pooling, with the shape from 64 frames of 224x224 at width 1:

        conv1    64 x 32 x 112 x 112
        conv2   192 x 32 x  56 x  56
        mixed3  480 x 32 x  28 x  28
        mixed4  832 x 16 x  14 x  14
        mixed5 1024 x  8 x   7 x   7

    Gates sit on conv2 and on every branch, as in the authors' code.
    """

    stages = ("conv1", "conv2", "mixed3", "mixed4", "mixed5")

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(width)
        c1, c2 = scaled(64, width), scaled(192, width)
        self.conv1 = separable(3, c1, kernel=7, stride=2)
        self.conv2 = nn.Sequential(
            _pool((1, 3, 3), (1, 2, 2)), pointwise(c1, c1), separable(c1, c2), Gate(c2)
        )
        mixed: tuple[tuple[nn.Module, list[Branches]], ...] = (
            (_pool((1, 3, 3), (1, 2, 2)), [(64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)]),
            (
                _pool((3, 3, 3), (2, 2, 2)),
                [
                    (192, 96, 208, 16, 48, 64),
                    (160, 112, 224, 24, 64, 64),
                    (128, 128, 256, 24, 64, 64),
                    (112, 144, 288, 32, 64, 64),
                    (256, 160, 320, 32, 128, 128),
                ],
            ),
            (nn.MaxPool3d(2), [(256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)]),
        )
        channels = c2
        for stage, (pool, blocks) in zip(self.stages[2:], mixed, strict=True):
            layers: list[nn.Module] = [pool]
            for branches in blocks:
                block = Mixed(channels, tuple(scaled(c, width) for c in branches))
                layers.append(block)
                channels = block.channels
            self.add_module(stage, nn.Sequential(*layers))
        self.channels = channels


class Mixed(nn.Module):
    """An Inception block of four gated branches, concatenated."""

    def __init__(self, inputs: int, branches: Branches) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = branches
        self.channels = b0 + b1b + b2b + b3
        self.branches = nn.ModuleList(
            [
                nn.Sequential(pointwise(inputs, b0), Gate(b0)),
                nn.Sequential(pointwise(inputs, b1a), separable(b1a, b1b), Gate(b1b)),
                nn.Sequential(pointwise(inputs, b2a), separable(b2a, b2b), Gate(b2b)),
                nn.Sequential(_pool((3, 3, 3), (1, 1, 1)), pointwise(inputs, b3), Gate(b3)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Gate(nn.Module):
    """Channels scaled by what the clip holds as a whole: x * sigmoid(W mean(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Conv3d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.weight(x.mean(dim=(2, 3, 4), keepdim=True)))


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """A 1x1x1 convolution with batch norm and ReLU."""
    return nn.Sequential(*_conv_bn_relu(inputs, outputs, (1, 1, 1), (1, 1, 1)))


def separable(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution in space, then one in time, each with batch norm and ReLU."""
    return nn.Sequential(
        *_conv_bn_relu(inputs, outputs, (1, kernel, kernel), (1, stride, stride)),
        *_conv_bn_relu(outputs, outputs, (kernel, 1, 1), (stride, 1, 1)),
    )


def _conv_bn_relu(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> list[nn.Module]:
    return [
        nn.Conv3d(inputs, outputs, kernel, stride, _half(kernel), bias=False),
        nn.BatchNorm3d(outputs, eps=1e-3),  # as in the authors' code
        nn.ReLU(inplace=True),
    ]


def _pool(kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.MaxPool3d:
    return nn.MaxPool3d(kernel, stride, _half(kernel))


def _half(kernel: tuple[int, int, int]) -> tuple[int, int, int]:
    time, height, width = kernel
    return time // 2, height // 2, width // 2
