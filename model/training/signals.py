"""Requests to stop that leave time for a checkpoint: SIGTERM, and SIGUSR1 as Slurm sends it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, TypeVar

Batch = TypeVar("Batch", covariant=True)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """Collect the names of signals that ask to stop, instead of dying of them."""
    received: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Loader(Protocol[Batch]):
    """What yields batches, from worker processes of its own."""

    def next_batch(self) -> Batch: ...


def next_batch(loader: Loader[Batch], stop: list[str]) -> Batch | None:
    """The next batch, or None after a request to stop."""
    try:
        return None if stop else loader.next_batch()
    except Exception:
        if stop:  # the signal went to the decoding workers too and ended them
            return None
        raise
