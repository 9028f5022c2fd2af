"""A DALI pipeline at work: one batch ahead in a thread, watched, and put away afterwards."""

import atexit
import signal
import threading
import warnings
import weakref
from collections.abc import Callable
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dali_pipes.pipelines.trace import Notes, bytes_read

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


class LoaderStopped(RuntimeError):
    """Decoding came to a stop; the message names the files at work."""


class Running:
    """Builds a pipeline in a thread of its own and yields its outputs one by one."""

    def __init__(
        self,
        build: Callable[[str], "Pipeline"],
        stall_seconds: float,
        run: Callable[["Pipeline"], Any] = lambda pipeline: pipeline.run(),
    ) -> None:
        """`build`: makes the pipeline and starts it; is told where notes go, a `Notes.place`."""
        self._stall_seconds = stall_seconds
        self._work = _Work(build, run)
        self.close = weakref.finalize(self, self._work.put_away)
        self.close.atexit = False  # `_Work` sees to it
        self._work.thread.start()
        self._work.wanted.put(True)

    def next(self) -> Any:
        """The outputs of the next iteration. Raises LoaderStopped if none can be had."""
        waited, read = 0.0, self._bytes_read()
        outputs = None
        while outputs is None:
            alive = self._work.thread.is_alive()
            try:
                outputs = self._work.ready.get(timeout=_LOOK_EVERY_SECONDS)
            except Empty:
                waited += _LOOK_EVERY_SECONDS
                if read != (read := self._bytes_read()):  # a long file on its way is no stall
                    waited = 0.0
            if outputs is None or isinstance(outputs, BaseException):
                dead = self._dead()  # DALI may wait for it for ever
                if dead is not None:
                    raise self._stopped(f"decoding worker {dead.pid} {_end_of(dead)}")
            if outputs is None and not alive:
                raise self._stopped("it was closed")
            if outputs is None and waited >= self._patience:
                raise self._stopped(f"no batch, and nothing read, for {waited:.0f} s")
        if isinstance(outputs, BaseException):
            raise self._stopped(_last_line(outputs)) from outputs
        self._work.wanted.put(True)
        return outputs

    @property
    def is_ready(self) -> bool:
        """Whether `next` has outputs at once."""
        return not (self._work.ready.empty() or self._work.failed)

    @property
    def _patience(self) -> float:
        started = self._work.started.is_set()
        return self._stall_seconds if started else max(self._stall_seconds, _START_SECONDS)

    def _bytes_read(self) -> int:
        """By whoever decodes, so far."""
        if self._work.workers:
            return sum(bytes_read(str(worker.pid)) for worker in self._work.workers)
        return bytes_read(f"self/task/{self._work.thread.native_id}")

    def _dead(self) -> BaseProcess | None:
        """A worker that ended; not one that DALI ended because another did."""
        dead = [worker for worker in self._work.workers if not worker.is_alive()]
        return min(dead, key=lambda worker: worker.exitcode == -signal.SIGTERM, default=None)

    def _stopped(self, why: str) -> LoaderStopped:
        at_work = "; ".join(map(str, self._work.notes.read()))
        for worker in self._work.workers:
            worker.kill()
        self.close()
        return LoaderStopped(f"{why}; at work: {at_work or 'nobody'}")


_LOOK_EVERY_SECONDS = 1.0
_START_SECONDS = 60.0  # at least so long may processes take to start


class _Work:
    """What goes on without `Running`, which an interrupt or garbage collection may end anywhere."""

    def __init__(
        self, build: Callable[[str], "Pipeline"], run: Callable[["Pipeline"], Any]
    ) -> None:
        self.notes = Notes()
        self.workers: list[BaseProcess] = []
        self.started = threading.Event()
        self.failed = False
        self.wanted: SimpleQueue[bool] = SimpleQueue()
        self.ready: SimpleQueue[Any] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, args=([build], run), daemon=True)
        self._began = threading.Event()

    def _serve(
        self, build: list[Callable[[str], "Pipeline"]], run: Callable[["Pipeline"], Any]
    ) -> None:
        self._began.set()
        pipeline = None
        try:
            import nvidia.dali  # noqa: F401  # here: an interrupted import would be half a DALI

            # At the interpreter's end, too, and before DALI, which would end pipelines at work:
            # what was registered last comes first.
            atexit.register(self.put_away)
            with warnings.catch_warnings():
                # TV-L1 does not use all that a fetch gives.
                warnings.filterwarnings("ignore", message="The external source node")
                pipeline = build.pop()(self.notes.place)  # or it would keep its loader alive
            self.workers += _workers_of(pipeline)
            self.started.set()
            while self.wanted.get():
                self.ready.put(run(pipeline))
        except BaseException as error:
            self.failed = True
            self.ready.put(error)
        finally:
            # DALI does so once the pipeline is collected, for which a traceback can make it wait
            # for ever; to end its pool after its workers were killed can take as long.
            if pool := getattr(pipeline, "_py_pool", None):
                pool.close()

    def put_away(self) -> None:
        """End the workers, after the batch under way. An interrupt makes it quick."""
        atexit.unregister(self.put_away)
        self.wanted.put(False)
        try:
            alive = all(worker.is_alive() for worker in self.workers)
            # Interrupted while it starts, `Thread` may not know that it runs, and refuses to join.
            if alive and self._began.wait(timeout=5):
                self.thread.join(timeout=5)  # it ends the workers
            for worker in self.workers:
                worker.join(timeout=5)
        finally:
            for worker in self.workers:
                worker.kill()
            self.notes.close()


def _workers_of(pipeline: "Pipeline") -> list[BaseProcess]:
    """Its processes: others may have started some at the same time."""
    pool = getattr(pipeline, "_py_pool", None)
    pids = set(pool.pids()) if pool else set()
    return [child for child in active_children() if child.pid in pids]


def _end_of(worker: BaseProcess) -> str:
    if worker.exitcode == -signal.SIGKILL:
        return "was killed (the system does so when memory runs out)"
    if worker.exitcode == -signal.SIGBUS:
        return "ran out of shared memory: make /dev/shm larger (docker: --shm-size)"
    return f"ended with exit code {worker.exitcode}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
