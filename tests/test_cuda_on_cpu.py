"""The machinery that runs CUDA text on the CPU: what it computes, and that it sees mistakes."""

import numpy as np
import pytest

from tests.cuda_on_cpu import ORDERS, CpuDevice, compile_text, isolated

# Counts bytes in static shared memory, mirrors them through dynamic shared memory, sums warps; all
# blocks add what their first warp has counted.
HISTOGRAM = """
extern "C" __global__ void __launch_bounds__(256)
histogram(const unsigned char* __restrict__ bytes, int count, unsigned* __restrict__ out,
          unsigned* __restrict__ total) {
    __shared__ unsigned bins[256];
    extern __shared__ unsigned mirror[];
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) atomicAdd(&bins[bytes[i]], 1u);
    __syncthreads();
    mirror[255 - threadIdx.x] = bins[threadIdx.x];
    __syncthreads();
    unsigned sum = bins[threadIdx.x];
    for (int lanes = 16; lanes; lanes >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    const unsigned many = __ballot_sync(0xffffffffu, bins[threadIdx.x] > 20);
    if (threadIdx.x == 0) atomicAdd(total, sum);
    out += blockIdx.x * 3 * 256;
    out[threadIdx.x] = mirror[threadIdx.x];
    out[256 + threadIdx.x] = sum;
    out[512 + threadIdx.x] = __popc(many);
}
"""
MISSING_BARRIER = HISTOGRAM.replace("= 0;\n    __syncthreads();", "= 0;")
MISSING_ATOMIC = HISTOGRAM.replace("atomicAdd(&bins[bytes[i]], 1u)", "bins[bytes[i]]++")
MISSING_ATOMIC_OF_BLOCKS = HISTOGRAM.replace("atomicAdd(total, sum)", "*total += sum")
STATIC_OVERRUN = HISTOGRAM.replace("&bins[bytes[i]]", "&bins[bytes[i] + 1]")
DYNAMIC_OVERRUN = HISTOGRAM.replace("mirror[255 -", "mirror[256 -")
GLOBAL_OVERRUN = HISTOGRAM.replace("&bins[bytes[i]]", "&bins[bytes[i + 1]]")


def run_histogram(text: str = HISTOGRAM, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What two blocks give each, [2,3,256], and together, [1]; and how often each byte is there."""
    data = np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8)
    device = CpuDevice(**options)
    out = device.empty((2, 3, 256), np.uint32)
    total = device.zeros((1,), np.uint32)
    arguments = [data, np.int32(5000), out, total]
    device.load(text)("histogram", (2,), (256,), arguments, shared_bytes=1024)
    return out, total, np.bincount(data, minlength=256)


@pytest.mark.parametrize("order", ORDERS)
def test_kernel_matches_numpy_in_every_order(order):
    out, total, expected = run_histogram(order=order, seed=7)
    assert total == 2 * expected[:32].sum()
    for block in out:
        np.testing.assert_array_equal(block[0], expected[::-1])
        np.testing.assert_array_equal(block[1], expected.reshape(8, 32).sum(1).repeat(32))
        np.testing.assert_array_equal(block[2], (expected > 20).reshape(8, 32).sum(1).repeat(32))


def test_portable_fibers_give_the_same():
    np.testing.assert_array_equal(run_histogram(portable=True)[0], run_histogram()[0])


def test_shared_memory_starts_as_junk():
    out, _, expected = run_histogram(HISTOGRAM.replace("bins[threadIdx.x] = 0;", ""))
    np.testing.assert_array_equal(out[0, 0], expected[::-1] + np.uint32(0xA5A5A5A5))


@pytest.mark.parametrize(
    ("position", "argument"),
    [
        (0, np.zeros(9, np.int8)),  # another dtype
        (0, np.zeros(18, np.uint8)[::2]),  # not contiguous
        (0, 9),
        (1, 9),  # a Python int: no width
        (1, np.int64(9)),
        (2, np.zeros(768, np.int32)),
        (3, np.zeros(1, np.float32)),
    ],
)
def test_wrong_arguments_are_rejected(position, argument):
    words = np.zeros(768, np.uint32), np.zeros(1, np.uint32)
    arguments = [np.zeros(9, np.uint8), np.int32(9), *words]
    arguments[position] = argument
    with pytest.raises((TypeError, ValueError), match=f"argument {position} of histogram"):
        CpuDevice().load(HISTOGRAM)("histogram", (1,), (256,), arguments, shared_bytes=1024)


def test_read_only_output_is_rejected():
    out = np.zeros(768, np.uint32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        CpuDevice().load(HISTOGRAM)(
            "histogram", (1,), (256,), [np.zeros(9, np.uint8), np.int32(9), out, out[:1]], 1024
        )


def test_missing_compiler_is_an_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"need g\+\+"):
        compile_text("// never compiled before")


PLANTED = {
    "MISSING_BARRIER": ("thread", "data race"),
    "MISSING_ATOMIC": ("thread", "data race"),
    "MISSING_ATOMIC_OF_BLOCKS": ("thread", "data race"),
    "STATIC_OVERRUN": ("address", "global-buffer-overflow"),
    "DYNAMIC_OVERRUN": ("address", "heap-buffer-overflow"),
    "GLOBAL_OVERRUN": ("address", "heap-buffer-overflow"),
}


def run_sanitised(sanitize: str, text: str):
    module = "tests.test_cuda_on_cpu"
    return isolated(
        f"import {module} as t; t.run_histogram(t.{text}, sanitize={sanitize!r})", sanitize
    )


@pytest.mark.parametrize("sanitize", ["address", "thread"])
def test_sound_kernel_passes_the_sanitiser(sanitize):
    done = run_sanitised(sanitize, "HISTOGRAM")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_caught(bug):
    sanitize, message = PLANTED[bug]
    done = run_sanitised(sanitize, bug)
    assert done.returncode == 66
    assert message in done.stderr


DIVERGENT = HISTOGRAM.replace(
    "__syncthreads();\n    for", "if (threadIdx.x < 32) __syncthreads(); else\n__syncthreads(); for"
)
PARTIAL = HISTOGRAM.replace("__ballot_sync(0xffffffffu", "__ballot_sync(0xffffu")


@pytest.mark.parametrize(
    ("text", "message"),
    [("DIVERGENT", "different barriers"), ("PARTIAL", "full mask")],
)
def test_breach_of_the_programming_model_ends_the_process(text, message):
    done = run_sanitised("address", text)
    assert done.returncode != 0
    assert message in done.stderr
