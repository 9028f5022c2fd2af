"""The loss against a restatement in NumPy, and its shares over processes."""

import numpy as np
import torch

import kernels.labels.schema as schema
from kernels.labels.meaning import points
from kernels.labels.schema import APPEARANCE, MOTION
from model.networks.heads import ClassificationHeads, GeometricHeads, StatisticsHeads
from model.training.loss import (
    ClassificationLoss,
    GeometricLoss,
    StatisticsLoss,
    absolute_errors,
)

RNG = np.random.default_rng(3)
LABELS = RNG.integers(1, 9, (6, 27))
MOTION_OUT = RNG.normal(5, 3, (6, 14)).astype(np.float32)
APP_OUT = RNG.normal(5, 3, (6, 13)).astype(np.float32)
ALL = StatisticsLoss(StatisticsHeads(1))


def loss(loss: StatisticsLoss, motion: np.ndarray, app: np.ndarray, labels: np.ndarray, clips: int):
    return [float(x) for x in loss(*map(torch.from_numpy, (motion, app, labels)), clips)]


def test_published_weights_and_means() -> None:
    """Mean over clips and labels of each family, appearance weighted 0.1."""
    expected = (
        np.mean((MOTION_OUT - LABELS[:, MOTION]) ** 2),
        0.1 * np.mean((APP_OUT - LABELS[:, APPEARANCE]) ** 2),
    )
    np.testing.assert_allclose(loss(ALL, MOTION_OUT, APP_OUT, LABELS, 6), expected, rtol=1e-6)


def test_flags_choose_the_columns_that_are_compared() -> None:
    chosen = StatisticsLoss(StatisticsHeads(1, (0, 1, 0, 0), (0, 0, 0, 0)), 2.0, 1.0)
    motion, app = MOTION_OUT[:, :4], APP_OUT[:, :0]
    expected = 2.0 * np.mean((motion - LABELS[:, 4:8]) ** 2)  # u2p u2o v2p v2o
    np.testing.assert_allclose(loss(chosen, motion, app, LABELS, 6), (expected, 0.0), rtol=1e-6)


def test_shares_of_uneven_processes_add_up_to_the_loss_of_the_whole_batch() -> None:
    parts = [slice(0, 1), slice(1, 6)]
    shares = [loss(ALL, MOTION_OUT[p], APP_OUT[p], LABELS[p], 6) for p in parts]
    np.testing.assert_allclose(
        np.sum(shares, axis=0), loss(ALL, MOTION_OUT, APP_OUT, LABELS, 6), rtol=1e-6
    )


def test_label_errors_are_mean_distances() -> None:
    errors = absolute_errors(torch.from_numpy(APP_OUT), torch.from_numpy(LABELS[:, 14:]), 6)
    expected = np.abs(APP_OUT - LABELS[:, 14:]).mean(axis=0)
    np.testing.assert_allclose(errors.numpy(), expected, rtol=1e-6)


def logits_of(heads: ClassificationHeads, columns: list[int]) -> list[np.ndarray]:
    """Random logits [6,classes] of each label."""
    counts = [schema.LABELS[column].classes(heads.clip_len) for column in columns]
    return [RNG.normal(0, 2, (6, count)).astype(np.float32) for count in counts]


def test_classification_is_the_mean_log_probability_of_the_true_values() -> None:
    heads = ClassificationHeads(1, (1, 0, 1, 1), (0, 1, 0, 1), clip_len=12)
    counts = np.array([label.classes(12) for label in schema.LABELS])
    labels = RNG.integers(1, counts + 1, (6, 27))
    labels[2, 0] = 0  # no motion under the reference rule
    motion, app = logits_of(heads, heads.motion_columns), logits_of(heads, heads.app_columns)
    expected = []
    for columns, logits, weight in [
        (heads.motion_columns, motion, 1.0),
        (heads.app_columns, app, 0.1),
    ]:
        surprise = [
            -np.log(np.exp(x[n, labels[n, c] - 1]) / np.exp(x[n]).sum())
            for c, x in zip(columns, logits, strict=True)
            for n in range(6)
            if labels[n, c] > 0
        ]
        expected.append(weight * np.sum(surprise) / (6 * len(columns)))
    result = loss(ClassificationLoss(heads), np.hstack(motion), np.hstack(app), labels, 6)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    none = ClassificationLoss(ClassificationHeads(1, (0, 0, 0, 0)))
    app = np.hstack(logits_of(none.heads, none.heads.app_columns))
    assert loss(none, np.zeros((6, 0), np.float32), app, labels, 6)[0] == 0


def test_geometric_is_the_mean_squared_distance_from_the_meant_points() -> None:
    heads = GeometricHeads(1, (1, 0, 1, 1), (0, 1, 0, 1), clip_len=12)
    counts = np.array([label.classes(12) for label in schema.LABELS])
    labels = RNG.integers(1, counts + 1, (6, 27))
    labels[2, 0] = 0  # no motion under the reference rule
    predicted, expected = [], []
    for columns, weight in [(heads.motion_columns, 1.0), (heads.app_columns, 0.1)]:
        parts = [RNG.normal(size=(6, points(c, 12).shape[1])).astype(np.float32) for c in columns]
        squares = [
            ((part[n] - points(c, 12)[labels[n, c] - 1]) ** 2).sum()
            for c, part in zip(columns, parts, strict=True)
            for n in range(6)
            if labels[n, c] > 0
        ]
        predicted.append(np.hstack(parts))
        expected.append(weight * np.sum(squares) / (6 * len(columns)))
    np.testing.assert_allclose(
        loss(GeometricLoss(heads), *predicted, labels, 6), expected, rtol=1e-5
    )
    predicted[0][2, 0] = np.nan  # shows, though its label means nothing
    assert np.isnan(loss(GeometricLoss(heads), *predicted, labels, 6)[0])
    none = GeometricLoss(GeometricHeads(1, (0, 0, 0, 0), (0, 1, 0, 1), clip_len=12))
    assert loss(none, np.zeros((6, 0), np.float32), predicted[1], labels, 6)[0] == 0
