"""Action similarity labelling: do two videos show the same action? (ASLAN, Kliper-Gross et al.)

Twelve distances and similarities between the two videos' features, from each of several layers,
are standardised and given to a linear SVM; 10-fold cross-validation with the data set's own folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

Features = NDArray[np.float32]
TINY = 1e-12

DISTANCES = (
    "inner product",
    "cosine",
    "correlation",
    "L1",
    "L2",
    "Linf",
    "Hellinger",
    "Bhattacharyya",
    "chi-square",
    "intersection",
    "intersection over union",
    "symmetric Kullback-Leibler",
)


def distances(first: Features, second: Features) -> NDArray[np.float64]:
    """The twelve `DISTANCES` between rows of non-negative [P,D] and [P,D]: [P,12].

    The last six take a row for a histogram; Kullback-Leibler scales it to sum 1. All are symmetric.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(a.min(initial=0), b.min(initial=0)) < 0:
        raise ValueError("features below zero: take them after a ReLU")
    dot, difference = (a * b).sum(1), a - b
    low, high = np.minimum(a, b).sum(1), np.maximum(a, b).sum(1)
    p, q = ((x + TINY) / (x + TINY).sum(1, keepdims=True) for x in (a, b))
    values = (
        dot,
        _cosine(a, b),
        _cosine(a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)),
        np.abs(difference).sum(1),
        np.linalg.norm(difference, axis=1),
        np.abs(difference).max(1),
        np.linalg.norm(np.sqrt(a) - np.sqrt(b), axis=1),
        np.sqrt(a * b).sum(1),
        (difference**2 / _positive(a + b)).sum(1),
        low,
        low / _positive(high),
        ((p - q) * np.log(p / q)).sum(1),
    )
    return np.stack(values, axis=1)


def describe_pairs(
    layers: Sequence[Features], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The distances of pairs of videos in every layer [V,D_l]: [P,12 x layers].

    A layer is scaled to mean 1 first, so that the smallest denominators are small for it.
    """
    scaled = [layer / (layer.mean() or 1) for layer in layers]
    return np.hstack([distances(layer[first], layer[second]) for layer in scaled])


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(values, TINY)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return (a * b).sum(1) / _positive(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@dataclass(frozen=True)
class Similarity:
    """How well same and not-same pairs were told apart, out of fold."""

    fold_accuracies: NDArray[np.float64]  # [folds]
    auc: float  # of one ROC over all pairs' decision values
    decisions: NDArray[np.float64]  # [P], above 0: same

    @property
    def accuracy(self) -> float:
        return float(self.fold_accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean accuracy over folds."""
        return float(self.fold_accuracies.std(ddof=1) / np.sqrt(len(self.fold_accuracies)))


def cross_validate(
    pairs: NDArray[np.float64],
    same: NDArray[np.bool_],
    folds: NDArray[np.int64],
    strength: float = 1.0,
) -> Similarity:
    """Judge each fold's pairs by an SVM trained on the other folds.

    `pairs` [P,F] are distances, standardised by the training folds; `folds` [P] names each pair's
    fold. Raises ValueError unless there are two folds, and both kinds of pair in each training set.
    """
    names = np.unique(folds)
    if len(names) < 2:
        raise ValueError("cross-validation needs pairs of at least two folds")
    decisions = np.empty(len(pairs))
    accuracies = []
    for name in names:
        test = folds == name
        if len(np.unique(same[~test])) < 2:
            raise ValueError(f"without fold {name} there are not both same and not-same pairs")
        svm = make_pipeline(StandardScaler(), LinearSVC(C=strength, random_state=0))
        svm.fit(pairs[~test], same[~test])
        decisions[test] = svm.decision_function(pairs[test])
        accuracies.append(((decisions[test] > 0) == same[test]).mean())
    return Similarity(np.array(accuracies), float(roc_auc_score(same, decisions)), decisions)
