"""What is there, does it work, and what to do if not: a line for each, in at most two minutes.

    python -m benchmarks.doctor                    what a new node is asked first
    python -m benchmarks.doctor --videos DIR       and whether training from DIR works
    python -m benchmarks.doctor --json             for a bug report

Exit status: 0 training works as documented, 1 it would not, 2 the arguments cannot be used. What
can crash or hang does so in a process of its own, and is a line like any other.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.doctor.apart import Apart
from benchmarks.doctor.asking import Asking, Line
from benchmarks.doctor.checks import Facts, checks
from benchmarks.doctor.finding import State
from benchmarks.doctor.next_flags import commands
from benchmarks.doctor.printing import Paper
from dali_pipes.terminal import accept_all_names, ended

VERDICTS: dict[State, str] = {
    "ok": "training works here as documented",
    "warning": "training works here, slower or with less where marked",
    "bad": "training would not work here as documented",
}


def main(argv: Sequence[str] | None = None) -> int:
    accept_all_names()
    args = parse(argv)
    try:
        with Apart() as apart:
            return examine(Asking(apart), args.videos, None if args.json else Paper.of(sys.stdout))
    except KeyboardInterrupt:
        return ended(130, "doctor: interrupted")
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.doctor", description=(__doc__ or "").partition("\n")[0]
    )
    # fmt: off
    parser.add_argument("--videos", type=Path, metavar="DIR",
        help="videos, or reels: does training from there work?")
    parser.add_argument("--json", action="store_true", help="one JSON object, for a bug report")
    # fmt: on
    return parser.parse_args(argv)


def examine(asking: Asking, videos: Path | None, paper: Paper | None) -> int:
    """Print what is found as it is found, or without paper all of it as JSON; the exit status."""
    began = time.monotonic()
    if videos is not None and (why := asking.refusal(videos)):
        return ended(2, f"doctor: {why}")
    facts, lines = asking.facts()
    todo = checks(facts, videos)
    width = max(len(check.name) for check in todo)
    for line in lines:
        show(line, width, paper)
    known = {line.name for line in lines}
    for check in todo:
        if check.name not in known:
            lines.append(asking.line(check))
            show(lines[-1], width, paper)
    state = worst(lines)
    suggested = following(asking, facts, videos)
    if paper is None:
        print(json.dumps(report(asking, lines, state, suggested), indent=1))
    else:
        without = [line.name for line in lines if line.finding.state == "not applicable"]
        if without:
            said = f"not looked at: {', '.join(without)}"
            paper.line("not applicable", "no GPU", width, said)
        paper.text("")
        said = f"{VERDICTS[state]} ({time.monotonic() - began:.0f} s)"
        paper.line(state, "verdict", width, said)
        for name, command in zip(("tune", "train"), suggested, strict=True):
            paper.text(f"{name:5} {command}")
    return 1 if state == "bad" else 0


def show(line: Line, width: int, paper: Paper | None) -> None:
    if paper is not None and line.finding.state != "not applicable":  # one line for all of those
        paper.line(line.finding.state, line.name, width, line.finding.found, line.finding.remedy)


def worst(lines: Sequence[Line]) -> State:
    found = {line.finding.state for line in lines}
    return "bad" if "bad" in found else "warning" if "warning" in found else "ok"


def following(asking: Asking, facts: Facts, videos: Path | None) -> tuple[str, str]:
    """The commands to give next: one tunes, one trains."""
    gpus = len(facts.torch.gpus) if facts.torch else 0
    device = "cuda" if gpus else "cpu"
    limits = facts.limits
    a_clip = asking.fact("benchmarks.doctor.machine:batch_bytes", 1, device) or 0
    return commands(
        str(videos or "DIR"), gpus, limits.may_compute if limits else 1,
        limits.shared_bytes if limits else 0, a_clip,
    )  # fmt: skip


def report(
    asking: Asking, lines: Sequence[Line], state: State, suggested: tuple[str, str]
) -> dict[str, Any]:
    """What a bug report needs. No value of an environment variable is in it."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.doctor", *sys.argv[1:]]),
        "commit": asking.fact("benchmarks.timing:commit"),
        "machine": asking.fact("benchmarks.timing:machine"),
        "versions": asking.fact("benchmarks.timing:versions"),
        "state": state,
        "verdict": VERDICTS[state],
        "checks": [line.row() for line in lines],
        "next": list(suggested),
    }


if __name__ == "__main__":
    sys.exit(main())
