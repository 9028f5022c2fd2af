"""Dynamic scene recognition: a linear SVM on video features, leave one out (Tran et al. 2015)."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from model.evaluation.retrieval import unit

MANY = 100  # videos from which on starting processes pays


def leave_one_out(
    features: NDArray[np.float32], classes: NDArray[np.int64], strength: float = 1.0
) -> NDArray[np.int64]:
    """The class [V] predicted for each video by an SVM trained on all others.

    Features [V,D] are scaled to length 1, then standardised by those trained on; `strength` is the
    SVM's C. Uses all cores. Raises ValueError if a class has only one video: left out, it cannot
    be known.
    """
    ids, videos = np.unique(classes, return_counts=True)
    if len(ids) < 2:
        raise ValueError("recognition needs videos of at least two classes")
    if videos.min() < 2:
        raise ValueError(
            f"{(videos < 2).sum()} classes have only one video; leave-one-out needs two or more"
        )
    svm = make_pipeline(StandardScaler(), LinearSVC(C=strength, random_state=0))
    jobs = -1 if len(classes) >= MANY else 1
    return cross_val_predict(svm, unit(features), classes, cv=LeaveOneOut(), n_jobs=jobs)
