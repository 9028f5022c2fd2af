"""How clear the motion labels of a clip are, against the restated labels and known clips."""

import numpy as np
import pytest
import torch

from kernels.flow.code import encode
from kernels.labels import clip_labels
from kernels.labels.difficulty import position_margins
from kernels.labels.schema import NAMES
from tests.kernels.labels.label_oracle import label_scores


def noise(clips: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (clips, 5, size, size, 2), np.uint8)


def confidence_of(flow: torch.Tensor) -> torch.Tensor:
    return position_margins(flow).mean(dim=(1, 2))


@pytest.mark.parametrize("size", [24, 32])
def test_confidence_is_the_mean_margin_of_the_six_positions(size: int) -> None:
    flow = noise(4, size)
    flow[2, :, 4:9, 6:12] = 255  # a clear one among the noise
    frames = np.zeros((4, 6, size, size, 3), np.uint8)
    labels = clip_labels(frames, flow)
    result = confidence_of(torch.from_numpy(flow))
    for n in range(4):
        by_name = dict(zip(NAMES, labels[n].tolist(), strict=True))
        scores = label_scores(frames[n], flow[n], False, by_name)
        margins = []
        for name in ("u1p", "v1p", "u2p", "v2p", "u3p", "v3p"):
            second, best = np.sort(scores[name])[-2:]
            margins.append((best - second) / best)
        assert float(result[n]) == pytest.approx(np.mean(margins), rel=1e-4)


def test_a_clear_clip_a_vague_one_and_one_that_does_not_move() -> None:
    still = encode(np.zeros((5, 32, 32, 2), np.float32))
    clear = still.copy()
    clear[:, 18:22, 17:19] += 60  # in one square, one ring, one triangle
    flow = np.stack([clear, noise(1)[0], still])
    confidence = confidence_of(torch.from_numpy(flow)).tolist()
    assert confidence[0] > 0.8
    assert 0 < confidence[1] < 0.3
    assert confidence[2] == 0
    # In any unit of flow, coded or not.
    pixels = torch.from_numpy(flow.astype(np.float32)) * 0.01
    np.testing.assert_allclose(confidence_of(pixels), confidence, atol=1e-4)
