"""A DALI pipeline at work: one batch ahead in a thread, watched, and put away afterwards."""

import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dali_pipes.cpu_pipeline import bare_main
from dali_pipes.trace import Note, notes

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
        try:
            with bare_main():
                pipeline = build(self._scratch)
                pipeline.build()
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        wanted: SimpleQueue[bool] = SimpleQueue()
        self._ready: SimpleQueue[Any] = SimpleQueue()
        thread = threading.Thread(
            target=_serve, args=(pipeline, run, wanted, self._ready), name="pipeline", daemon=True
        )
        # Workers must end before the interpreter does, and the scratch folder with them.
        self._stop = weakref.finalize(self, _put_away, wanted, thread, self._scratch)
        self._wanted = wanted
        thread.start()
        wanted.put(True)

    def next(self) -> Any:
        """The outputs of the next iteration. Raises LoaderStopped if none come."""
        try:
            outputs = self._ready.get(timeout=self._stall_seconds)
        except Empty:
            raise LoaderStopped(
                f"no batch for {self._stall_seconds:.0f} s. {_words(self._end())}"
            ) from None
        if isinstance(outputs, BaseException):
            raise LoaderStopped(f"{_last_line(outputs)} {_words(self._end())}") from outputs
        self._wanted.put(True)
        return outputs

    def close(self) -> None:
        """End the workers."""
        self._stop()

    def _end(self) -> list[Note]:
        """End workers that may hang; what they were at."""
        at_work = notes(self._scratch)
        for file in self._scratch.iterdir():
            if file.name.isdecimal() and int(file.name) != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(int(file.name), signal.SIGKILL)
        self._stop()
        return at_work


def _serve(
    pipeline: "Pipeline", run: Callable[["Pipeline"], Any], wanted: SimpleQueue, ready: SimpleQueue
) -> None:
    while wanted.get():
        try:
            ready.put(run(pipeline))
        except BaseException as error:
            ready.put(error)
            return


def _put_away(wanted: SimpleQueue, thread: threading.Thread, scratch: Path) -> None:
    wanted.put(False)
    thread.join(timeout=10)
    shutil.rmtree(scratch, ignore_errors=True)


def _words(at_work: list[Note]) -> str:
    return "At work: " + ("; ".join(map(str, at_work)) or "no worker")


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
