"""Runs the text of .cu files on the CPU, so that kernels are proven without a GPU.

    device = CpuDevice(order="random", seed=3)
    launch = device.module(("labels/reduce.cuh", "labels/motion.cu"), defines)
    launch("kernel", (blocks,), (256,), [array, np.int32(5), output], shared_bytes=0)

`CpuDevice` is a `kernels.cuda_module.Device`: host code written for that protocol drives the same
launches here and on a GPU. g++ compiles the text with `cuda_on_cpu.h` in front (read its first
lines for what is and is not modelled); arguments are checked against the kernel's real parameter
types; `order` is the order in which the threads of a block run. New arrays from `empty` hold junk.

With `sanitize="address"` or `"thread"` the process needs the sanitiser's runtime preloaded:
`isolated` starts such a process. `cases` lists the kernels that are sanitised, compiled for real
GPUs and mutated; `mutate` is the mutation run.
"""

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kernels import cuda_module
from kernels.recorded import KEPT, Captured, Recorder, Work

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
ROOT = Path(__file__).parents[2]

Order = Literal["forward", "reverse", "random"]
ORDERS: tuple[Order, ...] = ("forward", "reverse", "random")
Sanitiser = Literal["address", "thread"]

# Contraction off: the GPU text is compiled without fused multiply-add, too.
_FLAGS = ("-std=c++17", "-g", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")
_MODE_FLAGS: dict[Sanitiser | None, tuple[str, ...]] = {
    None: ("-O2",),
    "address": (
        "-O1",
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=all",
        "-fsanitize-sections=cuda_shared",
    ),
    "thread": ("-O1", "-fsanitize=thread"),
}
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")
_DYNAMIC_SHARED = re.compile(r"\bextern\s+__shared__\s+([\w ]+?)\s*(\w+)\s*\[\s*\]\s*;")

_ONE_LAUNCH = threading.Lock()  # a library has one set of fibers


@dataclass(frozen=True)
class Launched:
    """What a launch was made of."""

    files: tuple[str, ...]
    defines: cuda_module.Defines
    kernel: str
    threads: int  # a block
    shared_bytes: int  # dynamic


class CpuDevice:
    """Runs kernels on the CPU; see `kernels.cuda_module.Device` for the methods.

    `launches` and `arrays` keep every launch and every array handed out, `replays` counts those of
    recorded work.
    `rewrite` changes the kernels' text before it is compiled (to plant bugs); `portable` switches
    fibers with ucontext, as on processors other than x86-64.
    """

    def __init__(
        self,
        order: Order = "forward",
        seed: int = 0,
        sanitize: Sanitiser | None = None,
        rewrite: Callable[[str], str] = str,
        portable: bool = False,
    ) -> None:
        self._order = ORDERS.index(order)
        self._seed = seed
        self._sanitize = sanitize
        self._rewrite = rewrite
        self._portable = portable
        self.launches: list[Launched] = []
        self.arrays: list[NDArray[Any]] = []
        self.replays = 0
        self.instead: list[Callable[[], None]] | None = None  # where calls go while recording
        self.recorder = CpuRecorder(self)

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        self.arrays.append(np.empty(shape, dtype))
        self.arrays[-1].view(np.uint8).fill(0xA5)
        return self.arrays[-1]

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        self.arrays.append(np.zeros(shape, dtype))
        return self.arrays[-1]

    def clear(self, array: NDArray[Any]) -> None:
        self.do(partial(array.fill, 0))

    def view(self, memory: NDArray[np.uint8], dtype: DTypeLike) -> NDArray[Any]:
        return memory.view(dtype)

    def table(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def recorded(
        self, key: Hashable, work: Work, arrays: Sequence[Any], room: int
    ) -> AbstractContextManager[Any]:
        return self.recorder.done(key, work, arrays, room)

    def do(self, call: Callable[[], None]) -> None:
        """Now, or in each replay of what is being recorded."""
        if self.instead is None:
            call()
        else:
            self.instead.append(call)

    def module(
        self, files: tuple[str, ...], defines: cuda_module.Defines = ()
    ) -> cuda_module.Launch:
        launch = self.load(cuda_module.source(files, defines))

        def record(
            kernel: str,
            grid: Sequence[int],
            block: Sequence[int],
            arguments: Sequence[Any],
            shared_bytes: int = 0,
        ) -> None:
            self.launches.append(Launched(files, defines, kernel, math.prod(block), shared_bytes))
            self.do(partial(launch, kernel, grid, block, arguments, shared_bytes))

        return record

    def load(self, text: str) -> cuda_module.Launch:
        """The kernels of the text of a .cu file."""
        library = compile_text(self._rewrite(text), self._sanitize, self._portable)

        def launch(
            kernel: str,
            grid: Sequence[int],
            block: Sequence[int],
            arguments: Sequence[Any],
            shared_bytes: int = 0,
        ) -> None:
            types = _parameter_types(library, kernel)
            if len(types) != len(arguments):
                raise TypeError(f"{kernel} takes {len(types)} arguments, got {len(arguments)}")
            values = [
                _value(f"argument {n} of {kernel}", kind, argument)
                for n, (kind, argument) in enumerate(zip(types, arguments, strict=True))
            ]
            pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
            with _ONE_LAUNCH:
                library[f"{kernel}_launch"](
                    pointers,
                    _dim3(grid),
                    _dim3(block),
                    ctypes.c_size_t(shared_bytes),
                    self._order,
                    ctypes.c_uint64(self._seed),
                )

        return launch


class CpuRecorder(Recorder):
    """Instead of a CUDA graph: the launches with their arguments, in a list."""

    def __init__(self, device: CpuDevice, kept: int = KEPT) -> None:
        super().__init__(device, kept)
        self._cpu = device

    def capture(self, work: Callable[[], Any]) -> Captured:
        device, calls, before = self._cpu, [], len(self._cpu.launches)
        device.instead = calls
        try:
            result = work()
        finally:
            device.instead = None
            del device.launches[before:]

        def replay() -> None:
            device.replays += 1
            for call in calls:
                call()

        return result, replay


@cache
def compile_text(
    text: str, sanitize: Sanitiser | None = None, portable: bool = False
) -> ctypes.CDLL:
    """Compile the text of a .cu file with g++ (cached by content) and load it."""
    text = _DYNAMIC_SHARED.sub(r"CUDA_ON_CPU_DYNAMIC(\1, \2);", text)
    exports = "".join(f"CUDA_ON_CPU_EXPORT({name})\n" for name in _KERNEL.findall(text))
    text = f'#include "{HEADER}"\n{text}\n{exports}'
    command = [_compiler(), *_FLAGS, *_MODE_FLAGS[sanitize], "-x", "c++", "-"]
    command += ["-DCUDA_ON_CPU_UCONTEXT"] * portable
    key = hashlib.sha256("\0".join([*command, HEADER.read_text(), text]).encode()).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"sts-dali-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key[:32]}.so"
    if not library.exists():
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
            pass
        plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(
            [*command, "-o", part.name], input=text, text=True, capture_output=True, env=plain
        )
        if done.returncode:
            os.unlink(part.name)
            raise RuntimeError(f"g++ rejects the kernels:\n{done.stderr[:4000]}")
        os.replace(part.name, library)
    return ctypes.CDLL(str(library))


def _compiler() -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("these tests run the CUDA kernels on the CPU and need g++")
    return compiler


@cache
def _parameter_types(library: ctypes.CDLL, kernel: str) -> tuple[str, ...]:
    exported = library[f"{kernel}_arguments"]
    exported.restype = ctypes.c_char_p
    return tuple(exported().decode().rstrip(",").split(","))


def _value(what: str, kind: str, argument: Any) -> NDArray[Any]:
    """The 0-d array holding what the kernel receives: a scalar, or an array's address."""
    if not kind.startswith("*"):
        if not isinstance(argument, np.generic) or argument.dtype != np.dtype(kind):
            raise TypeError(f"{what} is {np.dtype(kind)}, got {type(argument).__name__}")
        return np.array(argument)
    dtype = np.dtype(kind.removeprefix("*").removeprefix("const "))
    if not isinstance(argument, np.ndarray) or argument.dtype != dtype:
        got = getattr(argument, "dtype", type(argument).__name__)
        raise TypeError(f"{what} points to {dtype}, got {got}")
    if not argument.flags.c_contiguous:
        raise ValueError(f"{what} is not contiguous")
    if not (kind.startswith("*const") or argument.flags.writeable):
        raise ValueError(f"{what} is written by the kernel, but the array is read-only")
    return np.array(argument.ctypes.data, np.uintp)


def _dim3(size: Sequence[int]) -> Any:
    return (ctypes.c_uint * 3)(*size, *[1] * (3 - len(size)))


def isolated(
    code: str, sanitize: Sanitiser | None = None, timeout_seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own; a sanitiser's finding ends it with status 66."""
    environment = os.environ | {
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=66",
        "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    if sanitize:
        runtime = {"address": "libasan.so", "thread": "libtsan.so"}[sanitize]
        path = subprocess.run(
            [_compiler(), f"-print-file-name={runtime}"],
            capture_output=True,
            text=True,
            check=True,
        )
        environment["LD_PRELOAD"] = os.path.realpath(path.stdout.strip())
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )
