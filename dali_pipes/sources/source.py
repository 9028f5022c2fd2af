"""Which clips exist: video files, frame folders in the published layout, or synthetic textures.

A source is a list of items. An item is a video, or one listed clip of it; its index is what
`clip_at` draws and what `ClipBatch.video` holds. Items stay in the list however bad their files
turn out: the order of clips depends on the list alone.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding import video
from dali_pipes.decoding.jpeg import count_images, image_name, read_image
from dali_pipes.decoding.video import BadVideo, TooShort, VideoInfo
from dali_pipes.sources.lists import NO_CLASS, NO_START, Entry, inside, read_list

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4",
    ".mpeg", ".mpg", ".mts", ".ogv", ".vob", ".webm", ".wmv",
))
# fmt: on
INDEX_NAME = ".sts-dali-index"


class Source(Protocol):
    """What pipelines and the loader ask of a source. It is pickled to the decoding workers."""

    @property
    def name(self) -> str:
        """Where the items come from, for people."""

    @property
    def paths(self) -> Sequence[str]:
        """The file or folder of every item."""

    @property
    def class_ids(self) -> NDArray[np.int64]: ...  # [items]

    @property
    def class_names(self) -> Sequence[str]: ...  # by class id

    @property
    def starts(self) -> NDArray[np.int64]: ...  # [items], listed first frame, 0-based, or NO_START

    @property
    def left_out(self) -> Sequence[BadVideo]:
        """What was found but is no item, and why."""

    @property
    def has_flow(self) -> bool:
        """Whether flow images come with the frames."""

    @property
    def index_path(self) -> Path | None:
        """Where the index of probed videos belongs; None if there is nothing to keep."""

    def stamp(self, item: int) -> tuple[int, int]:
        """(size, time of change): when they change, what is known of the item is void.

        Raises BadVideo if the item is missing.
        """

    def probe(self, item: int) -> VideoInfo:
        """Open without decoding. Raises BadVideo."""

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Frames by number: uint8 RGB [T,H,W,3], and the native (height, width).

        Raises BadVideo, and TooShort where there are fewer frames than `probe` said.
        """

    def subset(self, items: Sequence[int]) -> Self:
        """The same source with these items only, in this order."""

    def __len__(self) -> int: ...


def open_source(
    videos: "Path | str | Source | None" = None,
    data_list: Path | str | None = None,
    rgb_prefix: Path | str | None = None,
    flow_x_prefix: Path | str | None = None,
    flow_y_prefix: Path | str | None = None,
) -> "Source":
    """A source from what a user gives: a folder of videos, a list, or frame folders.

    Raises ValueError that says what is missing.
    """
    if rgb_prefix is not None:
        if videos is not None:
            raise ValueError("give videos or rgb_prefix, not both")
        if data_list is None:
            return FrameFolders.found(rgb_prefix, flow_x_prefix, flow_y_prefix)
        return FrameFolders.listed(data_list, rgb_prefix, flow_x_prefix, flow_y_prefix)
    if flow_x_prefix is not None or flow_y_prefix is not None:
        raise ValueError("flow_x_prefix and flow_y_prefix need rgb_prefix, the folder of frames")
    if videos is None and data_list is None:
        raise ValueError("give videos (a folder or a list) or rgb_prefix (a folder of frames)")
    if videos is not None and not isinstance(videos, str | Path):
        return videos
    if videos is None or (data_list is None and Path(videos).is_file()):
        data_list, videos = data_list or videos, None
        assert data_list is not None
        if _is_video_name(str(data_list)):
            raise ValueError(f"{data_list}: is a video; give its folder, or a list of videos")
    if data_list is None:
        assert videos is not None
        return VideoFiles.found(videos)
    return VideoFiles.listed(data_list, videos)


def split(source: "Source", share: float, seed: int = 0) -> tuple["Source", "Source"]:
    """Hold out about `share` (0..1) of the files, at least one: (the rest, the held out).

    All clips of a file fall on one side, and which one depends on its name and the seed alone.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of videos to hold out must lie between 0 and 1, got {share}")

    def draw(path: str) -> bytes:
        return blake2b(os.fsencode(path), salt=seed.to_bytes(8, "little")).digest()

    files = sorted(set(source.paths), key=draw)
    if len(files) < 2:
        raise ValueError(f"{source.name}: one video cannot be split")
    held = set(files[: min(max(1, round(share * len(files))), len(files) - 1)])
    sides: tuple[list[int], list[int]] = ([], [])
    for item, path in enumerate(source.paths):
        sides[path in held].append(item)
    return source.subset(sides[0]), source.subset(sides[1])


@dataclass(frozen=True)
class _Items:
    """What all sources have: columns with one row an item."""

    name: str
    paths: list[str]
    class_ids: NDArray[np.int64]
    class_names: list[str]
    starts: NDArray[np.int64]
    index_path: Path | None = None
    left_out: tuple[BadVideo, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, items: Sequence[int]) -> Self:
        rows = np.asarray(items, np.int64)
        return replace(
            self,
            paths=[self.paths[item] for item in items],
            class_ids=self.class_ids[rows],
            starts=self.starts[rows],
        )


@dataclass(frozen=True)
class VideoFiles(_Items):
    """Video files, made by `found` or `listed`."""

    has_flow = False

    @classmethod
    def found(cls, folder: Path | str) -> Self:
        """All video files under `folder`, by name; a video's class is its folder."""
        root = _folder(folder, "videos")
        left_out: list[BadVideo] = []
        files = []
        for inner, entries in _walk(root, left_out):
            for entry in entries or ():
                if not _is_video_name(entry.name):
                    continue
                if _is_folder(entry):  # its files are found all the same
                    left_out.append(BadVideo(entry.path, "open", "is a directory"))
                else:
                    files.append(os.path.join(inner, entry.name))
        files.sort()
        if not files:
            known = " ".join(sorted(VIDEO_SUFFIXES))
            raise ValueError(f"{root}: no video files in it or below it (looked for {known})")
        return cls(
            name=str(root),
            paths=[os.path.join(root, file) for file in files],
            starts=np.full(len(files), NO_START, np.int64),
            index_path=root / INDEX_NAME,
            left_out=tuple(left_out),
            **_by_folder([os.path.dirname(file) for file in files], root),
        )

    @classmethod
    def listed(cls, data_list: Path | str, folder: Path | str | None = None) -> Self:
        """The videos of a list, relative to `folder` or else to the list's own folder.

        Entries may lack the suffix, as the published lists do.
        """
        entries = read_list(data_list)
        root = _folder(folder if folder is not None else Path(data_list).parent, "videos")
        complete = _Completion(root)
        return cls(
            name=f"{data_list} in {root}",
            paths=[complete(inside(root, entry, data_list)) for entry in entries],
            starts=np.array([entry.start for entry in entries], np.int64),
            index_path=Path(f"{data_list}{INDEX_NAME}"),
            **_classes(entries, root),
        )

    def stamp(self, item: int) -> tuple[int, int]:
        status = video.file_status(self.paths[item])
        return status.st_size, status.st_mtime_ns

    def probe(self, item: int) -> VideoInfo:
        return video.probe(self.paths[item])

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        return video.read_clip(self.paths[item], numbers, resize)


@dataclass(frozen=True)
class FrameFolders(_Items):
    """Frames and flow as JPEG images in the published layout, made by `found` or `listed`:

        RGB_DIR/[class/]video/frame000001.jpg   frame 0
        FLOW_X_DIR/video/frame000001.jpg        u from frame 0 to frame 1, grey, 8 bits
        FLOW_Y_DIR/video/frame000001.jpg        v

    `flow` is (FLOW_X_DIR, FLOW_Y_DIR), or None: flow is to be computed from the frames.
    """

    flow: tuple[str, str] | None = None

    @classmethod
    def found(
        cls,
        rgb_prefix: Path | str,
        flow_x_prefix: Path | str | None = None,
        flow_y_prefix: Path | str | None = None,
    ) -> Self:
        """Every folder with frames under `rgb_prefix` that has flow, if flow is given."""
        root = _folder(rgb_prefix, "rgb_prefix")
        flow = _flow_folders(flow_x_prefix, flow_y_prefix)
        left_out: list[BadVideo] = []
        folders = sorted(
            inner for inner, entries in _walk(root, left_out, image_name(1)) if entries is None
        )
        if not folders:
            raise ValueError(f"{root}: no folder below it has a {image_name(1)}")
        usable = []
        for folder in folders:
            lacking = [
                path
                for path in (os.path.join(side, os.path.basename(folder)) for side in flow or ())
                if not os.path.isdir(path)
            ]
            if lacking:
                reason = f"has no flow in {lacking[0]}"
                left_out.append(BadVideo(os.path.join(root, folder), "flow", reason))
            else:
                usable.append(folder)
        if not usable:
            raise ValueError(
                f"{root}: none of its {len(folders)} videos has flow in {flow_x_prefix} and "
                f"{flow_y_prefix}; make it with `python -m dali_pipes.prepare flow`"
            )
        return cls(
            name=str(root),
            paths=[os.path.join(root, folder) for folder in usable],
            starts=np.full(len(usable), NO_START, np.int64),
            index_path=root / INDEX_NAME,
            left_out=tuple(left_out),
            flow=flow,
            **_by_folder([os.path.dirname(folder) for folder in usable], root),
        )

    @classmethod
    def listed(
        cls,
        data_list: Path | str,
        rgb_prefix: Path | str,
        flow_x_prefix: Path | str | None = None,
        flow_y_prefix: Path | str | None = None,
    ) -> Self:
        """The clips of a list; RGB folders with or without the class level."""
        entries = read_list(data_list)
        root = _folder(rgb_prefix, "rgb_prefix")
        paths = []
        for entry in entries:
            path = os.path.join(root, inside(root, entry, data_list))
            flat = os.path.join(root, os.path.basename(path))
            paths.append(flat if not os.path.isdir(path) and os.path.isdir(flat) else path)
        return cls(
            name=f"{data_list} in {root}",
            paths=paths,
            starts=np.array([entry.start for entry in entries], np.int64),
            index_path=Path(f"{data_list}{INDEX_NAME}"),
            flow=_flow_folders(flow_x_prefix, flow_y_prefix),
            **_classes(entries, root),
        )

    @property
    def has_flow(self) -> bool:
        return self.flow is not None

    def folders(self, item: int) -> list[str]:
        """The folders of an item: frames, and u and v if it has flow."""
        video = os.path.basename(self.paths[item])
        return [self.paths[item], *(os.path.join(side, video) for side in self.flow or ())]

    def stamp(self, item: int) -> tuple[int, int]:
        states = [_status(folder) for folder in self.folders(item)]
        return sum(s.st_size for s in states), max(s.st_mtime_ns for s in states)

    def probe(self, item: int) -> VideoInfo:
        """Count the images. Where flow is stored, n fields allow n + 1 frames."""
        folders = self.folders(item)
        try:
            counts = [count_images(folder) for folder in folders]
        except OSError as error:
            raise BadVideo(self.paths[item], "open", video.words(error)) from error
        for folder, count in zip(folders, counts, strict=True):
            if not count:
                raise BadVideo(self.paths[item], "open", f"{folder} has no {image_name(1)}")
        height, width = read_numbered(self.paths[item], 0, read_image).shape[:2]
        return VideoInfo(min(counts[0], *(n + 1 for n in counts)), height, width, "jpeg")

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        images = [read_numbered(self.paths[item], number, read_image) for number in numbers]
        native = (images[0].shape[0], images[0].shape[1])
        if resize is not None:
            images = [video.resized(image, resize) for image in images]
        elif any(image.shape[:2] != native for image in images):
            raise BadVideo(self.paths[item], "decode", "its frame size changes within the clip")
        return np.stack(images), native


def read_numbered(
    folder: str, number: int, read: Callable[[str], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """What `read` (of `decoding.jpeg`) makes of image `number`, from 0. Raises BadVideo."""
    file = os.path.join(folder, image_name(number + 1))
    try:
        return read(file)
    except ValueError as error:
        raise BadVideo(file, "decode", str(error)) from error
    except OSError as error:
        raise BadVideo(file, "decode", video.words(error)) from error


@dataclass(frozen=True)
class Synthetic(_Items):
    """Textures that move by a known whole number of pixels a frame; no files. For tests and
    benchmarks. Frames wrap around at their edges."""

    frames: int = 64
    size: tuple[int, int] = (240, 320)
    has_flow = False

    # Motions (u, v) in pixels a frame; a video's class is its motion.
    MOTIONS = ((3, 0), (2, 2), (0, 3), (-2, 2), (-3, 0), (-2, -2), (0, -3), (2, -2))

    @classmethod
    def make(cls, videos: int, frames: int = 64, size: tuple[int, int] = (240, 320)) -> Self:
        """`videos` videos of `frames` frames of (height, width) pixels."""
        names = ["{:+d}{:+d}".format(*motion) for motion in cls.MOTIONS]
        class_ids = np.arange(videos) % len(names)
        return cls(
            name=f"{videos} synthetic videos",
            paths=[f"synthetic/{names[c]}/{video:06d}" for video, c in enumerate(class_ids)],
            class_ids=class_ids,
            class_names=names,
            starts=np.full(videos, NO_START, np.int64),
            frames=frames,
            size=size,
        )

    def motion(self, item: int) -> tuple[int, int]:
        """(u, v) of an item in pixels a frame."""
        return self.MOTIONS[self.class_ids[item]]

    def stamp(self, item: int) -> tuple[int, int]:
        return self.frames, 0

    def probe(self, item: int) -> VideoInfo:
        return VideoInfo(self.frames, *self.size, "synthetic")

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        if numbers[-1] >= self.frames:
            reason = f"has {self.frames} frames, frame {numbers[-1]} was asked for"
            raise TooShort(self.paths[item], "decode", reason, self.frames)
        seed = int.from_bytes(blake2b(self.paths[item].encode(), digest_size=8).digest(), "big")
        noise = np.random.default_rng(seed).integers(0, 256, (*self.size, 3), np.uint8)
        edge = 12
        wrapped = np.pad(noise, ((edge, edge), (edge, edge), (0, 0)), mode="wrap")
        smooth = cv2.GaussianBlur(wrapped, (0, 0), 3)[edge:-edge, edge:-edge].astype(np.float32)
        low, high = smooth.min(), smooth.max()
        texture = ((smooth - low) * (255 / (high - low))).astype(np.uint8)
        u, v = self.motion(item)
        images = [np.roll(texture, (v * n, u * n), axis=(0, 1)) for n in numbers]
        if resize is not None:
            images = [video.resized(image, resize) for image in images]
        return np.stack(images), self.size


def _folder(path: Path | str, what: str) -> Path:
    root = Path(os.path.abspath(path))
    if not root.is_dir():
        problem = "is no folder" if root.exists() else "no such folder"
        raise ValueError(f"{root}: {problem} ({what})")
    return root


def _flow_folders(x: Path | str | None, y: Path | str | None) -> tuple[str, str] | None:
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise ValueError("flow has two components: give both flow_x_prefix and flow_y_prefix")
    return str(_folder(x, "flow_x_prefix")), str(_folder(y, "flow_y_prefix"))


def _walk(
    root: Path, unreadable: list[BadVideo], stop_at: str | None = None
) -> Iterator[tuple[str, list[os.DirEntry[str]] | None]]:
    """Every folder under `root` once, through symlinks too: (its path inside root, its entries).

    A folder that holds a file `stop_at` is not read: it comes with None instead of entries.
    Hidden names are passed over.
    """
    seen = set()  # a symlink may lead back up
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        path = os.path.join(root, inner)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if stop_at is not None and os.path.exists(os.path.join(path, stop_at)):
                yield inner, None
                continue
            entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        except OSError as error:
            unreadable.append(BadVideo(path, "open", video.words(error)))
            continue
        waiting += [os.path.join(inner, entry.name) for entry in entries if _is_folder(entry)]
        yield inner, entries


def _is_video_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself
        return False


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise BadVideo(path, "open", video.words(error)) from error


class _Completion:
    """Finds the file that a listed name without a suffix means; reads each folder once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, dict[str, str]] = {}

    def __call__(self, inner: str) -> str:
        path = os.path.join(self._root, inner)
        if _is_video_name(inner):
            return path
        folder, name = os.path.split(path)
        if folder not in self._files:
            try:
                files = sorted(os.listdir(folder))
            except OSError:
                files = []
            self._files[folder] = {
                Path(file).stem: file
                for file in files
                if Path(file).suffix.lower() in VIDEO_SUFFIXES
            }
        return os.path.join(folder, self._files[folder].get(name, name))


def _by_folder(folders: list[str], root: Path) -> dict[str, Any]:
    """Class columns where the class of an item is its folder, "" for the root itself."""
    names = sorted(set(folders))
    number = {name: class_id for class_id, name in enumerate(names)}
    return {
        "class_ids": np.array([number[folder] for folder in folders], np.int64),
        "class_names": [name or root.name for name in names],
    }


def _classes(entries: list[Entry], root: Path) -> dict[str, Any]:
    """Class columns of a list: its class ids, named by the folders, or else the folders."""
    folders = [os.path.dirname(entry.path) for entry in entries]
    if entries[0].class_id == NO_CLASS:
        return _by_folder(folders, root)
    ids = np.array([entry.class_id for entry in entries], np.int64)
    names = [str(class_id) for class_id in range(ids.max() + 1)]
    for class_id, folder in zip(ids[::-1], folders[::-1], strict=True):
        names[class_id] = folder or str(class_id)
    return {"class_ids": ids, "class_names": names}
