"""How a flow vector becomes a byte: clip to +-20 native pixels a frame, then 256 levels.

The published data set stores flow this way. Every gradient of coded flow is an exact integer,
which is what makes labels equal on every backend.
"""

import numpy as np
from numpy.typing import NDArray

FLOW_LIMIT_PX = 20.0  # flow is clipped to +-20 native pixels a frame before it is coded


def encode(flow_px: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 pixels per frame, any shape -> uint8 codes: rint(255 (clip(f, -20, 20) + 20) / 40).

    Raises ValueError on NaN or infinity: a code for them would be an invented motion.
    """
    if not np.isfinite(flow_px).all():
        raise ValueError("flow has values that are not finite")
    limited = np.clip(flow_px, -FLOW_LIMIT_PX, FLOW_LIMIT_PX)
    return np.rint((limited + FLOW_LIMIT_PX) * (255 / (2 * FLOW_LIMIT_PX))).astype(np.uint8)


def decode(code: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 codes -> float32 pixels per frame. Code 127.5 would be zero: 127 and 128 are +-0.08."""
    return code.astype(np.float32) * np.float32(2 * FLOW_LIMIT_PX / 255) - np.float32(FLOW_LIMIT_PX)
