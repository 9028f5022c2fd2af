"""How the pictures of a video lie in a reel: JPEG images one after the other, in time.

    frame 0 | field 0 | frame 1 | field 1 | ... | frame n-1
    '---- step 0 ----' '---- step 1 ----'       '- step n-1

so that a clip is one contiguous read. Frames are RGB at training size [h,w,3]; field t is the flow
from frame t to t+1, coded, u above v in one grey image [2h,w]. Described for other readers in
docs/reels.md.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

# A row of the table of steps. A video has one row more than frames: where its last step ends.
STEP = np.dtype(
    [
        ("offset", "<u8"),  # of the step in its shard, bytes
        ("rgb", "<u4"),  # bytes of the frame's image; the field's fill the rest of the step
        ("crc32", "<u4"),  # of the step's bytes
    ]
)


@dataclass(frozen=True)
class Header:
    """What a shard says of a video, in the JSON file before its pictures."""

    name: str  # class/video, as in the folder it was made from
    height: int  # px of the video itself, upright
    width: int
    fps: float  # frames a second; 0: not known
    rgb_bytes: list[int]  # by frame
    flow_bytes: list[int]  # likewise; 0: no field
    crc32: list[int]  # of both together

    def add(self, rgb: bytes, flow: bytes) -> None:
        """Note the images of one more step."""
        self.rgb_bytes.append(len(rgb))
        self.flow_bytes.append(len(flow))
        self.crc32.append(zlib.crc32(rgb + flow))

    def table(self, offset: int) -> NDArray[np.void]:
        """The steps [frames + 1] of the video whose pictures begin at `offset` of the shard."""
        steps = np.zeros(len(self.rgb_bytes) + 1, STEP)
        sizes = np.array(self.rgb_bytes, np.uint64) + np.array(self.flow_bytes, np.uint64)
        steps["offset"][0] = offset
        steps["offset"][1:] = offset + np.cumsum(sizes)
        steps["rgb"][:-1], steps["crc32"][:-1] = self.rgb_bytes, self.crc32
        return steps

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises ValueError if it is none."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from error


def split_steps(
    data: memoryview, steps: NDArray[np.void], wanted: Sequence[int]
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The images (frame, field), uint8 [n] each, of the `wanted` of some neighbouring steps.

    `data`: the bytes of all of them; `steps`: their rows, and the row after. A field is empty where
    there is none. Raises DamagedStep.
    """
    ends = (steps["offset"] - steps["offset"][0]).tolist()
    rgb, crc32 = steps["rgb"].tolist(), steps["crc32"].tolist()
    pictures = []
    for step in wanted:
        part = data[ends[step] : ends[step + 1]]
        # An empty step would have a right checksum.
        if not 0 < rgb[step] <= len(part) or zlib.crc32(part) != crc32[step]:
            raise DamagedStep(step)
        images = np.frombuffer(part, np.uint8)
        pictures.append((images[: rgb[step]], images[rgb[step] :]))
    return pictures


class DamagedStep(Exception):
    """The bytes of a step are not those that were written; its number is the argument."""


def stacked(field: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A field of coded flow [h,w,2] -> the grey image [2h,w] that is stored: u above v."""
    return np.concatenate([field[..., 0], field[..., 1]])


def decoded_frame(image: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """A stored frame uint8 [n] -> uint8 RGB [h,w,3]; None if it is no image."""
    return _decoded(image, cv2.IMREAD_COLOR_RGB)


def decoded_field(image: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """A stored field uint8 [n] -> its planes of coded flow, uint8 [2,h,w]; None if it is none."""
    grey = _decoded(image, cv2.IMREAD_GRAYSCALE)
    return None if grey is None or len(grey) % 2 else grey.reshape(2, -1, grey.shape[1])


def _decoded(image: NDArray[np.uint8], flag: int) -> NDArray[np.uint8] | None:
    if not len(image):  # OpenCV would raise
        return None
    return cv2.imdecode(image, flag)  # type: ignore[return-value]
