"""Labels of the CPU backend: golden clips, an independent restatement, and what must hold."""

import itertools
import multiprocessing
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from kernels.labels import clip_labels
from kernels.labels import cpu as cpu_labels
from kernels.labels.schema import INDEX, LABELS, MOTION, NAMES, RULES, Rule, flow_fields
from tests.kernels.labels.label_oracle import assert_labels, block_masks, ring_1_as_published


def noise(rule: Rule, clips: int, clip_len: int, size: int, seed: int = 0) -> tuple:
    """Independent random pixels: frames [N,T,S,S,3] and coded flow [N,F,S,S,2]."""
    random = np.random.default_rng(seed)
    fields = flow_fields(rule, clip_len)
    frames = random.integers(0, 256, (clips, clip_len, size, size, 3), np.uint8)
    return frames, random.integers(0, 256, (clips, fields, size, size, 2), np.uint8)


def scenes(rule: Rule, clips: int, clip_len: int, size: int, seed: int = 0) -> tuple:
    """Smooth textures that move and few colours: labels as near to ties as in real clips."""
    random = np.random.default_rng(seed)
    r, c = np.mgrid[:size, :size] * (2 * np.pi / size)

    def waves(count: int, channels: int) -> np.ndarray:
        field = np.zeros((clips, count, size, size, channels))
        t = np.arange(count)[:, None, None]
        for n in range(clips):
            for channel in range(channels):
                for _ in range(4):
                    a, b, phase, speed = random.normal(0, 2.5, 4)
                    field[n, ..., channel] += np.sin(a * r + b * c + phase + speed * t / 4)
        return field / 4

    frames = np.round(waves(clip_len, 3) * 6) * 20 + 127
    flow = waves(flow_fields(rule, clip_len), 2) * 40 + 127
    return frames.astype(np.uint8), flow.astype(np.uint8)


def label(labels: np.ndarray, name: str) -> int:
    return int(labels[0, INDEX[name]])


@pytest.mark.parametrize("rule", RULES)
def test_real_clips_have_their_golden_labels(real_data: Path, rule: Rule) -> None:
    golden = np.load(real_data / "golden" / "labels_27.npz")
    labels = clip_labels(golden["frames"], golden["flow8"], rule)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, golden[f"labels_{rule}"])
    assert tuple(golden["names"]) == NAMES


@pytest.mark.parametrize("clips", [noise, scenes])
@pytest.mark.parametrize(
    ("rule", "clip_len", "size"),
    [
        ("reference", 16, 112),
        ("corrected", 16, 112),
        ("corrected", 2, 8),
        ("corrected", 3, 16),
        ("corrected", 64, 24),
        ("corrected", 5, 224),
    ],
)
def test_labels_are_those_of_the_restatement(clips, rule: Rule, clip_len: int, size: int) -> None:
    frames, flow = clips(rule, 3, clip_len, size)
    labels = clip_labels(frames, flow, rule)
    assert_labels(labels, frames, flow, rule)
    assert (labels >= 1).all()
    assert (labels <= [one.classes(clip_len) for one in LABELS]).all()


@pytest.mark.parametrize("rule", RULES)
def test_float_flow_gives_the_labels_of_the_restatement(rule: Rule) -> None:
    frames, coded = scenes(rule, 3, 16, 112, seed=1)
    random = np.random.default_rng(2)
    flow = (coded * 0.157 - 20 + random.normal(0, 0.1, coded.shape)).astype(np.float32)
    assert_labels(clip_labels(frames, flow, rule), frames, flow, rule, tolerance=1e-4)


def test_ring_1_counts_the_samples_that_the_published_code_counts() -> None:
    # All of ring 1 flickers, so that it is the most diverse. Its bottom strip alone would be red.
    random = np.random.default_rng(3)
    frames = np.full((1, 16, 112, 112, 3), 200, np.uint8)
    ring = block_masks(112, reference=True)[1][1]
    for t in range(16):
        frames[0, t, ring] = random.integers(100, 256, (ring.sum(), 1)) * [1, 0, 1]
        frames[0, t, 70:84, 28:84] = (255, 0, 0) if t % 2 else (254, 0, 0)
    flow = np.zeros((1, 16, 112, 112, 2), np.uint8)
    labels = clip_labels(frames, flow, "reference")
    assert label(labels, "2dp") == 2
    assert label(labels, "2dc") == 5  # black, the inside of the first two frames
    assert label(clip_labels(frames, flow), "2dc") != 5
    assert_labels(labels, frames, flow, "reference")


def test_each_pixel_of_ring_1_counts_as_often_as_in_the_published_code() -> None:
    red, blue = np.uint8([200, 0, 0]), np.uint8([0, 0, 200])  # red wins a tie
    random = np.random.default_rng(4)
    even = np.full((16, 112, 112, 3), red)
    ring = block_masks(112, reference=True)[1][1]
    even[:, ring] = np.where(random.random((16, ring.sum(), 1)) < 0.5, red, blue)

    def lead(frames: np.ndarray) -> int:
        samples = ring_1_as_published(frames)
        return int((samples == red).all(axis=1).sum()) - int((samples == blue).all(axis=1).sum())

    top = even[3:, 28:42, 28:84]  # each pixel here counts once
    more, less = (red, blue) if lead(even) > 0 else (blue, red)
    surplus = np.argwhere((top == more).all(axis=-1))[: abs(lead(even)) // 2]
    top[tuple(surplus.T)] = less
    assert lead(even) == 0
    ahead = even.copy()
    ahead[3:, 28:42, 28:84][tuple(np.argwhere((top == blue).all(axis=-1))[0])] = red
    assert lead(ahead) == 2

    # A pixel turned blue decides if it counts at all, or, against the lead, if it counts twice.
    clips = []
    for t, r, c in itertools.product((1, 2), (27, 28, 41, 42, 69, 70, 83, 84), (27, 28, 50, 83)):
        for clip in (even, ahead):
            clips.append(clip.copy())
            clips[-1][t, r, c] = blue
    frames = np.stack(clips)
    flow = np.zeros((len(frames), 16, 112, 112, 2), np.uint8)
    labels = clip_labels(frames, flow, "reference")
    np.testing.assert_array_equal(labels[:, INDEX["2dp"]], 2)
    expected = [7 if lead(clip) >= 0 else 1 for clip in clips]
    assert set(expected) == {1, 7}
    np.testing.assert_array_equal(labels[:, INDEX["2dc"]], expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_without_motion_every_motion_label_is_the_first(rule: Rule, dtype: type) -> None:
    frames, flow = noise(rule, 1, 16, 112)
    flow = flow.astype(dtype)
    flow[..., 0] = 131
    motion = dict(zip(NAMES[MOTION], clip_labels(frames, flow, rule)[0], strict=False))
    u = [motion[name] for name in motion if name[0] == "u"]
    assert u == ([0, 0] if rule == "reference" else [1, 1]) + [1] * 5
    assert motion["v1p"] > 0


def test_constant_clips_take_the_first_block_and_their_own_colour() -> None:
    frames = np.broadcast_to(np.uint8([10, 20, 250]), (1, 16, 112, 112, 3))
    flow = np.full((1, 16, 112, 112, 2), 255, np.uint8)
    for rule in RULES:
        appearance = clip_labels(frames, flow, rule)[0, MOTION.stop :]
        np.testing.assert_array_equal(appearance, 1)  # the octant of blue is 1 as well


def test_of_equals_the_first_is_taken() -> None:
    flow = np.full((1, 15, 112, 112, 2), 128, np.uint8)
    for t in (9, 4):  # the same edge in two squares at two times
        for top, left in ((40, 70), (68, 14)):
            flow[0, t, top : top + 4, left : left + 4] = 200
    frames = np.zeros((1, 16, 112, 112, 3), np.uint8)
    frames[0, :, 60] = 255  # as many pixels of squares 9..12 in each frame
    frames[0, 3, [10, 90]] = 255  # squares 1..4 and 13..16 flicker alike
    labels = clip_labels(frames, flow)
    assert [label(labels, name) for name in ("u1p", "v1p", "ug", "vg")] == [7, 7, 5, 5]
    assert [label(labels, name) for name in ("1dp", "1cp")] == [1, 5]


@pytest.mark.parametrize(("step", "bin_"), [((1, 0), 1), ((1, 1), 2), ((0, -1), 7), ((-1, 1), 4)])
def test_orientation_points_where_flow_grows(step: tuple[int, int], bin_: int) -> None:
    right, down = step
    r, c = np.mgrid[:112, :112]
    flow = np.zeros((1, 16, 112, 112, 2), np.uint8)
    flow[..., 0] = 120 + (right * c + down * r) // 2
    frames = np.zeros((1, 16, 112, 112, 3), np.uint8)
    assert label(clip_labels(frames, flow), "u3o") == bin_
    assert label(clip_labels(frames, flow, "reference"), "u3o") == (bin_ + 3) % 8 + 1


@pytest.mark.parametrize("rule", RULES)
def test_a_positive_factor_changes_no_motion_label(rule: Rule) -> None:
    frames, flow = scenes(rule, 2, 16, 112, seed=5)
    flow = flow // 4
    motion = clip_labels(frames, flow, rule)[:, MOTION]
    scaled = flow * np.uint8([3, 4])  # u and v apart
    np.testing.assert_array_equal(clip_labels(frames, scaled, rule)[:, MOTION], motion)
    for factor in (2.0**-110, 1e-20, 0.157, 1e36):  # near both ends of float32
        scaled = flow.astype(np.float32) * np.float32(factor)
        np.testing.assert_array_equal(clip_labels(frames, scaled, rule)[:, MOTION], motion)


@pytest.mark.parametrize("rule", RULES)
def test_a_mirrored_clip_has_mirrored_labels(rule: Rule) -> None:
    frames, flow = scenes(rule, 3, 16, 112, seed=6)
    mirrored = flow[:, :, :, ::-1].copy()
    mirrored[..., 0] = 255 - mirrored[..., 0]
    labels = clip_labels(frames, flow, rule)
    got = clip_labels(np.ascontiguousarray(frames[:, :, :, ::-1]), mirrored, rule)

    masks = block_masks(112, rule == "reference")
    expected = labels.copy()
    for column, one in enumerate(LABELS):
        if one.kind == "position":
            blocks = masks[one.pattern - 1]
            image = [
                next(k for k, other in enumerate(blocks) if (other == block[:, ::-1]).all())
                for block in blocks
            ]
            expected[:, column] = np.array(image)[labels[:, column] - 1] + 1
        elif one.kind == "orientation":
            # A mirror turns x gradients round, negation both: u is left with y, v with x.
            turned = -(labels[:, column] - 1) if one.source == "u" else 5 - labels[:, column]
            expected[:, column] = turned % 8 + 1
    np.testing.assert_array_equal(got, expected)


def test_the_strongest_possible_motion_overflows_nothing() -> None:
    r, c = np.mgrid[:224, :224]
    flow = np.zeros((1, 63, 224, 224, 2), np.uint8)
    flow[..., 0] = 255 * (c // 2 % 2)  # |gx| = 765 everywhere
    flow[..., 1] = 255 * ((r // 2 + c // 2) % 2)
    flow[0, 40:, :28, :28] = 0
    frames = np.zeros((1, 64, 224, 224, 3), np.uint8)
    assert_labels(clip_labels(frames, flow), frames, flow, "corrected")
    for unit in (1.0, 1e36):
        as_float = flow.astype(np.float32) * np.float32(unit)
        labels = clip_labels(frames, as_float)
        assert_labels(labels, frames, as_float, "corrected")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_blocks_that_differ_by_a_few_millionths_are_told_apart(dtype: type) -> None:
    random = np.random.default_rng(8)
    patches = np.zeros((600, 28, 28), dtype)
    patches[:, 4:24, 4:24] = random.random((600, 20, 20)) * 3
    right, down = np.zeros((2, 600, 28, 28))
    wide = patches.astype(np.float64)
    right[:, 1:-1, 1:-1] = sum(wide[:, i : 26 + i, 2:] - wide[:, i : 26 + i, :-2] for i in range(3))
    down[:, 1:-1, 1:-1] = sum(wide[:, 2:, i : 26 + i] - wide[:, :-2, i : 26 + i] for i in range(3))
    magnitude = np.hypot(right, down).sum(axis=(1, 2))
    order = magnitude.argsort()
    gaps = np.diff(magnitude[order]) / magnitude[order[1:]]
    pairs = np.flatnonzero((gaps > 2e-6) & (gaps < 2e-5))[:20]
    assert len(pairs) >= 10
    flow = np.zeros((len(pairs), 1, 112, 112, 2), dtype)
    flow[:, 0, 28:56, 28:56, 0] = patches[order[pairs]]
    flow[:, 0, 56:84, 56:84, 0] = patches[order[pairs + 1]]
    flow[..., 1] = flow[:, :, ::-1, ::-1, 0]
    frames = np.zeros((len(pairs), 2, 112, 112, 3), np.uint8)
    labels = clip_labels(frames, flow)
    np.testing.assert_array_equal(labels[:, INDEX["u1p"]], 11)
    np.testing.assert_array_equal(labels[:, INDEX["v1p"]], 6)


def test_float_operations_are_ieee_and_never_contracted() -> None:
    random = np.random.default_rng(7)
    x, y = random.integers(-(2**30), 2**30, (2, 100_000)).astype(np.int32)
    t = random.random(100_000, np.float32)

    @njit(error_model="numpy")
    def compiled(x, y, t):
        magnitude, share = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
        for i in range(len(x)):  # a loop that is vectorised, as the real ones are
            magnitude[i] = cpu_labels._magnitude(x[i], y[i])
            share[i] = cpu_labels._octant_share(t[i])
        return magnitude, share

    magnitude, share = compiled(x, y, t)
    fx, fy = x.astype(np.float32), y.astype(np.float32)
    np.testing.assert_array_equal(magnitude, np.sqrt(fx * fx + fy * fy))
    s = t * t
    r = np.float32(cpu_labels.OCTANT_SHARE[-1])
    for coefficient in cpu_labels.OCTANT_SHARE[-2::-1]:
        r = r * s + np.float32(coefficient)
    np.testing.assert_array_equal(share, t + t * ((1 - s) * r))
    np.testing.assert_allclose(share, np.arctan(t.astype(float)) / (np.pi / 4), atol=1.2e-7)


def test_arrays_come_back_in_their_kind() -> None:
    frames, flow = scenes("corrected", 4, 16, 112)
    expected = clip_labels(frames, flow)
    labels = clip_labels(torch.from_numpy(frames), torch.from_numpy(flow))
    assert isinstance(labels, torch.Tensor)
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(labels.numpy(), expected)
    # Views, one clip at a time, further flow fields, an empty batch.
    order_reversed = clip_labels(frames[::-1], flow[::-1])
    np.testing.assert_array_equal(order_reversed, expected[::-1])
    for dtype in (np.uint8, np.float32):
        views = frames[:, ::-1, :, ::-1], flow.astype(dtype)[:, ::-1, :, ::-1]
        copies = (np.ascontiguousarray(view) for view in views)
        np.testing.assert_array_equal(clip_labels(*views), clip_labels(*copies))
    single = [clip_labels(frames[n : n + 1], flow[n : n + 1]) for n in range(4)]
    np.testing.assert_array_equal(np.concatenate(single), expected)
    more = np.concatenate([flow, 255 - flow], axis=1)
    np.testing.assert_array_equal(clip_labels(frames, more), expected)
    assert clip_labels(frames[:0], flow[:0]).shape == (0, 27)


def test_threads_and_forks_label_alike() -> None:
    frames, flow = scenes("corrected", 4, 16, 112)
    expected = clip_labels(frames, flow)
    with ThreadPoolExecutor(4) as threads:
        for labels in threads.map(lambda _: clip_labels(frames, flow), range(8)):
            np.testing.assert_array_equal(labels, expected)
    with multiprocessing.get_context("fork").Pool(1) as fork:
        labels = fork.apply_async(clip_labels, (frames, flow)).get(timeout=60)
    np.testing.assert_array_equal(labels, expected)


FRAMES = np.zeros((2, 16, 112, 112, 3), np.uint8)
FLOW = np.zeros((2, 16, 112, 112, 2), np.uint8)
NAN_FLOW = FLOW.astype(np.float32)
NAN_FLOW[1, 14, 111, 111, 1] = np.nan


@pytest.mark.parametrize(
    ("frames", "flow", "rule", "message"),
    [
        (FRAMES, FLOW, "published", "rule 'published' does not exist; choose one of corrected"),
        (FRAMES[0], FLOW, "corrected", "frames must be uint8 [N,T,S,S,3], got frames ndarray"),
        (FRAMES[:, :, :104], FLOW, "corrected", "frames must be uint8 [N,T,S,S,3]"),
        (FRAMES.astype(np.int64), FLOW, "corrected", "frames must be uint8 [N,T,S,S,3]"),
        (FRAMES, FLOW.astype(np.float64), "corrected", "flow must be uint8 (coded) or float32"),
        (FRAMES, FLOW[:1], "corrected", "flow must be [2,F,112,112,2] for these frames"),
        (FRAMES, FLOW[:, :, :104], "corrected", "flow must be [2,F,112,112,2]"),
        (FRAMES, FLOW[..., :1], "corrected", "flow must be [2,F,112,112,2]"),
        (FRAMES, FLOW[:, :14], "corrected", "needs 15 flow fields for 16 frames"),
        (FRAMES, FLOW[:, :15], "reference", "needs 16 flow fields for 16 frames"),
        (FRAMES[:, :1], FLOW, "corrected", "at least 2 frames"),
        (FRAMES[:, :8], FLOW, "reference", "exists for 16 frames of 112x112 only"),
        (FRAMES[:, :, :100, :100], FLOW, "corrected", "multiple of 8, got 100"),
        (FRAMES, torch.from_numpy(FLOW), "corrected", "must both be NumPy arrays, or torch"),
        (FRAMES.tolist, FLOW, "corrected", "must both be NumPy arrays, or torch"),
        (torch.zeros(FRAMES.shape, dtype=torch.uint8, device="meta"),) * 2
        + ("corrected", "same CPU or CUDA device; got frames Tensor uint8"),
        (FRAMES, NAN_FLOW, "corrected", "flow of clip 1 has values that are not finite"),
        (FRAMES, np.nan_to_num(NAN_FLOW, nan=-np.inf), "corrected", "flow of clip 1 has values"),
    ],
)
def test_bad_input_is_refused_in_words(frames, flow, rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        clip_labels(frames, flow, rule)  # type: ignore[arg-type]
