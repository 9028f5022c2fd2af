"""What values mean: neighbours lie near each other, and all labels count alike."""

import numpy as np
import pytest

from kernels.labels.meaning import points
from kernels.labels.schema import INDEX, LABELS


def distances(name: str, clip_len: int = 16) -> np.ndarray:
    of_label = points(INDEX[name], clip_len)
    return np.linalg.norm(of_label[:, None] - of_label, axis=-1)  # [classes,classes]


@pytest.mark.parametrize("clip_len", [2, 16, 64])
def test_a_constant_guess_is_wrong_by_one_in_the_mean(clip_len: int) -> None:
    for column, label in enumerate(LABELS):
        of_label = points(column, clip_len)
        assert len(of_label) == label.classes(clip_len)
        np.testing.assert_allclose(of_label.mean(axis=0), 0, atol=1e-6)
        if len(of_label) > 1:  # a clip of two frames has one frame that moved
            assert (of_label**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-6)


def test_directions_lie_on_a_circle() -> None:
    for name in ("u1o", "v3o"):
        octants = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
        apart = np.radians(45) * np.minimum(octants, 8 - octants)
        np.testing.assert_allclose(distances(name), 2 * np.sin(apart / 2), atol=1e-6)


def test_squares_are_as_far_apart_as_rows_and_columns_say() -> None:
    rows, columns = np.divmod(np.arange(16), 4)
    apart = np.hypot(np.subtract.outer(rows, rows), np.subtract.outer(columns, columns))
    found = distances("u1p")
    np.testing.assert_allclose(found, apart * found[0, 1], atol=1e-5)
    assert points(INDEX["1dp"])[1, 0] > points(INDEX["1dp"])[0, 0]  # x grows to the right
    assert points(INDEX["1dp"])[4, 1] > points(INDEX["1dp"])[0, 1]  # y grows down


def test_rings_grow_outwards_in_nearly_even_steps() -> None:
    (steps,) = np.diff(points(INDEX["v2p"]), axis=0).T
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.15)


def test_triangles_mirror_each_other() -> None:
    triangles = points(INDEX["u3p"])
    # 0 and 1 are the upper left quadrant's: below and above its falling diagonal.
    np.testing.assert_allclose(triangles[0], triangles[1][::-1], atol=1e-6)
    np.testing.assert_allclose(triangles[[0, 1]], triangles[[3, 2]] * (-1, 1), atol=1e-6)
    np.testing.assert_allclose(triangles[[0, 1]], triangles[[4, 5]] * (1, -1), atol=1e-6)
    np.testing.assert_allclose(triangles[[0, 1]], -triangles[[7, 6]], atol=1e-6)
    assert triangles[0, 0] < triangles[0, 1] < 0


def test_colours_differ_by_their_channels() -> None:
    bits = np.array([[value >> bit & 1 for bit in range(3)] for value in range(8)])
    channels = (bits[:, None] != bits).sum(axis=-1)
    np.testing.assert_allclose(distances("gc") ** 2, 4 / 3 * channels, atol=1e-5)


def test_frames_lie_in_their_order() -> None:
    apart = np.abs(np.subtract.outer(np.arange(15), np.arange(15)))
    found = distances("ug")
    np.testing.assert_allclose(found, apart * found[0, 1], atol=1e-5)
