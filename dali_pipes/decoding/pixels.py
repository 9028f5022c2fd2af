"""From a decoded frame to the pixels of a clip: RGB, upright, resized."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.opening import BadVideo

if TYPE_CHECKING:
    import av

_STRAIGHT = 0.0175  # sine of the degree that players do not turn by, either


class Turned:
    """How a frame is to be turned and mirrored to stand as players show it."""

    def __init__(self, matrix: NDArray[Any] | None) -> None:
        """`matrix`: the display matrix, [9], of ISO/IEC 14496-12, 6.2.2; None: as it is.

        Raises ValueError where it turns by something else than quarters.
        """
        self.transposed, self.down, self.right = False, 1, 1  # -1: mirrored up-down, left-right
        if matrix is None or not matrix[[0, 1, 3, 4]].any():
            return
        # Column p, row q is shown at column a p + c q, row b p + d q.
        a, b, c, d = matrix[[0, 1, 3, 4]] / float(np.abs(matrix[[0, 1, 3, 4]]).max())
        self.transposed = abs(b) + abs(c) > abs(a) + abs(d)
        off, on = ((a, d), (b, c)) if self.transposed else ((b, c), (a, d))
        if max(map(abs, off)) > _STRAIGHT or not all(on):
            raise ValueError("is to be turned by less than a quarter; convert it")
        to_right, down = (c, b) if self.transposed else (a, d)
        self.right, self.down = (1 if to_right > 0 else -1), (1 if down > 0 else -1)

    def __bool__(self) -> bool:
        return (self.transposed, self.down, self.right) != (False, 1, 1)

    def upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[H,W,3] -> [H,W,3], or [W,H,3] where transposed; a view."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        return image[:: self.down, :: self.right]


def turned(frame: "av.VideoFrame") -> Turned:
    """What a frame's metadata says of how it stands. Raises ValueError as `Turned` does."""
    try:
        said = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 does not know all that may stand beside it: EXIF, for one
        angle = np.deg2rad(frame.rotation)
        cos, sin = np.cos(angle), np.sin(angle)
        return Turned(np.array([cos, -sin, 0, sin, cos, 0, 0, 0, 0]))
    return Turned(None if said is None else np.frombuffer(cast(bytes, said), np.int32))


class UprightRgb:
    """Decoded frames of a video -> uint8 RGB [H,W,3], as players show them. One for all of them."""

    def __init__(self, path: Path | str) -> None:
        from av.video.reformatter import VideoReformatter

        self._path = path
        self._reformatter = VideoReformatter()  # caches its set-up
        self._turned: Turned | None = None
        self._rotation = 0

    def __call__(self, frame: "av.VideoFrame") -> NDArray[np.uint8]:
        """Raises BadVideo where it cannot be turned upright."""
        # PyAV 18 keeps a frame whose side data was looked at until garbage is collected.
        if self._turned is None or frame.key_frame or frame.rotation != self._rotation:
            try:
                self._turned, self._rotation = turned(frame), frame.rotation
            except ValueError as error:
                raise BadVideo(self._path, "decode", str(error)) from error
        # By default as many threads as cores wake up for each frame.
        image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return self._turned.upright(cast("NDArray[np.uint8]", image))


def resized(
    image: NDArray[np.uint8], size: tuple[int, int], into: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """uint8 [H,W,3] -> (height, width) bilinearly without antialiasing, as published.

    `into`: the array to write to, contiguous.
    """
    small = cv2.resize(image, size[::-1], dst=into, interpolation=cv2.INTER_LINEAR)
    return cast("NDArray[np.uint8]", small)


class Images:
    """The frames kept: converted to RGB, turned upright and resized one by one."""

    def __init__(self, path: Path | str, total: int, resize: tuple[int, int] | None) -> None:
        self._path, self._total, self._resize = path, total, resize
        self._upright_rgb = UprightRgb(path)
        self._kept: NDArray[np.uint8] | None = None
        self._native = (0, 0)
        self.count = 0

    @property
    def full(self) -> bool:
        return self.count == self._total

    def add(self, frame: "av.VideoFrame") -> None:
        """Raises BadVideo as `UprightRgb` does, and where sizes differ that are to be kept."""
        image = self._upright_rgb(frame)
        native = (image.shape[0], image.shape[1])
        if self._kept is None:
            self._native = native
            self._kept = np.empty((self._total, *(self._resize or native), 3), np.uint8)
        if self._resize is not None:
            resized(image, self._resize, self._kept[self.count])
        elif native != self._native:
            raise BadVideo(self._path, "decode", "its frame size changes within the clip")
        else:
            self._kept[self.count] = image
        self.count += 1

    def result(self) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        assert self._kept is not None
        return self._kept, self._native
