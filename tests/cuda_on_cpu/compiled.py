"""Compiles .cu files for real GPUs with NVRTC, no GPU needed, and reads the assembler's log."""

import re
from dataclasses import dataclass
from functools import cache

from kernels import cuda_module, nvrtc

# The most shared memory, in bytes, that a block may ask for.
SHARED_LIMIT = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10}
REGISTERS_A_BLOCK = 65536


@dataclass(frozen=True)
class Resources:
    """What a kernel takes: registers of a thread, bytes of static shared memory, bytes spilled."""

    registers: int
    shared_bytes: int
    spilled_bytes: int


@dataclass(frozen=True)
class Compiled:
    """What a module's kernels take, by name, and its PTX, which shows how floats are rounded."""

    kernels: dict[str, Resources]
    ptx: str


def supported(architecture: str) -> bool:
    """Whether this NVRTC knows the architecture: sm_100 and sm_120 came with CUDA 12.8."""
    from cuda.bindings import nvrtc as bindings

    return int(architecture.removeprefix("sm_")) in bindings.nvrtcGetSupportedArchs()[1]


@cache
def compile_for(
    architecture: str, files: tuple[str, ...], defines: cuda_module.Defines
) -> Compiled:
    """Compile a module as for a GPU; RuntimeError with the compiler's log if it fails."""
    made = nvrtc.compiled(cuda_module.source(files, defines), architecture)
    kernels = {}
    for entry in made.log.split("Compiling entry function '")[1:]:
        shared = re.search(r"(\d+) bytes smem", entry)
        kernels[entry[: entry.index("'")]] = Resources(
            int(re.search(r"Used (\d+) registers", entry)[1]),
            int(shared[1]) if shared else 0,
            sum(int(spilled) for spilled in re.findall(r"(\d+) bytes spill", entry)),
        )
    return Compiled(kernels, made.ptx)
