"""Each protocol on features with a known answer, and against a plain restatement."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.evaluation import classify
from model.evaluation.classify import Scores, few, linear_probe, score
from model.evaluation.retrieval import retrieve
from model.evaluation.scenes import leave_one_out
from model.evaluation.similarity import DISTANCES, cross_validate, describe_pairs, distances


def clusters(
    rng: np.random.Generator, per_class: int, n_classes: int, dims: int, noise: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features that lie around their class's own axis."""
    classes = np.arange(n_classes).repeat(per_class)
    features = np.eye(n_classes, dims)[classes] + noise * rng.standard_normal((len(classes), dims))
    return features.astype(np.float32), classes


# Retrieval


def test_planted_neighbours_are_found_in_order() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((60, 32)).astype(np.float32)
    query = rng.standard_normal((7, 32)).astype(np.float32)
    # Of query q, video 10 + q is the nearest, 20 + q the second; longer vectors are not nearer.
    gallery[10:17] = 3 * query + 0.1 * rng.standard_normal((7, 32))
    gallery[20:27] = 0.2 * query + 0.04 * rng.standard_normal((7, 32))
    gallery_classes = np.full(60, 9)
    gallery_classes[20:24] = 1  # four queries hit at their second neighbour
    result = retrieve(query, np.ones(7, int), gallery, gallery_classes)
    np.testing.assert_array_equal(result.neighbours[:, 0], np.arange(10, 17))
    np.testing.assert_array_equal(result.neighbours[:, 1], np.arange(20, 27))
    assert result.at(1) == 0
    assert result.at(2) == pytest.approx(4 / 7)


@pytest.mark.parametrize("centred", [False, True])
def test_retrieval_is_the_brute_force_ranking(centred: bool) -> None:
    rng = np.random.default_rng(1)
    query = rng.random((1100, 5), np.float32)  # more than one chunk
    gallery = rng.random((40, 5), np.float32)
    classes, gallery_classes = rng.integers(0, 8, 1100), rng.integers(0, 8, 40)
    result = retrieve(query, classes, gallery, gallery_classes, centred)
    q, g = (x - x.mean(0) * centred for x in (query.astype(float), gallery.astype(float)))
    for i in (0, 1023, 1024, 1099):
        cosine = [q[i] @ row / np.linalg.norm(q[i]) / np.linalg.norm(row) for row in g]
        order = sorted(range(40), key=lambda j: -cosine[j])
        np.testing.assert_array_equal(result.neighbours[i], order)
        np.testing.assert_allclose(result.similarities[i], sorted(cosine)[::-1], atol=1e-5)
        first_hit = [gallery_classes[j] == classes[i] for j in order].index(True)
        assert not result.hits[i, :first_hit].any()
        assert result.hits[i, first_hit]
    assert result.at(40) == 1.0  # every class has a video among all of them


def test_equal_neighbours_come_in_the_order_of_the_gallery() -> None:
    result = retrieve(
        np.ones((1, 3), np.float32), np.zeros(1, int), np.ones((4, 3), np.float32), np.arange(4)
    )
    np.testing.assert_array_equal(result.neighbours, [[0, 1, 2, 3]])


# Classification


def test_clip_and_video_accuracy_are_told_apart() -> None:
    # Video 0: two clips slightly wrong, one surely right: the video is right, its clips are not.
    sure, unsure = [0.9, 0.1], [0.4, 0.6]
    probabilities = np.array([[sure, unsure, unsure], [unsure, sure, unsure]], np.float32)
    result = score(probabilities, np.array([0, 1]), 2)
    assert result.clip_accuracy == pytest.approx((1 + 2) / 6)
    assert result.video_accuracy == 0.5  # video 1 is drawn to class 0 by its sure clip
    np.testing.assert_array_equal(result.confusion, [[1, 0], [1, 0]])


def test_missing_clips_do_not_count_and_missing_videos_are_no_videos() -> None:
    probabilities = np.full((2, 3, 2), np.nan, np.float32)
    probabilities[0, 0] = [0.8, 0.2]
    probabilities[1, 2] = [0.8, 0.2]
    result = score(probabilities, np.array([0, 1]), 2)
    assert (result.clip_accuracy, result.video_accuracy) == (0.5, 0.5)
    probabilities[1] = np.nan
    with pytest.raises(ValueError, match="without any clip"):
        score(probabilities, np.array([0, 1]), 2)


def test_linear_probe_learns_what_is_linear_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    features, classes = clusters(rng, 20, 4, 16, noise=0.2)
    clips = features[:, None] + 0.1 * rng.standard_normal((80, 3, 16)).astype(np.float32)
    clips[5, 1] = np.nan  # a clip that could not be decoded
    order = rng.permutation(80)
    train, test = order[:60], order[60:]
    result = linear_probe(clips[train], classes[train], clips[test], classes[test], 5)
    assert result.video_accuracy > 0.9
    assert result.confusion.shape == (5, 5)  # a class without training videos is never predicted
    assert result.confusion.sum() == 20
    shuffled = rng.permutation(classes[train])
    chance = linear_probe(clips[train], shuffled, clips[test], classes[test], 4)
    assert chance.video_accuracy < 0.6
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(clips[:20], classes[:20], clips[test], classes[test], 4)


def test_few_learns_from_so_many_videos_of_each_class() -> None:
    rng = np.random.default_rng(5)
    features, classes = clusters(rng, 20, 4, 16, noise=1.5)
    clips = features[:, None] + 0.1 * rng.standard_normal((80, 3, 16)).astype(np.float32)
    order = rng.permutation(80)
    sides = [(clips[half], classes[half]) for half in (order[:50], order[50:])]
    seen = []

    def probe(train: np.ndarray, train_classes: np.ndarray, *more: object) -> Scores:
        seen.append(train_classes)
        return linear_probe(train, train_classes, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classify, "linear_probe", probe)
        accuracies = [few(*sides[0], *sides[1], 4, count) for count in (1, 5, 99)]
    draws = [seen[: len(seen) // 3], seen[len(seen) // 3 : 2 * len(seen) // 3]]
    for count, drawn in zip((1, 5), draws, strict=True):
        assert len(drawn) == classify.DRAWS
        assert all((np.bincount(one, minlength=4) == count).all() for one in drawn)
    assert accuracies[0] < accuracies[1] <= accuracies[2] + 0.1
    whole = linear_probe(*sides[0], *sides[1], 4).video_accuracy
    assert accuracies[2] == pytest.approx(whole, abs=0.05)  # all there are, in another order
    assert few(*sides[0], *sides[1], 4, 1) == accuracies[0]  # the same draws again


# Scenes


def test_leave_one_out_never_sees_the_video_left_out() -> None:
    rng = np.random.default_rng(3)
    features, classes = clusters(rng, 6, 3, 12, noise=0.1)
    assert (leave_one_out(features, classes) == classes).all()
    # Where each video is its own axis, nothing but the video itself could tell its class.
    alone = np.eye(18, dtype=np.float32)
    assert (leave_one_out(alone, classes) == classes).mean() < 0.4
    with pytest.raises(ValueError, match="1 classes have only one video"):
        leave_one_out(features[:7], classes[:7])


# Similarity


def test_distances_are_what_their_names_say() -> None:
    a, b = np.array([[1, 0, 3]], np.float32), np.array([[2, 2, 1]], np.float32)
    values = dict(zip(DISTANCES, distances(a, b)[0], strict=True))
    assert values["inner product"] == 5
    assert values["cosine"] == pytest.approx(5 / (10**0.5 * 3))
    assert values["correlation"] == pytest.approx(np.corrcoef(a[0], b[0])[0, 1])
    assert values["L1"] == 5
    assert values["L2"] == 3
    assert values["Linf"] == 2
    assert values["Hellinger"] ** 2 == pytest.approx((2**0.5 - 1) ** 2 + 2 + (3**0.5 - 1) ** 2)
    assert values["Bhattacharyya"] == pytest.approx(2**0.5 + 3**0.5)
    assert values["chi-square"] == pytest.approx(1 / 3 + 4 / 2 + 4 / 4)
    assert values["intersection"] == 2
    assert values["intersection over union"] == pytest.approx(2 / 7)
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    expected = (p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()
    assert distances(4 * p[None], 8 * q[None])[0, -1] == pytest.approx(expected)


def test_distances_are_symmetric_finite_and_extreme_for_equal_videos() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random((5, 9), np.float32), rng.random((5, 9), np.float32)
    a[0] = 0  # a network can put out zeros
    np.testing.assert_allclose(distances(a, b), distances(b, a), rtol=1e-9)
    assert np.isfinite(distances(a, b)).all()
    same = dict(zip(DISTANCES, distances(b, b).T, strict=True))
    for name in ("L1", "L2", "Linf", "Hellinger", "chi-square", "symmetric Kullback-Leibler"):
        np.testing.assert_allclose(same[name], 0, atol=1e-12)
    for name in ("cosine", "correlation", "intersection over union"):
        np.testing.assert_allclose(same[name], 1)
    with pytest.raises(ValueError, match="below zero"):
        distances(-a, b)


def test_pairs_are_described_layer_by_layer_at_any_scale() -> None:
    rng = np.random.default_rng(6)
    layers = [rng.random((6, 4), np.float32), rng.random((6, 7), np.float32)]
    layers = [layer / layer.mean() for layer in layers]
    first, second = np.array([0, 1, 5]), np.array([2, 1, 3])
    pairs = describe_pairs(layers, first, second)
    np.testing.assert_allclose(
        pairs[:, 12:], distances(layers[1][first], layers[1][second]), rtol=1e-5, atol=1e-9
    )
    # An untrained network can put out features of 1e-10.
    tiny = describe_pairs([layer * np.float32(1e-10) for layer in layers], first, second)
    np.testing.assert_allclose(tiny, pairs, rtol=1e-4, atol=1e-6)


def test_similarity_tells_same_pairs_by_their_distance() -> None:
    rng = np.random.default_rng(5)
    n, folds = 200, np.arange(200) % 10
    first = rng.random((n, 20), np.float32)
    same = rng.random(n) < 0.5
    other = rng.random((n, 20), np.float32)
    noise = 0.1 * rng.random((n, 20), np.float32)
    pairs = distances(first, np.where(same[:, None], first + noise, other))
    result = cross_validate(pairs, same, folds)
    assert result.accuracy > 0.95
    assert result.auc > 0.99
    spread = np.std(result.fold_accuracies, ddof=1) / 10**0.5
    assert result.standard_error == pytest.approx(spread)
    blind = cross_validate(pairs, rng.permutation(same), folds)
    assert 0.3 < blind.accuracy < 0.7
    # Standardised, hence blind to the scale of a distance.
    scaled = cross_validate(pairs * np.logspace(-3, 3, 12), same, folds)
    np.testing.assert_allclose(scaled.decisions, result.decisions, atol=1e-2)


def test_similarity_is_judged_out_of_fold() -> None:
    """Each fold turns the sign of the distance: only a look at the fold itself could help."""
    same = np.tile([True, False], 20)
    folds = np.arange(40) // 20
    pairs = np.where(same == (folds == 0), 1.0, -1.0)[:, None]
    assert cross_validate(pairs, same, folds).accuracy == 0
    with pytest.raises(ValueError, match="two folds"):
        cross_validate(pairs, same, np.zeros(40, int))
