"""Which videos train and which test: by published lists or by name; which pairs are compared."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
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


def split_files(folder: Path, fold: int) -> tuple[str, list[Path], list[Path]]:
    """(data set, files that name the training videos, and the test videos) of a split in `folder`.

    Raises ValueError if they are neither UCF101's nor HMDB51's.
    """
    train, test = (folder / f"{side}list{fold:02}.txt" for side in ("train", "test"))
    if train.exists() and test.exists():
        return "UCF101", [train], [test]
    if both := sorted(folder.glob(f"*_test_split{fold}.txt")):
        return "HMDB51", both, both
    raise ValueError(
        f"{folder}: has neither {train.name} and {test.name} (UCF101) "
        f"nor *_test_split{fold}.txt (HMDB51)"
    )


def split_by_list(
    paths: Sequence[str], train: Collection[str], test: Collection[str], name: str
) -> Split:
    """Split by lists of `class/video`. Raises ValueError if one side finds no video."""
    found = by_name(paths)
    sides: list[list[int]] = []
    missing: list[str] = []
    for names in (train, test):
        videos = {listed: look_up(found, listed) for listed in sorted(names)}
        sides.append([video for video in videos.values() if video is not None])
        missing += [listed for listed, video in videos.items() if video is None]
    if not all(sides):
        raise ValueError(
            f"{name} finds {len(sides[0])} training and {len(sides[1])} test videos "
            f"among {len(paths)}; it looks for e.g. {missing[0]}"
        )
    return Split(sides[0], sides[1], missing, name)


def split_by_name(
    paths: Sequence[str], classes: NDArray[np.int64], share: float, seed: int = 0
) -> Split:
    """Hold out about `share` of each class for testing; which videos depends on names and seed.

    Videos of one UCF101 group stay together, unless a class has no other group. Every class keeps
    a training video; a class of one video has no test video.
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
        if len(of_class) == 1:
            (videos,) = of_class.values()
            of_class = {_stem(_tail(paths[video])): [video] for video in videos}
        drawn = sorted(of_class, key=draw)
        held = min(max(1, round(share * len(drawn))), len(drawn) - 1)
        for i, group in enumerate(drawn):
            (test if i < held else train).extend(of_class[group])
    if not test:
        raise ValueError("no class has two videos, so none can be held out")
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
    for number, line in enumerate(file.read_text("utf-8", "surrogateescape").splitlines(), 1):
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
