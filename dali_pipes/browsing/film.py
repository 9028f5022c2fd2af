"""A clip as a short film for a page: its frames, and the flow after each beside it."""

from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.drawing.strip import flow_colours
from dali_pipes.prepare.encode import write_video

SIDE = 112  # px of the frames and of the flow
FPS = 8  # slow enough to be followed
_H264 = {"crf": "31", "preset": "medium", "threads": "1", "movflags": "+faststart"}


def film(frames: NDArray[np.uint8], flow: NDArray[np.uint8]) -> bytes:
    """uint8 RGB [T,S,S,3] and coded flow [F,S,S,2] -> H.264 in MP4, T pictures of SIDE x 2 SIDE.

    Where the last frame has no flow after it, the flow before it stays.
    """
    colours = flow_colours(flow[: len(frames)])
    colours = np.concatenate([colours, colours[-1:]])[: len(frames)]
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        pairs = zip(map(_sized, frames), map(_sized, colours), strict=True)
        write_video(path, map(np.hstack, pairs), fps=FPS, keyframe_every=len(frames), options=_H264)
        return path.read_bytes()


def _sized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if picture.shape[0] == SIDE:
        return picture
    way = cv2.INTER_AREA if picture.shape[0] > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=way), np.uint8)
