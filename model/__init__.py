"""Backbones, heads, loss and checkpoints."""
