"""Features of videos: computed once by a frozen network, kept on disk, read by every task.

A table of features is a dict of float32 arrays with one row a video:

    clips   [V,K,C]   last stage, averaged over time and space, each clip; NaN for a missing clip
    map     [V,D]     last stage, spatial max-pooling by 2, flattened, averaged over clips
    conv1   [V,C1]    each stage by its name, averaged over time, space and clips
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.networks.backbone import Backbone
from model.training.checkpoint import NotFinite
from model.training.precision import Precision

Table = dict[str, NDArray[np.float32]]
LARGEST = 1e16  # sums of squares of features below it are float32


class Batch(Protocol):
    """What extraction needs of a batch of clips."""

    @property
    def frames(self) -> Tensor: ...  # uint8 [N,T,S,S,3]
    @property
    def video(self) -> Tensor: ...  # int64 [N]


def extract(
    backbone: Backbone, batches: Iterable[Batch], clips_per_video: int, precision: Precision
) -> Iterator[tuple[int, Table]]:
    """(video, its table of one row) for each video that has a clip."""
    backbone.eval()

    def describe(frames: Tensor) -> Table:
        with torch.no_grad(), precision.autocast():
            described = _describe(backbone, frames)
        return check_finite(described, "take --precision float32, or another checkpoint")

    for video, clips in by_video(batches, describe, clips_per_video):
        row = {name: np.nanmean(values, axis=0) for name, values in clips.items()}
        yield video, row | {"clips": clips["clips"]}


def by_video(
    batches: Iterable[Batch], describe: Callable[[Tensor], Table], clips_per_video: int
) -> Iterator[tuple[int, Table]]:
    """(video, what `describe` says of its clips [K,...]) for each video that has a clip.

    `describe` takes frames [N,T,S,S,3] and gives arrays [N,...]. The clips of a video must follow
    each other, as sampling "even" yields them; missing ones become rows of NaN at the end.
    """
    current, clips = -1, list[Table]()
    for batch in batches:
        if not len(batch.video):
            continue
        described = describe(batch.frames)
        for n, video in enumerate(batch.video.tolist()):
            if video != current and clips:
                yield current, _stacked(clips, clips_per_video)
                clips.clear()
            current = video
            clips.append({name: values[n] for name, values in described.items()})
    if clips:
        yield current, _stacked(clips, clips_per_video)


def check_finite(described: Table, advice: str) -> Table:
    """The same, if it can be compared, and no clip that is there looks like a missing one. Raises
    NotFinite."""
    for name, values in described.items():
        if not (np.abs(values) < LARGEST).all():
            raise NotFinite(
                f"{name} of a clip has numbers that are not finite, or above {LARGEST:g}; {advice}"
            )
    return described


def _stacked(clips: Sequence[Table], clips_per_video: int) -> Table:
    stacked = {}
    for name, first in clips[0].items():
        stacked[name] = np.full((clips_per_video, *first.shape), np.nan, np.float32)
        stacked[name][: len(clips)] = [clip[name] for clip in clips]
    return stacked


def _describe(backbone: Backbone, frames: Tensor) -> Table:
    """The features [N,...] of every clip of a batch."""
    x = backbone.normalise(frames)
    described = {}
    for name in backbone.stages:
        x = backbone.get_submodule(name)(x)
        described[name] = x.mean(dim=(2, 3, 4), dtype=torch.float32)
    described["clips"] = described[backbone.stages[-1]]
    # At less than 2 pixels there is nothing left to pool.
    pooled = F.max_pool3d(x, (1, 2, 2)) if min(x.shape[3:]) >= 2 else x
    described["map"] = pooled.float().flatten(1)
    return {name: values.cpu().numpy() for name, values in described.items()}


def cache_key(backbone: Backbone, settings: Mapping[str, Any]) -> str:
    """A name for all features that this network's weights give under these settings."""
    digest = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


class FeatureCache:
    """Features of videos on disk, in files of a few videos each; a video is known by a string.

    A file is named by its content: it cannot take another's place, so that several processes may
    fill one folder, and damage shows. A damaged file is renamed and listed in `set_aside`; its
    videos are not in the cache. Files appear whole, so that an interrupted extraction resumes.
    Raises OSError if a file cannot be read, which says nothing of its content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set_aside: list[Path] = []
        self._places: dict[str, tuple[Path, int]] = {}
        for file in sorted(folder.glob("features-*.npz")):
            data = file.read_bytes()
            if file.name == _name(data):
                self._note(file, np.load(BytesIO(data))["names"].tolist())
            else:
                self.set_aside.append(file.replace(file.with_suffix(".damaged")))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, names: Sequence[str], rows: Sequence[Table]) -> None:
        """Keep a row for each name. Raises OSError, e.g. on a full disk."""
        if not names:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        stream = BytesIO()
        np.savez(stream, allow_pickle=False, names=np.array(names), **arrays)
        data = stream.getvalue()
        file = self.folder / _name(data)
        with NamedTemporaryFile(dir=self.folder, suffix=".partial", delete=False) as partial:
            try:
                partial.write(data)
                partial.close()
                os.replace(partial.name, file)
            except BaseException:
                os.unlink(partial.name)
                raise
        self._note(file, names)

    def _note(self, file: Path, names: Sequence[str]) -> None:
        self._places.update((name, (file, row)) for row, name in enumerate(names))

    def table(self, names: Sequence[str], keys: Sequence[str]) -> Table:
        """The features `keys` of the named videos, in their order. All must be in the cache."""
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for position, name in enumerate(names):
            file, row = self._places[name]
            by_file.setdefault(file, []).append((position, row))
        table: Table = {}
        for file, places in by_file.items():
            positions, rows = map(list, zip(*places, strict=True))
            with np.load(file) as content:
                for key in keys:
                    values = content[key]
                    if key not in table:
                        table[key] = np.empty((len(names), *values.shape[1:]), values.dtype)
                    table[key][positions] = values[rows]
        return table


def _name(data: bytes) -> str:
    return f"features-{blake2b(data, digest_size=16).hexdigest()}.npz"
