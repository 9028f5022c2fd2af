"""Timing in turns: nothing of one rival runs in another's turn."""

import subprocess
import sys
import time

from benchmarks import timing

BUSY = """
import time
print("begun", flush=True)
began = time.monotonic()
while time.monotonic() < began + 1:
    pass
print("done", flush=True)
time.sleep(60)
"""


def test_settling_waits_for_the_work_of_processes_that_were_started() -> None:
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "begun\n"
        timing.settle()
        busy.kill()
        assert busy.stdout.read() == "done\n"


def test_settling_gives_up() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as endless:
        began = time.monotonic()
        timing.settle(0.5)
        assert time.monotonic() - began < 20
        endless.kill()


def test_rivals_take_turns_and_what_was_ready_is_not_timed() -> None:
    calls = []

    def stream(name: str) -> int:
        calls.append(name)
        time.sleep(0.02)
        return 2

    streams = {"a": lambda: stream("a"), "b": lambda: stream("b")}
    times = timing.interleaved(streams, rounds=2, seconds=0.01, drained=2)
    assert calls == ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3
    for measured in times.values():
        assert measured.repeats == 2
        assert measured.seconds >= 0.01  # a call, of 2 clips
