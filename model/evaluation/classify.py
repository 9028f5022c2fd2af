"""Action recognition: scores of clips and of videos, and the linear probe.

Clip accuracy judges every clip by itself, video accuracy the mean of the clips' softmax; the two
are often confused and differ by several points, so both are given.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DRAWS = 10  # of few training videos


@dataclass(frozen=True)
class Scores:
    """How well V test videos of K clips each were recognised."""

    clip_accuracy: float
    video_accuracy: float
    predicted: NDArray[np.int64]  # [V]
    confusion: NDArray[np.int64]  # [C,C], true class by predicted class, videos


def score(probabilities: NDArray[np.float32], classes: NDArray[np.int64], n_classes: int) -> Scores:
    """Judge class probabilities [V,K,C] against true classes [V]; rows of NaN are missing clips.

    A video counts once however many of its clips are missing, but for a video without any clip
    a ValueError is raised: the caller has to leave it out, and to say so.
    """
    present = ~np.isnan(probabilities).any(axis=2)  # [V,K]
    if not present.any(axis=-1).all():
        raise ValueError("a video without any clip cannot be judged")
    hits = np.equal(probabilities.argmax(axis=2), classes[:, None])  # [V,K]
    predicted = np.nanmean(probabilities, axis=1).argmax(axis=1)
    return Scores(
        clip_accuracy=float(hits[present].mean()),
        video_accuracy=float((predicted == classes).mean()),
        predicted=predicted,
        confusion=confusion(classes, predicted, n_classes),
    )


def confusion(
    classes: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int
) -> NDArray[np.int64]:
    """How many of the videos of each class (rows) were taken for each class (columns): [C,C]."""
    return confusion_matrix(classes, predicted, labels=np.arange(n_classes))


def linear_probe(
    train: NDArray[np.float32],
    train_classes: NDArray[np.int64],
    test: NDArray[np.float32],
    test_classes: NDArray[np.int64],
    n_classes: int,
    strength: float = 1.0,
) -> Scores:
    """Logistic regression on standardised clip features of a frozen network.

    Features train [V,K,D] and test [W,K,D], classes [V] and [W]; rows of NaN are missing clips.
    `strength` is the inverse of the L2 penalty. Raises ValueError for fewer than two classes.
    """
    clips = ~np.isnan(train).any(axis=2)  # [V,K]
    clip_classes = np.broadcast_to(train_classes[:, None], clips.shape)[clips]
    if len(np.unique(clip_classes)) < 2:
        raise ValueError("a classifier needs training videos of at least two classes")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    model.fit(train[clips], clip_classes)

    clips = ~np.isnan(test).any(axis=2)
    probabilities = np.full((*test.shape[:2], n_classes), np.nan, np.float32)
    known = np.zeros((int(clips.sum()), n_classes), np.float32)
    known[:, model.classes_] = model.predict_proba(test[clips])  # a class may lack training videos
    probabilities[clips] = known
    return score(probabilities, test_classes, n_classes)


def few(
    train: NDArray[np.float32],
    train_classes: NDArray[np.int64],
    test: NDArray[np.float32],
    test_classes: NDArray[np.int64],
    n_classes: int,
    count: int,
    strength: float = 1.0,
    seed: int = 0,
) -> float:
    """Video accuracy of a linear probe on `count` training videos of each class, or all it has.

    The mean over DRAWS random choices of the videos. Arguments as of `linear_probe`.
    """
    rng = np.random.default_rng(seed)
    accuracies = []
    for _ in range(DRAWS):
        order = rng.permutation(len(train))
        places = [order[train_classes[order] == c][:count] for c in np.unique(train_classes)]
        drawn = np.concatenate(places)
        scores = linear_probe(
            train[drawn], train_classes[drawn], test, test_classes, n_classes, strength
        )
        accuracies.append(scores.video_accuracy)
    return float(np.mean(accuracies))
