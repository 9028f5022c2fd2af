"""Writing reels: videos appended to tar shards, whole or not at all, and their index.

    REELS/reels-0000-00000.tar      videos, one after the other: NAME.json, NAME.reel
    REELS/.reels-0000-00001.tar.part    a shard that grows; each rank has its own
    REELS/.done-HEX.jsonl           a line for every video that is whole and on the disk
    REELS/index.npz                 made of those lines once all videos have been tried

A line is written after its video has reached the disk. Whatever ends a run, what the lines say is
there; the rest of a growing shard is cut off by the next run.
"""

import json
import os
import shutil
import tarfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.reel import STEP, Header
from dali_pipes.sources import reel_index
from dali_pipes.sources.reel_index import INDEX_FILE, Columns

SHARD_BYTES = 2**30  # a shard is closed as soon as it has so many

_END = bytes(2 * tarfile.BLOCKSIZE)  # of an archive
_DONE = ".done-*.jsonl"
_GROWING = ".reels-*.tar.part"
_ABOUT, _PICTURES = ".json", ".reel"  # the two members of a video


@dataclass(frozen=True)
class Made:
    """A video that is whole in a shard."""

    name: str  # class/video
    shard: str
    size: tuple[int, int]  # (height, width) of the video itself, px
    fps: float  # 0: not known
    steps: NDArray[np.void]  # [frames + 1], its rows of the index
    origin: str = ""  # what it was made from (`origins`), "" where that is not known

    @property
    def frames(self) -> int:
        return len(self.steps) - 1

    @property
    def end(self) -> int:
        """Where the next member of the shard begins."""
        return _padded(int(self.steps["offset"][-1]))

    def to_line(self) -> str:
        steps = b64encode(self.steps.tobytes()).decode()
        row = [self.name, self.shard, self.size, self.fps, steps, self.origin]
        return json.dumps(row) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Raises ValueError if the line was not written whole."""
        name, shard, (height, width), fps, steps, *origin = json.loads(line)
        table = np.frombuffer(b64decode(steps), STEP)
        return cls(name, shard, (height, width), fps, table, *origin)


class ShardWriter:
    """Appends videos to the shards of one process. A context: leaving it ends the last shard."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        suffix: Callable[[], str] = lambda: "",
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        suffix: of the next shard's name, where its number alone may be another's.
        closed: called when no shard grows any more, unless an error has ended the work.
        """
        self._folder, self._rank, self._suffix, self._closed = folder, rank, suffix, closed
        self._number = -1  # of the last shard
        self._file: BinaryIO | None = None
        self._name, self._end = "", 0  # of the growing shard, and of the videos whole in it
        self._journal = folder / f".done-{uuid4().hex}.jsonl"

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._file is not None:
            self._finish(self._file)
            if error is None:
                self._closed()

    def add(self, header: Header, pictures: Path, origin: str) -> None:
        """Append a video and note it; `pictures` is a file with its steps.

        Raises OSError, and what `closed` raises.
        """
        file = self._file or self._begin()
        key, text = member_name(header.name), header.to_json().encode()
        file.seek(self._end)
        _write_member(file, f"{key}{_ABOUT}", len(text), BytesIO(text))
        with open(pictures, "rb") as source:
            length = os.fstat(source.fileno()).st_size
            begins = _write_member(file, f"{key}{_PICTURES}", length, source)
        _to_disk(file)
        made = _made(header, self._name, begins, origin)
        with open(self._journal, "a") as journal:
            journal.write(made.to_line())
            _to_disk(journal)
        self._end = made.end
        if self._end >= SHARD_BYTES:
            self._finish(file)
            self._closed()

    def _begin(self) -> BinaryIO:
        rank = f"reels-{self._rank:04d}-"
        taken = [path.name for path in self._folder.glob(f"*{rank}*")]
        numbers = [int(name.partition(rank)[2][:5]) for name in taken]
        self._number = max([self._number, *numbers]) + 1
        self._name, self._end = f"{rank}{self._number:05d}{self._suffix()}.tar", 0
        self._file = open(self._folder / f".{self._name}.part", "wb")  # noqa: SIM115
        return self._file

    def _finish(self, file: BinaryIO) -> None:
        self._file = None
        with suppress(OSError):  # the disk is full: what could not be written is cut off now
            file.close()
        _close(Path(file.name), self._end)


def member_name(name: str) -> str:
    """What a video is called in a shard, without suffix: readers of tar shards of samples take
    what follows the first dot of a file name for the kind of the file."""
    folder, base = os.path.split(name)
    return os.path.join(folder, base.replace(".", "_"))


def read_done(
    folder: Path, is_current: Callable[[Made], bool] = lambda made: True
) -> dict[str, Made]:
    """The videos that are whole, by name: of the index, and of what runs since noted.

    An index that is lost or damaged is made up for by what the shards say themselves.
    is_current: asked where a video is there several times; those that are not do not count.
    """
    shards = sorted(folder.glob("reels-*.tar"))
    try:
        known = of_index(folder / INDEX_FILE)
    except (OSError, ValueError):
        known = list(chain.from_iterable(map(read_shard, shards)))
    of_shard: dict[str, list[Made]] = {}
    for made in [*known, *_noted(folder)]:
        of_shard.setdefault(made.shard, []).append(made)
    there = []
    for path in [*shards, *folder.glob(_GROWING)]:
        with open(path, "rb") as shard:
            length = os.fstat(shard.fileno()).st_size
            there += [
                made
                for made in of_shard.get(_final_name(path), ())
                if made.end <= length and _is_member(shard, made)
            ]
    return by_name(there, is_current)


def by_name(there: Iterable[Made], is_current: Callable[[Made], bool]) -> dict[str, Made]:
    """One of each video: where it is there several times, one that is current."""
    of_name: dict[str, dict[tuple[str, int], Made]] = {}
    for made in there:
        of_name.setdefault(made.name, {})[made.shard, made.end] = made
    done = {}
    for name, several in of_name.items():
        for made in several.values():
            if len(several) == 1 or is_current(made):
                done[name] = made
    return done


def recover(folder: Path, done: dict[str, Made]) -> None:
    """Close the shards that a killed run left growing, after the last whole video."""
    ends: dict[str, int] = {}
    for made in done.values():
        ends[made.shard] = max(ends.get(made.shard, 0), made.end)
    for path in folder.glob(_GROWING):
        _close(path, ends.get(_final_name(path), 0))


def finish(folder: Path, done: dict[str, Made]) -> None:
    """Write the index of what is done, and remove the lines it was made of."""
    videos = [done[name] for name in sorted(done)]
    shards = sorted({made.shard for made in videos})
    place = {shard: number for number, shard in enumerate(shards)}
    columns = Columns(
        [made.name for made in videos],
        shards,
        np.array([place[made.shard] for made in videos], np.int32),
        np.array([made.frames for made in videos], np.int32),
        np.array([made.size for made in videos], np.int32).reshape(-1, 2),
        np.array([made.fps for made in videos], np.float32),
    )
    part = folder / f".{uuid4().hex}.part.npz"  # NumPy insists on the suffix
    try:
        steps, origins = [made.steps for made in videos], [made.origin for made in videos]
        reel_index.write(part, columns, steps, origins)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        part.replace(folder / INDEX_FILE)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    forget_lines(folder)


def forget_lines(folder: Path) -> None:
    """Remove the lines of a folder: what they say is noted elsewhere by now."""
    for journal in folder.glob(_DONE):
        journal.unlink()


def of_index(file: Path) -> list[Made]:
    """The videos of an index that an earlier run wrote. Raises OSError; ValueError if damaged."""
    columns = reel_index.read(file)
    table = reel_index.steps(str(file), reel_index.stamp(file))
    origins = reel_index.read_origins(file)
    videos = []
    for row, first in enumerate(columns.first.tolist()):
        height, width = columns.sizes[row].tolist()
        steps = table[first : first + int(columns.frames[row]) + 1]
        shard, fps = columns.shards[columns.shard[row]], float(columns.fps[row])
        videos.append(Made(columns.names[row], shard, (height, width), fps, steps, origins[row]))
    return videos


def read_shard(path: Path) -> Iterator[Made]:
    """The videos of a shard, as it says itself, up to where it is damaged."""
    try:
        with tarfile.open(path) as archive:
            header = None
            for member in archive:
                if member.name.endswith(_ABOUT):
                    text = archive.extractfile(member)
                    header = Header.from_json(text.read()) if text else None
                elif header is not None:
                    yield _made(header, path.name, member.offset_data)
    except (OSError, tarfile.TarError, ValueError):
        return


def _made(header: Header, shard: str, offset: int, origin: str = "") -> Made:
    size = (header.height, header.width)
    return Made(header.name, shard, size, header.fps, header.table(offset), origin)


def _noted(folder: Path) -> Iterator[Made]:
    for journal in sorted(folder.glob(_DONE)):
        yield from of_lines(journal.read_text())


def of_lines(text: str) -> Iterator[Made]:
    """The videos that were noted, without those whose line was not written whole."""
    for line in text.splitlines():
        with suppress(ValueError):  # the process died while it wrote this line
            yield Made.from_line(line)


def _write_member(file: BinaryIO, name: str, size: int, data: BinaryIO) -> int:
    """Append a member of a tar archive; returns where its data begin."""
    info = tarfile.TarInfo(name)
    info.size = size
    file.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
    begins = file.tell()
    shutil.copyfileobj(data, file, 2**20)
    file.write(bytes(_padded(size) - size))
    return begins


def _is_member(shard: BinaryIO, made: Made) -> bool:
    """Whether a shard has these pictures where they are said to be: a lost shard's name may be
    that of another by now."""
    header = int(made.steps["offset"][0]) - tarfile.BLOCKSIZE
    name = os.fsencode(f"{member_name(made.name)}{_PICTURES}")[: tarfile.LENGTH_NAME]
    return os.pread(shard.fileno(), tarfile.LENGTH_NAME, header).rstrip(b"\0") == name


def _padded(size: int) -> int:
    """Bytes that the data of a member take: whole blocks."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _close(part: Path, end: int) -> None:
    """End a growing shard after its first `end` bytes and give it its name; remove it if empty."""
    if not end:
        part.unlink()
        return
    with open(part, "r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(_END)
        _to_disk(file)
    part.rename(part.with_name(_final_name(part)))


def _final_name(part: Path) -> str:
    return part.name.removeprefix(".").removesuffix(".part")


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
