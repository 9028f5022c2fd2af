"""Asking one thing after another, apart, and in time."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.doctor.apart import Apart, Broken, TooLong
from benchmarks.doctor.checks import Check, Facts
from benchmarks.doctor.finding import Finding, bad, not_applicable
from benchmarks.doctor.software import Nvidia

SECONDS = 100.0  # of two minutes: what is asked last may take four times 5
REPORT = "report it, with the output of --json"
INSTALL = "make venv, then its python: source .venv/bin/activate"
IDLE = "run it again when the machine has less to do; what was compiled stays compiled"


@dataclass(frozen=True)
class Line:
    """A check and what it found."""

    name: str
    finding: Finding
    seconds: float

    def row(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.finding), "seconds": round(self.seconds, 2)}


class Asking:
    """Asks a process of its own until the time is over."""

    def __init__(self, apart: Apart, seconds: float = SECONDS) -> None:
        self._apart = apart
        self._end = time.monotonic() + seconds
        self.seconds = seconds

    def line(self, check: Check) -> Line:
        """Do one check, if it applies."""
        began = time.monotonic()
        finding = (
            self._finding(check) if check.applies else not_applicable("no GPU that can be used")
        )
        return Line(check.name, finding, time.monotonic() - began)

    def facts(self) -> tuple[Facts, list[Line]]:
        """What the checks are about, and a line for each part that cannot be found out."""
        lines: list[Line] = []

        def part(name: str, work: str) -> Any:
            began = time.monotonic()
            try:
                return self._apart.call(f"benchmarks.doctor.{work}", seconds=self._left(40.0))
            except Broken as broken:
                found = bad(str(broken), _remedy(broken))
                lines.append(Line(name, found, time.monotonic() - began))
                return None

        facts = Facts(
            part("driver", "software:nvidia") or Nvidia(),
            part("torch", "software:torch"),
            part("packages", "software:installed") or {},
            part("machine", "machine:limits"),
        )
        return facts, lines

    def refusal(self, videos: Path) -> str:
        """Why there is nothing to look at in a folder; "" if there is, or it cannot be told."""
        return self.fact("benchmarks.doctor.videos:refusal", videos, seconds=60.0) or ""

    def fact(self, name: str, *arguments: Any, seconds: float = 20.0) -> Any:
        """What the function "module:name" gives; None if it fails."""
        try:
            return self._apart.call(name, *arguments, seconds=max(5.0, self._left(seconds)))
        except Broken:
            return None

    def _finding(self, check: Check) -> Finding:
        left = self._left(check.seconds)
        if left <= 0:
            return bad(f"not looked at: {self.seconds:.0f} s were over", IDLE)
        try:
            found: Finding = self._apart.call(
                f"benchmarks.doctor.{check.work}", *check.arguments, seconds=left
            )
        except Broken as broken:
            return bad(str(broken), _remedy(broken))
        return found

    def _left(self, most: float) -> float:
        return min(most, self._end - time.monotonic())


def _remedy(broken: Broken) -> str:
    if isinstance(broken, TooLong):
        return IDLE
    return INSTALL if str(broken).startswith(("ModuleNotFound", "ImportError")) else REPORT
