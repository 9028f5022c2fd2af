"""List files: which videos, where clips start, and their classes.

A line is `class/video start_frame class_id`; start frames count from 1. Both numbers may be left
out. A single number is the class where it tells the folders apart, as in UCF101's own split files,
and the start frame where one video has several; else the list is refused, as lists of other tools
are. Names may hold spaces; a name that ends in a number needs both numbers.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dali_pipes.decoding.opening import printable
from dali_pipes.sources.suffixes import is_video_name

NO_START = -1  # no listed start frame: starts are drawn
NO_CLASS = -1
_LINE = re.compile(r"(?P<path>.*?\S)(?:\s+(?P<first>\d+))?(?:\s+(?P<second>\d+))?")
_MAX_CLASS = 1_000_000
FORMS = (
    "a list has lines `class/video`, `class/video start_frame class_id` (start frames from 1) or, "
    "as UCF101's, `class/video class_id`; for example `Archery/v_Archery_g01_c01.avi 1 3`"
)


@dataclass(frozen=True)
class Entry:
    """One line of a list."""

    line: int  # counted from 1
    path: str  # as written, relative to the root
    start: int  # first frame, 0-based, or NO_START
    class_id: int  # or NO_CLASS


def read_list(path: Path | str) -> list[Entry]:
    """Parse a list file. Raises ValueError, naming file and line, and if there is no entry."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such list file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise ValueError(f"{path}: is no text file; {FORMS}")
    rows: list[tuple[int, str, int | None, int | None]] = []
    for at, line in enumerate(text.split("\n"), start=1):
        found = _LINE.fullmatch(line.strip())
        if found is not None:
            numbers = (int(n) if n else None for n in found.group("first", "second"))
            rows.append((at, found["path"], next(numbers), next(numbers)))
    if not rows:
        raise ValueError(f"{path}: the list is empty")
    if foreign := _foreign([name for _, name, *_ in rows]):
        raise ValueError(f"{path}: {foreign}; {FORMS}")
    single_is_class = _single_is_class(rows, path)
    entries = []
    for at, name, start, class_id in rows:
        if class_id is None and single_is_class:
            start, class_id = None, start
        if start == 0:
            raise ValueError(f"{path}, line {at}: start frames count from 1, got 0; {FORMS}")
        if class_id is not None and class_id > _MAX_CLASS:
            raise ValueError(f"{path}, line {at}: class {class_id} is too large")
        entries.append(
            Entry(
                at,
                name,
                NO_START if start is None else start - 1,
                NO_CLASS if class_id is None else class_id,
            )
        )
    if len({entry.class_id == NO_CLASS for entry in entries}) > 1:
        at = next(entry.line for entry in entries if entry.class_id == NO_CLASS)
        raise ValueError(f"{path}, line {at}: has no class, other lines have one")
    return entries


def _foreign(names: Sequence[str]) -> str:
    """What the lines of another kind of list show in place of names, or nothing."""
    for mark in ",;":
        if all(mark in name and not is_video_name(name) for name in names):
            return f"has `{mark}` between its columns (csv), blanks belong there"
    if all("\\" in name and "/" not in name for name in names):
        return "has \\ between folder and file, / belongs there"
    return ""


def _single_is_class(
    rows: Sequence[tuple[int, str, int | None, int | None]], data_list: Path | str
) -> bool:
    """Whether the single numbers of a list are classes: one for each folder, all different.

    Raises ValueError where they may as well be start frames.
    """
    numbered = [row for row in rows if row[2] is not None and row[3] is None]
    singles = [(at, name, first) for at, name, first, _ in numbered]
    folders = {(os.path.dirname(name), first) for _, name, first in singles}
    if (
        1 < len(folders) < len(singles)
        and len({folder for folder, _ in folders}) == len(folders)
        and len({first for _, first in folders}) == len(folders)
    ):
        return True
    if singles and len({name for _, name, _ in singles}) == len(singles):
        at, name, first = singles[0]
        raise ValueError(
            f"{data_list}, line {at}: is {first} a start frame or a class? Write `{name} {first} "
            f"0` for a start frame, `{name} 1 {first}` for a class; {FORMS}"
        )
    return False


def only(meant: Sequence[str], entry: Entry, data_list: Path | str) -> str:
    """The one file that an entry without a suffix means. Raises ValueError, naming two of them."""
    if len(meant) > 1:
        first, second = map(printable, sorted(meant)[:2])
        raise ValueError(
            f"{data_list}, line {entry.line}: {entry.path} may be {first} or {second}; "
            "write the suffix"
        )
    return meant[0]


def inside(root: Path | str, entry: Entry, data_list: Path | str) -> str:
    """The entry's path relative to `root`. Raises ValueError if it leads out of it."""
    path = entry.path
    if path.startswith("/"):  # relpath is slow: most entries are relative
        path = os.path.relpath(path, os.path.abspath(root))
    if ".." in path.split("/") or os.path.normpath(path) == ".":
        raise ValueError(f"{data_list}, line {entry.line}: {entry.path} is not inside {root}")
    return os.path.normpath(path)
