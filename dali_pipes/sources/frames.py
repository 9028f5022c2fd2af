"""Folders of frames, and of flow, as JPEG images in the published layout."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.jpeg import (
    PUBLISHED,
    Naming,
    count_images,
    images_among,
    naming_of,
    read_decodable,
    read_encoded,
    read_image,
)
from dali_pipes.decoding.opening import BadVideo, words
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.video import VideoInfo
from dali_pipes.sources.folders import by_folder, classes, existing_folder, is_folder, walk
from dali_pipes.sources.lists import NO_START, inside, read_list
from dali_pipes.sources.source import INDEX_NAME, Items


@dataclass(frozen=True)
class FrameFolders(Items):
    """Frames and flow as JPEG images in the published layout, made by `found` or `listed`:

        RGB_DIR/[class/]video/frame000001.jpg   frame 0
        FLOW_X_DIR/video/frame000001.jpg        u from frame 0 to frame 1, grey, 8 bits
        FLOW_Y_DIR/video/frame000001.jpg        v

    `flow` is (FLOW_X_DIR, FLOW_Y_DIR), or None: flow is to be computed from the frames. Images may
    be called otherwise, such as img_00001.jpg, alike in all folders of a side. `strictly`: what is
    handed over encoded is decoded, too, to see whether it can be.
    """

    flow: tuple[str, str] | None = None
    namings: tuple[Naming, ...] = (PUBLISHED, PUBLISHED, PUBLISHED)  # of frames, u, v
    strictly: bool = False

    @classmethod
    def found(
        cls,
        rgb_prefix: Path | str,
        flow_x_prefix: Path | str | None = None,
        flow_y_prefix: Path | str | None = None,
    ) -> Self:
        """Every folder with frames under `rgb_prefix` that has flow, if flow is given.

        Raises ValueError where nothing is usable, or the images of all may not be what they seem.
        """
        root = existing_folder(rgb_prefix, "rgb_prefix")
        flow = _flow_folders(flow_x_prefix, flow_y_prefix)
        namings = tuple(map(_naming_below, (str(root), *(flow or ()))))
        left_out: list[BadVideo] = []
        folders = []
        for inner, entries in walk(root, left_out, namings[0](1)):
            if entries is None:
                folders.append(inner)
            elif reason := _lacks_frames([entry.name for entry in entries], namings[0]):
                left_out.append(BadVideo(os.path.join(root, inner), "open", reason))
        folders.sort()
        if not folders:
            but = f"; {left_out[0]}" if left_out else ""
            raise ValueError(f"{root}: no folder below it has a {namings[0](1)}{but}")
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
        if flow:
            _check_own_flow(usable)
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
            namings=namings,
            **by_folder([os.path.dirname(folder) for folder in usable], root),
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
        root = existing_folder(rgb_prefix, "rgb_prefix")
        paths = []
        for entry in entries:
            path = os.path.join(root, inside(root, entry, data_list))
            flat = os.path.join(root, os.path.basename(path))
            paths.append(flat if not os.path.isdir(path) and os.path.isdir(flat) else path)
        flow = _flow_folders(flow_x_prefix, flow_y_prefix)
        if flow:
            _check_own_flow(paths)
        return cls(
            name=f"{data_list} in {root}",
            paths=paths,
            starts=np.array([entry.start for entry in entries], np.int64),
            index_path=Path(f"{data_list}{INDEX_NAME}"),
            flow=flow,
            namings=tuple(map(_naming_below, (str(root), *(flow or ())))),
            **classes(entries, root),
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
            counts = list(map(count_images, folders, self.namings))
        except OSError as error:
            raise BadVideo(self.paths[item], "open", words(error)) from error
        for folder, count, naming in zip(folders, counts, self.namings, strict=False):
            if not count:
                raise BadVideo(self.paths[item], "open", f"{folder} has no {naming(1)}")
        height, width = self.image(item, 0, read_image).shape[:2]
        return VideoInfo(min(counts[0], *(n + 1 for n in counts)), height, width, "jpeg")

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        images = [self.image(item, number, read_image) for number in numbers]
        native = (images[0].shape[0], images[0].shape[1])
        if resize is not None:
            images = [resized(image, resize) for image in images]
        elif any(image.shape[:2] != native for image in images):
            raise BadVideo(self.paths[item], "decode", "its frame size changes within the clip")
        return np.stack(images), native

    def read_encoded(
        self, item: int, numbers: Sequence[int], fields: Sequence[int]
    ) -> tuple[list[NDArray[np.uint8]], ...]:
        """The images, encoded, of frames, and of u and v if there is flow. Raises BadVideo."""
        read = read_decodable if self.strictly else read_encoded
        wanted = (numbers, *(fields for _ in self.flow or ()))
        return tuple(
            [self.image(item, number, read, kind) for number in some]
            for kind, some in enumerate(wanted)
        )

    def image(
        self, item: int, number: int, read: Callable[[str], NDArray[np.uint8]], kind: int = 0
    ) -> NDArray[np.uint8]:
        """What `read` (of `decoding.jpeg`) makes of image `number`, from 0, of the frames, u or v
        (`kind` 0, 1, 2). Raises BadVideo."""
        file = os.path.join(self.folders(item)[kind], self.namings[kind](number + 1))
        try:
            return read(file)
        except ValueError as error:
            raise BadVideo(file, "decode", str(error)) from error
        except OSError as error:
            raise BadVideo(file, "decode", words(error)) from error


def _naming_below(root: str) -> Naming:
    """How the images below a folder are called, judged by the first folder that has some and no
    folders."""
    for inner, entries in walk(Path(root), []):
        folder = os.path.join(root, inner)
        if any(map(is_folder, entries or ())):
            continue
        try:
            naming = naming_of(entry.name for entry in entries or ())
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        if naming is not None:
            try:
                count_images(folder, naming)
            except BadVideo as error:
                raise ValueError(str(error)) from None
            return naming
    return PUBLISHED


def _lacks_frames(names: Sequence[str], naming: Naming) -> str:
    """Why a folder without a first image is no video, if it seems to be meant as one."""
    if not names:
        return "is empty"
    images = images_among(names)
    return f"has no {naming(1)} (its first image is {images[0]})" if images else ""


def _check_own_flow(paths: Sequence[str]) -> None:
    """Raise ValueError if videos would share flow, whose folders have no class level."""
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(os.path.basename(path), path)
        if other != path:
            raise ValueError(
                f"{other} and {path} have one name and would share their flow; rename one of them"
            )


def _flow_folders(x: Path | str | None, y: Path | str | None) -> tuple[str, str] | None:
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise ValueError("flow has two components: give both flow_x_prefix and flow_y_prefix")
    return str(existing_folder(x, "flow_x_prefix")), str(existing_folder(y, "flow_y_prefix"))


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise BadVideo(path, "open", words(error)) from error
