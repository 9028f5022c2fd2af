"""Work that comes again is done on the same memory by one launch: on a GPU, a CUDA graph.

A launch takes the host some 20 us, so a thousand small ones take longer than the GPU needs for
them. Work that comes for the first time runs launch by launch: that compiles its kernels and tells
how much memory it takes. The second time it is recorded, and from then on it is replayed. All
recordings share one memory, as large as the largest needs.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from kernels.cuda_module import Defines, Device, Launch

KEPT = 32  # recordings; and as many keys of work that has come once
ALIGNMENT = 256  # bytes

Work = Callable[["Device", Any], Any]  # (where it runs, input) -> result
Captured = tuple[Any, Callable[[], None]]  # the result's memory, and what computes it again


class Scratch:
    """A `Device` that hands out one memory from front to back; past its end, memory of its own."""

    def __init__(self, device: "Device", memory: Any) -> None:
        self._device, self._memory = device, memory
        self.taken = 0  # bytes, those past the end with them

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        begin = -(-self.taken // ALIGNMENT) * ALIGNMENT
        self.taken = begin + math.prod(shape) * np.dtype(dtype).itemsize
        if self.taken > len(self._memory):
            return self._device.empty(shape, dtype)
        return self._device.view(self._memory[begin : self.taken], dtype).reshape(tuple(shape))

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        array = self.empty(shape, dtype)
        self.clear(array)
        return array

    def clear(self, array: Any) -> None:
        self._device.clear(array)

    def view(self, memory: Any, dtype: DTypeLike) -> Any:
        return self._device.view(memory, dtype)

    def table(self, array: NDArray[Any]) -> Any:
        return self._device.table(array)

    def module(self, files: tuple[str, ...], defines: "Defines") -> "Launch":
        return self._device.module(files, defines)

    def recorded(
        self, key: Hashable, work: Work, arrays: Sequence[Any], room: int
    ) -> AbstractContextManager[Any]:
        return nullcontext(work(self, stacked(self, arrays, room)))


@dataclass(frozen=True)
class Recording:
    """Fill `input`, call `replay`: then `result` is as the work would give it."""

    input: Any
    result: Any
    replay: Callable[[], None]


class Recorder(ABC):
    """Recordings of one device, which share its memory: one at a time is in use.

    A device says in `capture` how its launches are kept instead of done, and in `turn` who waits
    for whom.
    """

    def __init__(self, device: "Device", kept: int = KEPT) -> None:
        self._device = device
        self._kept = kept
        self._in_use = Lock()
        self._memory = device.empty((0,), np.uint8)
        self._bytes: OrderedDict[Hashable, int] = OrderedDict()  # of work that has come once
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()

    @abstractmethod
    def capture(self, work: Callable[[], Any]) -> Captured:
        """Calls `work`, whose launches are kept and not done; RuntimeError if that fails."""

    def turn(self) -> AbstractContextManager[None]:
        """What is launched within uses the memory after all that used it before."""
        return nullcontext()

    @contextmanager
    def done(self, key: Hashable, work: Work, arrays: Sequence[Any], room: int) -> Iterator[Any]:
        """See `kernels.cuda_module.Device.recorded`."""
        with self._in_use, self.turn():
            recording = self._recording(key, work, (room, *arrays[0].shape))
            if recording:
                fill(self._device, recording.input, arrays)
                recording.replay()
                yield recording.result
            else:
                scratch = Scratch(self._device, self._memory)
                result = work(scratch, stacked(scratch, arrays, room))
                _keep(self._bytes, key, scratch.taken, self._kept)
                yield result

    def _recording(self, key: Hashable, work: Work, shape: Sequence[int]) -> Recording | None:
        if key in self._recordings:
            self._recordings.move_to_end(key)
            return self._recordings[key]
        if key not in self._bytes:
            return None
        taken = self._bytes.pop(key)
        if taken > len(self._memory):
            # They are of the memory that goes, and fit into the larger one when they come again.
            self._bytes.update(dict.fromkeys(self._recordings, 0))
            self._recordings.clear()
            self._memory = self._device.empty((0,), np.uint8)
            self._memory = self._device.empty((taken,), np.uint8)
        scratch = Scratch(self._device, self._memory)
        frames = scratch.empty(shape, np.uint8)
        try:
            result, replay = self.capture(lambda: work(scratch, frames))
        except RuntimeError as error:
            warnings.warn(f"no CUDA graphs, kernels are launched one by one: {error}", stacklevel=2)
            self._kept = 0
            self._recordings.clear()
            return None
        if scratch.taken > len(self._memory):
            raise RuntimeError("work took more memory than the first time")
        recording = Recording(frames, result, replay)
        _keep(self._recordings, key, recording, self._kept)
        return recording


def stacked(device: "Device", arrays: Sequence[Any], room: int) -> Any:
    """uint8 arrays of one shape -> uint8 [room, *shape], zeros after them."""
    together = device.empty((room, *arrays[0].shape), np.uint8)
    fill(device, together, arrays)
    return together


def fill(device: "Device", together: Any, arrays: Sequence[Any]) -> None:
    for i, array in enumerate(arrays):
        together[i] = array
    if len(arrays) < len(together):
        device.clear(together[len(arrays) :])


def _keep(kept: OrderedDict[Hashable, Any], key: Hashable, value: Any, most: int) -> None:
    """What was used longest ago goes."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
