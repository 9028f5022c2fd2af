"""Where time goes, stage by stage: ranges in the timeline of Nsight Systems, and seconds a clip."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def nvtx_range(name: str, device: torch.device) -> AbstractContextManager[None]:
    """The block is a range of that name in Nsight; on a CPU, where NVTX is missing, nothing."""
    return torch.cuda.nvtx.range(name) if device.type == "cuda" else nullcontext()


class Clock:
    """Seconds a clip of stages that `device` works at.

    A GPU is still at it when the block ends: events mark where its part of the queue begins and
    ends, and are read once it is past them. Nothing waits for that, so the figure comes late.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._latest: dict[str, float] = {}
        self._queued: deque[tuple[str, int, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def stage(self, name: str, clips: int) -> Iterator[None]:
        """The block does the work of a stage on so many clips."""
        with nvtx_range(name, self._device):
            if self._device.type != "cuda":
                began = time.perf_counter()
                yield
                self._latest[name] = (time.perf_counter() - began) / max(1, clips)
                return
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(self._device)
            begin.record(stream)
            yield
            end.record(stream)
            self._queued.append((name, max(1, clips), begin, end))

    def seconds_a_clip(self) -> dict[str, float]:
        """Of each stage the latest figure; none for a stage that no GPU has finished yet."""
        while self._queued and self._queued[0][3].query():
            name, clips, begin, end = self._queued.popleft()
            self._latest[name] = begin.elapsed_time(end) / 1000 / clips
        return dict(self._latest)
