"""Labels of the CPU backend against golden labels and what their definition implies."""

from pathlib import Path

import numpy as np
import pytest

from kernels.label_schema import NAMES, RULES, Rule
from kernels.labels import clip_labels


@pytest.mark.parametrize("rule", RULES)
def test_real_clips_have_their_golden_labels(real_data: Path, rule: Rule) -> None:
    golden = np.load(real_data / "golden" / "labels_27.npz")
    labels = clip_labels(golden["frames"], golden["flow8"], rule)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, golden[f"labels_{rule}"])
    assert tuple(golden["names"]) == NAMES
