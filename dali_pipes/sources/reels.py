"""Reels: a data set prepared once at training size, made by `dali_pipes.prepare reels`."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.opening import BadVideo, TooShort, words
from dali_pipes.decoding.reel import DamagedStep, decoded_field, decoded_frame, split_steps
from dali_pipes.decoding.video import VideoInfo
from dali_pipes.sources import reel_index
from dali_pipes.sources.folders import by_folder, classes, existing_folder
from dali_pipes.sources.lists import NO_START, inside, only, read_list
from dali_pipes.sources.reel_index import INDEX_FILE, Columns, Stamp
from dali_pipes.sources.source import Items
from dali_pipes.storage import LocalFiles, RemoteFiles, Unreachable, is_address
from dali_pipes.storage.copies import local_copy
from dali_pipes.storage.files import Files

MANIFEST = "reels.json"
FORMAT = 1

Images = list[NDArray[np.uint8]]  # encoded, uint8 [n] each


@dataclass(frozen=True)
class Manifest:
    """How the reels of a folder were made."""

    resize: tuple[int, int]  # (height, width) of frames and fields, px
    flow: str  # tvl1 | tvl1-fast | stored: from flow images
    flow_computed_by: str  # CPU | CUDA
    jpeg_quality: int

    @classmethod
    def read(cls, files: Files) -> Self:
        """Raises ValueError that says what is wrong."""
        file = os.path.join(files.place, MANIFEST)
        try:
            made: dict[str, Any] = json.loads(files.read_whole(MANIFEST))
            if made["format"] != FORMAT:
                raise ValueError(f"has format {made['format']}, this version reads {FORMAT}")
            height, width = made["resize"]
            return cls(
                (int(height), int(width)),
                str(made["flow"]),
                str(made["flow_computed_by"]),
                int(made["jpeg_quality"]),
            )
        except FileNotFoundError as error:
            raise ValueError(f"{files.place}: no reels (there is no {MANIFEST} in it)") from error
        except OSError as error:
            raise ValueError(f"{file}: {words(error)}") from error
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file}: is damaged ({error!r})") from error
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def are_reels(place: Path | str) -> bool:
    """Whether `dali_pipes.prepare reels` made, or began, this. An address holds nothing else."""
    return is_address(place) or Path(place, MANIFEST).is_file()


@dataclass(frozen=True)
class Opened:
    """A folder of reels, or an address of them, and what its index says."""

    files: Files
    manifest: Manifest
    index: str  # the index, or a copy of it on this machine
    index_stamp: Stamp
    columns: Columns


@dataclass(frozen=True, kw_only=True)
class Reels(Items):
    """Videos of a folder or an address of reels, made by `found` or `listed`.

    Paths are PLACE/class/video.
    """

    files: Files
    manifest: Manifest
    index: str
    index_stamp: Stamp
    shards: list[str]
    shard: NDArray[np.int32]  # [items], position in `shards`
    first: NDArray[np.int64]  # [items], row of its first step
    frames: NDArray[np.int32]  # [items]
    sizes: NDArray[np.int32]  # [items,2], (height, width) of the videos themselves
    fps: NDArray[np.float32]  # [items], frames a second, 0 where not known
    has_flow = True

    @classmethod
    def found(cls, place: Path | str, cache: Path | None = None) -> Self:
        """All videos of a folder or an address of reels, by name; a video's class is its folder.

        cache: where the index of an address is copied to; None: a folder of the user's.
        Raises ValueError that says what is wrong.
        """
        opened = _opened(place, cache)
        names, root = opened.columns.names, opened.files.place
        return cls._of(
            opened, np.arange(len(names)), root,
            starts=np.full(len(names), NO_START, np.int64),
            **by_folder([os.path.dirname(name) for name in names], root),
        )  # fmt: skip

    @classmethod
    def listed(cls, data_list: Path | str, place: Path | str, cache: Path | None = None) -> Self:
        """The clips of a list. Entries may lack the suffix, as the published lists do."""
        entries = read_list(data_list)
        opened = _opened(place, cache)
        root, columns = opened.files.place, opened.columns
        rows = {name: row for row, name in enumerate(columns.names)}
        by_stem: dict[str, list[str]] = {}
        for name in columns.names:
            by_stem.setdefault(os.path.splitext(name)[0], []).append(name)

        def meant(name: str) -> list[str]:
            for key in (name, os.path.splitext(name)[0]):
                if key in rows:
                    return [key]
                if key in by_stem:
                    return by_stem[key]
            return [name]

        names = [inside(root, entry, data_list) for entry in entries]
        found = [
            rows.get(only(meant(name), entry, data_list), _ABSENT)
            for name, entry in zip(names, entries, strict=True)
        ]
        source = cls._of(
            opened, np.array(found), f"{data_list} in {root}",
            starts=np.array([entry.start for entry in entries], np.int64),
            **classes(entries, root),
        )  # fmt: skip
        absent = {item: name for item, name in enumerate(names) if found[item] == _ABSENT}
        paths = [os.path.join(root, absent[i]) if i in absent else path
                 for i, path in enumerate(source.paths)]  # fmt: skip
        return replace(source, paths=paths)

    @classmethod
    def _of(cls, opened: Opened, rows: NDArray[np.int64], name: str, **items: Any) -> Self:
        manifest, columns = opened.manifest, opened.columns
        height, width = manifest.resize
        return cls(
            name=f"{name} (reels {height}x{width}, flow {manifest.flow})",
            paths=[os.path.join(opened.files.place, columns.names[row]) for row in rows.tolist()],
            files=opened.files,
            manifest=manifest,
            index=opened.index,
            index_stamp=opened.index_stamp,
            shards=columns.shards,
            shard=columns.shard[rows],
            first=columns.first[rows],
            frames=np.where(rows == _ABSENT, 0, columns.frames[rows]),
            sizes=columns.sizes[rows],
            fps=columns.fps[rows],
            **items,
        )

    def subset(self, items: Sequence[int]) -> Self:
        rows = np.asarray(items, np.int64)
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(super().subset(items), **columns)

    @property
    def folder(self) -> str:
        """Where the reels lie: a folder, or an address."""
        return self.files.place

    def shard_name(self, item: int) -> str:
        return self.shards[self.shard[item]]

    def shard_path(self, item: int) -> str:
        return os.path.join(self.folder, self.shard_name(item))

    def steps(self, item: int) -> NDArray[np.void]:
        """The item's rows of the index, [frames + 1]. Raises OSError or ValueError."""
        table = reel_index.steps(self.index, self.index_stamp)
        first = int(self.first[item])
        return table[first : first + int(self.frames[item]) + 1]

    @property
    def begins(self) -> NDArray[np.int64]:
        """[items], where the pictures of each begin in its shard."""
        table = reel_index.steps(self.index, self.index_stamp)
        return table["offset"][self.first].astype(np.int64)

    def stamp(self, item: int) -> tuple[int, int]:
        if not self.frames[item]:
            reason = f"is not in the reels of {self.folder}; prepare it too, or mend the list"
            raise BadVideo(self.paths[item], "open", reason)
        shard = self.shard_name(item)
        try:
            return self.files.stamp(shard)
        except OSError as error:
            reason = self._advised(item, f"{shard}: {words(error)}")
            raise BadVideo(self.paths[item], "open", reason) from error

    def missing(self) -> dict[int, BadVideo]:
        """The items that are not there, and why; looks at every shard once."""
        lost = [not self._is_there(shard) for shard in self.shards]
        found = {}
        for item in np.flatnonzero((self.frames == 0) | np.array(lost)[self.shard]).tolist():
            try:
                self.stamp(item)
            except BadVideo as error:
                found[item] = error
        return found

    def probe(self, item: int) -> VideoInfo:
        height, width = self.sizes[item].tolist()
        return VideoInfo(int(self.frames[item]), height, width, "jpeg")

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Frames at the size they are stored in; `resize` can only be that."""
        self.check_size(resize)
        images, _ = self.read_encoded(item, numbers)
        height, width = self.sizes[item].tolist()
        return np.stack(list(self.frames_of(item, images, numbers))), (height, width)

    def read_flow(self, item: int, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """Fields by number: coded flow uint8 [F,h,w,2]. Raises BadVideo."""
        _, images = self.read_encoded(item, numbers, numbers)
        planes = np.stack(list(self.fields_of(item, images, numbers)))  # [F,2,h,w]
        return np.moveaxis(planes, 1, -1)

    def check_size(self, resize: tuple[int, int] | None) -> None:
        """Raises ValueError if frames of another size are wanted."""
        height, width = self.manifest.resize
        if resize not in (None, (height, width)):
            raise ValueError(
                f"{self.folder}: its frames are {height}x{width}, not {resize[0]}x{resize[1]}; "
                f"set resize to {height}x{width}, or prepare reels of the other size"
            )

    def read_encoded(
        self, item: int, numbers: Sequence[int], fields: Sequence[int] = ()
    ) -> tuple[Images, Images]:
        """The images of frames and of flow fields by number, in one read. Raises BadVideo."""
        begin, end = numbers[0], max([*numbers[-1:], *fields[-1:]]) + 1
        if end > (count := int(self.frames[item])):
            reason = f"has {count} frames, frame {end - 1} was asked for"
            raise TooShort(self.paths[item], "decode", reason, count)
        shard = self.shard_name(item)
        wanted = sorted({*numbers, *fields})
        places = [number - begin for number in wanted]
        try:
            steps = self.steps(item)[begin : end + 1]
            where = (shard, *extent(steps))
            try:
                images = split_steps(memoryview(self.files.read(*where)), steps, places)
            except DamagedStep:
                if (anew := self.files.read_again(*where)) is None:
                    raise
                images = split_steps(memoryview(anew), steps, places)
        except DamagedStep as damaged:
            reason = f"frame {begin + damaged.args[0]} is damaged in {shard}"
            raise BadVideo(self.paths[item], "decode", self._advised(item, reason)) from None
        except ValueError as error:
            raise BadVideo(self.paths[item], "open", str(error)) from error
        except OSError as error:
            reason = f"{shard}: {words(error)}"
            raise BadVideo(self.paths[item], "open", self._advised(item, reason)) from error
        pictures = dict(zip(wanted, images, strict=True))
        return [pictures[n][0] for n in numbers], [pictures[n][1] for n in fields]

    def frames_of(
        self, item: int, images: Images, numbers: Sequence[int]
    ) -> Iterator[NDArray[np.uint8]]:
        """Frames uint8 [h,w,3], one after the other. Raises BadVideo."""
        shape = (*self.manifest.resize, 3)
        return self._checked(item, map(decoded_frame, images), numbers, shape)

    def fields_of(
        self, item: int, images: Images, numbers: Sequence[int]
    ) -> Iterator[NDArray[np.uint8]]:
        """Coded flow uint8 [2,h,w], (u, v), field by field. Raises BadVideo."""
        shape = (2, *self.manifest.resize)
        return self._checked(item, map(decoded_field, images), numbers, shape)

    def _checked(
        self,
        item: int,
        images: Iterable[NDArray[np.uint8] | None],
        numbers: Sequence[int],
        shape: tuple[int, ...],
    ) -> Iterator[NDArray[np.uint8]]:
        for number, image in zip(numbers, images, strict=True):
            if image is None or image.shape != shape:
                reason = self._advised(item, f"frame {number} cannot be decoded")
                raise BadVideo(self.paths[item], "decode", reason)
            yield image

    def _is_there(self, shard: str) -> bool:
        try:
            self.files.stamp(shard)
        except OSError:
            return False
        return True

    def _advised(self, item: int, reason: str) -> str:
        shard = self.shard_name(item)
        return f"{reason}; copy the shard again, or remove {shard} and prepare reels again"


_ABSENT = -1
_COLUMNS = ("shard", "first", "frames", "sizes", "fps")


def extent(steps: NDArray[np.void]) -> tuple[int, int]:
    """Where some neighbouring steps lie in their shard: (offset, bytes). The last row ends them."""
    first, last = int(steps["offset"][0]), int(steps["offset"][-1])
    return first, last - first


def _opened(place: Path | str, cache: Path | None) -> Opened:
    """Raises ValueError that says what is wrong."""
    files: LocalFiles | RemoteFiles
    if is_address(place):
        files = RemoteFiles(str(place), proof=MANIFEST)
        manifest = Manifest.read(files)
        index = local_copy(files, INDEX_FILE, cache, reel_index.is_whole)
    else:
        files = LocalFiles(str(existing_folder(place, "reels")))
        manifest = Manifest.read(files)
        index = file if (file := Path(files.place, INDEX_FILE)).is_file() else None
    if index is None:
        raise ValueError(
            f"{files.place}: its reels are not finished; give the same `prepare reels` command "
            "again"
        )
    try:
        index_stamp = reel_index.stamp(index)
        columns = reel_index.read(index)
    except OSError as error:
        raise ValueError(f"{index}: {words(error)}") from error
    except ValueError as error:
        raise ValueError(f"{error}; the same `prepare reels` command makes it anew") from error
    if not columns.names:
        raise ValueError(f"{files.place}: its reels hold no video")
    if isinstance(files, RemoteFiles):
        try:
            files.look(columns.shards)
        except Unreachable as error:
            raise ValueError(str(error)) from error
    return Opened(files, manifest, str(index), index_stamp, columns)
