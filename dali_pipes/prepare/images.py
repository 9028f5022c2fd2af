"""Frames at the size that flow is computed at, and their JPEG code."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.flow import flow_size

QUALITY = 95  # of 100, as in the published data set


def fitted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H,W,3], made smaller where its short side is above what flow is computed at."""
    height, width = flow_size((image.shape[0], image.shape[1]))
    if (height, width) == image.shape[:2]:
        return image
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cast(NDArray[np.uint8], small)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """uint8 RGB [H,W,3] or grey [H,W] -> JPEG."""
    if image.ndim == 3:
        image = cast(NDArray[np.uint8], cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return code.tobytes()
