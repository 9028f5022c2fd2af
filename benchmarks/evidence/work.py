"""Commands done by several hands: each chain in order, as many chains at once as there are cores.

A core each does more than all cores on one small network. What a command says goes into a log
beside its results; what is done already is not done again.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event, Lock

from benchmarks.evidence.plan import Command

ROOT = Path(__file__).parents[2]


class Failed(Exception):
    """A command ended without what it should have done."""


class Hands:
    """Runs commands and says which, how many there are, and how long it may still take."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self.todo = sum(not command.done() for command in commands)
        self.began = time.monotonic()
        self.started = self.ended = 0
        self.stopped = Event()
        self._lock = Lock()

    def chains(self, chains: Sequence[Sequence[Command]], logs: Sequence[Path], jobs: int) -> None:
        """Do each chain, `jobs` of them at once. Raises Failed, once those at work have ended."""
        pool = ThreadPoolExecutor(jobs)
        try:
            for chain in as_completed(map(pool.submit, [self.chain] * len(chains), chains, logs)):
                chain.result()
        finally:
            self.stopped.set()  # also if interrupted
            pool.shutdown(cancel_futures=True)

    def chain(self, commands: Sequence[Command], log: Path | None = None) -> None:
        """One command after the other; what they say goes into `log`, or where this program's
        words go. Raises Failed."""
        for command in commands:
            if not command.done() and not self.stopped.is_set():
                self.run(command, log)

    def run(self, command: Command, log: Path | None) -> None:
        self._say(command)
        words = [sys.executable, *command.words[1:]]
        if log is None:
            status = subprocess.run(words, cwd=ROOT).returncode
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            one_core = os.environ | {"OMP_NUM_THREADS": "1"}
            with log.open("a") as file:
                print(shlex.join(command.words), file=file, flush=True)
                status = subprocess.run(
                    words, cwd=ROOT, env=one_core, stdout=file, stderr=file
                ).returncode
        if status or not command.done():
            self.stopped.set()
            raise Failed(
                f"{shlex.join(command.words)} ended with status {status} and is not done"
                + (f", see {log}" if log else "")
                + "; mend its cause and start again: what is done is kept"
            )
        with self._lock:
            self.ended += 1

    def _say(self, command: Command) -> None:
        with self._lock:
            self.started += 1
            passed = (time.monotonic() - self.began) / 60
            left = passed * (self.todo - self.ended) / self.ended if self.ended else None
            about = f", about {left:.0f} min left" if left is not None else ""
            place = f"[{self.started} of {self.todo}{about}]"
            print(f"{place} {shlex.join(command.words)}", flush=True)
