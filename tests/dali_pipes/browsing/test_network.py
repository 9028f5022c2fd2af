"""Which mistakes are near misses."""

import numpy as np
import pytest

from dali_pipes.browsing.network import hits, wrong
from kernels.labels.schema import INDEX, LABELS


def predict(name: str, pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions [N,27] with (true, predicted) in one column, 0 elsewhere."""
    table = np.zeros((2, len(pairs), len(LABELS)), np.int64)
    table[:, :, INDEX[name]] = np.transpose(pairs)
    return table[0], table[1]


@pytest.mark.parametrize(
    ("name", "pairs", "near", "far"),
    [
        ("u1o", [(1, 1), (1, 8), (1, 2), (1, 5), (1, 4), (8, 4)], 2, 2),
        ("u1p", [(1, 1), (1, 2), (1, 5), (1, 6), (4, 5), (16, 15)], 3, 0),
        ("u2p", [(1, 1), (1, 2), (2, 3), (1, 3), (1, 4)], 2, 0),
        ("u3p", [(1, 1), (1, 2), (1, 5), (1, 3), (1, 6), (2, 3)], 3, 0),
        ("gc", [(1, 1), (1, 2), (1, 3), (1, 5), (1, 8), (4, 5)], 3, 2),
        ("ug", [(1, 1), (1, 2), (15, 14), (1, 3), (15, 1)], 2, 0),
    ],
)
def test_near_misses(name: str, pairs: list[tuple[int, int]], near: int, far: int) -> None:
    (hit,) = hits(*predict(name, pairs))
    n = len(pairs)
    assert hit.label.name == name
    assert hit.right == pytest.approx(1 / n)
    assert hit.near == pytest.approx(near / n)
    assert hit.far == pytest.approx(far / n)
    assert hit.other == pytest.approx((n - 1 - near - far) / n)
    commonest = max(np.unique([true for true, _ in pairs], return_counts=True)[1])
    assert hit.free == pytest.approx(commonest / n)


def test_labels_that_are_not_learned_are_not_wrong() -> None:
    labels, predicted = predict("u1p", [(1, 1), (2, 3), (4, 0), (0, 3)])  # 0: nothing moves
    labels[:, INDEX["v1p"]] = 5
    assert wrong(labels, predicted).tolist() == [0, 1, 0, 0]
    (hit,) = hits(labels, predicted)
    assert hit.right == pytest.approx(0.5)
