"""Protocols by which a pre-trained network is judged: functions on arrays, and what feeds them."""
