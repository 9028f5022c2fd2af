"""What only a GPU can show of the label kernels. Run by `make test-gpu`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.labels import clip_labels
from kernels.labels import cuda as cuda_labels
from kernels.labels.schema import RULES, Rule, flow_fields

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[3]


def random_clips(
    clips: int, rule: Rule, seed: int = 0, dtype: str = "uint8"
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and flow with large areas of one value, so that blocks differ."""
    random = np.random.default_rng(seed)
    shape = (clips, 16, 112, 112)
    frames = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    frames[:, :, : random.integers(10, 100)] //= 64
    flow = random.integers(0, 256, (clips, flow_fields(rule, 16), 112, 112, 2), dtype=np.uint8)
    flow[:, :, :, random.integers(10, 100) :] = 127
    if dtype == "float32":
        return frames, (flow.astype(np.float32) - 127.5) * random.standard_normal(
            flow.shape
        ).astype(np.float32)
    return frames, flow


def cuda(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array).cuda() for array in arrays]


@pytest.mark.parametrize("rule", RULES)
def test_real_clips_have_their_golden_labels(real_data: Path, rule: Rule) -> None:
    golden = np.load(real_data / "golden" / "labels_27.npz")
    labels = clip_labels(*cuda(golden["frames"], golden["flow8"]), rule)
    assert labels.is_cuda
    np.testing.assert_array_equal(labels.cpu(), golden[f"labels_{rule}"])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("rule", RULES)
def test_random_clips_equal_the_cpu(rule: Rule, dtype: str) -> None:
    for seed in range(4):  # 4 batches of 64 clips
        frames, flow = random_clips(64, rule, seed, dtype)
        labels = clip_labels(*cuda(frames, flow), rule)
        np.testing.assert_array_equal(labels.cpu(), clip_labels(frames, flow, rule))


@pytest.mark.parametrize(("clip_len", "size"), [(2, 8), (5, 64), (64, 224)])
def test_other_sizes_equal_the_cpu(clip_len: int, size: int) -> None:
    random = np.random.default_rng(1)
    frames = random.integers(0, 256, (3, clip_len, size, size, 3), dtype=np.uint8)
    flow = random.integers(0, 256, (3, clip_len - 1, size, size, 2), dtype=np.uint8)
    labels = clip_labels(*cuda(frames, flow))
    np.testing.assert_array_equal(labels.cpu(), clip_labels(frames, flow))


def test_cupy_arrays_are_labelled_in_place() -> None:
    import cupy

    frames, flow = random_clips(2, "corrected")
    labels = clip_labels(cupy.asarray(frames), cupy.asarray(flow))
    assert isinstance(labels, cupy.ndarray)
    np.testing.assert_array_equal(labels.get(), clip_labels(frames, flow))


def test_unaligned_and_strided_tensors_are_labelled() -> None:
    frames, flow = random_clips(2, "corrected")
    odd = torch.empty(flow.size + 2, dtype=torch.uint8, device="cuda")[2:].view(flow.shape)
    odd.copy_(torch.from_numpy(flow))
    wide = torch.from_numpy(np.repeat(frames, 2, axis=1)).cuda()[:, ::2]
    np.testing.assert_array_equal(clip_labels(wide, odd).cpu(), clip_labels(frames, flow))


@pytest.mark.parametrize("rule", RULES)
def test_labels_follow_their_stream_while_others_work(rule: Rule) -> None:
    """Input is produced late on a side stream; another stream keeps the GPU busy."""
    frames, flow = random_clips(8, rule)
    expected = clip_labels(frames, flow, rule)
    source = cuda(frames, flow)
    clip_labels(*source, rule)
    torch.cuda.synchronize()
    side, busy = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(busy):
        noise = torch.randn(4096, 4096, device="cuda")
        for _ in range(50):
            noise = noise @ noise / 64
    for _ in range(5):
        with torch.cuda.stream(side):
            late = [torch.zeros_like(array) for array in source]
            torch.cuda._sleep(20_000_000)
            for target, array in zip(late, source, strict=True):
                target.copy_(array)
            labels = clip_labels(*late, rule)
        side.synchronize()
        np.testing.assert_array_equal(labels.cpu(), expected)


@pytest.mark.parametrize("rule", RULES)
def test_labelling_waits_for_nothing(rule: Rule) -> None:
    clips = cuda(*random_clips(8, rule))
    clip_labels(*clips, rule)  # compiles, copies tables
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # about a second
        labels = clip_labels(*clips, rule)
        asleep = not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert asleep, "the call returned only after the GPU had worked"
    assert labels.cpu().min() >= 0


@pytest.mark.parametrize("rule", RULES)
def test_cuda_graph_captures_a_label_call(rule: Rule) -> None:
    static = cuda(*random_clips(4, rule, seed=1))
    clip_labels(*static, rule)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels = clip_labels(*static, rule)
    for seed in (2, 3):
        clips = random_clips(4, rule, seed)
        for target, array in zip(static, clips, strict=True):
            target.copy_(torch.from_numpy(array))
        graph.replay()
        np.testing.assert_array_equal(labels.cpu(), clip_labels(*clips, rule))


def test_operators_keep_what_torch_compile_relies_on() -> None:
    frames, flow = cuda(*random_clips(2, "corrected"))
    torch.library.opcheck(cuda_labels.motion_operator, (flow, "corrected"))
    torch.library.opcheck(cuda_labels.appearance_operator, (frames, "corrected"))

    def labels(frames: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        motion = cuda_labels.motion_labels(flow, "corrected")
        return torch.cat([motion, cuda_labels.appearance_labels(frames, "corrected")], 1).float()

    compiled = torch.compile(labels, fullgraph=True)
    torch.testing.assert_close(compiled(frames, flow), labels(frames, flow))


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_compute_sanitizer_is_clean(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    assert Path(sanitizer).exists(), "compute-sanitizer (CUDA toolkit) is needed for this test"
    code = (
        "from tests.kernels.labels.test_cuda_labels_gpu import cuda, random_clips\n"
        "from kernels.labels import clip_labels\n"
        "for rule in ('corrected', 'reference'):\n"
        "    for dtype in ('uint8', 'float32'):\n"
        "        clip_labels(*cuda(*random_clips(1, rule, dtype=dtype)), rule).cpu()\n"
    )
    done = subprocess.run(
        [sanitizer, f"--tool={tool}", "--error-exitcode=66", sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "SUMMARY: 0" in done.stdout, "compute-sanitizer saw no kernel"
