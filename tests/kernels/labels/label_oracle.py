"""The 27 labels restated from the papers in slow float64 NumPy, independent of the project's code.

A label is the place of the largest score, so the oracle gives scores: a label that is not the
first largest is right only where its score ties with the largest.
"""

import numpy as np

Scores = dict[str, np.ndarray]  # name of a label -> its candidates' scores; label 1 is the first


def block_masks(size: int, reference: bool) -> list[np.ndarray]:
    """[16 squares, 4 rings, 8 triangles], each a list of bool [S,S]."""
    r, c = np.mgrid[:size, :size]
    quarter, half, last = size // 4, size // 2, size - 1
    squares = [(r // quarter == i) & (c // quarter == j) for i in range(4) for j in range(4)]
    distance = np.minimum(np.minimum(r, last - r), np.minimum(c, last - c))
    rings = [3 - np.minimum(distance // (size // 8), 3) == k for k in range(4)]
    halves = [r >= c, r <= c, r + c <= last, r + c >= last, r + c <= last, r + c >= last]
    halves += [r >= c, r <= c]
    quadrants = [(r < half) & (c < half), (r < half) & (c >= half)]
    quadrants += [(r >= half) & (c < half), (r >= half) & (c >= half)]
    diagonal = (r == c) | (r + c == last)
    triangles = [quadrants[k // 2] & halves[k] & (reference | ~diagonal) for k in range(8)]
    return [squares, rings, triangles]


def label_scores(frames: np.ndarray, flow: np.ndarray, reference: bool, labels: dict) -> Scores:
    """Scores of every label of one clip, of its colours and orientations in the labelled blocks.

    frames uint8 [T,S,S,3], flow [F,S,S,2] with the fields that count, labels by name.
    """
    masks = block_masks(frames.shape[1], reference)
    return _motion(flow.astype(np.float64), masks, reference, labels) | _appearance(
        frames, masks, reference, labels
    )


def assert_labels(
    labels: np.ndarray, frames: np.ndarray, flow: np.ndarray, rule: str, tolerance: float = 1e-6
) -> None:
    """Every label of a batch has the largest score, but for ties (relative to the largest)."""
    from kernels.labels.schema import NAMES

    for n, row in enumerate(labels):
        by_name = dict(zip(NAMES, row.tolist(), strict=True))
        scores = label_scores(frames[n], flow[n], rule == "reference", by_name)
        assert scores.keys() == set(NAMES)
        for name, label in by_name.items():
            best = scores[name].max()
            if label == 0:  # `reference`, pattern 1
                assert (rule, name[1], best) == ("reference", "1", 0), f"clip {n} {name}"
                continue
            missing = best - scores[name][label - 1]
            tied = missing <= tolerance * abs(best)
            assert tied, f"clip {n} {name}: {label}, not {scores[name].argmax() + 1}, by {missing}"
            exact = np.flatnonzero(scores[name] == best)
            if missing == 0 and len(exact) > 1 and best == np.rint(best):
                assert label == exact[0] + 1, f"clip {n} {name}: a tie goes to the first"


def _motion(flow: np.ndarray, masks: list, reference: bool, labels: dict) -> Scores:
    scores = {}
    for component, name in enumerate("uv"):
        f = np.pad(flow[..., component], ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows = f[:, :-2] + f[:, 1:-1] + f[:, 2:]
        columns = f[:, :, :-2] + f[:, :, 1:-1] + f[:, :, 2:]
        gx = rows[:, :, 2:] - rows[:, :, :-2]
        gy = columns[:, 2:] - columns[:, :-2]
        if reference:
            gx, gy = -gx, -gy
        x, y = gx.sum(axis=0), gy.sum(axis=0)
        magnitude = np.hypot(x, y)
        angle = np.degrees(np.arctan2(y, x)) % 360
        low = np.floor(angle / 45).astype(int)
        share = angle / 45 - low
        for pattern, blocks in enumerate(masks, 1):
            key = f"{name}{pattern}"
            scores[key + "p"] = np.array([magnitude[block].mean() for block in blocks])
            block = blocks[max(labels[key + "p"] - 1, 0)]
            votes = np.zeros(8)
            np.add.at(votes, low[block] % 8, (magnitude * (1 - share))[block])
            np.add.at(votes, (low[block] + 1) % 8, (magnitude * share)[block])
            scores[key + "o"] = votes
        fields = np.hypot(gx, gy).sum(axis=(1, 2))
        scores[name + "g"] = fields[:-1] if reference else fields
    return scores


def _appearance(frames: np.ndarray, masks: list, reference: bool, labels: dict) -> Scores:
    scores = {}
    for pattern, blocks in enumerate(masks, 1):
        iou = np.array([_iou(frames[:, block]) for block in blocks])
        scores[f"{pattern}dp"], scores[f"{pattern}cp"] = -iou, iou
        for source in "dc":
            k = labels[f"{pattern}{source}p"] - 1
            if reference and (pattern, k) == (2, 1):
                samples = ring_1_as_published(frames)
            else:
                samples = frames[:, blocks[k]].reshape(-1, 3)
            scores[f"{pattern}{source}c"] = _colour(samples, reference)
    scores["gc"] = _colour(frames.reshape(-1, 3), reference)
    return scores


def _iou(samples: np.ndarray) -> float:  # [T,P,3]
    ratios = []
    for channel in range(3):
        counts = np.array([np.bincount(frame, minlength=256) for frame in samples[..., channel]])
        ratios.append(counts.min(axis=0).sum() / counts.max(axis=0).sum())
    return sum(ratios) / 3


def _colour(samples: np.ndarray, reference: bool) -> np.ndarray:  # [P,3] RGB -> scores [8]
    r, g, b = samples.astype(np.int64).T
    if reference:
        values, counts = np.unique(b * 65536 + g * 256 + r, return_counts=True)
        top = values[counts.argmax()]  # of equals the smallest
        r, g, b = (np.array([channel]) for channel in (top % 256, top // 256 % 256, top // 65536))
    octant = 4 * (b < 128) + 2 * (r >= 128) + (g >= 128)
    return np.bincount(octant, minlength=8).astype(float)


def ring_1_as_published(frames: np.ndarray) -> np.ndarray:
    """The samples that the published code counts for ring 1 of 112x112 frames: [31360,3]."""
    black = frames[:2, 28:84, 28:84].copy()
    black[:, 14:42, 14:42] = 0
    parts = [
        frames[:, 28:42, 28:84],
        frames[:, 42:70, 28:42],
        frames[:, 42:70, 70:84],
        black,
    ]
    return np.concatenate([part.reshape(-1, 3) for part in parts])
