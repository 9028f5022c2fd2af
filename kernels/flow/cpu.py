"""TV-L1 optical flow on a CPU: OpenCV's result to rounding, an order of magnitude sooner.

OpenCV's own loops make many passes over memory and are not vectorised; these make two an
iteration and are. Method and settings: `kernels.flow.tvl1`. Threads may call at the same time.
"""

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.flow.tvl1 import Tvl1, pyramid_sizes

Plane = NDArray[np.float32]

ONE, HALF = np.float32(1), np.float32(0.5)
LEAST_GRADIENT = np.finfo(np.float32).eps  # of the squared gradient: below it is no data term


def tvl1_flow(frames: NDArray[np.uint8], settings: Tvl1 | None = None) -> NDArray[np.float32]:
    """uint8 RGB frames [T,H,W,3] -> float32 flow [T-1,H,W,2], (u right, v down), px per frame.

    Raises ValueError on other shapes and dtypes.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) < 2 or frames.shape[3] != 3:
        raise ValueError(
            "frames must be uint8 [T,H,W,3] with T of at least 2, "
            f"got {frames.dtype} {list(frames.shape)}"
        )
    settings = settings or Tvl1()
    pyramids = [_pyramid(frame, settings) for frame in frames]
    return np.stack([_flow(*pair, settings) for pair in pairwise(pyramids)])


def _pyramid(frame: NDArray[np.uint8], settings: Tvl1) -> list[Plane]:
    """Grey images, the finest first."""
    image: NDArray[Any] = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    images, step = [image], settings.scale_step
    for _ in pyramid_sizes(image.shape[0], image.shape[1], settings)[1:]:
        image = cv2.resize(image, None, fx=step, fy=step)  # OpenCV rounds to the same sizes
        images.append(image)
    return images


def _flow(first: list[Plane], second: list[Plane], settings: Tvl1) -> NDArray[np.float32]:
    """Two pyramids, the finest scale first -> [H,W,2]."""
    u, v = (np.zeros(first[-1].shape, np.float32) for _ in range(2))
    for i0, i1 in zip(reversed(first), reversed(second), strict=True):
        if u.shape != i0.shape:
            gain = np.float32(1 / settings.scale_step)
            u, v = (cv2.resize(plane, i0.shape[::-1]) * gain for plane in (u, v))
        u, v = _solve(i0, i1, u, v, settings)
    return np.stack([u, v], axis=-1)


def _solve(i0: Plane, i1: Plane, u: Plane, v: Plane, settings: Tvl1) -> tuple[Plane, Plane]:
    """Improve the flow u, v at one scale."""
    height, width = i0.shape
    # One more row and column spare the loops their border: past the last value of u and v the
    # same again, before the first dual value 0.
    u, v = (np.pad(plane, ((0, 1), (0, 1)), mode="edge") for plane in (u, v))
    dual = np.zeros((4, height + 1, width + 1), np.float32)
    data = np.empty((4, height, width), np.float32)
    reach = np.float32(settings.lambda_ * settings.theta)
    theta, step = np.float32(settings.theta), np.float32(settings.tau / settings.theta)
    rest = settings.epsilon**2 * height * width
    gradient = np.empty((2, height, width), np.float32)
    _central_differences(i1, gradient)
    for _ in range(settings.warps):
        _linearise(i0, i1, gradient, u, v, data)
        for _ in range(settings.outer_iterations):
            if settings.median:
                for plane in (u, v):
                    filtered = cv2.medianBlur(np.ascontiguousarray(plane[:-1, :-1]), 5)
                    plane[...] = np.pad(filtered, ((0, 1), (0, 1)), mode="edge")
            if _iterate(data, u, v, dual, settings.iterations, reach, theta, step, rest):
                break
    return u[:-1, :-1], v[:-1, :-1]


@njit(cache=True, nogil=True)
def _central_differences(image, out):  # type: ignore[no-untyped-def]
    """[h,w] -> [2,h,w], x and y; at the border half the difference to the one neighbour."""
    height, width = image.shape
    for y in range(height):
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            out[0, y, x] = HALF * (image[y, right] - image[y, left])
            out[1, y, x] = HALF * (image[below, x] - image[above, x])


@njit(cache=True, nogil=True)
def _cubic(t, weight):  # type: ignore[no-untyped-def]
    """Weights of four neighbours in cubic convolution (A = -0.75), t in [0, 1) past the second."""
    a, s = np.float32(-0.75), ONE - t
    weight[0] = ((a * (t + ONE) - np.float32(5) * a) * (t + ONE) + np.float32(8) * a) * (
        t + ONE
    ) - np.float32(4) * a
    weight[1] = ((a + np.float32(2)) * t - (a + np.float32(3))) * t * t + ONE
    weight[2] = ((a + np.float32(2)) * s - (a + np.float32(3))) * s * s + ONE
    weight[3] = ONE - weight[0] - weight[1] - weight[2]


@njit(cache=True, nogil=True)
def _linearise(i0, i1, gradient, u, v, data):  # type: ignore[no-untyped-def]
    """The data term around the flow: data [4,h,w] = I_x, I_y, rho, 1 / (I_x^2 + I_y^2).

    rho(u', v') = rho + I_x u' + I_y v', from I1 and its gradient sampled bicubically at
    (x + u, y + v). Outside the frame they are 0, so that motion out of the frame is filled in.
    """
    height, width = i0.shape
    weight_x, weight_y = np.empty(4, np.float32), np.empty(4, np.float32)
    for y in range(height):
        for x in range(width):
            at_x = min(max(np.float32(x) + u[y, x], np.float32(-4)), np.float32(width + 4))
            at_y = min(max(np.float32(y) + v[y, x], np.float32(-4)), np.float32(height + 4))
            left, top = int(np.floor(at_x)), int(np.floor(at_y))
            _cubic(at_x - np.float32(left), weight_x)
            _cubic(at_y - np.float32(top), weight_y)
            value = image_x = image_y = np.float32(0)
            for j in range(max(1 - top, 0), min(height + 1 - top, 4)):
                for k in range(max(1 - left, 0), min(width + 1 - left, 4)):
                    weight = weight_y[j] * weight_x[k]
                    value += weight * i1[top - 1 + j, left - 1 + k]
                    image_x += weight * gradient[0, top - 1 + j, left - 1 + k]
                    image_y += weight * gradient[1, top - 1 + j, left - 1 + k]
            data[0, y, x] = image_x
            data[1, y, x] = image_y
            data[2, y, x] = value - image_x * u[y, x] - image_y * v[y, x] - i0[y, x]
            square = image_x * image_x + image_y * image_y
            data[3, y, x] = ONE / square if square > LEAST_GRADIENT else np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc", "arcp"})
def _iterate(data, u, v, dual, iterations, reach, theta, step, rest):  # type: ignore[no-untyped-def]
    """Up to `iterations` steps on u, v [h+1,w+1] and dual [4,h+1,w+1]; whether the flow rests.

    dual [:, y+1, x+1] belongs to pixel (x, y): of d/dx and d/dy of u, then of v.
    """
    height, width = data.shape[1:]
    for _ in range(iterations):
        change = np.float64(0)
        for y in range(height):
            row_change = np.float32(0)
            for x in range(width):
                image_x, image_y = data[0, y, x], data[1, y, x]
                off = data[2, y, x] + (image_x * u[y, x] + image_y * v[y, x])
                pull = min(max(-off * data[3, y, x], -reach), reach)
                u_divergence = (dual[0, y + 1, x + 1] - dual[0, y + 1, x]) + (
                    dual[1, y + 1, x + 1] - dual[1, y, x + 1]
                )
                v_divergence = (dual[2, y + 1, x + 1] - dual[2, y + 1, x]) + (
                    dual[3, y + 1, x + 1] - dual[3, y, x + 1]
                )
                du = pull * image_x + theta * u_divergence
                dv = pull * image_y + theta * v_divergence
                u[y, x] += du
                v[y, x] += dv
                row_change += du * du + dv * dv
            u[y, width] = u[y, width - 1]
            v[y, width] = v[y, width - 1]
            change += row_change
        u[height] = u[height - 1]
        v[height] = v[height - 1]
        for y in range(height):
            for x in range(width):
                u_dx, u_dy = u[y, x + 1] - u[y, x], u[y + 1, x] - u[y, x]
                v_dx, v_dy = v[y, x + 1] - v[y, x], v[y + 1, x] - v[y, x]
                u_scale = ONE / (ONE + step * np.sqrt(u_dx * u_dx + u_dy * u_dy))
                v_scale = ONE / (ONE + step * np.sqrt(v_dx * v_dx + v_dy * v_dy))
                dual[0, y + 1, x + 1] = (dual[0, y + 1, x + 1] + step * u_dx) * u_scale
                dual[1, y + 1, x + 1] = (dual[1, y + 1, x + 1] + step * u_dy) * u_scale
                dual[2, y + 1, x + 1] = (dual[2, y + 1, x + 1] + step * v_dx) * v_scale
                dual[3, y + 1, x + 1] = (dual[3, y + 1, x + 1] + step * v_dy) * v_scale
        if change <= rest:
            return True
    return False
