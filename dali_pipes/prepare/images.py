"""The JPEG code of frames and flow."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

QUALITY = 95  # of 100, as in the published data set


def jpeg(image: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """uint8 RGB [H,W,3] or grey [H,W] -> JPEG."""
    if image.ndim == 3:
        image = cast(NDArray[np.uint8], cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return code.tobytes()
