"""C3D with batch norm: eight 3x3x3 convolutions in five stages (Tran et al., ICCV 2015)."""

from torch import nn

from model.networks.backbone import Backbone, conv_bn_relu, scaled


class C3D(Backbone):
    """C3D without its fully connected layers, as published with the statistics (TPAMI 2021).

    From 16 frames of 112x112 the stages give, at width 1:

        conv1  64 x 16 x 112 x 112        pooling opens a stage, in time from conv3 on
        conv2 128 x 16 x  56 x  56
        conv3 256 x  8 x  28 x  28
        conv4 512 x  4 x  14 x  14
        conv5 512 x  2 x   7 x   7
    """

    stages = ("conv1", "conv2", "conv3", "conv4", "conv5")

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(width)
        c1, c2, c3, c4, c5 = (scaled(c, width) for c in (64, 128, 256, 512, 512))
        self.channels = c5
        self.conv1 = nn.Sequential(*conv_bn_relu(3, c1))
        self.conv2 = nn.Sequential(nn.MaxPool3d((1, 2, 2)), *conv_bn_relu(c1, c2))
        self.conv3 = nn.Sequential(nn.MaxPool3d(2), *conv_bn_relu(c2, c3), *conv_bn_relu(c3, c3))
        self.conv4 = nn.Sequential(nn.MaxPool3d(2), *conv_bn_relu(c3, c4), *conv_bn_relu(c4, c4))
        self.conv5 = nn.Sequential(nn.MaxPool3d(2), *conv_bn_relu(c4, c5), *conv_bn_relu(c5, c5))
