"""Backbones, the heads that predict labels, and networks of the published code."""

from collections.abc import Callable

from model.networks.backbone import Backbone
from model.networks.c3d import C3D
from model.networks.r2plus1d import R2Plus1D, R2Plus1D18
from model.networks.r3d import R3D, R3D18
from model.networks.s3dg import S3DG

BACKBONES: dict[str, Callable[..., Backbone]] = {  # by the names of train.py's --model
    "c3d": C3D,
    "r3d": R3D,
    "r3d18": R3D18,
    "r21d": R2Plus1D,
    "r21d18": R2Plus1D18,
    "s3dg": S3DG,
}
