"""TV-L1 on the CPU and in CUDA run on the CPU: against OpenCV, known motion, and stored flow."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from kernels.flow import cpu as cpu_flow
from kernels.flow import cuda as cuda_flow
from kernels.flow.code import encode
from kernels.flow.tvl1 import NATIVE, Tvl1, pyramid_sizes
from kernels.labels.cpu import motion_labels
from kernels.labels.schema import LABELS, MOTION
from tests.cuda_on_cpu import ORDERS, CpuDevice

QUICK = Tvl1(scales=2, warps=2, outer_iterations=1, iterations=7)
Flow = Callable[..., np.ndarray]  # (clips [N,T,H,W,3], settings) -> [N,T-1,H,W,2]


def on_cpu(clips: np.ndarray, settings: Tvl1 = NATIVE) -> np.ndarray:
    return np.stack([cpu_flow.tvl1_flow(clip, settings) for clip in clips])


def in_cuda(clips: np.ndarray, settings: Tvl1 = NATIVE) -> np.ndarray:
    return cuda_flow.tvl1_flow(clips, settings, CpuDevice())


backends = pytest.mark.parametrize("flow", [on_cpu, in_cuda], ids=["cpu", "cuda"])


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, uint8 [height,width,3], full range."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def before(image: np.ndarray, u: np.ndarray | float, v: np.ndarray | float) -> np.ndarray:
    """The frame from which the motion (u, v), given where it starts, leads to `image`."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    at = [(k + motion).astype(np.float32) for k, motion in ((x, u), (y, v))]
    return cv2.remap(image, *at, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def swirl(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth motion of up to 3 px."""
    y, x = np.mgrid[:height, :width]
    u = 3 * np.sin(2 * np.pi * y / height) * np.cos(np.pi * x / width)
    return u, 2 * np.cos(2 * np.pi * x / width)


def moving_clip(height: int, width: int, seed: int) -> np.ndarray:
    """Three frames [3,height,width,3]."""
    u, v = swirl(height, width)
    last = texture(height, width, seed)
    middle = before(last, -v, u)
    return np.stack([before(middle, u, v), middle, last])


def opencv_flow(frames: np.ndarray, settings: Tvl1) -> np.ndarray:
    """[T,H,W,3] -> [T-1,H,W,2] by OpenCV, made to iterate as often as asked."""
    solver = cv2.optflow.DualTVL1OpticalFlow_create(
        tau=settings.tau,
        lambda_=settings.lambda_,
        theta=settings.theta,
        nscales=settings.scales,
        warps=settings.warps,
        epsilon=settings.epsilon,
        innnerIterations=settings.iterations,
        outerIterations=settings.outer_iterations,
        scaleStep=settings.scale_step,
        medianFiltering=5 if settings.median else 1,
    )
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([solver.calc(*pair, None) for pair in pairwise(grey)])


@backends
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((70, 93), Tvl1()),  # several tiles, cut by the edge
        ((45, 58), Tvl1(scales=3, warps=3, iterations=4, outer_iterations=3, epsilon=0.02)),
        ((24, 130), Tvl1(scales=9, warps=2, iterations=8, median=False)),  # a short pyramid
        ((33, 33), Tvl1(scale_step=0.5, tau=0.2, lambda_=0.1, theta=0.4, warps=2)),
        ((40, 40), Tvl1(iterations=7, outer_iterations=1, epsilon=0)),  # never at rest
    ],
)
def test_equals_opencv(flow: Flow, size: tuple[int, int], settings: Tvl1) -> None:
    """With its stopping rule: clips come to rest at other times, a still one at once."""
    clips = np.stack([moving_clip(*size, 1), moving_clip(*size, 2) // 3, moving_clip(*size, 3)])
    clips[2, 1:] = clips[2, :1]
    found = flow(clips, settings)
    expected = np.stack([opencv_flow(clip, settings) for clip in clips])
    assert found.dtype == np.float32
    assert np.abs(expected[:2]).mean() > 0.5
    error = np.abs(found - expected)
    # Only rounding differs; where the frames leave the motion open, iterating makes it larger.
    assert np.median(error) < 1e-5
    assert error.mean() < 1e-3


@backends
@pytest.mark.parametrize(
    ("u", "v"), [swirl(96, 128), (2.5, -1.25), (-5.0, 3.5)], ids=["swirl", "slow", "fast"]
)
def test_finds_a_known_motion(flow: Flow, u: np.ndarray | float, v: np.ndarray | float) -> None:
    image = texture(96, 128)
    found = flow(np.stack([before(image, u, v), image])[None])[0, 0]
    expected = np.stack(np.broadcast_arrays(u, v, found[..., 0])[:2], axis=-1)
    assert np.linalg.norm(found - expected, axis=-1).mean() < 0.5


@backends
def test_still_frames_have_no_flow(flow: Flow) -> None:
    still = np.repeat(texture(40, 50)[None, None], 3, axis=1)
    assert not flow(still, QUICK).any()


@backends
def test_a_mirrored_clip_has_mirrored_flow(flow: Flow) -> None:
    clip = moving_clip(64, 80, 3)[None]
    found = flow(clip)
    mirrored = flow(np.ascontiguousarray(clip[..., ::-1, :]))
    difference = np.abs(mirrored[..., ::-1, :] * [-1, 1] - found)
    assert np.abs(found).mean() > 0.5
    assert difference.mean() < 0.02  # forward differences have a direction


@backends
@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((1, 2, 9, 9, 3), np.float32), "float32"),
        (np.zeros((1, 1, 9, 9, 3), np.uint8), "T of at least 2"),
        (np.zeros((1, 2, 9, 9), np.uint8), "2, 9, 9"),
    ],
)
def test_bad_frames_are_an_error(flow: Flow, frames: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        flow(frames)


def test_bad_settings_are_an_error() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        Tvl1(iterations=0)
    with pytest.raises(ValueError, match="scale_step"):
        Tvl1(scale_step=1.0)


def test_pyramid_ends_above_16_px() -> None:
    full = [(240, 320), (192, 256), (154, 205), (123, 164), (98, 131)]
    assert pyramid_sizes(240, 320, Tvl1()) == full
    assert pyramid_sizes(24, 320, Tvl1()) == [(24, 320), (19, 256)]


# ---- of the kernels alone ---------------------------------------------------------------------


def test_tiles_and_thread_order_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = moving_clip(45, 70, 4)[None]
    flow = in_cuda(clip, QUICK)
    for order in ORDERS[1:]:
        device = CpuDevice(order, seed=5)
        np.testing.assert_array_equal(cuda_flow.tvl1_flow(clip, QUICK, device), flow)
    for tile in ((32, 24, 4, 3), (128, 64, 8, 7)):  # the second holds the frame whole
        for name, value in zip(("TILE_W", "TILE_H", "ROWS", "HALO"), tile, strict=True):
            monkeypatch.setattr(cuda_flow, name, value)
        np.testing.assert_array_equal(in_cuda(clip, QUICK), flow)


def test_portions_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = np.stack([moving_clip(32, 40, seed) for seed in range(3)])
    flow = in_cuda(clips, QUICK)
    monkeypatch.setattr(cuda_flow, "PAIRS_AT_ONCE", 4)
    np.testing.assert_array_equal(in_cuda(clips, QUICK), flow)


def test_clips_of_several_sizes_are_cropped_as_opencv_does() -> None:
    sizes = [(60, 80), (48, 64), (60, 80)]
    clips = [moving_clip(*size, seed) for seed, size in enumerate(sizes)]
    crops, flips, resize, side = [(0, 13), (8, 0), (3, 5)], [False, True, True], (40, 53), 32
    found = cuda_flow.tvl1_crops(clips, crops, flips, resize, side, QUICK, CpuDevice())
    assert found.shape == (3, 2, side, side, 2)
    assert found.dtype == np.uint8
    for i, (clip, (top, left)) in enumerate(zip(clips, crops, strict=True)):
        coded = encode(in_cuda(clip[None], QUICK)[0])
        resized = np.stack([cv2.resize(field, resize[::-1]) for field in coded])
        expected = resized[:, top : top + side, left : left + side].astype(int)
        if flips[i]:
            expected = expected[:, :, ::-1].copy()
            expected[..., 0] = 255 - expected[..., 0]
        assert np.abs(found[i] - expected).max() <= 1  # OpenCV resizes with 11-bit weights
        assert (found[i] == expected).mean() > 0.85


def test_grey_is_opencv_grey() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    grey = np.empty((1, 64, 64), np.float32)
    arguments = [colours, np.int32(64), np.int32(64), grey]
    cuda_flow._kernels(CpuDevice())("grey", (2, 8, 1), cuda_flow.PIXEL_BLOCK, arguments)
    np.testing.assert_array_equal(grey[0], cv2.cvtColor(colours[0], cv2.COLOR_RGB2GRAY))


# ---- agreement on real clips ------------------------------------------------------------------


def agreement(found: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Share of equal motion labels (`reference`), two label matrices [N,14], a kind of label."""
    kinds = np.array([label.kind for label in LABELS[MOTION]])
    return {kind: float((found == other)[:, kinds == kind].mean()) for kind in set(kinds)}


def crops_of(coded: np.ndarray, count: int) -> np.ndarray:
    """Native codes [16,H,W,2] -> labels [count,14] of random crops, always the same ones."""
    resized = np.stack([cv2.resize(field, (171, 128)) for field in coded])
    corners = np.random.default_rng(0).integers(0, (17, 60), (count, 2))
    crops = [resized[:, y : y + 112, x : x + 112] for y, x in corners]
    return motion_labels(np.stack(crops), "reference")


def stored_clip(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """RGB frames [17,H,W,3] and coded flow [16,H,W,2] of a prepared clip."""

    def images(folder: Path, mode: int) -> np.ndarray:
        return np.stack([cv2.imread(str(path), mode) for path in sorted(folder.iterdir())])

    frames = images(root / "rgb" / name, cv2.IMREAD_COLOR)[..., ::-1]
    video = Path(name).name
    u, v = (images(root / "flow" / c / video, cv2.IMREAD_GRAYSCALE) for c in "uv")
    return np.ascontiguousarray(frames), np.stack([u, v], axis=-1)


def cuda_flow_of(root: Path, name: str) -> np.ndarray:
    return encode(in_cuda(stored_clip(root, name)[0][None])[0])


def check_labels_of_stored_clips(root: Path, names: list[str], flows: list[np.ndarray]) -> None:
    """The stored flow is OpenCV's TV-L1 as JPEG; chance is 16, 22 and 10 %."""
    found = np.concatenate([crops_of(flow, 8) for flow in flows])
    stored = np.concatenate([crops_of(stored_clip(root, name)[1], 8) for name in names])
    share = agreement(found, stored)
    print({kind: round(100 * value, 1) for kind, value in share.items()})
    assert share["position"] >= 0.88, share
    assert share["orientation"] >= 0.82, share
    assert share["frame"] >= 0.72, share


def stored_names(root: Path) -> list[str]:
    return [line.split()[0] for line in (root / "train.list").read_text().splitlines()]


def test_labels_of_cpu_flow_agree_with_stored_flow(real_data: Path) -> None:
    root = real_data / "frames"
    names = stored_names(root)
    flows = [encode(cpu_flow.tvl1_flow(stored_clip(root, name)[0])) for name in names]
    check_labels_of_stored_clips(root, names, flows)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "count", [2, pytest.param(None, marks=pytest.mark.battery)], ids=["two", "all"]
)
def test_labels_of_cuda_flow_agree_with_stored_flow(real_data: Path, count: int | None) -> None:
    root = real_data / "frames"
    names = stored_names(root)[:count]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        flows = list(pool.map(cuda_flow_of, [root] * len(names), names))
    check_labels_of_stored_clips(root, names, flows)
