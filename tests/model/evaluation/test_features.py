"""Features: what they are made of, and a cache that loses and invents nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model import BACKBONES
from model.evaluation.features import FeatureCache, cache_key, extract
from model.training.precision import choose

FLOAT32 = choose("float32", torch.device("cpu"))


@dataclass
class Batch:
    frames: Tensor
    video: Tensor


def clips(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 8, 48, 48, 3), dtype=torch.uint8, generator=generator)


def batches(frames: Tensor, videos: list[int], size: int) -> list[Batch]:
    video = torch.tensor(videos)
    return [Batch(frames[i : i + size], video[i : i + size]) for i in range(0, len(video), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_features_are_the_means_of_the_videos_own_clips(size: int) -> None:
    backbone = BACKBONES["c3d"](width=0.05).eval()
    frames, videos = clips(7), [0, 0, 0, 2, 2, 5, 5]  # videos 1, 3, 4 are bad; 2 and 5 lost a clip
    stream = batches(frames, videos, size)
    stream.insert(1, Batch(frames[:0], torch.empty(0, dtype=torch.int64)))  # a batch of bad clips
    table = dict(extract(backbone, stream, 3, FLOAT32))
    assert list(table) == [0, 2, 5]
    with torch.no_grad():
        for video, rows in ((0, slice(0, 3)), (2, slice(3, 5)), (5, slice(5, 7))):
            row, own = table[video], frames[rows]
            last = backbone.features(own)
            pooled = last.mean((2, 3, 4))
            np.testing.assert_allclose(row["clips"][: len(own)], pooled, rtol=1e-4, atol=1e-7)
            assert np.isnan(row["clips"][len(own) :]).all()
            flat = torch.nn.functional.max_pool3d(last, (1, 2, 2)).flatten(1).mean(0)
            np.testing.assert_allclose(row["map"], flat, rtol=1e-4, atol=1e-7)
            second = backbone.features(own, "conv2").mean((0, 2, 3, 4))
            np.testing.assert_allclose(row["conv2"], second, rtol=1e-4, atol=1e-7)


def test_cache_gives_back_what_it_was_given(tmp_path: Path) -> None:
    rows = [
        {"map": np.full(3, i, np.float32), "clips": np.full((2, 4), -i, np.float32)}
        for i in range(5)
    ]
    cache = FeatureCache(tmp_path / "cache")
    cache.add(["a", "b"], rows[:2])
    cache.add(["c"], rows[2:3])
    reopened = FeatureCache(tmp_path / "cache")
    reopened.add(["d", "ü e"], rows[3:])
    for known in (reopened, FeatureCache(tmp_path / "cache")):
        assert "c" in known
        assert "f" not in known
        table = known.table(["ü e", "a", "c"], ["map", "clips"])
        np.testing.assert_array_equal(table["map"][:, 0], [4, 0, 2])
        np.testing.assert_array_equal(table["clips"][:, 1, 3], [-4, 0, -2])


def test_cache_survives_an_interruption_and_names_a_damaged_file(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.add(["a"], [{"map": np.ones(3, np.float32)}])
    (tmp_path / "features_000001.partial").write_bytes(b"half")
    assert "a" in FeatureCache(tmp_path)
    (tmp_path / "features_000001.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"features_000001\.npz: no readable features"):
        FeatureCache(tmp_path)


def test_cache_key_changes_with_weights_settings_and_input_convention() -> None:
    torch.manual_seed(0)
    backbone = BACKBONES["c3d"](width=0.05)
    key = cache_key(backbone, {"clip_len": 16})
    assert cache_key(backbone, {"clip_len": 16}) == key
    assert cache_key(backbone, {"clip_len": 8}) != key
    with torch.no_grad():
        backbone.conv5[1].weight[0, 0, 0, 0, 0] += 1e-6
    changed = cache_key(backbone, {"clip_len": 16})
    assert changed != key
    backbone.pixels = type(backbone.pixels)("BGR")
    assert cache_key(backbone, {"clip_len": 16}) != changed
