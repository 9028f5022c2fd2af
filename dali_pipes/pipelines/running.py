"""A DALI pipeline at work: one batch ahead in a thread, watched, and put away afterwards."""

import atexit
import shutil
import signal
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dali_pipes.pipelines.trace import bytes_read, notes

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


class LoaderStopped(RuntimeError):
    """Decoding came to a stop; the message names the files at work."""


class Running:
    """Builds a pipeline in a scratch folder of its own and yields its outputs one by one."""

    def __init__(
        self,
        build: Callable[[Path], "Pipeline"],
        stall_seconds: float,
        run: Callable[["Pipeline"], Any] = lambda pipeline: pipeline.run(),
    ) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="sts-dali-"))
        self._stall_seconds = stall_seconds
        others = set(active_children())
        try:
            with warnings.catch_warnings():
                # TV-L1 does not use all that a fetch gives.
                warnings.filterwarnings("ignore", message="The external source node")
                pipeline = build(self._scratch)
                pipeline.build()
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        self._workers = [child for child in active_children() if child not in others]
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._ready: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(pipeline, run, self._wanted, self._ready), daemon=True
        )
        self.close = weakref.finalize(
            self, _put_away, self._wanted, self._thread, self._workers, self._scratch
        )
        # At the interpreter's end, too, and before DALI, which would end pipelines at work: what
        # was registered last comes first, and `build` has imported DALI.
        self.close.atexit = False
        atexit.register(self.close)
        self._thread.start()
        self._wanted.put(True)

    def next(self) -> Any:
        """The outputs of the next iteration. Raises LoaderStopped if none can be had."""
        waited, read = 0.0, self._bytes_read()
        outputs = None
        while outputs is None:
            try:
                outputs = self._ready.get(timeout=_LOOK_EVERY_SECONDS)
            except Empty:
                waited += _LOOK_EVERY_SECONDS
                if read != (read := self._bytes_read()):  # a long file on its way is no stall
                    waited = 0.0
            if outputs is None or isinstance(outputs, BaseException):
                dead = self._dead()  # DALI may wait for it for ever
                if dead is not None:
                    raise self._stopped(f"decoding worker {dead.pid} {_end_of(dead)}")
            if outputs is None and waited >= self._stall_seconds:
                raise self._stopped(f"no batch, and nothing read, for {self._stall_seconds:.0f} s")
        if isinstance(outputs, BaseException):
            raise self._stopped(_last_line(outputs)) from outputs
        self._wanted.put(True)
        return outputs

    def _bytes_read(self) -> int:
        """By whoever decodes, so far."""
        if self._workers:
            return sum(bytes_read(str(worker.pid)) for worker in self._workers)
        return bytes_read(f"self/task/{self._thread.native_id}")

    def _dead(self) -> BaseProcess | None:
        """A worker that ended; not one that DALI ended because another did."""
        dead = [worker for worker in self._workers if not worker.is_alive()]
        return min(dead, key=lambda worker: worker.exitcode == -signal.SIGTERM, default=None)

    def _stopped(self, why: str) -> LoaderStopped:
        at_work = "; ".join(map(str, notes(self._scratch)))
        for worker in self._workers:
            worker.kill()
        self.close()
        return LoaderStopped(f"{why}; at work: {at_work or 'nobody'}")


_LOOK_EVERY_SECONDS = 1.0


def _serve(
    pipeline: "Pipeline",
    run: Callable[["Pipeline"], Any],
    wanted: "SimpleQueue[bool]",
    ready: "SimpleQueue[Any]",
) -> None:
    try:
        while wanted.get():
            ready.put(run(pipeline))
    except BaseException as error:
        ready.put(error)
    finally:
        # DALI does so once the pipeline is collected, for which a traceback can make it wait for
        # ever; to end its pool after its workers were killed can take as long.
        if pool := getattr(pipeline, "_py_pool", None):
            pool.close()


def _put_away(
    wanted: "SimpleQueue[bool]",
    thread: threading.Thread,
    workers: list[BaseProcess],
    scratch: Path,
) -> None:
    wanted.put(False)
    if all(worker.is_alive() for worker in workers):
        thread.join(timeout=5)  # for the batch under way; then the pipeline ends its workers
    for worker in workers:
        worker.join(timeout=5)
        worker.kill()
    shutil.rmtree(scratch, ignore_errors=True)


def _end_of(worker: BaseProcess) -> str:
    if worker.exitcode == -signal.SIGKILL:
        return "was killed (the system does so when memory runs out)"
    if worker.exitcode == -signal.SIGBUS:
        return "ran out of shared memory: make /dev/shm larger (docker: --shm-size)"
    return f"ended with exit code {worker.exitcode}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
