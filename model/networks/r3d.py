"""R3D: residual networks of 3D convolutions (Tran et al., CVPR 2018)."""

from torch import Tensor, nn

from model.networks.backbone import Backbone, scaled

Size = tuple[int, int, int]  # time, height, width


class R3D(Backbone):
    """R3D with one residual block a stage, as published with the statistics (TPAMI 2021).

    From 16 frames of 112x112 the stages give, at width 1:

        conv1, conv2  64 x 16 x 56 x 56
        conv3        128 x  8 x 28 x 28
        conv4        256 x  4 x 14 x 14
        conv5        512 x  2 x  7 x  7
    """

    stages = ("conv1", "conv2", "conv3", "conv4", "conv5")
    blocks = (1, 1, 1, 1)  # residual blocks of conv2..conv5

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(width)
        channels = [scaled(c, width) for c in (64, 64, 128, 256, 512)]
        self.channels = channels[-1]
        self.conv1 = nn.Sequential(
            self.convolution(3, channels[0], (3, 7, 7), (1, 2, 2)),
            nn.BatchNorm3d(channels[0]),
            nn.ReLU(inplace=True),
        )
        for i, n_blocks in enumerate(self.blocks):
            inputs, outputs = channels[i : i + 2]
            first = Residual(self, inputs, outputs, downsample=i > 0)
            rest = [Residual(self, outputs, outputs) for _ in range(n_blocks - 1)]
            self.add_module(self.stages[i + 1], nn.Sequential(first, *rest))

    @staticmethod
    def convolution(inputs: int, outputs: int, kernel: Size, stride: Size) -> nn.Module:
        """A convolution, padded so that only the stride changes the resolution."""
        time, height, width = (side // 2 for side in kernel)
        return nn.Conv3d(inputs, outputs, kernel, stride, (time, height, width), bias=False)


class R3D18(R3D):
    """R3D with 18 layers: two residual blocks a stage."""

    blocks = (2, 2, 2, 2)


class Residual(nn.Module):
    """Two 3x3x3 convolutions and a shortcut; `downsample` halves time, height and width."""

    def __init__(self, net: R3D, inputs: int, outputs: int, downsample: bool = False) -> None:
        super().__init__()
        stride = (2, 2, 2) if downsample else (1, 1, 1)
        self.conv1 = net.convolution(inputs, outputs, (3, 3, 3), stride)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = net.convolution(outputs, outputs, (3, 3, 3), (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if downsample:
            convolution = net.convolution(inputs, outputs, (1, 1, 1), stride)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(self.shortcut(x) + y)
