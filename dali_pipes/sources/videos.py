"""Video files: found in a folder and below it, or listed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding import video
from dali_pipes.decoding.opening import BadVideo, file_status
from dali_pipes.decoding.video import VideoInfo
from dali_pipes.sources.folders import by_folder, classes, existing_folder, is_folder, walk
from dali_pipes.sources.index import index_at
from dali_pipes.sources.lists import NO_START, Entry, inside, only, read_list
from dali_pipes.sources.source import INDEX_NAME, Items
from dali_pipes.sources.suffixes import VIDEO_SUFFIXES, is_video_name, looks_like_video


@dataclass(frozen=True)
class VideoFiles(Items):
    """Video files, made by `found` or `listed`."""

    has_flow = False

    @classmethod
    def found(cls, folder: Path | str) -> Self:
        """All video files under `folder`, by name; a video's class is its folder."""
        root = existing_folder(folder, "videos")
        left_out: list[BadVideo] = []
        files = []
        for inner, entries in walk(root, left_out):
            for entry in entries or ():
                if not is_video_name(entry.name):
                    if looks_like_video(entry.path):
                        reason = "looks like a video, but is not named like one (.mp4, .avi, ...)"
                        left_out.append(BadVideo(entry.path, "open", reason))
                elif is_folder(entry):  # its files are found all the same
                    left_out.append(BadVideo(entry.path, "open", "is a directory"))
                else:
                    files.append(os.path.join(inner, entry.name))
        files.sort()
        if not files:
            known = " ".join(sorted(VIDEO_SUFFIXES))
            but = f"; {left_out[0]}" if left_out else ""
            raise ValueError(f"{root}: no video files in it or below it (looked for {known}{but})")
        return cls(
            name=str(root),
            paths=[os.path.join(root, file) for file in files],
            starts=np.full(len(files), NO_START, np.int64),
            index_path=root / INDEX_NAME,
            left_out=tuple(left_out),
            **by_folder([os.path.dirname(file) for file in files], root),
        )

    @classmethod
    def listed(cls, data_list: Path | str, folder: Path | str | None = None) -> Self:
        """The videos of a list, relative to `folder` or else to the list's own folder.

        Entries may lack the suffix, as the published lists do.
        """
        entries = read_list(data_list)
        root = existing_folder(folder if folder is not None else Path(data_list).parent, "videos")
        complete = _Completion(root, data_list)
        return cls(
            name=f"{data_list} in {root}",
            paths=[complete(entry) for entry in entries],
            starts=np.array([entry.start for entry in entries], np.int64),
            index_path=Path(f"{data_list}{INDEX_NAME}"),
            **classes(entries, root),
        )

    @classmethod
    def one(cls, path: Path | str) -> Self:
        """A video file alone."""
        root = Path(path).absolute().parent
        return cls(
            name=str(path), paths=[str(path)], starts=np.full(1, NO_START, np.int64),
            **by_folder([""], root),
        )  # fmt: skip

    def stamp(self, item: int) -> tuple[int, int]:
        status = file_status(self.paths[item])
        return status.st_size, status.st_mtime_ns

    def probe(self, item: int) -> VideoInfo:
        return video.probe(self.paths[item])

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        kept = index_at(self.index_path).counted(
            os.path.abspath(self.paths[item]), self.stamp(item)
        )
        return video.read_clip(self.paths[item], numbers, resize, kept)


class _Completion:
    """Finds the file that a listed name without a suffix means; reads each folder once."""

    def __init__(self, root: Path, data_list: Path | str) -> None:
        self._root, self._list = root, data_list
        self._files: dict[str, dict[str, list[str]]] = {}

    def __call__(self, entry: Entry) -> str:
        """Raises ValueError if it may mean several."""
        inner = inside(self._root, entry, self._list)
        path = os.path.join(self._root, inner)
        if is_video_name(inner):
            return path
        folder, name = os.path.split(path)
        if folder not in self._files:
            self._files[folder] = _videos_by_stem(folder)
        meant = self._files[folder].get(name, [path])
        return only(meant, entry, self._list)


def _videos_by_stem(folder: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in filter(is_video_name, names):
        found.setdefault(Path(name).stem, []).append(os.path.join(folder, name))
    return found
