"""One function over many items: all cores, progress, failures collected, work shared by ranks.

Each worker process has one item at a time, so that a process that dies names the item that killed
it, and only that item fails. Workers end with this process, however it ends.
"""

import argparse
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar, cast

from dali_pipes.decoding.opening import BadVideo

Item = TypeVar("Item")
Result = TypeVar("Result")

# Errors of the place that is written to: no other item could succeed either.
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_LINE_EVERY_SECONDS = 30  # progress where the output is no terminal


class BadInput(Exception):
    """What the user gave cannot be worked on; the text says why and what to do."""


@contextmanager
def bad_input() -> Iterator[None]:
    """A ValueError within is about what the user gave."""
    try:
        yield
    except ValueError as error:
        raise BadInput(str(error)) from error


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work (launched by torchrun)."""

    rank: int = 0
    world_size: int = 1
    local_size: int = 1  # of them on this machine

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every world_size-th item. Take it of all items, done or not: ranks must agree on it."""
        return items[self.rank :: self.world_size]

    def meet(self, value: Result) -> list[Result]:
        """Wait for all ranks; returns what each of them brought, by rank."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist  # here: one process alone does not pay for torch

        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(days=90))
        values: list[Result | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return cast(list[Result], values)

    def first(self, begin: Callable[[], Result]) -> Result:
        """What rank 0 finds, on every rank. Raises BadInput on all of them if it cannot begin."""
        found: Result | BadInput | None = None
        if self.rank == 0:
            try:
                found = begin()
            except BadInput as error:
                found = error
        found = self.meet(found)[0]
        if isinstance(found, BadInput):
            raise found
        return cast(Result, found)

    def end(self, status: int) -> int:
        """Rank 0's exit status, on every rank, once rank 0 is done.

        torchrun ends all ranks as soon as one fails, and so none may fail earlier.
        """
        sys.stdout.flush()
        status = self.meet(status)[0]
        if self.world_size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
        return status


def ranks() -> Ranks:
    """The place that torchrun gave this process; alone without torchrun."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    if not any(name in os.environ for name in names[:2]):
        return Ranks()
    try:
        found = Ranks(*(int(os.environ[name]) for name in names))
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"RANK, WORLD_SIZE and LOCAL_WORLD_SIZE must be numbers and come together ({error}); "
            "start with torchrun, or unset them"
        ) from error
    if not 0 <= found.rank < found.world_size:
        raise BadInput(f"RANK={found.rank} does not fit WORLD_SIZE={found.world_size}")
    return found


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """The flag --workers of every command that uses all cores."""
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one a core")


def height_width(text: str) -> tuple[int, int]:
    """A flag's value HEIGHTxWIDTH in pixels. Raises argparse.ArgumentTypeError."""
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        height, width = 0, 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, like 128x171")
    return height, width


def worker_count(asked: int | None, place: Ranks) -> int:
    """Workers of this process: as asked for, else its share of the cores it may run on."""
    if asked is not None:
        if asked < 1:
            raise BadInput(f"--workers must be at least 1, got {asked}")
        return asked
    return max(1, len(os.sched_getaffinity(0)) // place.local_size)


def each(
    stage: Callable[[Item], Result],
    items: Sequence[Item],
    place: Ranks,
    *,
    title: str,
    unit: str,
    name: Callable[[Item], str],
    workers: int,
    before: int = 0,
    again: int = 0,
    threads: bool = False,
    weight: Callable[[Item], int] = lambda item: 1,
) -> Iterator[tuple[Item, Result | BadVideo]]:
    """Every item with what `stage` returned for it, or why it failed, in the order they finish.

    stage: picklable; what it raises fails its item.
    name: the file that a failure names.
    before: videos that an earlier run did, for people.
    again: videos of `items` of which something is there, likewise.
    threads: workers are threads, for a stage that shares a GPU, instead of processes.
    weight: an item's part of the total, which is counted in `unit`.
    Raises OSError where the disk is full or not writable.
    """
    if place.world_size > 1:
        title = f"{title}, rank {place.rank} of {place.world_size}"
    if before:
        print(f"{title}: {before} videos were done before", file=sys.stderr, flush=True)
    if again:
        said = f"{title}: {again} videos are made again: they changed, or were not whole"
        print(said, file=sys.stderr, flush=True)
    if not items:
        return
    total = sum(weight(item) for item in items)
    bar = sys.stderr.isatty() and place.world_size == 1
    with (_bar if bar else _lines)(total, title, unit) as advance:
        for item, outcome in _outcomes(stage, items, min(workers, len(items)), threads):
            advance(weight(item), isinstance(outcome, _Failure))
            if isinstance(outcome, _Failure):
                path = outcome.path or name(item)
                yield item, BadVideo(path, outcome.stage, outcome.reason)
            else:
                yield item, outcome


@dataclass(frozen=True)
class _Failure:
    stage: str
    reason: str
    path: str | None = None  # where it is not all of the item: an image of a folder


def _outcomes(
    stage: Callable[[Item], Result], items: Sequence[Item], workers: int, threads: bool
) -> Iterator[tuple[Item, Result | _Failure]]:
    stop, running_until = multiprocessing.Pipe(duplex=False)
    new_pool: Callable[[], Executor] = (
        partial(ThreadPoolExecutor, 1) if threads else partial(_process_pool, stop)
    )
    idle = [new_pool() for _ in range(workers)]
    busy: dict[Future[Result | _Failure], tuple[Executor, Item]] = {}
    todo = deque(items)
    try:
        while todo or busy:
            while todo and idle:
                item, pool = todo.popleft(), idle.pop()
                try:
                    future = pool.submit(_attempt, stage, item)
                except BrokenProcessPool:  # it was killed between two items
                    pool = new_pool()
                    future = pool.submit(_attempt, stage, item)
                busy[future] = pool, item
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                pool, item = busy.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    outcome = _Failure("work", "its process died (out of memory, or a crash)")
                    pool = new_pool()
                idle.append(pool)
                yield item, outcome
        for pool in idle:
            pool.shutdown()
    finally:
        running_until.close()  # processes still at work exit at once
        stop.close()


def _process_pool(stop: Connection) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_start, initargs=(stop,))


def _start(stop: Connection) -> None:
    """Make this worker process end with its parent, which holds the other end of `stop`."""
    import cv2

    cv2.setNumThreads(1)  # processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and decides

    def exit_with_parent() -> None:
        stop.poll(None)
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _attempt(stage: Callable[[Item], Result], item: Item) -> Result | _Failure:
    try:
        return stage(item)
    except BadVideo as error:
        return _Failure(error.stage, error.reason, error.path)
    except OSError as error:
        if error.errno in _FATAL:
            raise
        return _Failure("work", str(error))
    except Exception as error:
        return _Failure("work", f"{type(error).__name__}: {error}")


def summary(done: str, failures: Sequence[BadVideo]) -> int:
    """Print what was done and every failure in full; returns the exit status."""
    print(done if not failures else f"{done}; {len(failures)} failed:")
    for failure in sorted(failures, key=str):
        print(f"  {failure}")
    return 1 if failures else 0


Advance = Callable[[int, bool], None]  # told of each item: its weight, and whether it failed


@contextmanager
def _bar(total: int, title: str, unit: str) -> Iterator[Advance]:
    from tqdm import tqdm

    failed = 0
    with tqdm(total=total, desc=title, unit=unit, smoothing=0, dynamic_ncols=True) as bar:

        def advance(weight: int, failure: bool) -> None:
            nonlocal failed
            failed += failure
            if failed:
                bar.set_postfix_str(f"{failed} failed", refresh=False)
            bar.update(weight)

        yield advance


@contextmanager
def _lines(total: int, title: str, unit: str) -> Iterator[Advance]:
    done = failed = 0
    started = printed = time.monotonic()

    def advance(weight: int, failure: bool) -> None:
        nonlocal done, failed, printed
        done, failed, now = done + weight, failed + failure, time.monotonic()
        if now - printed < _LINE_EVERY_SECONDS and done < total:
            return
        printed = now
        left = _span((now - started) * (total - done) / done)
        text = f"{title}: {done} of {total} {unit}s, {failed} failed, about {left} left"
        print(text, file=sys.stderr, flush=True)

    yield advance


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min" if minutes else f"{round(seconds)} s"
