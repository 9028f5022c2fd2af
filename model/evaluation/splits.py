"""Which videos train and which test: the data sets' published split files, or a split by name.

UCF101     trainlist01.txt  "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"; testlist01.txt likewise
HMDB51     brush_hair_test_split1.txt  "name.avi 1": 1 train, 2 test, 0 neither
scenes     no split: a class is its folder (YUPENN, Maryland), each video is left out once
ASLAN      a text file of pairs, see `read_pairs`
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UCF101_GROUP = re.compile(r"(v_.+_g\d+)_c\d+$")  # clips of one group come from one recording


@dataclass(frozen=True)
class Split:
    """Indices of the training and the test videos, and what the split names but is not there."""

    train: list[int]
    test: list[int]
    missing: list[str]
    name: str  # for the protocol


def read_split(folder: Path, fold: int, paths: Sequence[str]) -> Split:
    """Split `paths` by the UCF101 or HMDB51 split files in `folder`, recognised by their names.

    Raises ValueError if there are no such files, a line is malformed, or no video matches.
    """
    if (folder / f"trainlist{fold:02}.txt").exists():
        name, listed = "UCF101", _ucf101(folder, fold)
    elif hmdb := sorted(folder.glob(f"*_test_split{fold}.txt")):
        name, listed = "HMDB51", _hmdb51(hmdb, fold)
    else:
        raise ValueError(
            f"{folder}: has neither trainlist{fold:02}.txt (UCF101) "
            f"nor *_test_split{fold}.txt (HMDB51)"
        )
    found = by_name(paths)
    sides: dict[str, list[int]] = {"train": [], "test": []}
    missing = []
    for side, names in listed.items():
        for listed_name in names:
            video = look_up(found, listed_name)
            if video is None:
                missing.append(listed_name)
            else:
                sides[side].append(video)
    split = Split(sides["train"], sides["test"], missing, f"{name} split {fold}")
    if not split.train or not split.test:
        raise ValueError(
            f"{folder}: {split.name} finds {len(split.train)} training and {len(split.test)} test "
            f"videos among {len(paths)}; it looks for e.g. {(missing or ['?'])[0]}"
        )
    return split


def _ucf101(folder: Path, fold: int) -> dict[str, list[str]]:
    return {
        side: [line.split()[0] for line in _lines(folder / f"{side}list{fold:02}.txt")]
        for side in ("train", "test")
    }


def _hmdb51(files: Sequence[Path], fold: int) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {"train": [], "test": []}
    for file in files:
        folder = file.name.removesuffix(f"_test_split{fold}.txt")
        for line in _lines(file):
            video, _, side = line.rpartition(" ")
            if side not in ("0", "1", "2"):
                raise ValueError(f"{file}: not a video name with 0, 1 or 2: {line!r}")
            if side != "0":
                sides["train" if side == "1" else "test"].append(f"{folder}/{video.strip()}")
    return sides


def split_by_name(
    paths: Sequence[str], classes: NDArray[np.int64], share: float, seed: int = 0
) -> Split:
    """Hold out about `share` of each class for testing; which videos depends on names and seed.

    Videos of one UCF101 group stay together. Every class keeps a training video; a class of one
    video or one group has no test video.
    """
    groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for video, (path, class_id) in enumerate(zip(paths, classes, strict=True)):
        groups[int(class_id)][group_of(path) or _stem(_tail(path))].append(video)

    def draw(group: str) -> bytes:
        return blake2b(
            group.encode(errors="surrogateescape"), salt=seed.to_bytes(8, "little")
        ).digest()

    train: list[int] = []
    test: list[int] = []
    for of_class in groups.values():
        drawn = sorted(of_class, key=draw)
        held = min(max(1, round(share * len(drawn))), len(drawn) - 1)
        for i, group in enumerate(drawn):
            (test if i < held else train).extend(of_class[group])
    if not test:
        raise ValueError("no class has two videos (or two UCF101 groups), so none can be held out")
    return Split(
        sorted(train), sorted(test), [], f"{share:.0%} of each class held out, seed {seed}"
    )


def group_of(path: str) -> str | None:
    """The UCF101 group in a file name, e.g. v_Basketball_g01; None for other names."""
    match = UCF101_GROUP.match(Path(path).stem)
    return match.group(1) if match else None


def shared_groups(train: Sequence[str], test: Sequence[str]) -> list[str]:
    """UCF101 groups with videos on both sides: near-duplicates that make a task too easy."""
    sides = [{group for path in side if (group := group_of(path))} for side in (train, test)]
    return sorted(sides[0] & sides[1])


@dataclass(frozen=True)
class Pairs:
    """Pairs of videos to be judged same or not same."""

    first: NDArray[np.int64]  # [P], indices of videos
    second: NDArray[np.int64]  # [P]
    same: NDArray[np.bool_]  # [P]
    folds: NDArray[np.int64]  # [P]
    missing: list[str]  # pairs left out because a video is not there


def read_pairs(file: Path, paths: Sequence[str]) -> Pairs:
    """Read pairs for action similarity: one a line, `fold video video same`.

    Columns are separated by commas, tabs or blanks; videos are file names with or without folder
    and suffix; same is 1 or 0. Lines that start with # are comments. Raises ValueError with the
    line number for anything else.
    """
    found = by_name(paths)
    rows, missing = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = re.split(r"\s*[,\t]\s*|\s+", line.strip())
        if len(fields) != 4 or not fields[0].isdecimal() or fields[3] not in ("0", "1"):
            raise ValueError(
                f"{file}:{number}: not `fold video video same` with same 0 or 1: {line!r}"
            )
        fold, first, second, same = fields
        a, b = look_up(found, first), look_up(found, second)
        if a is None or b is None:
            missing.append(f"{first} {second}")
        else:
            rows.append((a, b, same == "1", int(fold)))
    if not rows:
        raise ValueError(f"{file}: none of its {len(missing)} pairs has both videos")
    table = np.array(rows, np.int64)
    return Pairs(table[:, 0], table[:, 1], table[:, 2] == 1, table[:, 3], missing)


def by_name(paths: Sequence[str]) -> dict[str, int]:
    """Videos by `class/name` and by `name`, without suffix; a name of two videos names none."""
    found: dict[str, int] = {}
    twice = set()
    for video, path in enumerate(paths):
        tail = _stem(_tail(path))
        for name in {tail, tail.rpartition("/")[2]}:
            if name in found:
                twice.add(name)
            found[name] = video
    return {name: video for name, video in found.items() if name not in twice}


def look_up(found: dict[str, int], name: str) -> int | None:
    """The video that a list calls `name`, with or without suffix."""
    return found.get(name, found.get(_stem(name)))


def _tail(path: str) -> str:
    """The last folder and the name of a path."""
    return "/".join(Path(path).parts[-2:])


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{file}: no such split file") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
