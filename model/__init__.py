"""Networks, their training and their evaluation."""

from model.networks import BACKBONES

__all__ = ["BACKBONES"]
