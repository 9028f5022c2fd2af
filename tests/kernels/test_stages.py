"""Ranges for Nsight and the clock of stages, with stand-ins for what a GPU would do."""

import time

import pytest
import torch

from kernels.stages import Clock, nvtx_range

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is pushed and popped."""
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda name: seen.append(f"+{name}"))
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: seen.append("-"))
    return seen


def test_ranges_are_balanced_also_when_an_error_passes(ranges: list[str]) -> None:
    with pytest.raises(KeyError), nvtx_range("outer", GPU), nvtx_range("inner", GPU):
        raise KeyError
    assert ranges == ["+outer", "+inner", "-", "-"]


def test_no_ranges_on_a_cpu(ranges: list[str]) -> None:
    with nvtx_range("forward", CPU), Clock(CPU).stage("labels", 1):
        pass
    assert not ranges


def test_a_cpu_stage_is_that_of_the_last_batch_and_a_clip() -> None:
    clock = Clock(CPU)
    assert clock.seconds_a_clip() == {}
    with clock.stage("labels", 10):
        time.sleep(0.5)
    first = clock.seconds_a_clip()["labels"]
    assert 0.05 <= first < 0.5
    with clock.stage("labels", 10):
        pass
    assert clock.seconds_a_clip()["labels"] < first
    with clock.stage("labels", 0):  # no clip, no division
        pass


class Event:
    """A CUDA event that the GPU passes when it is told to."""

    passed: set[int]
    made: list["Event"]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.number = len(self.made)
        self.made.append(self)

    def record(self, stream: str) -> None:
        assert stream == f"stream of {GPU}"

    def query(self) -> bool:
        return self.number in self.passed

    def elapsed_time(self, end: "Event") -> float:
        assert self.query()
        assert end.query()
        return 1000.0 * (end.number + 1)  # ms


def test_a_gpu_stage_is_read_once_it_is_past_and_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, ranges: list[str]
) -> None:
    monkeypatch.setattr(Event, "passed", set[int](), raising=False)
    monkeypatch.setattr(Event, "made", [], raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = Clock(GPU)
    for _ in range(2):
        with clock.stage("labels", 4):
            pass
    assert ranges == ["+labels", "-"] * 2
    Event.passed |= {0}
    assert clock.seconds_a_clip() == {}  # still at it
    Event.passed |= {1, 2}
    assert clock.seconds_a_clip() == {"labels": 2 / 4}
    Event.passed |= {3}
    assert clock.seconds_a_clip() == {"labels": 4 / 4}
