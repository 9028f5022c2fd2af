"""What only a GPU can show of TV-L1 in CUDA. Run by `make test-gpu`."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dali_pipes.decoding.video import probe, read_frames
from dali_pipes.flow import flow_size
from kernels.cuda_module import recorder
from kernels.flow import cpu as cpu_flow
from kernels.flow.code import encode
from kernels.flow.cuda import tvl1_crops, tvl1_flow
from kernels.flow.tvl1 import FAST, Tvl1
from kernels.labels.cpu import motion_labels
from kernels.labels.schema import LABELS, MOTION
from tests.cuda_on_cpu import CpuDevice
from tests.cuda_on_cpu.cases import drifting_clips

pytestmark = pytest.mark.gpu
SETTINGS = Tvl1(scales=3, warps=2, outer_iterations=3)
both = pytest.mark.parametrize("settings", [SETTINGS, FAST], ids=["cubic", "fast"])


@both
def test_bits_are_those_of_the_cpu_run(settings: Tvl1) -> None:
    clips = np.stack(drifting_clips([(70, 131)] * 3, 4))
    flow = tvl1_flow(torch.from_numpy(clips).cuda(), settings)
    np.testing.assert_array_equal(flow.cpu(), tvl1_flow(clips, settings, CpuDevice()))


def test_bits_of_crops_are_those_of_the_cpu_run() -> None:
    clips = drifting_clips([(40, 60), (64, 48), (40, 60)], 3)
    place = [(0, 5), (9, 0), (3, 3)], [True, False, True], (50, 60), 40, SETTINGS
    coded = tvl1_crops([torch.from_numpy(clip).cuda() for clip in clips], *place)
    np.testing.assert_array_equal(coded.cpu(), tvl1_crops(clips, *place, CpuDevice()))


def test_bits_of_crops_in_native_pixels_are_those_of_the_cpu_run() -> None:
    clips = drifting_clips([(50, 60)] * 3, 3)
    place = [(0, 5), (9, 0), (3, 3)], [True, False, True], (50, 60), 40, FAST
    natives = [(240, 320), (50, 60), (90, 200)]
    on_gpu = [torch.from_numpy(clip).cuda() for clip in clips]
    coded = tvl1_crops(on_gpu, *place, native_sizes=natives)
    expected = tvl1_crops(clips, *place, CpuDevice(), native_sizes=natives)
    np.testing.assert_array_equal(coded.cpu(), expected)


@both
def test_flow_waits_for_nothing_and_follows_its_stream(settings: Tvl1) -> None:
    clips = torch.from_numpy(np.stack(drifting_clips([(70, 131)] * 2, 3))).cuda()
    expected = [tvl1_flow(clips, settings).cpu() for _ in range(2)][-1]  # compiles, records
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        late = torch.zeros_like(clips)
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.cuda._sleep(2_000_000_000)  # about a second
            late.copy_(clips)
            flow = tvl1_flow(late, settings)
            asleep = not torch.cuda.current_stream().query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert asleep
        torch.testing.assert_close(flow.cpu(), expected, rtol=0, atol=0)


@both
def test_replays_have_the_bits_of_the_cpu_run(settings: Tvl1) -> None:
    """Of several shapes in turns, on two streams in turns, each time of other frames."""
    sizes = [(40, 61), (70, 131), (33, 48)]
    clips = drifting_clips(sizes * 8, 3)
    streams = [torch.cuda.current_stream(), torch.cuda.Stream()]
    found = []
    for i, clip in enumerate(clips):
        with torch.cuda.stream(streams[i % 2]):
            torch.cuda._sleep(20_000_000 * (i % 5 == 0))  # so that the other stream could be first
            given = torch.from_numpy(clip)[None].cuda(non_blocking=True)
            found.append(tvl1_flow(given, settings))
    torch.cuda.synchronize()
    assert len(recorder(torch.cuda.current_device())._recordings) >= len(sizes)
    for clip, flow in zip(clips, found, strict=True):
        np.testing.assert_array_equal(flow.cpu(), tvl1_flow(clip[None], settings, CpuDevice()))


def test_threads_share_what_is_recorded() -> None:
    clips = [np.stack(drifting_clips([(48, 64)] * 3, 3))[i : i + 1] for i in range(3)]
    expected = [tvl1_flow(clip, SETTINGS, CpuDevice()) for clip in clips]

    def flow_of(i: int) -> np.ndarray:
        with torch.cuda.stream(torch.cuda.Stream()):
            return tvl1_flow(torch.from_numpy(clips[i % 3]).cuda(), SETTINGS).cpu().numpy()

    with ThreadPoolExecutor(3) as pool:
        for i, flow in enumerate(pool.map(flow_of, range(60))):
            np.testing.assert_array_equal(flow, expected[i % 3])


def test_memory_is_that_of_the_largest_shape() -> None:
    """However many shapes there were."""

    def allocated(height: int, width: int) -> int:
        for _ in range(3):
            tvl1_flow(torch.zeros(1, 5, height, width, 3, dtype=torch.uint8).cuda(), SETTINGS)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    largest = allocated(240, 320)
    for height in range(120, 240, 3):
        assert allocated(height, 320) == largest


def test_flow_may_be_part_of_another_graph() -> None:
    """In memory of its own: what is recorded meanwhile and later changes nothing."""
    clips = torch.from_numpy(np.stack(drifting_clips([(40, 61)] * 2, 3))).cuda()
    expected = tvl1_flow(clips, SETTINGS).cpu()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flow = tvl1_flow(clips, SETTINGS)
    for _ in range(3):
        tvl1_flow(clips.flip(1), SETTINGS)
        graph.replay()
        torch.testing.assert_close(flow.cpu(), expected, rtol=0, atol=0)


def clips_of(videos: Path) -> Iterator[tuple[Path, range, tuple[int, int]]]:
    """(video, two spans of its frames, the size in whose pixels flow is)."""
    for path in sorted(videos.glob("*/*")):
        info = probe(path)
        for start in (info.frames // 4, info.frames // 2):
            if start + 17 <= info.frames:
                yield path, range(start, start + 17), flow_size((info.height, info.width))


def test_labels_of_fast_flow_are_those_of_the_cpu(real_data: Path) -> None:
    """Of resized frames of real videos, cropped at random, every other crop mirrored."""
    random = np.random.default_rng(0)
    equal = []
    for path, span, native in clips_of(real_data / "videos"):
        clip = read_frames(path, span, (128, 171))
        codes = cpu_flow.tvl1_codes(clip, native, FAST).transpose(0, 2, 3, 1)
        crops = [(int(y), int(x)) for y, x in random.integers(0, (17, 60), (8, 2))]
        expected = np.stack([codes[:, y : y + 112, x : x + 112] for y, x in crops])
        expected[1::2] = expected[1::2, :, :, ::-1]
        expected[1::2, ..., 0] = 255 - expected[1::2, ..., 0]
        found = tvl1_crops(
            *([torch.from_numpy(clip).cuda()] * 8, crops, [False, True] * 4, (128, 171), 112, FAST),
            native_sizes=[native] * 8,
        )
        labels = [motion_labels(flow, "reference") for flow in (found.cpu().numpy(), expected)]
        equal.append(np.equal(*labels))
    assert 8 * len(equal) >= 200
    assert np.mean(equal) >= 0.99


@pytest.mark.timeout(3600)
def test_labels_agree_with_opencv(real_data: Path) -> None:
    """Over at least 200 crops of real videos, against OpenCV run afresh with its defaults."""
    clips = [read_frames(*clip) for clip in clips_of(real_data / "videos")]

    def opencv_flow(clip: np.ndarray) -> np.ndarray:
        solver = cv2.optflow.DualTVL1OpticalFlow_create()
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        return np.stack([solver.calc(*pair, None) for pair in pairwise(grey)])

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        expected = list(pool.map(opencv_flow, clips))
    found = [tvl1_flow(torch.from_numpy(clip)[None].cuda())[0].cpu().numpy() for clip in clips]

    def labels(flow: np.ndarray) -> np.ndarray:
        resized = np.stack([cv2.resize(field, (171, 128)) for field in encode(flow)])
        corners = np.random.default_rng(0).integers(0, (17, 60), (8, 2))
        crops = [resized[:, y : y + 112, x : x + 112] for y, x in corners]
        return motion_labels(np.stack(crops), "reference")

    equal = np.concatenate([labels(a) == labels(b) for a, b in zip(found, expected, strict=True)])
    assert len(equal) >= 200
    kinds = np.array([label.kind for label in LABELS[MOTION]])
    share = {kind: equal[:, kinds == kind].mean() for kind in ("position", "orientation", "frame")}
    assert share["position"] >= 0.90, share
    assert share["orientation"] >= 0.85, share
    assert share["frame"] >= 0.75, share
