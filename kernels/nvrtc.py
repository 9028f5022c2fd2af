"""From the text of kernels to machine code of a GPU, by NVRTC: no GPU has to be there.

The options are these and no others, so what the tests compile and examine is what a GPU runs.
(CuPy's own compilation adds some, flushing of small numbers to zero among them.)
"""

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kernels.cache import cache_folder
from kernels.gpu import check_gpu

OPTIONS = ("--std=c++17", "--fmad=false")  # no fused multiply-add: bits equal to the CPU's


@dataclass(frozen=True)
class Compiled:
    """Machine code, the PTX it comes from, and what the assembler says of each kernel."""

    cubin: bytes
    ptx: str
    log: str


@cache
def compiled(text: str, architecture: str) -> Compiled:
    """Compile for `architecture`, say "sm_90"; RuntimeError with the compiler's log if it fails."""
    from cuda.bindings import nvrtc

    def call(function: Any, *arguments: Any) -> Any:
        status, *values = function(*arguments)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{function.__name__}: {status.name}\n{log()}")
        return values[0] if values else None

    def read(size: Any, get: Any) -> bytes:
        buffer = b" " * call(size, program)
        call(get, program, buffer)
        return buffer

    def log() -> str:
        return _text(read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog))

    program = call(nvrtc.nvrtcCreateProgram, text.encode(), b"", 0, [], [])
    try:
        options = [*OPTIONS, f"-arch={architecture}", "--ptxas-options=-v"]
        call(nvrtc.nvrtcCompileProgram, program, len(options), [o.encode() for o in options])
        return Compiled(
            read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN),
            _text(read(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)),
            log(),
        )
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def architecture(capability: tuple[int, int]) -> str:
    """What to compile for on a GPU of this compute capability: the newest that it runs.

    Raises ValueError if the GPU is too old, RuntimeError if this NVRTC is older than the GPU.
    """
    check_gpu("the GPU", capability)
    from cuda.bindings import nvrtc

    major, minor = capability
    _, known = nvrtc.nvrtcGetSupportedArchs()
    runs = [arch for arch in known if arch // 10 == major and arch % 10 <= minor]
    if not runs:
        _, *version = nvrtc.nvrtcVersion()
        raise RuntimeError(
            f"NVRTC {version[0]}.{version[1]} cannot compile for compute capability "
            f"{major}.{minor}: install the extra for the CUDA version of the driver"
        )
    return f"sm_{max(runs)}"


def cubin_file(text: str, architecture: str) -> Path:
    """A file with the machine code: compiled once for each text and NVRTC, if the cache allows."""
    from cuda.bindings import nvrtc

    parts = (text, architecture, OPTIONS, nvrtc.nvrtcVersion()[1:])
    name = f"{blake2b(repr(parts).encode(), digest_size=16).hexdigest()}.cubin"
    kept = cache_folder() / name
    if kept.exists():
        return kept
    cubin = compiled(text, architecture).cubin
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        return _written(cubin, kept)
    except OSError:  # no home to write to
        return _written(cubin, Path(_own_folder().name) / name)


def _written(data: bytes, path: Path) -> Path:
    """Other processes see the file whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(data)
    return part.replace(path)


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """For this process alone, gone with it."""
    return tempfile.TemporaryDirectory(prefix="sts-dali-")


def _text(buffer: bytes) -> str:
    return buffer.rstrip(b"\0").decode()
