"""What a check finds."""

from dataclasses import dataclass
from typing import Literal

# bad: training would not work as documented; warning: it does, slower or with less
State = Literal["ok", "warning", "bad", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """How it is, and what to do about it: `remedy` is empty only where nothing is to be done."""

    state: State
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, remedy: str) -> Finding:
    return Finding("warning", found, remedy)


def bad(found: str, remedy: str) -> Finding:
    return Finding("bad", found, remedy)


def not_applicable(why: str) -> Finding:
    return Finding("not applicable", why)


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says; of DALI, of what it encountered."""
    said = str(error).strip()
    lines = (said.partition("\nencountered:\n")[2].strip() or said).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
