"""Recorded work: when it is recorded, whose memory it has, who waits. No kernel runs here."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kernels import cuda_module
from kernels.recorded import Recorder, Work
from tests.cuda_on_cpu import CpuDevice, CpuRecorder

Done = Callable[..., list[int]]  # (array, room=) -> the result's values


def doubling(device: CpuDevice) -> Work:
    """[room,n] -> uint16 [room,n], twice as large; as two launches, through memory between them."""

    def work(scratch: Any, given: Any) -> Any:
        sums = scratch.zeros(given.shape, np.uint16)
        for _ in range(2):
            device.do(lambda: np.add(sums, given, out=sums))
        return sums

    return work


@pytest.fixture
def device() -> CpuDevice:
    return CpuDevice()


@pytest.fixture
def recorder(device: CpuDevice) -> Recorder:
    return CpuRecorder(device)


@pytest.fixture
def done(device: CpuDevice, recorder: Recorder) -> Done:
    def call(*values: int, room: int = 1) -> list[int]:
        array = np.array(values, np.uint8)
        key = (len(values), room)
        with recorder.done(key, doubling(device), [array], room) as result:
            return result.ravel().tolist()

    return call


def test_work_is_recorded_when_it_comes_again(done: Done, device: CpuDevice) -> None:
    replays = []
    for first in range(4):
        assert done(first, 200) == [2 * first, 400]
        replays.append(device.replays)
    assert replays == [0, 1, 2, 3]


def test_room_that_is_left_holds_zeros(done: Done) -> None:
    for first in range(3):
        assert done(first, 7, room=2) == [2 * first, 14, 0, 0]


def test_memory_is_that_of_the_largest(done: Done, recorder: Recorder, device: CpuDevice) -> None:
    """Recordings of it are made anew when it grows."""
    for count in (300, 5, 40, 1000, 5, 300):
        for first in range(3):
            expected = [2 * first] * count
            assert done(*[first] * count) == expected
    assert len(recorder._memory) == 1024 + 2 * 1000  # input, aligned, and sums
    assert device.replays == 2 * 4 + 3 * 2  # 5 and 300 were known


def test_few_recordings_are_kept(device: CpuDevice) -> None:
    """Those used last; and what comes once drives none out."""
    recorder = CpuRecorder(device, kept=2)

    def come(count: int) -> int:
        """How many replays it takes."""
        before = device.replays
        array = np.ones(count, np.uint8)
        with recorder.done(count, doubling(device), [array], 1) as result:
            assert result.tolist() == [[2] * count]
        return device.replays - before

    assert [come(count) for count in (30, 30, 20, 20)] == [0, 1, 0, 1]
    assert [come(count) for count in (1, 2, 3, 4, 30, 20)] == [0, 0, 0, 0, 1, 1]
    assert [come(count) for count in (10, 10, 30)] == [0, 1, 0]  # 30 was used longest ago
    assert [come(count) for count in (20, 30)] == [1, 1]


def test_what_cannot_be_recorded_runs_as_before(
    done: Done, recorder: Recorder, device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(work: Callable[[], Any]) -> Any:
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(recorder, "capture", refuse)
    assert done(1, 2) == [2, 4]
    with pytest.warns(UserWarning, match="no graphs here"):
        assert done(3, 4) == [6, 8]
    for first in range(3):  # and says so once
        assert done(first, 4) == [2 * first, 8]
    assert device.replays == 0


def test_a_result_is_no_one_elses_until_its_context_ends(
    recorder: Recorder, device: CpuDevice
) -> None:
    array = np.ones(4, np.uint8)
    found = []

    def other() -> None:
        with recorder.done(4, doubling(device), [2 * array], 1) as result:
            found.append(result.copy())

    for _ in range(3):
        thread = threading.Thread(target=other)
        with recorder.done(4, doubling(device), [array], 1) as result:
            thread.start()
            thread.join(0.05)
            assert thread.is_alive()
            assert result.tolist() == [[2] * 4]
        thread.join()
    assert np.all(np.array(found) == 4)
    assert device.replays == 5


# ---- of a GPU: what CUDA is asked for, in order -----------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls to CuPy and torch, which do nothing; `torch.cuda.stream(name)` names a stream."""
    calls: list[tuple[Any, ...]] = []
    current = ["main"]

    class Stream:
        def __init__(self, name: str = "side", **_: Any) -> None:
            self.ptr = self.name = name

        def begin_capture(self) -> None:
            calls.append(("begin", self.name))

        def end_capture(self) -> SimpleNamespace:
            calls.append(("end", self.name))
            return SimpleNamespace(launch=lambda stream: calls.append(("replay", stream.name)))

        def wait_event(self, event: Any) -> None:
            calls.append(("wait", self.name))

        from_external = staticmethod(lambda stream: stream)

    class Event:
        def record(self, stream: Stream) -> None:
            calls.append(("used", stream.name))

    class OnCpu:
        """A `CudaDevice` whose tensors are on the CPU."""

        def __init__(self, place: torch.device) -> None:
            assert place == torch.device("cuda", 3)

        def empty(self, shape: Any, dtype: Any) -> torch.Tensor:
            return torch.empty(tuple(shape), dtype=self._dtype(dtype))

        clear, view = cuda_module.CudaDevice.clear, cuda_module.CudaDevice.view
        _dtype, _torch = cuda_module.CudaDevice._dtype, torch

    @contextmanager
    def stream_of(stream: Any) -> Iterator[None]:
        before = current[0]
        current[0] = getattr(stream, "name", stream)
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def device_of(index: int) -> Iterator[None]:
        assert index == 3
        yield

    cuda = SimpleNamespace(Device=device_of, Stream=Stream)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(cuda_module, "CudaDevice", OnCpu)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda ptr, device: Stream(ptr))
    monkeypatch.setattr(torch.cuda, "stream", stream_of)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(current[0]))
    monkeypatch.setattr(
        torch.Tensor,
        "record_stream",
        lambda tensor, stream: calls.append(("holds", stream.name, len(tensor))),
    )
    return calls


def test_graphs_are_captured_aside_and_launched_where_they_are_wanted(
    asked: list[tuple[Any, ...]],
) -> None:
    recorder = cuda_module.CudaRecorder(3)

    def work(device: Any, given: torch.Tensor) -> torch.Tensor:
        asked.append(("work", torch.cuda.current_stream(None).name))
        return device.zeros((4,), np.int32)

    for stream in ("main", "loader", "main"):
        with (
            torch.cuda.stream(stream),
            recorder.done("key", work, [torch.ones(5, dtype=torch.uint8)], 2) as result,
        ):
            assert result.dtype == torch.int32
            asked.append(("use", stream))
    size = 256 + 4 * 4  # input, aligned, and result
    assert asked == [
        *[("wait", "main"), ("work", "main"), ("use", "main"), ("holds", "main", 0)],
        ("used", "main"),
        *[("wait", "loader"), ("begin", "side"), ("work", "side"), ("end", "side")],
        *[("replay", "loader"), ("use", "loader"), ("holds", "loader", size), ("used", "loader")],
        *[("wait", "main"), ("replay", "main"), ("use", "main"), ("holds", "main", size)],
        ("used", "main"),
    ]


def test_a_capture_ends_where_its_work_fails(asked: list[tuple[Any, ...]]) -> None:
    recorder = cuda_module.CudaRecorder(3)

    def work(device: Any, given: torch.Tensor) -> torch.Tensor:
        if torch.cuda.current_stream(None).name == "side":
            raise RuntimeError("not while capturing")
        return given

    array = torch.ones(5, dtype=torch.uint8)
    with recorder.done("key", work, [array], 1):
        pass
    asked.clear()
    with (
        pytest.warns(UserWarning, match="not while capturing"),
        recorder.done("key", work, [array], 1) as result,
    ):
        assert result.tolist() == [[1] * 5]
    assert [call[:2] for call in asked] == [
        *[("wait", "main"), ("begin", "side"), ("end", "side"), ("holds", "main")],
        ("used", "main"),
    ]
