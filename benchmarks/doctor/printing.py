"""Lines for people: with marks and colours on a terminal, else in plain words."""

import os
import textwrap
from dataclasses import dataclass
from typing import TextIO

from benchmarks.doctor.finding import State
from dali_pipes.terminal import printable_lines

_MARKS: dict[State, str] = {"ok": "✓", "warning": "!", "bad": "✗", "not applicable": "–"}
_COLOURS: dict[State, int] = {"ok": 32, "warning": 33, "bad": 31, "not applicable": 90}
_NARROWEST = 40  # columns


@dataclass(frozen=True)
class Paper:
    """What is printed on."""

    stream: TextIO
    marks: bool  # else words
    colours: bool
    columns: int | None  # None: lines are not broken

    @classmethod
    def of(cls, stream: TextIO) -> "Paper":
        terminal = stream.isatty()
        marks = terminal and (stream.encoding or "").lower().startswith("utf")
        colours = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        columns = os.get_terminal_size(stream.fileno()).columns if terminal else None
        return cls(stream, marks, colours, columns and max(_NARROWEST, columns))

    def line(self, state: State, name: str, width: int, found: str, remedy: str = "") -> None:
        """One check: `name` takes `width` columns; the remedy stands on a line of its own."""
        mark = _MARKS[state] if self.marks else {"not applicable": "-"}.get(state, state).ljust(7)
        head = f"{mark} {name.ljust(width)}  "
        body = self._broken(found, head, " " * len(head))
        if self.colours:
            body = f"\033[{_COLOURS[state]}m{mark}\033[0m{body[len(mark) :]}"
        self.text(body)
        if remedy:
            indent = " " * len(head)
            self.text(self._broken(remedy, f"{indent}-> ", f"{indent}   "))

    def text(self, lines: str) -> None:
        print(lines, file=self.stream, flush=True)

    def _broken(self, text: str, first: str, rest: str) -> str:
        text = printable_lines(text.replace("\n", " "))
        if self.columns is None or len(first) + 16 > self.columns:
            return first + text
        return textwrap.fill(
            text,
            self.columns - 1,
            initial_indent=first,
            subsequent_indent=rest,
            break_on_hyphens=False,
        )
