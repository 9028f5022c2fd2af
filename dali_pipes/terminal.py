"""What reaches the terminal is text, whatever files are called."""

import argparse
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from dali_pipes.decoding.opening import printable


def printable_lines(text: object) -> str:
    """Text of several lines without control characters and bytes that are not UTF-8."""
    return "\n".join(map(printable, str(text).split("\n")))


def ended(status: int, why: object) -> int:
    """Say why a command ends; its exit status."""
    print(printable_lines(why), file=sys.stderr)
    return status


def accept_all_names() -> None:
    """From here on nothing printed fails for characters that the terminal does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace], int],
    interrupted: str = "interrupted; nothing written",
) -> int:
    """Parse a command line and do what it asks for; the exit status."""
    accept_all_names()
    args = parser.parse_args(argv)
    try:
        return work(args)
    except KeyboardInterrupt:
        return ended(130, interrupted)
