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


def numbered(cache: FeatureCache, *numbers: int) -> None:
    """Add videos whose features are their numbers."""
    cache.add(
        [str(n) for n in numbers],
        [
            {"map": np.full(3, n, np.float32), "clips": np.full((2, 4), n, np.float32)}
            for n in numbers
        ],
    )


def assert_has(folder: Path, *numbers: int) -> None:
    cache = FeatureCache(folder)
    assert all(str(n) in cache for n in numbers)
    table = cache.table([str(n) for n in numbers], ["map"])
    np.testing.assert_array_equal(table["map"][:, 0], numbers)


def test_a_half_written_file_of_an_interruption_is_no_features(tmp_path: Path) -> None:
    numbered(FeatureCache(tmp_path), 1)
    (tmp_path / "two.partial").write_bytes(b"half")
    assert_has(tmp_path, 1)
    assert not FeatureCache(tmp_path).set_aside


def test_no_file_of_the_cache_takes_anothers_place(tmp_path: Path) -> None:
    """Neither after one was deleted, nor when two processes add at once."""
    for n in range(3):
        numbered(FeatureCache(tmp_path), n)
    next(tmp_path.glob("*.npz")).unlink()
    left = [n for n in range(3) if str(n) in FeatureCache(tmp_path)]
    one, other = FeatureCache(tmp_path), FeatureCache(tmp_path)
    for n in range(3, 9):
        numbered(one if n % 2 else other, n)
    numbered(other, 3)  # computed by both
    assert len(left) == 2
    assert_has(tmp_path, *left, *range(3, 9))


def test_any_damage_of_a_cache_file_is_noticed_and_costs_only_its_own_videos(
    tmp_path: Path,
) -> None:
    """A flipped bit anywhere, a file cut anywhere."""
    cache = FeatureCache(tmp_path)
    numbered(cache, 1, 2)
    numbered(cache, 3)
    file, _ = cache._places["1"]
    sound = file.read_bytes()
    damages = [bytes([*sound[:i], sound[i] ^ 0x10, *sound[i + 1 :]]) for i in range(len(sound))]
    damages += [sound[:size] for size in range(0, len(sound), 7)]
    for damaged in damages:
        file.write_bytes(damaged)
        opened = FeatureCache(tmp_path)
        (aside,) = opened.set_aside
        assert aside.read_bytes() == damaged
        assert not file.exists()
        assert "1" not in opened
        assert_has(tmp_path, 3)
    numbered(FeatureCache(tmp_path), 1, 2)
    assert_has(tmp_path, 1, 2, 3)


def test_a_cache_that_may_not_be_read_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system is no damage: nothing is set aside."""
    numbered(FeatureCache(tmp_path), 1)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        with pytest.raises(PermissionError):
            FeatureCache(tmp_path)
    assert_has(tmp_path, 1)


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
