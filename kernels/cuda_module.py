"""From the text of .cu files to kernels that run: on a GPU through CuPy, on torch's streams.

Kernels live in .cu and .cuh files and include nothing. `source` puts the files together, with
their constants as `#define`s and `#line` marks, so that a compiler's messages point at the real
file. The tests compile and run exactly this text without a GPU.

Host code that drives kernels takes a `Device` and asks it for memory and for kernels. `CudaDevice`
is the GPU; the tests have another, which runs the kernels on the CPU.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kernels import nvrtc
from kernels.recorded import Captured, Recorder, Work, stacked

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent
ASKED_SHARED_BYTES = 48 << 10  # a block gets this much shared memory; more has to be asked for

Defines = tuple[tuple[str, int | float | str], ...]  # a float becomes a float32 literal
Launch = Callable[..., None]  # launch(kernel, grid, block, arguments, shared_bytes=0)


class Device(Protocol):
    """Where kernels run. Its arrays are torch tensors on a GPU, NumPy arrays on the CPU."""

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Any: ...

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any: ...

    def clear(self, array: Any) -> None:
        """Sets a contiguous array to zero, in its turn among the launches."""

    def view(self, memory: Any, dtype: DTypeLike) -> Any:
        """Bytes [n], uint8, as an array of another dtype."""

    def table(self, array: NDArray[Any]) -> Any:
        """A copy of a constant table on the device, made once for each array object."""

    def module(self, files: tuple[str, ...], defines: Defines) -> Launch:
        """The kernels of `files` as launch(kernel, grid, block, arguments, shared_bytes=0).

        `arguments` are contiguous arrays of this device and NumPy scalars. A Python number is a
        TypeError: it would silently take another width than the kernel's parameter has.
        """

    def recorded(
        self,
        key: Hashable,
        work: Work,
        arrays: Sequence[Any],
        room: int,
    ) -> AbstractContextManager[Any]:
        """Gives `work(device, input)`; input is uint8 [room, ...], the arrays and then zeros.

        Work that comes again is replayed by one launch (`kernels.recorded`). So `key` must stand
        for all that its launches depend on but the input's values, and `work` must take memory and
        kernels from the device it is given. The result holds within the context alone: after that
        others use its memory, on any stream and thread.
        """


def source(files: Sequence[str], defines: Defines = ()) -> str:
    """The text to compile: the `#define`s, then the files of this folder one after another."""
    parts = [f"#define {name} {_literal(value)}\n" for name, value in defines]
    parts += [f'#line 1 "kernels/{file}"\n{(FOLDER / file).read_text()}\n' for file in files]
    return "".join(parts)


def _literal(value: int | float | str) -> str:
    return f"{np.float32(value)!s}f" if isinstance(value, float) else str(value)


class CudaDevice:
    """A GPU. Memory comes from torch; launches go to torch's current stream and wait for nothing.

    The first use of a module compiles it, unless it was compiled before, and the first use of a
    table copies it; so call once before capturing a CUDA graph. Within such a capture nothing is
    recorded: the work becomes part of the caller's graph, in memory of its own.
    """

    def __init__(self, device: "torch.device") -> None:
        import torch

        self._torch = torch
        self._index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", self._index)

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> "torch.Tensor":
        return self._torch.empty(tuple(shape), dtype=self._dtype(dtype), device=self._device)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> "torch.Tensor":
        return self._torch.zeros(tuple(shape), dtype=self._dtype(dtype), device=self._device)

    def clear(self, array: "torch.Tensor") -> None:
        array.zero_()

    def view(self, memory: "torch.Tensor", dtype: DTypeLike) -> "torch.Tensor":
        return memory.view(self._dtype(dtype))

    def table(self, array: NDArray[Any]) -> "torch.Tensor":
        key = (id(array), self._index)
        if key not in _tables:
            _tables[key] = (array, self._torch.tensor(array, device=self._device))
        return _tables[key][1]

    def module(self, files: tuple[str, ...], defines: Defines) -> Launch:
        def launch(
            kernel: str,
            grid: tuple[int, ...],
            block: tuple[int, ...],
            arguments: Sequence[Any],
            shared_bytes: int = 0,
        ) -> None:
            values = tuple(self._value(argument) for argument in arguments)

            import cupy

            stream = self._torch.cuda.current_stream(self._device)
            with cupy.cuda.Device(self._index), cupy.cuda.Stream.from_external(stream):
                function = _function(files, defines, self._index, kernel, shared_bytes)
                function(grid, block, values, shared_mem=shared_bytes)

        return launch

    def recorded(
        self, key: Hashable, work: Work, arrays: Sequence["torch.Tensor"], room: int
    ) -> AbstractContextManager[Any]:
        with self._torch.cuda.device(self._index):
            captured = self._torch.cuda.is_current_stream_capturing()
        if captured:
            return nullcontext(work(self, stacked(self, arrays, room)))
        return recorder(self._index).done(key, work, arrays, room)

    def _dtype(self, dtype: DTypeLike) -> "torch.dtype":
        return getattr(self._torch, np.dtype(dtype).name)

    def _value(self, argument: Any) -> np.generic:
        if isinstance(argument, np.generic):
            return argument
        if not isinstance(argument, self._torch.Tensor):
            raise TypeError(f"a kernel takes tensors and NumPy scalars, got {type(argument)}")
        if argument.device != self._device or not argument.is_contiguous():
            raise ValueError(f"a kernel takes contiguous tensors on {self._device}")
        return np.uintp(argument.data_ptr())


class CudaRecorder(Recorder):
    """Records CUDA graphs, which hold what a stream is given instead of doing it.

    The stream is one that nobody else can have, unlike those of torch's pool. CuPy captures and not
    torch, whose random numbers fail on other threads meanwhile.
    """

    def __init__(self, index: int) -> None:
        import cupy
        import torch

        self._torch, self._cupy = torch, cupy
        self._place = torch.device("cuda", index)
        super().__init__(CudaDevice(self._place))
        self._used = torch.cuda.Event()
        with cupy.cuda.Device(index):
            self._side = cupy.cuda.Stream(non_blocking=True)

    def capture(self, work: Callable[[], Any]) -> Captured:
        cuda = self._cupy.cuda
        side = self._torch.cuda.ExternalStream(self._side.ptr, self._place)
        with cuda.Device(self._place.index), self._torch.cuda.stream(side):
            # In CuPy's mode, `relaxed`: what others do with the GPU meanwhile goes on.
            self._side.begin_capture()
            try:
                result = work()
            finally:
                graph = self._side.end_capture()

        def replay() -> None:
            stream = self._torch.cuda.current_stream(self._place)
            with cuda.Device(self._place.index):
                graph.launch(cuda.Stream.from_external(stream))

        return result, replay

    @contextmanager
    def turn(self) -> Iterator[None]:
        stream = self._torch.cuda.current_stream(self._place)
        stream.wait_event(self._used)
        try:
            yield
        finally:
            self._memory.record_stream(stream)  # torch gives it to no one else while it is used
            self._used.record(stream)


@cache
def recorder(index: int) -> CudaRecorder:
    return CudaRecorder(index)


# The array is kept so that its id stays its own.
_tables: dict[tuple[int, int], tuple[NDArray[Any], "torch.Tensor"]] = {}


@cache
def _module(files: tuple[str, ...], defines: Defines, device: int) -> Any:
    import cupy
    import torch

    architecture = nvrtc.architecture(torch.cuda.get_device_capability(device))
    return cupy.RawModule(path=str(nvrtc.cubin_file(source(files, defines), architecture)))


@cache
def _function(
    files: tuple[str, ...], defines: Defines, device: int, kernel: str, shared_bytes: int
) -> Any:
    function = _module(files, defines, device).get_function(kernel)
    if shared_bytes + function.shared_size_bytes > ASKED_SHARED_BYTES:
        function.max_dynamic_shared_size_bytes = shared_bytes
    return function
