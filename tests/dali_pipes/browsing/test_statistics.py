"""How labels are spread, and what they tell of the classes."""

import numpy as np
import pytest

from dali_pipes.browsing.statistics import spreads
from kernels.labels.schema import INDEX, LABELS

CLIPS = 240


def labels(**columns: np.ndarray) -> np.ndarray:
    """All 1 but the columns given: [N,27]."""
    table = np.ones((CLIPS, len(LABELS)), np.int64)
    for name, values in columns.items():
        table[:, INDEX[name.lstrip("_")]] = values
    return table


def test_entropy_and_what_is_free() -> None:
    even = np.arange(CLIPS) % 16 + 1
    seldom = np.where(np.arange(CLIPS) % 4, 1, 2)
    found = spreads(labels(u1p=even, u2p=seldom), 16, np.zeros(CLIPS, int), np.arange(CLIPS))
    by_name = {spread.label.name: spread for spread in found}
    assert by_name["u1p"].entropy == pytest.approx(4)
    assert by_name["u1p"].most_entropy == pytest.approx(4)
    assert not by_name["u1p"].says_little
    assert by_name["u2p"].entropy == pytest.approx(0.25 * 2 + 0.75 * np.log2(4 / 3))
    assert by_name["u2p"].free == pytest.approx(0.75)
    assert by_name["v1p"].says_little
    assert by_name["v1p"].entropy == 0
    assert by_name["ug"].most_entropy == pytest.approx(np.log2(15))
    assert {spread.told for spread in found} == {None}  # one class


def test_frames_of_longer_clips_and_none_of_the_reference_rule_are_counted() -> None:
    found = spreads(labels(ug=np.full(CLIPS, 31), u1p=np.zeros(CLIPS, int)), 32,
                    np.zeros(CLIPS, int), np.arange(CLIPS))  # fmt: skip
    assert found[INDEX["ug"]].counts[31] == CLIPS
    assert len(found[INDEX["ug"]].counts) == 32
    assert found[INDEX["u1p"]].counts[0] == CLIPS
    assert found[INDEX["u1p"]].most_entropy == pytest.approx(np.log2(17))


def test_what_a_label_tells_of_the_classes_stands_out_from_chance() -> None:
    rng = np.random.default_rng(0)
    videos = np.arange(CLIPS) // 4  # four clips each, alike
    classes = videos % 3
    of_video = rng.integers(1, 9, videos.max() + 1)[videos]  # says which video, not which class
    table = labels(u1o=classes + 1, v1o=rng.integers(1, 9, CLIPS), u2o=of_video)
    told = {s.label.name: s.told for s in spreads(table, 16, classes, videos)}
    assert told["u1o"].bits == pytest.approx(np.log2(3))
    assert told["u1o"].is_real
    assert told["u1o"].by_chance < 0.3
    assert not told["v1o"].is_real
    assert not told["u2o"].is_real
    # Clips of a video are alike: chance is more than of as many clips on their own.
    assert told["u2o"].by_chance > 1.5 * told["v1o"].by_chance
    assert told["v2o"].bits == pytest.approx(0, abs=1e-9)
