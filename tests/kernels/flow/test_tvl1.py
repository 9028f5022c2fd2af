"""TV-L1 on the CPU and in CUDA run on the CPU: against OpenCV, known motion, and stored flow."""

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from kernels.flow import cpu as cpu_flow
from kernels.flow import cpu_loops as loops
from kernels.flow import cuda as cuda_flow
from kernels.flow.code import encode
from kernels.flow.tvl1 import FAST, NATIVE, Tvl1, pyramid_sizes
from kernels.labels.cpu import motion_labels
from kernels.labels.schema import LABELS, MOTION
from tests.cuda_on_cpu import ORDERS, CpuDevice

QUICK = Tvl1(scales=2, warps=2, outer_iterations=1, iterations=7)
QUICK_SPLINE = replace(QUICK, spline=True, median=False, epsilon=0)
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
    ("settings", "u", "v"),
    [
        pytest.param(NATIVE, *swirl(96, 128), id="swirl"),
        pytest.param(NATIVE, 2.5, -1.25, id="slow"),
        pytest.param(NATIVE, -5.0, 3.5, id="fast"),
        pytest.param(FAST, *swirl(96, 128), id="swirl, in few steps"),
        pytest.param(FAST, 2.5, -1.25, id="slow, in few steps"),
    ],
)
def test_finds_a_known_motion(
    flow: Flow, settings: Tvl1, u: np.ndarray | float, v: np.ndarray | float
) -> None:
    image = texture(96, 128)
    found = flow(np.stack([before(image, u, v), image])[None], settings)[0, 0]
    expected = np.stack(np.broadcast_arrays(u, v, found[..., 0])[:2], axis=-1)
    assert np.linalg.norm(found - expected, axis=-1).mean() < 0.5


@backends
@pytest.mark.parametrize("settings", [QUICK, FAST], ids=["quick", "fast"])
@pytest.mark.parametrize("size", [(40, 50), (33, 64), (17, 23)])
def test_still_frames_have_no_flow(flow: Flow, settings: Tvl1, size: tuple[int, int]) -> None:
    """Not even a little: 0 px lies between two codes, and rounding would decide which."""
    still = np.repeat(texture(*size)[None, None], 3, axis=1)
    assert not flow(still, settings).any()


@backends
@pytest.mark.parametrize("settings", [NATIVE, FAST], ids=["native", "fast"])
def test_a_mirrored_clip_has_mirrored_flow(flow: Flow, settings: Tvl1) -> None:
    clip = moving_clip(64, 80, 3)[None]
    found = flow(clip, settings)
    mirrored = flow(np.ascontiguousarray(clip[..., ::-1, :]), settings)
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


# ---- splines: the kernels against the CPU's form ----------------------------------------------


@pytest.mark.parametrize("size", [(45, 70), (24, 130), (128, 171)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        FAST,
        replace(FAST, warps=3, iterations=8),  # the dual goes on
        replace(FAST, scales=2, warps=2, outer_iterations=3, epsilon=0.02, median=True),
    ],
    ids=["fast", "several warps", "stopping"],
)
def test_splines_in_cuda_equal_those_on_the_cpu(size: tuple[int, int], settings: Tvl1) -> None:
    clips = np.stack([moving_clip(*size, 1), moving_clip(*size, 2) // 3])
    expected, found = on_cpu(clips, settings), in_cuda(clips, settings)
    error = np.abs(found - expected)
    assert np.abs(expected).mean() > 0.5
    # Rounding: constants of the spline that are 1e-4 off move the median by 6e-6 px and more.
    assert np.median(error) < 3e-6
    assert error.mean() < 1e-5
    assert error.max() < 1e-2


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (40, 1), (2, 3), (3, 2), (8, 8), (15, 90), (90, 15)], ids=str
)
def test_small_frames_have_the_same_flow_on_both(size: tuple[int, int]) -> None:
    """Where taps meet two edges at once."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, *size, 3), dtype=np.uint8)
    found, expected = in_cuda(frames, FAST), on_cpu(frames, FAST)
    assert np.isfinite(found).all()
    assert expected.any() or size == (1, 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_motion_out_of_the_frame_has_no_gradient() -> None:
    """The data term of both backends where the flow leads to each side of the frame and beyond."""
    height, width = 20, 30
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, height, width)).astype(np.float32)
    flow = random.uniform(-12, 12, (2, 1, height, width)).astype(np.float32)
    data = np.empty((3, 1, height, width), np.float32)
    grid, block = cuda_flow._grid(height, width, 1), cuda_flow.PIXEL_BLOCK
    arguments = [images, flow, *map(np.int32, (2, height, width)), data]
    cuda_flow._kernels(CpuDevice())("warp_spline", grid, block, arguments)

    scale = cpu_flow._Scale(height, width, FAST)
    scale.begin(None)
    for plane, values in zip(scale.flow, flow[:, 0], strict=True):
        plane[...] = values
    i0, i1 = (cpu_flow._Image(image, FAST) for image in images)
    loops.linearise_spline(i0.first, *i1.second, width, scale._fields, scale._index, scale._row)
    expected = [scale._plane(plane) for plane in (loops.I_X, loops.I_Y, loops.RHO)]
    np.testing.assert_allclose(data[:, 0], expected, rtol=0, atol=2e-3)  # rho: thousands summed
    y, x = np.mgrid[:height, :width]
    to_x, to_y = x + flow[0, 0], y + flow[1, 0]
    outside = (to_x < 0) | (to_x > width - 1) | (to_y < 0) | (to_y > height - 1)
    assert 0.2 < outside.mean() < 0.8
    assert not data[:2, 0, outside].any()
    assert (data[:2, 0, ~outside] != 0).any(axis=0).all()


def test_bits_do_not_depend_on_what_was_compiled_when(tmp_path: Path) -> None:
    """Loops compiled in this process, and the same from the cache that it leaves."""
    command = (
        "import hashlib, numpy as np; from kernels.flow.cpu import tvl1_flow; "
        "from kernels.flow.tvl1 import FAST, Tvl1; "
        "images = np.random.default_rng(0).integers(0, 256, (3, 45, 70, 3), dtype=np.uint8); "
        "flows = [tvl1_flow(images, settings).tobytes() for settings in (FAST, Tvl1(warps=1))]; "
        "print(hashlib.sha256(b''.join(flows)).hexdigest())"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    run = partial(
        subprocess.run, [sys.executable, "-c", command], env=environment, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    compiled, cached = (run().stdout for _ in range(2))
    assert compiled == cached
    assert list(tmp_path.rglob("*.nbc"))


# ---- of the kernels alone ---------------------------------------------------------------------


@pytest.mark.parametrize("settings", [QUICK, QUICK_SPLINE], ids=["cubic", "spline"])
def test_tiles_and_thread_order_change_no_bit(
    settings: Tvl1, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = moving_clip(45, 70, 4)[None]
    flow = in_cuda(clip, settings)
    for order in ORDERS[1:]:
        device = CpuDevice(order, seed=5)
        np.testing.assert_array_equal(cuda_flow.tvl1_flow(clip, settings, device), flow)
    for tile in ((32, 24, 4, 3), (128, 64, 8, 7)):  # the second holds the frame whole
        for name, value in zip(("TILE_W", "TILE_H", "ROWS", "HALO"), tile, strict=True):
            monkeypatch.setattr(cuda_flow, name, value)
        np.testing.assert_array_equal(in_cuda(clip, settings), flow)


@pytest.mark.parametrize("settings", [QUICK, QUICK_SPLINE], ids=["cubic", "spline"])
def test_portions_change_no_bit(settings: Tvl1, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = np.stack([moving_clip(32, 40, seed) for seed in range(3)])
    flow = in_cuda(clips, settings)
    monkeypatch.setattr(cuda_flow, "PAIRS_AT_ONCE", 4)
    np.testing.assert_array_equal(in_cuda(clips, settings), flow)


def test_the_fast_preset_takes_few_launches() -> None:
    """Of a batch of one size, before its crops; a launch takes the host longer than the GPU."""
    device = CpuDevice()
    cuda_flow.tvl1_flow(np.zeros((2, 2, 128, 171, 3), np.uint8), FAST, device)
    launches = Counter(launched.kernel for launched in device.launches)
    assert launches == {"grey": 1, "resize": 3 + 3, "warp_spline": 4, "iterate": 4 * 3}


@pytest.mark.parametrize(
    "settings",
    [QUICK_SPLINE, replace(QUICK, outer_iterations=3, iterations=4), replace(QUICK, iterations=12)],
    ids=["one launch", "median", "three launches"],
)
def test_without_a_stopping_rule_the_last_launch_has_the_result(settings: Tvl1) -> None:
    """The same bits as those of `settle` with a limit too low for any of the pairs."""
    height, width = pyramid_sizes(45, 70, settings)[-1]
    least = (2 / (height * width * cuda_flow.CHANGE_UNITS)) ** 0.5  # a unit of change, at least
    clips = np.stack([moving_clip(45, 70, seed) for seed in (4, 5)])
    flows, settled = [], []
    for epsilon in (0, least):
        device = CpuDevice()
        flows.append(cuda_flow.tvl1_flow(clips, replace(settings, epsilon=epsilon), device))
        settled.append({"count", "settle"} <= {launched.kernel for launched in device.launches})
    assert settled == [False, True]
    np.testing.assert_array_equal(*flows)


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


def test_crops_of_resized_frames_are_those_of_the_codes_on_the_cpu() -> None:
    """In native pixels, twice and more what is found on the frames, and other in x than in y."""
    height, width, side = 60, 80, 48
    clips = [moving_clip(height, width, seed) for seed in range(3)]
    crops, flips = [(0, 32), (12, 0), (5, 9)], [False, True, False]
    natives = [(120, 240), (144, 160), (height, width)]
    found = cuda_flow.tvl1_crops(
        *(clips, crops, flips, (height, width), side, FAST, CpuDevice()), native_sizes=natives
    )
    for i, (clip, native, (top, left)) in enumerate(zip(clips, natives, crops, strict=True)):
        coded = cpu_flow.tvl1_codes(clip, native, FAST).transpose(0, 2, 3, 1).astype(int)
        expected = coded[:, top : top + side, left : left + side]
        if flips[i]:
            expected = expected[:, :, ::-1] * [-1, 1] + [255, 0]
        assert np.ptp(expected) > 30
        assert np.abs(found[i] - expected).max() <= 1
        assert (found[i] == expected).mean() > 0.999


def test_native_sizes_of_the_frames_themselves_change_no_bit() -> None:
    clips = [moving_clip(32, 40, seed) for seed in range(2)]
    place = clips, [(0, 13), (8, 0)], [False, True], (40, 50), 32, QUICK_SPLINE, CpuDevice()
    found = cuda_flow.tvl1_crops(*place, native_sizes=[(32, 40)] * 2)
    np.testing.assert_array_equal(found, cuda_flow.tvl1_crops(*place))


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
    """Codes [16,H,W,2] -> labels [count,14] of random crops, always the same ones."""
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


def cuda_flow_of(root: Path, name: str, fields: int) -> np.ndarray:
    return encode(in_cuda(stored_clip(root, name)[0][None, : fields + 1])[0])


def check_labels_of_stored_clips(root: Path, names: list[str], flows: list[np.ndarray]) -> None:
    """The stored flow is OpenCV's TV-L1 as JPEG; chance is 16, 22 and 10 %."""
    found = np.concatenate([crops_of(flow, 8) for flow in flows])
    codes = [
        stored_clip(root, name)[1][: len(flow)] for name, flow in zip(names, flows, strict=True)
    ]
    stored = np.concatenate([crops_of(code, 8) for code in codes])
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
    ("count", "fields"),
    [(1, 2), pytest.param(None, 16, marks=pytest.mark.battery)],
    ids=["two fields of one", "all"],
)
def test_labels_of_cuda_flow_agree_with_stored_flow(
    real_data: Path, count: int | None, fields: int
) -> None:
    root = real_data / "frames"
    names = stored_names(root)[:count]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        flows = list(pool.map(partial(cuda_flow_of, root, fields=fields), names))
    check_labels_of_stored_clips(root, names, flows)


def test_labels_of_fast_flow_are_the_same_from_both(real_data: Path) -> None:
    """Of frames of training size: only rounding differs, and what iterating makes of it."""
    equal = []
    for name in stored_names(real_data / "frames"):
        frames, _ = stored_clip(real_data / "frames", name)
        height, width = frames.shape[1:3]
        resized = np.stack([cv2.resize(frame, (171, 128)) for frame in frames])
        found = in_cuda(resized[None], FAST)[0]
        error = np.abs(found - cpu_flow.tvl1_flow(resized, FAST))
        assert np.median(error) < 1e-5, name
        assert np.quantile(error, 0.99) < 2e-3, name

        gains = np.array([width / 171, height / 128], np.float32)
        codes = encode(found * gains)
        expected = cpu_flow.tvl1_codes(resized, (height, width), FAST).transpose(0, 2, 3, 1)
        assert (codes == expected).mean() > 0.999, name
        assert (np.abs(codes.astype(int) - expected) <= 1).mean() > 0.9999, name
        equal.append(crops_of(codes, 8) == crops_of(expected, 8))
    assert np.mean(equal) >= 0.995  # of 672
