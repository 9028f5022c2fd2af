"""Every CUDA kernel under the sanitisers, which must also catch planted bugs, and compiled."""

import re
from functools import cache

import pytest

from tests.cuda_on_cpu import CpuDevice, Launched, Sanitiser, isolated
from tests.cuda_on_cpu.cases import BUGS, CASES, PlantedBug, digest
from tests.cuda_on_cpu.compiled import REGISTERS_A_BLOCK, SHARED_LIMIT, compile_for, supported


@pytest.mark.parametrize("sanitize", ["address", "thread"])
@pytest.mark.parametrize("name", CASES)
def test_sanitiser_finds_nothing(name: str, sanitize: Sanitiser) -> None:
    """And the bits are those of a plain run."""
    done = isolated(
        "from tests.cuda_on_cpu import CpuDevice, cases\n"
        f"print(cases.digest({name!r}, CpuDevice(sanitize={sanitize!r})))",
        sanitize,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(name, CpuDevice())


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.case}-{bug.sanitize}")
def test_sanitiser_catches_the_planted_bug(bug: PlantedBug) -> None:
    """The same run with one change: a detector that sees nothing fails here."""
    done = isolated(
        "from tests.cuda_on_cpu import CpuDevice, cases\n"
        f"bug = cases.{bug!r}\n"
        "cases.digest(bug.case, CpuDevice(sanitize=bug.sanitize, rewrite=bug.plant))",
        bug.sanitize,
    )
    assert done.returncode == 66, done.stderr
    messages = {"address": "AddressSanitizer|runtime error", "thread": "data race"}
    assert re.search(messages[bug.sanitize], done.stderr)


@cache
def launches(name: str) -> tuple[Launched, ...]:
    device = CpuDevice()
    CASES[name].run(device)
    return tuple(device.launches)


@pytest.mark.parametrize("architecture", SHARED_LIMIT)
@pytest.mark.parametrize("name", CASES)
def test_kernels_fit_a_real_gpu(name: str, architecture: str) -> None:
    """NVRTC compiles them; nothing spills; every launch of the case is within the limits."""
    if not supported(architecture):
        pytest.skip(f"this NVRTC is older than {architecture}")
    for launch in launches(name):
        module = compile_for(architecture, launch.files, launch.defines)
        kernel = module.kernels[launch.kernel]
        ceiling = CASES[name].registers[launch.kernel]
        assert kernel.spilled_bytes == 0
        assert kernel.registers <= ceiling, launch.kernel
        assert kernel.registers * launch.threads <= REGISTERS_A_BLOCK
        assert kernel.shared_bytes + launch.shared_bytes <= SHARED_LIMIT[architecture]


@pytest.mark.parametrize("name", CASES)
def test_float_arithmetic_is_ieee(name: str) -> None:
    """No contraction, no approximation, no flush to zero: bits are equal on every backend."""
    for launch in launches(name):
        text = compile_for("sm_90", launch.files, launch.defines).ptx
        assert f".entry {launch.kernel}(" in text
        assert not re.search(r"\b(fma|mad)\.\S*f(32|64)|\.(approx|ftz|full)\b", text)
