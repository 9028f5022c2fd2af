"""Work on the next batch beside the training step: a CUDA stream of its own, ordered by events.

    training | step n-1 |  wait: n is made  | step n |  wait: n+1 is made  | step n+1
    aside               |  wait: step n-1   | flow and labels of n+1  |  wait: step n  | of n+2

The second kind of wait is for memory: what a batch had may be given to the next but one. The host
waits only where nothing else keeps it from queueing batch after batch. On a CPU there is nothing
beside, and work is done when it is asked for.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


@dataclass(frozen=True)
class Made(Generic[Result]):
    """What work will have given once the stream is past the event; None: now."""

    result: Result
    ready: torch.cuda.Event | None
    borrowed: list[Tensor]  # memory that is not torch's, in which the result may lie


class Aside:
    """Queues work for `device` beside the caller's current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._borrowed: list[Tensor] = []
        self._taken: list[Tensor] = []  # borrowed for what was taken last
        self._in_use: deque[tuple[torch.cuda.Event, list[Tensor]]] = deque()

    @property
    def is_there(self) -> bool:
        """Whether work runs beside the caller's, so that it pays to ask for it early."""
        return self._stream is not None

    def make(self, work: Callable[[], Result]) -> Made[Result]:
        """Queue work, which begins once the current stream has done what it was given so far."""
        if self._stream is None:
            return Made(work(), None, [])
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._borrowed = []
        with torch.cuda.stream(self._stream):
            try:
                result = work()
            finally:
                ready = self._stream.record_event()
                self._keep(self._borrowed, ready)
        return Made(result, ready, self._borrowed)

    def take(self, made: Made[Result]) -> Result:
        """The result, for the current stream, which waits until it is there. The host does not."""
        if made.ready is not None:
            stream = torch.cuda.current_stream(self._device)
            self._keep(self._taken, stream.record_event())  # what read the last batch is queued
            self._taken = made.borrowed
            stream.wait_event(made.ready)
        return made.result

    def borrow(self, tensor: Tensor) -> Tensor:
        """For work: a tensor whose owner would use its memory again as soon as nobody holds it. It
        is held until a GPU is past what reads it."""
        if tensor.is_cuda:
            self._borrowed.append(tensor)
        return tensor

    def _keep(self, borrowed: list[Tensor], until: torch.cuda.Event) -> None:
        self._in_use.append((until, borrowed))
        while self._in_use and self._in_use[0][0].query():
            self._in_use.popleft()
        if len(self._in_use) > _MOST_IN_USE:
            self._in_use.popleft()[0].synchronize()


_MOST_IN_USE = 6  # two for each batch: training that reads a loss now and then comes to four
