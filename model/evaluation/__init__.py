"""Protocols by which a pre-trained network is judged: pure functions on feature arrays."""
