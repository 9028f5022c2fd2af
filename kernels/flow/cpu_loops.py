"""The compiled loops of TV-L1 on a CPU: linearise around a flow, and minimise.

A scale of a pair is ten planes of one array `fields` [10, n]. Its planes are [height+2, stride]
flattened: pixel (x, y) lies at (y + 1) * stride + x, so that a loop runs through all rows at once,
and what lies beside a pixel is a fixed step away. A column and a row around the frame are border:

    flow    past the last value of a row or column the same again: no difference over the border
    dual    0, which is the border condition of the divergence
    data    0: nothing pulls there
"""

import numpy as np
from numba import njit

from kernels.flow.code import FLOW_LIMIT_PX

I_X, I_Y, RHO, INVERSE, U, V, UX, UY, VX, VY = range(10)  # planes; UX, UY: dual of d/dx, d/dy of u
PLANES = 10
_LANES = 8  # of a vector register: rows begin at multiples
_STAGGER = 208  # values: planes at equal places of a memory page would hinder each other
_STRIP = 32  # rows, within which changes are summed in single precision

_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)
_THREE_QUARTERS = np.float32(3 / 4)
_LEAST_GRADIENT = np.finfo(np.float32).eps  # of the squared gradient: below it is no data term
_LIMIT, _LEVELS = np.float32(FLOW_LIMIT_PX), np.float32(255 / (2 * FLOW_LIMIT_PX))
_NEXT = np.uintp(1)  # an unsigned index is never taken to count from the end
# Frames are bytes, so all values are finite: without that promise, vectors would be slower.
_FAST = {"contract", "nsz", "reassoc", "arcp", "nnan", "ninf"}
# Single operations in the order written, as on a GPU.
_EXACT = {"nsz", "nnan", "ninf"}


@njit
def stride(width):  # type: ignore[no-untyped-def]
    """Values from a row to the next: the width and at least one column of border."""
    return (width // _LANES + 1) * _LANES


def plane_size(height: int, width: int) -> int:
    """Values of a plane, and those that keep planes apart."""
    size = (height + 2) * stride(width)
    return -(-size // 1024) * 1024 + _STAGGER


# ---- bicubic samples, as OpenCV takes them ------------------------------------------------------


@njit(cache=True, nogil=True)
def central_differences(image, out):  # type: ignore[no-untyped-def]
    """[h,w] -> [2,h,w], x and y; at the border half the difference to the one neighbour."""
    height, width = image.shape
    for y in range(height):
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            out[0, y, x] = _HALF * (image[y, right] - image[y, left])
            out[1, y, x] = _HALF * (image[below, x] - image[above, x])


@njit(cache=True, nogil=True)
def _cubic(t, weight):  # type: ignore[no-untyped-def]
    """Weights of four neighbours in cubic convolution (A = -0.75), t in [0, 1) past the second."""
    a, s = np.float32(-0.75), _ONE - t
    weight[0] = ((a * (t + _ONE) - np.float32(5) * a) * (t + _ONE) + np.float32(8) * a) * (
        t + _ONE
    ) - np.float32(4) * a
    weight[1] = ((a + np.float32(2)) * t - (a + np.float32(3))) * t * t + _ONE
    weight[2] = ((a + np.float32(2)) * s - (a + np.float32(3))) * s * s + _ONE
    weight[3] = _ONE - weight[0] - weight[1] - weight[2]


@njit(cache=True, nogil=True)
def linearise_cubic(i0, i1, gradient, width, fields):  # type: ignore[no-untyped-def]
    """The data term around the flow: I_x, I_y, rho, 1 / (I_x^2 + I_y^2).

    rho(u', v') = rho + I_x u' + I_y v', from I1 [h,w] and its gradient [2,h,w] sampled bicubically
    at (x + u, y + v). Outside the frame they are 0, so that motion out of it is filled in. I0 is
    [h,stride].
    """
    height, row_length = i0.shape
    weight_x, weight_y = np.empty(4, np.float32), np.empty(4, np.float32)
    for y in range(height):
        for x in range(width):
            pixel = (y + 1) * row_length + x
            u, v = fields[U, pixel], fields[V, pixel]
            at_x = min(max(np.float32(x) + u, np.float32(-4)), np.float32(width + 4))
            at_y = min(max(np.float32(y) + v, np.float32(-4)), np.float32(height + 4))
            left, top = int(np.floor(at_x)), int(np.floor(at_y))
            _cubic(at_x - np.float32(left), weight_x)
            _cubic(at_y - np.float32(top), weight_y)
            value = image_x = image_y = _ZERO
            for j in range(max(1 - top, 0), min(height + 1 - top, 4)):
                for k in range(max(1 - left, 0), min(width + 1 - left, 4)):
                    weight = weight_y[j] * weight_x[k]
                    value += weight * i1[top - 1 + j, left - 1 + k]
                    image_x += weight * gradient[0, top - 1 + j, left - 1 + k]
                    image_y += weight * gradient[1, top - 1 + j, left - 1 + k]
            fields[I_X, pixel] = image_x
            fields[I_Y, pixel] = image_y
            fields[RHO, pixel] = value - image_x * u - image_y * v - i0[y, x]
            square = image_x * image_x + image_y * image_y
            fields[INVERSE, pixel] = _ONE / square if square > _LEAST_GRADIENT else _ZERO


# ---- samples of a quadratic spline --------------------------------------------------------------


@njit(nogil=True, error_model="numpy", fastmath=_EXACT)
def _weigh(d, before, at, after):  # type: ignore[no-untyped-def]
    """A quadratic spline of three coefficients, d in [-0.5, 0.5] past the middle one's pixel.

    Always the same operations: of frames that stand still, flow is to be 0 and not nearly so,
    since 0 px lies between two codes.
    """
    lower, upper = _HALF - d, _HALF + d
    return (
        (_HALF * lower * lower) * before
        + (_THREE_QUARTERS - d * d) * at
        + (_HALF * upper * upper) * after
    )


@njit(nogil=True, error_model="numpy", fastmath=_EXACT)
def _slope(d, before, at, after):  # type: ignore[no-untyped-def]
    """Its derivative."""
    return _HALF * (after - before) + d * ((before - at) + (after - at))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def spline_of(image, coefficients, at_pixels):  # type: ignore[no-untyped-def]
    """Image [h,w] -> `coefficients` [h+2,w+2] of a quadratic spline, which are the image with its
    edge around it, and the spline's values `at_pixels` [h,stride].
    """
    height, width = image.shape
    for y in range(height):
        for x in range(width):
            coefficients[y + 1, x + 1] = image[y, x]
        coefficients[y + 1, 0] = image[y, 0]
        coefficients[y + 1, width + 1] = image[y, width - 1]
    coefficients[0] = coefficients[1]
    coefficients[height + 1] = coefficients[height]
    for y in range(height):
        above, level, below = coefficients[y], coefficients[y + 1], coefficients[y + 2]
        for x in range(width):
            at_pixels[y, x] = _weigh(
                _ZERO,
                _weigh(_ZERO, above[x], above[x + 1], above[x + 2]),
                _weigh(_ZERO, level[x], level[x + 1], level[x + 2]),
                _weigh(_ZERO, below[x], below[x + 1], below[x + 2]),
            )


@njit(cache=True, nogil=True)
def linearise_spline(i0, i1, width, fields, index, row):  # type: ignore[no-untyped-def]
    """The same from the quadratic spline whose coefficients are I1, and its own gradient.

    I1 [h+2,w+2] has its edge around it; I0 [h,stride] is what the spline of that frame is at its
    pixels, 0 past the last. Outside the frame the gradient is 0. Working space, zeroed: `index`
    int32 [stride] and `row` float32 [12,stride].
    """
    height, row_length = i0.shape
    image = i1.reshape(i1.size)
    data = fields[I_X], fields[I_Y], fields[RHO], fields[INVERSE]
    flow = fields[U], fields[V]
    beyond = row[9], row[10], row[11]
    for y in range(height):
        first = np.uintp((y + 1) * row_length)
        _find(y, height, width, first, flow, index, beyond)
        for k in range(3):
            below = np.uintp(k * (width + 2))
            _gather(image, index, below, (row[3 * k], row[3 * k + 1], row[3 * k + 2]))
        _combine(i0[y], first, flow, row, beyond, data)


@njit(cache=True, nogil=True, error_model="numpy", inline="never")
def _find(y, height, width, first, flow, index, beyond):  # type: ignore[no-untyped-def]
    """Of each pixel in row y: which of I1's values is above and left of the one nearest to
    (x + u, y + v); how far `beyond` that one it lies in x and in y, and 1 in the frame, 0 outside.
    """
    (u, v), (beyond_x, beyond_y, inside) = flow, beyond
    last_x, last_y = np.float32(width - 1), np.float32(height - 1)
    row_length = np.int32(width + 2)
    for x in range(width):
        to_x, to_y = np.float32(x) + u[first + np.uintp(x)], np.float32(y) + v[first + np.uintp(x)]
        at_x, at_y = min(max(to_x, _ZERO), last_x), min(max(to_y, _ZERO), last_y)
        left, top = np.int32(at_x + _HALF), np.int32(at_y + _HALF)
        index[x] = top * row_length + left
        beyond_x[x], beyond_y[x] = at_x - np.float32(left), at_y - np.float32(top)
        inside[x] = _ONE if (at_x == to_x) & (at_y == to_y) else _ZERO


@njit(cache=True, nogil=True, inline="never")
def _gather(image, index, below, taps):  # type: ignore[no-untyped-def]
    """Three neighbours each of `image`; alone in a loop, so that the other loops are vectorised."""
    left, middle, right = taps
    for x in range(len(index)):
        at = np.uintp(index[x]) + below
        left[x], middle[x], right[x] = image[at], image[at + _NEXT], image[at + _NEXT + _NEXT]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT, inline="never")
def _combine(i0, first, flow, taps, beyond, data):  # type: ignore[no-untyped-def]
    """Rows of taps and distances -> the data term of a row of pixels, the first at `first`."""
    (u, v), (image_x, image_y, rho, inverse) = flow, data
    beyond_x, beyond_y, inside = beyond
    top_left, top, top_right = taps[0], taps[1], taps[2]
    left, middle, right = taps[3], taps[4], taps[5]
    bottom_left, bottom, bottom_right = taps[6], taps[7], taps[8]
    for x in range(len(i0)):
        dx, dy = beyond_x[x], beyond_y[x]
        above = _weigh(dx, top_left[x], top[x], top_right[x])
        level = _weigh(dx, left[x], middle[x], right[x])
        below = _weigh(dx, bottom_left[x], bottom[x], bottom_right[x])
        above_x = _slope(dx, top_left[x], top[x], top_right[x])
        level_x = _slope(dx, left[x], middle[x], right[x])
        below_x = _slope(dx, bottom_left[x], bottom[x], bottom_right[x])
        value = _weigh(dy, above, level, below)
        slope_x = _weigh(dy, above_x, level_x, below_x) * inside[x]
        slope_y = _slope(dy, above, level, below) * inside[x]
        i = first + np.uintp(x)
        image_x[i], image_y[i] = slope_x, slope_y
        rho[i] = value - (slope_x * u[i] + slope_y * v[i]) - i0[x]
        square = slope_x * slope_x + slope_y * slope_y
        inverse[i] = _ONE / square if square > _LEAST_GRADIENT else _ZERO


# ---- minimisation around one linearisation ------------------------------------------------------


# One function: of one that it called there would be two forms, compiled alone and within it, whose
# results differ by rounding, and which of them ran would depend on what the cache held.
@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def minimise(fields, height, width, iterations, reach, theta, step, rest):  # type: ignore[no-untyped-def]
    """Up to `iterations` steps on flow and dual; whether the flow came to rest.

    It rests with the first step that changes it by no more than `rest`, a sum of squares in px^2.
    """
    image_x, image_y, rho, inverse = fields[I_X], fields[I_Y], fields[RHO], fields[INVERSE]
    u, v = fields[U], fields[V]
    ux, uy, vx, vy = fields[UX], fields[UY], fields[VX], fields[VY]
    row_length, beside = np.uintp(stride(width)), np.uintp(width)
    begin, end = row_length, np.uintp(height + 1) * row_length
    for _ in range(iterations):
        # The flow moves towards the data, along the gradient to where rho is 0 but no farther than
        # `reach`, and along the divergence of the dual.
        change = np.float64(0)
        for strip in range(begin, end, np.uintp(_STRIP) * row_length):
            of_strip = _ZERO
            for i in range(strip, min(strip + np.uintp(_STRIP) * row_length, end)):
                off = rho[i] + (image_x[i] * u[i] + image_y[i] * v[i])
                pull = min(max(-off * inverse[i], -reach), reach)
                u_divergence = (ux[i] - ux[i - _NEXT]) + (uy[i] - uy[i - row_length])
                v_divergence = (vx[i] - vx[i - _NEXT]) + (vy[i] - vy[i - row_length])
                du = pull * image_x[i] + theta * u_divergence
                dv = pull * image_y[i] + theta * v_divergence
                u[i] += du
                v[i] += dv
                of_strip += du * du + dv * dv
            change += of_strip
        for row in range(begin, end, row_length):
            last = row + beside - _NEXT
            u[last + _NEXT], v[last + _NEXT] = u[last], v[last]
        for i in range(end, end + row_length):
            u[i], v[i] = u[i - row_length], v[i - row_length]
        # The dual moves along the gradient of the flow, back to a length of 1 at most.
        for i in range(begin, end):
            u_dx, u_dy = u[i + _NEXT] - u[i], u[i + row_length] - u[i]
            v_dx, v_dy = v[i + _NEXT] - v[i], v[i + row_length] - v[i]
            u_scale = _ONE / (_ONE + step * np.sqrt(u_dx * u_dx + u_dy * u_dy))
            v_scale = _ONE / (_ONE + step * np.sqrt(v_dx * v_dx + v_dy * v_dy))
            ux[i] = (ux[i] + step * u_dx) * u_scale
            uy[i] = (uy[i] + step * u_dy) * u_scale
            vx[i] = (vx[i] + step * v_dx) * v_scale
            vy[i] = (vy[i] + step * v_dy) * v_scale
        for row in range(begin, end, row_length):
            border = row + beside
            ux[border] = uy[border] = vx[border] = vy[border] = _ZERO
            border = row + row_length - _NEXT  # left of the next row
            ux[border] = vx[border] = _ZERO
        if change <= rest:
            return True
    return False


# ---- what a batch takes --------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def encode(plane, row_length, gain, out):  # type: ignore[no-untyped-def]
    """A plane of flow -> uint8 codes [h,w] of its values times `gain`: kernels.flow.code.encode."""
    height, width = out.shape
    for y in range(height):
        first = np.uintp((y + 1) * row_length)
        for x in range(np.uintp(width)):
            limited = min(max(plane[first + x] * gain, -_LIMIT), _LIMIT)
            out[y, x] = np.uint8(np.rint((limited + _LIMIT) * _LEVELS))
