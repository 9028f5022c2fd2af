"""The CUDA label kernels, run on the CPU and compiled for GPUs, where there is no GPU."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels import cuda_module
from kernels.labels import cpu as cpu_labels
from kernels.labels import cuda as cuda_labels
from kernels.labels import launches as cuda_launches
from kernels.labels.schema import APPEARANCE, MOTION, RULES, Rule, flow_fields
from tests.cuda_on_cpu import ORDERS, CpuDevice
from tests.cuda_on_cpu.cases import moving_ring

RANDOM = np.random.default_rng(20)


def frames_of(kind: str, clips: int, clip_len: int, size: int) -> np.ndarray:
    shape = (clips, clip_len, size, size, 3)
    match kind:
        case "random":
            return RANDOM.integers(0, 256, shape, dtype=np.uint8)
        case "few colours":  # ties, and many samples of one colour
            return RANDOM.choice(np.array([0, 127, 128, 255], np.uint8), shape)
        case "constant":
            return np.broadcast_to(np.array([200, 10, 90], np.uint8), shape).copy()
        case "black":
            return np.zeros(shape, np.uint8)
        case "saturated":
            return np.full(shape, 255, np.uint8)
    raise KeyError(kind)


def flow_of(kind: str, clips: int, fields: int, size: int) -> np.ndarray:
    shape = (clips, fields, size, size, 2)
    match kind:
        case "random":
            return RANDOM.integers(0, 256, shape, dtype=np.uint8)
        case "constant":
            return np.full(shape, 127, np.uint8)
        case "black":
            return np.zeros(shape, np.uint8)
        case "saturated":  # the largest boundaries that 8 bits can have, in every field
            return np.where(np.indices(shape)[3] // 3 % 2 == 1, 255, 0).astype(np.uint8)
        case "float":
            return RANDOM.standard_normal(shape).astype(np.float32)
        case "float zero":
            return np.zeros(shape, np.float32)
        case "float tiny":  # down to subnormal
            return (RANDOM.standard_normal(shape) * 1e-38).astype(np.float32)
        case "float extreme":
            largest = np.finfo(np.float32).max
            return RANDOM.choice(np.array([-largest, largest, 1, 0], np.float32), shape)
        case "float steep":  # all boundaries add up
            return np.where(np.indices(shape)[3] // 3 % 2 == 1, 1e30, -1e30).astype(np.float32)
    raise KeyError(kind)


FRAMES = ("random", "few colours", "constant", "black", "saturated")
FLOW = ("random", "constant", "black", "saturated")
FLOW += ("float", "float zero", "float tiny", "float extreme", "float steep")


@pytest.mark.parametrize("rule", RULES)
def test_real_clips_have_their_golden_labels(real_data: Path, rule: Rule) -> None:
    golden = np.load(real_data / "golden" / "labels_27.npz")
    flow = np.ascontiguousarray(golden["flow8"][:, : flow_fields(rule, 16)])
    labels = golden[f"labels_{rule}"]
    motion = cuda_launches.motion(CpuDevice(), flow, rule)
    appearance = cuda_launches.appearance(CpuDevice(), golden["frames"], rule)
    np.testing.assert_array_equal(motion, labels[:, MOTION])
    np.testing.assert_array_equal(appearance, labels[:, APPEARANCE])


@pytest.mark.parametrize("size", [8, 16, 56, 112, 224])
@pytest.mark.parametrize("kind", FLOW)
def test_motion_equals_the_cpu_for_any_size(kind: str, size: int) -> None:
    flow = flow_of(kind, 2, 5, size)
    labels = cuda_launches.motion(CpuDevice(), flow, "corrected")
    np.testing.assert_array_equal(labels, cpu_labels.motion_labels(flow, "corrected"))


@pytest.mark.parametrize("kind", FLOW)
def test_motion_equals_the_cpu_under_the_reference_rule(kind: str) -> None:
    flow = flow_of(kind, 2, 16, 112)
    labels = cuda_launches.motion(CpuDevice(), flow, "reference")
    np.testing.assert_array_equal(labels, cpu_labels.motion_labels(flow, "reference"))


@pytest.mark.parametrize("size", [8, 16, 56, 112, 224])
@pytest.mark.parametrize("kind", FRAMES)
def test_appearance_equals_the_cpu_for_any_size(kind: str, size: int) -> None:
    frames = frames_of(kind, 2, 3, size)
    labels = cuda_launches.appearance(CpuDevice(), frames, "corrected")
    np.testing.assert_array_equal(labels, cpu_labels.appearance_labels(frames, "corrected"))


@pytest.mark.parametrize("kind", FRAMES)
def test_appearance_equals_the_cpu_under_the_reference_rule(kind: str) -> None:
    frames = frames_of(kind, cuda_launches.EXACT_CLIPS + 1, 16, 112)
    labels = cuda_launches.appearance(CpuDevice(), frames, "reference")
    np.testing.assert_array_equal(labels, cpu_labels.appearance_labels(frames, "reference"))


def test_reference_counts_the_published_ring_when_it_is_chosen() -> None:
    """Ring 1 has colours of its own: only there the published slip shows."""
    frames = moving_ring(3, 16, 112)
    labels = cuda_launches.appearance(CpuDevice(), frames, "reference")
    assert (labels[1:, 4] == 2).all()
    np.testing.assert_array_equal(labels, cpu_labels.appearance_labels(frames, "reference"))


@pytest.mark.parametrize("rule", RULES)
def test_order_of_threads_changes_nothing(rule: Rule) -> None:
    frames, flow = frames_of("random", 1, 16, 112), flow_of("float", 1, 16, 112)
    labels = [
        [f(CpuDevice(order, seed=5), array, rule).tolist() for f, array in pairs]
        for order in ORDERS
        for pairs in [((cuda_launches.motion, flow), (cuda_launches.appearance, frames))]
    ]
    assert labels[0] == labels[1] == labels[2]


def test_batch_without_clips_has_no_labels() -> None:
    assert cuda_launches.motion(CpuDevice(), flow_of("random", 0, 15, 112), "corrected").shape == (
        0,
        14,
    )
    frames = frames_of("random", 0, 16, 112)
    assert cuda_launches.appearance(CpuDevice(), frames, "corrected").shape == (0, 13)


def test_wrong_dtype_is_rejected() -> None:
    with pytest.raises(TypeError, match="points to float32, got float64"):
        cuda_launches.motion(CpuDevice(), np.zeros((1, 15, 112, 112, 2)), "corrected")
    frames = np.zeros((1, 16, 112, 112, 3), np.int8)
    with pytest.raises(TypeError, match="points to uint8, got int8"):
        cuda_launches.appearance(CpuDevice(), frames, "corrected")


def test_module_text_points_at_its_files_and_holds_no_geometry() -> None:
    text = cuda_module.source(cuda_launches.MOTION_FILES, (("HALF", 0.5), ("COUNT", 3)))
    assert text.startswith("#define HALF 0.5f\n#define COUNT 3\n")
    for file in cuda_launches.MOTION_FILES:
        assert f'#line 1 "kernels/{file}"\n' in text
    for file in {*cuda_launches.MOTION_FILES, *cuda_launches.APPEARANCE_FILES}:
        code = re.sub(r"//.*", "", (cuda_module.FOLDER / file).read_text())
        assert not re.search(r"\b(14|28|42|56|70|84|98|112|1540|1596)\b", code)


def test_gpu_launch_takes_no_python_numbers() -> None:
    device = cuda_module.CudaDevice(torch.device("cuda", 0))
    launch = device.module(cuda_launches.MOTION_FILES, cuda_launches.defines(112, "corrected"))
    with pytest.raises(TypeError, match="NumPy scalars"):
        launch("motion_labels", (1,), (32,), [15])


@pytest.fixture(scope="module")
def operators_on_cpu() -> None:
    """Gives the GPU's operators a form for CPU tensors: the same launches, run on the CPU."""

    @cuda_labels.motion_operator.register_kernel("cpu")
    def _(flow: torch.Tensor, rule: Rule) -> torch.Tensor:
        return torch.from_numpy(cuda_launches.motion(CpuDevice(), flow.numpy(), rule))

    @cuda_labels.appearance_operator.register_kernel("cpu")
    def _(frames: torch.Tensor, rule: Rule) -> torch.Tensor:
        return torch.from_numpy(cuda_launches.appearance(CpuDevice(), frames.numpy(), rule))


@pytest.mark.usefixtures("operators_on_cpu")
def test_operators_keep_what_torch_compile_relies_on() -> None:
    flow = torch.from_numpy(flow_of("random", 2, 3, 16))
    frames = torch.from_numpy(frames_of("random", 2, 4, 16))
    torch.library.opcheck(cuda_labels.motion_operator, (flow, "corrected"))
    torch.library.opcheck(cuda_labels.appearance_operator, (frames, "corrected"))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(frames: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        motion = cuda_labels.motion_labels(flow, "corrected")
        return torch.cat([motion, cuda_labels.appearance_labels(frames, "corrected")], 1).float()

    expected = [
        cpu_labels.motion_labels(flow.numpy(), "corrected"),
        cpu_labels.appearance_labels(frames.numpy(), "corrected"),
    ]
    np.testing.assert_array_equal(compiled(frames, flow), np.concatenate(expected, 1))
