"""Doubtful clips are found, each for what it is, and good ones are left alone."""

import numpy as np
import pytest
import torch

from dali_pipes.browsing.suspicion import KINDS, POSITIONS, Scene, suspicions, twins
from kernels.flow.code import encode
from kernels.labels import clip_labels
from kernels.labels.difficulty import position_margins
from kernels.labels.partitions import PATTERN_SLICES, partition
from kernels.labels.schema import INDEX
from tests.dali_pipes.browsing.conftest import moving, noise

CLEAR = np.full((2, 3), 0.5, np.float32)


def clip(seed: int = 0) -> np.ndarray:
    return np.stack([frame[:112, :112] for frame in moving(seed, 16)])


def flow(px: float = 2.0) -> np.ndarray:
    field = np.zeros((15, 112, 112, 2), np.float32)
    field[:, 30:60, 30:60, 0] = px
    return encode(field)


def kinds(frames: np.ndarray, coded: np.ndarray, margins: np.ndarray = CLEAR) -> list[str]:
    return [found.kind for found in suspicions(Scene.of(frames), coded, margins)]


def test_a_good_clip_is_left_alone() -> None:
    assert kinds(clip(), flow()) == []


@pytest.mark.parametrize(
    ("frames", "coded", "kind"),
    [
        (np.zeros((16, 112, 112, 3), np.uint8), flow(), "blank"),
        (np.full((16, 112, 112, 3), 250, np.uint8), flow(), "blank"),
        (clip(), flow(0.1), "static"),
        (np.concatenate([clip(1)[:9], clip(2)[9:]]), flow(), "cut"),
        (clip(), flow(25.0), "limit"),
    ],
)
def test_each_kind_is_found_alone(frames: np.ndarray, coded: np.ndarray, kind: str) -> None:
    assert kinds(frames, coded) == [kind]
    assert kind in KINDS


def test_the_cut_is_where_it_is() -> None:
    (cut,) = suspicions(Scene.of(np.concatenate([clip(1)[:9], clip(2)[9:]])), flow(), CLEAR)
    assert cut.words.startswith("from frame 9 to 10 of 16 ")


def test_a_fast_pan_is_no_cut() -> None:
    wide = np.hstack([noise(seed, (112, 112)) for seed in range(6)])
    assert "cut" not in kinds(np.stack([wide[:, 30 * t : 30 * t + 112] for t in range(16)]), flow())


def test_close_blocks_are_named() -> None:
    margins = CLEAR.copy()
    margins[0, 1] = 0.01
    assert kinds(clip(), flow(), margins) == []  # one of six is no reason
    margins[1, 2] = 0.0
    (close,) = suspicions(Scene.of(clip()), flow(), margins)
    assert close.kind == "close"
    assert close.words == "u2p by 1.0 %, v3p by 0.0 %"
    assert kinds(clip(), flow(0.1), margins) == ["static"]


def test_margins_are_those_of_the_blocks() -> None:
    """Oracle: block means of the boundaries that the labels come from."""
    from dali_pipes.drawing.panels import motion_boundaries

    rng = np.random.default_rng(0)
    coded = rng.integers(100, 156, (3, 15, 112, 112, 2), np.uint8)
    margins = position_margins(torch.from_numpy(coded)).numpy()
    labels = clip_labels(np.zeros((3, 16, 112, 112, 3), np.uint8), coded)
    cells = partition(112)
    for n in range(3):
        for place, name in enumerate(POSITIONS):
            strength = motion_boundaries(coded[n], name[0])
            blocks = PATTERN_SLICES[int(name[1]) - 1]
            means = [strength[cells.mask(b)].mean() for b in range(blocks.start, blocks.stop)]
            second, largest = sorted(means)[-2:]
            assert margins[n].ravel()[place] == pytest.approx(
                (largest - second) / largest, abs=1e-4
            )
            assert int(np.argmax(means)) + 1 == labels[n, INDEX[name]]


def test_twins_are_of_other_videos_and_not_blank() -> None:
    blank = np.zeros((16, 112, 112, 3), np.uint8)
    lighter = np.clip(clip(0).astype(int) + 1, 0, 255).astype(np.uint8)  # encoded again, say
    scenes = [Scene.of(frames) for frames in (clip(0), clip(0), lighter, clip(5), blank, blank)]
    found = twins(scenes, ["a", "a", "b", "c", "d", "e"])
    assert {n: other for n, (other, _) in found.items()} == {0: 2, 1: 2, 2: 0}
    assert found[2][1] == pytest.approx(1, abs=0.5)
    assert twins(scenes[:2], ["a", "a"]) == {}
    assert twins([], []) == {}
