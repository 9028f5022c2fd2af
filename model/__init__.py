"""Backbones, heads, loss and checkpoints."""

from model.backbone import Backbone
from model.c3d import C3D

BACKBONES: dict[str, type[Backbone]] = {"c3d": C3D}  # by the names of train.py's --model
