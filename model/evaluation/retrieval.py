"""Video retrieval: does a video's nearest neighbour show the same action?

Protocol as in VCOP (Xu et al., CVPR 2019): cosine similarity between videos of a test set and of a
training set; a hit at k if any of the k nearest training videos has the query's class. `centred`
is CoCLR's variant (Han et al., NeurIPS 2020): each set's mean is subtracted first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KS = (1, 5, 10, 20, 50)
CHUNK = 1024  # queries at a time


@dataclass(frozen=True)
class Retrieval:
    """The nearest training videos of Q test videos, and how often they hit."""

    neighbours: NDArray[np.int64]  # [Q,K], indices of training videos, nearest first
    similarities: NDArray[np.float32]  # [Q,K], cosine
    hits: NDArray[np.bool_]  # [Q,K], whether a neighbour has the query's class

    def at(self, k: int) -> float:
        """The share of queries with a hit among their k nearest neighbours."""
        return float(self.hits[:, :k].any(axis=1).mean())


def retrieve(
    query: NDArray[np.float32],
    query_classes: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_classes: NDArray[np.int64],
    centred: bool = False,
    most: int = max(KS),
) -> Retrieval:
    """The `most` nearest of gallery [G,D] for every one of query [Q,D]; classes [G] and [Q].

    Of equally near videos the first comes first. Raises ValueError if a set is empty.
    """
    if not len(query) or not len(gallery):
        raise ValueError(f"retrieval needs videos on both sides, got {len(query)}, {len(gallery)}")
    if centred:
        query, gallery = query - query.mean(axis=0), gallery - gallery.mean(axis=0)
    query, gallery = unit(query), unit(gallery)
    most = min(most, len(gallery))
    neighbours = np.empty((len(query), most), np.int64)
    similarities = np.empty((len(query), most), np.float32)
    for start in range(0, len(query), CHUNK):
        rows = slice(start, start + CHUNK)
        similarity = query[rows] @ gallery.T  # [CHUNK,G]
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :most]
        neighbours[rows] = nearest
        similarities[rows] = np.take_along_axis(similarity, nearest, axis=1)
    hits = gallery_classes[neighbours] == query_classes[:, None]
    return Retrieval(neighbours, similarities, hits)


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [N,D] scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(length > 0, length, 1)).astype(np.float32)
