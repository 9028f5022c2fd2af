"""R(2+1)D: every 3D convolution of R3D split in space, then time (Tran et al., CVPR 2018)."""

from collections import OrderedDict
from math import prod

from torch import nn

from model.networks.r3d import R3D, Size


class R2Plus1D(R3D):
    """R(2+1)D with one residual block a stage, as published with the statistics (TPAMI 2021).

    The shapes are R3D's. The published code splits the 1x1x1 shortcuts too.
    """

    @staticmethod
    def convolution(inputs: int, outputs: int, kernel: Size, stride: Size) -> nn.Module:
        """A 1xhxw convolution, batch norm and ReLU, then a tx1x1 convolution.

        The channels between them make the pair as large as the convolution it stands for
        (section 3.5 of the paper).
        """
        time, *space = kernel
        between = (prod(kernel) * inputs * outputs) // (prod(space) * inputs + time * outputs)
        between = max(1, between)
        spatial = R3D.convolution(inputs, between, (1, kernel[1], kernel[2]), (1, *stride[1:]))
        temporal = R3D.convolution(between, outputs, (time, 1, 1), (stride[0], 1, 1))
        bn, relu = nn.BatchNorm3d(between), nn.ReLU(inplace=True)
        return nn.Sequential(
            OrderedDict(spatial=spatial, bn=bn, relu=relu, temporal=temporal)  # names for keys
        )


class R2Plus1D18(R2Plus1D):
    """R(2+1)D with 18 layers: two residual blocks a stage."""

    blocks = (2, 2, 2, 2)
