"""Write a list of the clips of a folder: `class/video start_frame class_id`, starts from 1."""

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dali_pipes.decoding.jpeg import PUBLISHED, count_images
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.decoding.video import picture_count
from dali_pipes.prepare.store import write_text
from dali_pipes.prepare.work import (
    BadInput,
    add_workers_argument,
    bad_input,
    each,
    ranks,
    summary,
    worker_count,
)
from dali_pipes.sources import FrameFolders, VideoFiles
from dali_pipes.sources.suffixes import is_video_name

CLIP_LEN = 16  # frames
EVERY = 16  # frames from one listed start to the next

_SPLIT_LINE = re.compile(r"(?P<name>.*?\S)(?:\s+(?P<number>\d+))?\s*")
_HMDB51_SPLIT = re.compile(r"(?P<class_name>.+)_test_split\d+\.txt")
_HMDB51_SUBSET = {"train": "1", "test": "2"}


@dataclass(frozen=True)
class Listed:
    """A video, or the folder of its frames, and what a list says of it."""

    name: str  # as in the list: class/video
    frames: int
    class_id: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of videos, or of frames")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the list")
    parser.add_argument(
        "--split", type=Path, nargs="+", metavar="FILE",
        help="only the videos of these split files, in the format of UCF101 or HMDB51",
    )  # fmt: skip
    parser.add_argument(
        "--subset", choices=_HMDB51_SUBSET, default="train", help="of an HMDB51 split"
    )
    parser.add_argument("--clip-len", type=int, default=CLIP_LEN, help="frames of a clip")
    parser.add_argument(
        "--every", type=int, default=EVERY, help="frames from one start to the next"
    )
    add_workers_argument(parser)


def main(args: argparse.Namespace) -> int:
    place = ranks()
    workers = worker_count(args.workers, place)
    if args.clip_len < 1 or args.every < 1:
        raise BadInput("--clip-len and --every must be at least 1")
    source = _source(args.dir)
    count = (
        picture_count
        if isinstance(source, VideoFiles)
        else partial(count_images, naming=source.namings[0])
    )
    class_ids = dict(zip(source.paths, source.class_ids.tolist(), strict=True))
    paths, failures = list(source.paths), list(source.left_out)
    if args.split:
        paths, missing = _selected(paths, args.dir, read_split(args.split, args.subset))
        failures += missing
    name = _names if isinstance(source, VideoFiles) else _inside
    names = name(source.paths, args.dir)  # of all: what the split leaves out is there all the same
    found: list[Listed] = []
    bad: list[BadVideo] = []
    for path, outcome in each(
        count, place.share(paths), place, title="list", unit="video", name=str, workers=workers
    ):
        if isinstance(outcome, BadVideo):
            bad.append(outcome)
        else:
            found.append(Listed(names[path], outcome, class_ids[path]))
    shares = place.meet((found, bad))
    status = 0
    if place.rank == 0:
        everything = [video for found, _ in shares for video in found]
        lines, unlisted = list_lines(everything, args.clip_len, args.every)
        failures += [failure for _, bad in shares for failure in bad] + unlisted
        if not lines:
            summary("no clip to list", failures)
            raise BadInput(f"{args.dir}: nothing to write to {args.out}")
        write_list(args.out, lines)
        status = summary(f"{args.out}: {len(lines)} clips", failures)
    return place.end(status)


def _source(folder: Path) -> VideoFiles | FrameFolders:
    with bad_input():
        try:
            return VideoFiles.found(folder)
        except ValueError:
            if not folder.is_dir():
                raise
        try:
            return FrameFolders.found(folder)
        except ValueError:
            raise BadInput(
                f"{folder}: holds neither video files nor folders with {PUBLISHED(1)}"
            ) from None


def starts(frames: int, clip_len: int, every: int) -> range:
    """First frames, from 1, of the clips of a video.

    A clip needs the frame after it too, for the last flow field of the `reference` rule; a video
    of just one clip's length is listed all the same, for the `corrected` rule.
    """
    if frames < clip_len:
        return range(0)
    return range(1, max(frames - clip_len, 1) + 1, every)


def list_lines(
    videos: Iterable[Listed], clip_len: int = CLIP_LEN, every: int = EVERY
) -> tuple[list[str], list[BadVideo]]:
    """The lines of a list, ordered by name, and the videos that cannot be in it."""
    lines: list[str] = []
    unlisted = []
    for video in sorted(videos, key=lambda video: video.name):
        first_frames = starts(video.frames, clip_len, every)
        if not first_frames:
            reason = f"has {video.frames} frames, a clip needs {clip_len}"
            unlisted.append(BadVideo(video.name, "list", reason))
        elif "\n" in video.name or video.name != video.name.strip():
            reason = "its name has a line break, or a space at an end; rename it"
            unlisted.append(BadVideo(video.name, "list", reason))
        else:
            lines += [f"{video.name} {start} {video.class_id}" for start in first_frames]
    return lines, unlisted


def write_list(file: Path, lines: Sequence[str]) -> None:
    """Write the lines of a list."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n".join(lines) + "\n")


def _inside(paths: Sequence[str], root: Path) -> dict[str, str]:
    return {path: os.path.relpath(path, root) for path in paths}


def _names(paths: Sequence[str], root: Path) -> dict[str, str]:
    """Videos by path, as a list names them: without the suffix, where that tells them apart."""
    full = _inside(paths, root)
    uses = Counter(_without_suffix(name) for name in full.values())
    names = {}
    for path, name in full.items():
        brief = _without_suffix(name)
        names[path] = name if uses[brief] > 1 or _without_suffix(brief) != brief else brief
    return names


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0] if is_video_name(name) else name


def read_split(files: Sequence[Path], subset: str) -> dict[str, set[str]]:
    """The `class/video` names, without suffix, of published split files: each as it is written.

    UCF101, trainlist01.txt: lines `Class/v_x.avi 1`; testlist01.txt: without the number.
    HMDB51, <class>_test_split1.txt: lines `x.avi 1`, where 1 is training, 2 test, 0 neither.
    """
    names: dict[str, set[str]] = {}
    for file in files:
        try:
            text = file.read_bytes().decode(errors="surrogateescape")
        except OSError as error:
            raise BadInput(f"{file}: cannot be read: {error.strerror}") from error
        of_class = _HMDB51_SPLIT.fullmatch(file.name)
        for number, line in enumerate(text.splitlines(), start=1):
            found = _SPLIT_LINE.fullmatch(line)
            if found is None:
                continue
            name = found["name"]
            if of_class is None and "/" in name:
                names.setdefault(_without_suffix(name), set()).add(name)
            elif of_class is not None and found["number"] in ("0", "1", "2"):
                if found["number"] == _HMDB51_SUBSET[subset]:
                    name = f"{of_class['class_name']}/{name}"
                    names.setdefault(_without_suffix(name), set()).add(name)
            else:
                raise BadInput(
                    f"{file}, line {number}: {printable(line)!r} is neither `Class/video.avi 1` "
                    "(UCF101) nor, in a file <class>_test_split1.txt, `video.avi 1` (HMDB51)"
                )
    if not names:
        raise BadInput(f"{', '.join(map(str, files))}: no video of the subset {subset!r}")
    return names


def _selected(
    paths: Sequence[str], root: Path, names: dict[str, set[str]]
) -> tuple[list[str], list[BadVideo]]:
    """The paths that a split names, and what it names that is not there.

    Raises BadInput where it may mean several.
    """
    there: dict[str, list[str]] = {}
    for path in paths:
        there.setdefault(_without_suffix(os.path.relpath(path, root)), []).append(path)
    selected: list[str] = []
    missing = []
    for name, written in sorted(names.items()):
        meant = there.get(name, [])
        as_written = [path for path in meant if os.path.relpath(path, root) in written]
        if len(meant) > 1 and not as_written:
            first, second = map(printable, meant[:2])
            raise BadInput(
                f"{min(written)} of the split may be {first} or {second}; remove one, or write "
                "the suffix"
            )
        if not meant:
            reason = "in the split, but not in the folder"
            missing.append(BadVideo(str(root / name), "list", reason))
        selected += as_written or meant
    return selected, missing
