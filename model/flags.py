"""How command lines are read: values that are checked, help that names defaults."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Ends the program with exit code 2 and one line where a flag is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """Ends every help text with the default, where there is one and the text does not have it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if "(default:" in text or action.default in (None, False, argparse.SUPPRESS):
            return text
        return text + " (default: %(default)s)"


def _number(kind: type, accept: Callable[[Any], bool], words: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
        return value

    return read


def whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """Whole numbers in a range; beyond it they are a mistake."""
    return _number(int, lambda n: least <= n <= most, f"a whole number from {least} to {most}")


processes = whole(0, 1024)
seed = whole(0, 2**63 - 1)  # what torch takes
positive = _number(float, lambda x: 0 < x <= 1e9, "a number above 0, up to 1e9")
not_negative = _number(float, lambda x: 0 <= x <= 1e9, "a number from 0 to 1e9")
share = _number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
part = _number(float, lambda x: 0 < x <= 1, "a number above 0, up to 1")


def amount(text: str) -> int:
    """Bytes: a number, or one with k, M, G or T, powers of 1000."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "")
    try:
        found = float(number) * _UNITS[unit]
    except ValueError:
        found = 0.0
    if not 1 <= found < 1e18:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, like 200G or 1.5T")
    return int(found)


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH in pixels."""
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, like 128x171")
    return int(height), int(width)


def events_folder(text: str) -> Path:
    """A folder for TensorBoard, which takes no other bytes than those of UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not UTF-8, as TensorBoard needs it"
        ) from None
    return Path(text)
