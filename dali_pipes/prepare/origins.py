"""What an output was made from, so that a source that changed since is noticed.

An origin is a line of text. Of a video: its size, time of change and a hash of its bytes; a copy of
it, or one that was only touched, is the same. Of images: a hash of their sizes in bytes.

    OUT/.made/frames/HASH.json      one record an output, named by a hash of the output's name
    OUT/.made/flow/HASH.json

Outputs without a record were made before there were records.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path

from dali_pipes.decoding.opening import BadVideo, file_status, words
from dali_pipes.prepare.images import image_sizes
from dali_pipes.prepare.store import write_text
from dali_pipes.sources import FrameFolders, Source


@dataclass(frozen=True)
class Record:
    """What an output was made from, and how many images it has."""

    origin: str  # "": it was being made
    images: int


@dataclass(frozen=True)
class Records:
    """The records of a command's outputs, by name."""

    folder: Path

    @classmethod
    def of(cls, out: Path, command: str) -> "Records":
        return cls(out / ".made" / command)

    def get(self, name: str) -> Record | None:
        """The record of an output; None: there is none. A damaged one stands for no origin."""
        try:
            found = json.loads(self._file(name).read_bytes())
            return Record(str(found["origin"]), int(found["images"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return Record("", 0)

    def put(self, name: str, origin: str, images: int) -> None:
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {"name": name, "origin": origin, "images": images}
        write_text(file, json.dumps(record) + "\n")

    @contextmanager
    def making(self, name: str, origin: str, images: int) -> Iterator[None]:
        """Put an output in its place within; wherever that is cut short, it counts as not made."""
        self.put(name, "", 0)
        yield
        self.put(name, origin, images)

    def _file(self, name: str) -> Path:
        return self.folder / f"{short_hash(name)}.json"


def short_hash(text: str) -> str:
    return blake2b(os.fsencode(text), digest_size=16).hexdigest()


def video_origin(path: str) -> str:
    """The origin of what is made from a video file. Raises BadVideo."""
    status = file_status(path)
    return f"{status.st_size} {status.st_mtime_ns} {_content(path)}"


def is_video(origin: str, path: str) -> bool:
    """Whether a video file is still what it was. Reads it only where its time is another.

    Raises BadVideo.
    """
    status = file_status(path)
    size, _, rest = origin.partition(" ")
    time, _, content = rest.partition(" ")
    return size == str(status.st_size) and (
        time == str(status.st_mtime_ns) or content == _content(path)
    )


def images_origin(*folders: Sequence[int]) -> str:
    """The origin of what is made from images: from `image_sizes` of each of their folders."""
    return short_hash(json.dumps(folders))


def origin_of(source: Source, item: int) -> str:
    """What an item of videos or frame folders is now. Raises BadVideo."""
    if not isinstance(source, FrameFolders):
        return video_origin(source.paths[item])
    return images_origin(*map(image_sizes, source.folders(item), source.namings))


def unchanged(origin: str, source: Source, item: int) -> bool:
    """Whether an item is still what it was. Raises BadVideo."""
    if not isinstance(source, FrameFolders):
        return is_video(origin, source.paths[item])
    return origin == origin_of(source, item)


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise BadVideo(path, "open", words(error)) from error
