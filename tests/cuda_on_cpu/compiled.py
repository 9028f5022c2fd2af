"""Compiles .cu files for real GPUs with NVRTC, no GPU needed, and reads the assembler's log."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from kernels import cuda_module

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
    from cuda.bindings import nvrtc

    return int(architecture.removeprefix("sm_")) in nvrtc.nvrtcGetSupportedArchs()[1]


@cache
def compile_for(
    architecture: str, files: tuple[str, ...], defines: cuda_module.Defines
) -> Compiled:
    """Compile a module as CuPy will on a GPU; RuntimeError with the compiler's log if it fails."""
    from cuda.bindings import nvrtc

    def call(function: Any, *arguments: Any) -> Any:
        status, *values = function(*arguments)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{function.__name__}: {status.name}\n{log()}")
        return values[0] if values else None

    def text(size: Any, get: Any) -> str:
        buffer = b" " * call(size, program)
        call(get, program, buffer)
        return buffer.rstrip(b"\0").decode()

    def log() -> str:
        return text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)

    source = cuda_module.source(files, defines).encode()
    program = call(nvrtc.nvrtcCreateProgram, source, b"", 0, [], [])
    options = [*cuda_module.OPTIONS, f"-arch={architecture}", "--ptxas-options=-v"]
    call(nvrtc.nvrtcCompileProgram, program, len(options), [o.encode() for o in options])
    kernels = {}
    for entry in log().split("Compiling entry function '")[1:]:
        shared = re.search(r"(\d+) bytes smem", entry)
        kernels[entry[: entry.index("'")]] = Resources(
            int(re.search(r"Used (\d+) registers", entry)[1]),
            int(shared[1]) if shared else 0,
            sum(int(spilled) for spilled in re.findall(r"(\d+) bytes spill", entry)),
        )
    return Compiled(kernels, text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX))
