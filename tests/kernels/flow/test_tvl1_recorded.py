"""TV-L1 in CUDA as work that comes again: replays run on the CPU, bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from kernels.flow.cuda import PAIRS_AT_ONCE, tvl1_crops, tvl1_flow
from kernels.flow.tvl1 import FAST, NATIVE, Tvl1
from tests.cuda_on_cpu import CpuDevice, CpuRecorder

RESTING = Tvl1(scales=2, warps=2, outer_iterations=2, iterations=7, epsilon=0.1)
FEW = replace(FAST, scales=2, iterations=7)


def clips_of(count: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Two frames of blocks of 4x4 px that move by (2, 1)."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (count, height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8)
    image = colours.repeat(4, 1).repeat(4, 2)
    return np.stack([image[:, t : t + height, 2 * t : 2 * t + width] for t in range(2)], axis=1)


def replays_are_fresh_runs(device: CpuDevice, settings: Tvl1, rounds: int = 3) -> bool:
    """Shapes and numbers of clips in turns, each time other clips; results are held meanwhile."""
    found, expected = [], []
    for seed, (size, count) in product(range(rounds), product([(24, 40), (20, 32)], [1, 3])):
        clips = clips_of(count, *size, seed)
        found.append(tvl1_flow(clips, settings, device))
        expected.append(tvl1_flow(clips, settings, CpuDevice()))
    return all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("settings", [RESTING, FEW], ids=["resting", "few steps"])
def test_replays_have_the_bits_of_fresh_runs(settings: Tvl1) -> None:
    device = CpuDevice()
    assert replays_are_fresh_runs(device, settings)
    assert device.replays == 2 * 4


def test_so_have_those_recorded_anew() -> None:
    """Where there is room for two recordings."""
    device = CpuDevice()
    device.recorder = CpuRecorder(device, kept=2)
    for size in ((24, 40), (20, 32), (24, 40), (16, 28), (20, 32)):
        for seed in range(3):
            clips = clips_of(1, *size, seed)
            found = tvl1_flow(clips, RESTING, device)
            np.testing.assert_array_equal(found, tvl1_flow(clips, RESTING, CpuDevice()))
    assert device.replays == 2 + 2 + 3 + 2 + 2  # of 24x40 a recording was there, of 20x32 no more


class ClearsOnce(CpuDevice):
    """A bug: memory of one dtype is cleared when work is recorded, and not when it is replayed."""

    def __init__(self, dtype: DTypeLike) -> None:
        super().__init__()
        self._once = np.dtype(dtype)

    def clear(self, array: NDArray[Any]) -> None:
        if array.dtype == self._once:
            array.fill(0)
        else:
            super().clear(array)


@pytest.mark.parametrize("dtype", [np.uint64, np.float32], ids=["change", "fields"])
def test_memory_that_is_cleared_only_once_is_noticed(dtype: DTypeLike) -> None:
    assert not replays_are_fresh_runs(ClearsOnce(dtype), RESTING, rounds=2)


def test_crops_are_those_of_fresh_runs() -> None:
    """Of clips of two sizes; crops and flips are no part of what is recorded."""
    device = CpuDevice()
    random = np.random.default_rng(0)
    for seed in range(3):
        clips = [*clips_of(2, 24, 40, seed), *clips_of(1, 20, 32, seed)]
        crops = [(int(y), int(x)) for y, x in random.integers(0, (5, 17), (3, 2))]
        place = clips, crops, random.integers(0, 2, 3).astype(bool), (20, 32), 16, RESTING
        found = tvl1_crops(*place, device)
        np.testing.assert_array_equal(found, tvl1_crops(*place, CpuDevice()))
    assert device.replays == 2 * 2


class Counting(CpuDevice):
    """Launches nothing."""

    def do(self, call: Callable[[], None]) -> None:
        pass


def test_a_call_that_comes_again_takes_few_launches() -> None:
    """Of 16 clips of 320x240 as published: one for all of them and one for each crop."""
    device = Counting()
    clips = [np.zeros((2, 240, 320, 3), np.uint8)] * 16
    place = [(0, 0)] * 16, [False] * 16, (128, 171), 112, NATIVE, device

    def launches() -> int:
        before = len(device.launches) + device.replays
        tvl1_crops(clips, *place)
        return len(device.launches) + device.replays - before

    first = launches()
    assert first == 1 + 4 + 4 + 5 * 5 * (1 + 10 + 60 + 2) + 16
    assert [launches() for _ in range(2)] == [17, 17]
    assert first / 10 >= 17


@pytest.mark.parametrize(("settings", "planes"), [(NATIVE, 27), (FAST, 18)], ids=["native", "fast"])
def test_memory_is_as_stated(settings: Tvl1, planes: int) -> None:
    """In float32 planes a pair; once for all numbers of clips."""
    device, (t, height, width) = Counting(), (16, 64, 80)
    for count in (1, 2, 3, 5, 9, 9, 5, 3, 2, 1):
        tvl1_flow(np.zeros((count, t, height, width, 3), np.uint8), settings, device)
    pairs = {NATIVE: 16, FAST: 9}[settings] * (t - 1)
    assert pairs <= PAIRS_AT_ONCE
    assert planes - 1 < len(device.recorder._memory) / (4 * pairs * height * width) <= planes
