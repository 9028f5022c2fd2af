"""TV-L1 optical flow on a CPU: OpenCV's result to rounding, an order of magnitude sooner.

OpenCV's own loops make many passes over memory and are not vectorised; these make two an
iteration and are. Method and settings: `kernels.flow.tvl1`. Threads may call at the same time.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kernels.flow import cpu_loops as loops
from kernels.flow.tvl1 import NATIVE, Tvl1, pyramid_sizes

Plane = NDArray[np.float32]


def tvl1_flow(frames: NDArray[np.uint8], settings: Tvl1 = NATIVE) -> NDArray[np.float32]:
    """uint8 RGB frames [T,H,W,3] -> float32 flow [T-1,H,W,2], (u right, v down), px per frame.

    Raises ValueError on other shapes and dtypes.
    """
    return np.stack([np.stack(field.flow, axis=-1) for field in _fields(frames, settings)])


def tvl1_codes(
    frames: NDArray[np.uint8], native_size: tuple[int, int], settings: Tvl1 = NATIVE
) -> NDArray[np.uint8]:
    """The same as codes (`kernels.flow.code`), in planes: uint8 [T-1,2,H,W], u above v.

    They are of vectors in pixels of frames of `native_size` (height, width).
    """
    height, width = frames.shape[1:3]
    gains = np.float32(native_size[1] / width), np.float32(native_size[0] / height)
    codes = np.empty((len(frames) - 1, 2, height, width), np.uint8)
    for coded, field in zip(codes, _fields(frames, settings), strict=True):
        field.encode(gains, coded)
    return codes


def _fields(frames: NDArray[np.uint8], settings: Tvl1) -> "Iterator[_Scale]":
    """The finest scale of each pair in turn, solved, in memory that the next pair takes."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) < 2 or frames.shape[3] != 3:
        raise ValueError(
            "frames must be uint8 [T,H,W,3] with T of at least 2, "
            f"got {frames.dtype} {list(frames.shape)}"
        )
    height, width = frames.shape[1:3]
    sizes = pyramid_sizes(height, width, settings)
    scales = [_Scale(*size, settings) for size in sizes]
    for first, second in pairwise(_pyramid(frame, settings, len(sizes)) for frame in frames):
        coarser = None
        for scale, i0, i1 in reversed([*zip(scales, first, second, strict=True)]):
            scale.begin(coarser)
            scale.solve(i0, i1)
            coarser = scale
        yield scales[0]


def _pyramid(frame: NDArray[np.uint8], settings: Tvl1, scales: int) -> "list[_Image]":
    """Grey images, the finest first."""
    image: NDArray[Any] = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    images, step = [_Image(image, settings)], settings.scale_step
    for _ in range(1, scales):
        image = cv2.resize(image, None, fx=step, fy=step)  # OpenCV rounds to the same sizes
        images.append(_Image(image, settings))
    return images


class _Image:
    """A frame at one scale: as the first of a pair, and as the second, which is sampled."""

    def __init__(self, image: NDArray[Any], settings: Tvl1) -> None:
        height, width = image.shape
        self.first = np.zeros((height, loops.stride(width)), np.float32)
        self.second: tuple[Plane, ...]
        if settings.spline:
            self.second = (np.empty((height + 2, width + 2), np.float32),)
            loops.spline_of(image, *self.second, self.first)
        else:
            self.first[:, :width] = image
            self.second = (image, np.empty((2, height, width), np.float32))
            loops.central_differences(*self.second)


class _Scale:
    """The fields of a pair at one scale, used again for every pair."""

    def __init__(self, height: int, width: int, settings: Tvl1) -> None:
        self._height, self._width, self._settings = height, width, settings
        size = loops.plane_size(height, width)
        self._fields = _aligned((loops.PLANES, size))
        self._index = np.zeros(loops.stride(width), np.int32)
        self._row = _aligned((12, loops.stride(width)))

    @property
    def flow(self) -> tuple[Plane, Plane]:
        """u and v, [h,w] each; to be written, too."""
        return self._plane(loops.U), self._plane(loops.V)

    def begin(self, coarser: "_Scale | None") -> None:
        """The flow of the coarser scale, none at the coarsest."""
        self._fields[loops.UX :] = 0
        if coarser is None:
            self._fields[loops.U : loops.UX] = 0
            return
        coarser._fields[loops.U : loops.UX] *= np.float32(1 / self._settings.scale_step)
        for plane, small in zip(self.flow, coarser.flow, strict=True):
            cv2.resize(small, (self._width, self._height), dst=plane)

    def solve(self, i0: _Image, i1: _Image) -> None:
        """Improve the flow."""
        settings, height, width = self._settings, self._height, self._width
        reach, theta = settings.lambda_ * settings.theta, np.float32(settings.theta)
        step = np.float32(settings.tau / settings.theta)
        rest = settings.epsilon**2 * height * width
        for _ in range(settings.warps):
            self._linearise(i0, i1)
            for _ in range(settings.outer_iterations):
                if settings.median:
                    for plane in self.flow:
                        plane[...] = cv2.medianBlur(plane, 5)
                if loops.minimise(
                    self._fields, height, width, settings.iterations, np.float32(reach), theta,
                    step, rest,
                ):  # fmt: skip
                    break

    def _linearise(self, i0: _Image, i1: _Image) -> None:
        if self._settings.spline:
            (coefficients,) = i1.second
            loops.linearise_spline(
                i0.first, coefficients, self._width, self._fields, self._index, self._row
            )
        else:
            image, gradient = i1.second
            loops.linearise_cubic(i0.first, image, gradient, self._width, self._fields)

    def encode(self, gains: tuple[np.float32, np.float32], codes: NDArray[np.uint8]) -> None:
        """Write `codes` [2,h,w] of u and v, each times its gain."""
        row_length = loops.stride(self._width)
        for plane, gain, coded in zip((loops.U, loops.V), gains, codes, strict=True):
            loops.encode(self._fields[plane], row_length, gain, coded)

    def _plane(self, number: int) -> Plane:
        row_length = loops.stride(self._width)
        rows = self._fields[number, : (self._height + 2) * row_length].reshape(-1, row_length)
        return rows[1:-1, : self._width]


def _aligned(shape: tuple[int, int]) -> Plane:
    """Zeros that begin with a cache line, which vectors then do not straddle."""
    size = int(np.prod(shape))
    values = np.zeros(size + 16, np.float32)
    start = -values.ctypes.data % 64 // values.itemsize
    return values[start : start + size].reshape(shape)
