"""What a source is: a list of items, behind one protocol.

An item is a video, or one listed clip of it; its index is what `clip_at` draws and what
`ClipBatch.video` holds. Items stay in the list however bad their files turn out: the order of clips
depends on the list alone.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import VideoInfo

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


def split(source: Source, share: float, seed: int = 0) -> tuple[Source, Source]:
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
class Items:
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
