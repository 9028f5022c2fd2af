"""Work in a process of its own, which may crash or hang: then the next work gets another one."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from benchmarks.doctor.finding import first_line
from dali_pipes.decoding.opening import printable

_DYING_SECONDS = 10.0  # a core may have to be written


class Broken(Exception):
    """The work did not end as it should; the message says how."""


class TooLong(Broken):
    """It was not done in time."""


class Apart:
    """Calls functions, one after another, and imports their modules there: that may fail, too.

    What they print goes nowhere: the standard output may be for a program to read.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # by the process, until `__exit__`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._said.close()

    def call(self, name: str, *arguments: Any, seconds: float) -> Any:
        """What the function "module:name" returns; Broken if it raises, crashes or takes longer."""
        process = self._process or self._start()
        try:
            self._pipe.send((name, arguments))
            if not self._pipe.poll(seconds):
                self._end()
                raise TooLong(f"was not done after {seconds:.0f} s")
            value, error = self._pipe.recv()
        except (EOFError, ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                process.wait(_DYING_SECONDS)
            self._end()
            raise Broken(self._last_words(process.returncode)) from None
        if error:
            raise Broken(error)
        return value

    def _start(self) -> subprocess.Popen[bytes]:
        self._pipe, theirs = Pipe()
        self._said.seek(0)
        self._said.truncate()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-W", "ignore", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        return self._process

    def _end(self) -> None:
        """Processes that it has started end with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._process = None

    def _last_words(self, code: int) -> str:
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        said = f"; it said: {printable(lines[-1].strip())}" if lines else ""
        return f"the process ended {how}{said}"


def serve(pipe: Connection) -> None:
    """Answer until nobody asks any more."""
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = _named(name)(*arguments), ""
        except (Exception, SystemExit) as error:
            answer = None, first_line(error)
        pipe.send(answer)


def _named(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


if __name__ == "__main__":
    number = int(sys.argv[1])
    os.set_inheritable(number, False)  # or who is started here would hold it open
    serve(Connection(number))
