"""The videos of a task: split into sides, described by features, seen in the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.opening import BadVideo, TooShort
from dali_pipes.decoding.pixels import resized
from dali_pipes.loader import NothingUsable
from dali_pipes.prepare.list_clips import read_split
from dali_pipes.sources import Source, open_source, open_video
from dali_pipes.storage.address import whole_path
from model.evaluation.features import FeatureCache, Table, cache_key, extract
from model.evaluation.options import CLIP_DEFAULTS
from model.evaluation.report import SHOWN_NEIGHBOURS, SHOWN_QUERIES, Neighbour, Query
from model.evaluation.retrieval import Retrieval
from model.evaluation.splits import (
    Split,
    shared_groups,
    split_by_list,
    split_by_name,
    split_files,
)
from model.evaluation.work import Work

SHARD = 32  # videos in a file of the cache
STRIP_FRAMES, STRIP_HEIGHT = 4, 56  # pictures of a video in the report


@dataclass(frozen=True)
class Videos:
    """Videos with features, and the class of each."""

    paths: list[str]
    classes: NDArray[np.int64]  # [V]
    class_names: list[str]
    table: Table


def split_sources(work: Work) -> tuple[Source, Source, Split]:
    """The training and the test videos, and how they were told apart."""
    args = work.args
    source = open_source(args.videos)
    if args.test_videos:
        test = open_source(args.test_videos)
        split = Split([], [], [], f"{args.videos} against {args.test_videos}")
        sides = (source, test)
    else:
        if args.split:
            data_set, train_files, test_files = split_files(args.split, args.fold)
            train_names = read_split(train_files, "train")
            test_names = read_split(test_files, "test")
            name = f"{data_set} split {args.fold}"
            split = split_by_list(source.paths, train_names, test_names, name)
        else:
            split = split_by_name(source.paths, source.class_ids, args.test_fraction, args.seed)
        sides = (source.subset(split.train), source.subset(split.test))
    for video in split.missing:
        work.left_out[video] = f"in the split files, but not (or more than once) in {args.videos}"
    if groups := shared_groups(sides[0].paths, sides[1].paths):
        work.warnings.append(
            f"{len(groups)} UCF101 groups have videos on both sides ({groups[0]}, ...): "
            "near-duplicates that make the task too easy"
        )
    return *sides, split


def sides(work: Work, keys: Sequence[str]) -> tuple[Videos, Videos, Split]:
    """Features of the training and of the test videos, with one list of classes."""
    train_source, test_source, split = split_sources(work)
    names = sorted({*classes_of(train_source), *classes_of(test_source)})
    return (
        described(work, train_source, keys, names),
        described(work, test_source, keys, names),
        split,
    )


def described(
    work: Work, source: Source, keys: Sequence[str], names: list[str] | None = None
) -> Videos:
    """Features of a source's videos: from the cache, or computed and put there."""
    args = work.args
    names = names or sorted(set(classes_of(source)))
    settings = {name: getattr(args, name) for name in (*CLIP_DEFAULTS, "clips_per_video")}
    settings["precision"] = work.precision.name
    cache = FeatureCache(args.cache / cache_key(work.backbone, settings))
    for file in cache.set_aside:
        print(f"{file}: damaged features, set aside under this name and computed again")
    known: dict[int, str] = {}
    for item, path in enumerate(source.paths):
        try:
            known[item] = "|".join([whole_path(path), *map(str, source.stamp(item))])
        except BadVideo as error:
            work.left_out[path] = f"{error.stage}: {error.reason}"
    todo = [item for item, name in known.items() if name not in cache]
    if todo:
        print(f"computing features of {len(todo)} of {len(source)} videos into {cache.folder}")
        fill(work, cache, source.subset(todo), [known[item] for item in todo])
    found = [item for item, name in known.items() if name in cache]
    account_for(work, source, set(found))
    if not found:
        raise ValueError(f"{source.name}: none of {len(source)} videos could be read")
    return Videos(
        [source.paths[item] for item in found],
        class_ids(source, names)[found],
        names,
        cache.table([known[item] for item in found], keys),
    )


def fill(work: Work, cache: FeatureCache, source: Source, names: list[str]) -> None:
    """Compute the features of all videos of a source, and keep them under their names."""
    kept: list[str] = []
    rows: list[Table] = []
    try:
        stream = extract(
            work.backbone, work.once(source), work.args.clips_per_video, work.precision
        )
        for video, row in stream:
            kept.append(names[video])
            rows.append(row)
            if len(rows) == SHARD:
                cache.add(kept, rows)
                kept, rows = [], []
    except NothingUsable:  # the rest of the videos are bad, and in left_out
        pass
    finally:  # also if interrupted
        cache.add(kept, rows)


def account_for(work: Work, source: Source, found: set[int]) -> None:
    """Every video either takes part or is listed with a reason."""
    for bad in source.left_out:
        work.left_out.setdefault(bad.path, f"{bad.stage}: {bad.reason}")
    for item, path in enumerate(source.paths):
        if item not in found:
            work.left_out.setdefault(path, "no clip of it could be read")


def classes_of(source: Source) -> list[str]:
    """The class name of every item. Raises ValueError if the source has no classes."""
    if not len(source.class_names) or source.class_ids.min() < 0:
        raise ValueError(f"{source.name}: evaluation needs a class for every video")
    return [source.class_names[c] for c in source.class_ids]


def class_ids(source: Source, names: list[str]) -> NDArray[np.int64]:
    """The class of every item as a position in `names`."""
    position = {name: number for number, name in enumerate(names)}
    return np.array([position[name] for name in classes_of(source)], np.int64)


def pooled(videos: Videos, pooling: str) -> NDArray[np.float32]:
    """One vector a video [V,D], the mean over its clips."""
    if pooling == "max":
        return videos.table["map"]
    return np.nanmean(videos.table["clips"], axis=1)


@lru_cache(maxsize=256)  # a training video can be near to many
def strip(path: str) -> NDArray[np.uint8]:
    """Frames of a video side by side, uint8 RGB [H,W,3]."""
    source = open_video(path)
    frames = source.probe(0).frames
    numbers = [(2 * n + 1) * frames // (2 * STRIP_FRAMES) for n in range(STRIP_FRAMES)]
    try:
        pictures, _ = source.read_clip(0, numbers, None)
    except TooShort as error:  # its container promised more
        last = max(error.frames - 1, 0)
        pictures, _ = source.read_clip(0, [min(number, last) for number in numbers], None)
    height, width = pictures.shape[1:3]
    size = (STRIP_HEIGHT, round(width * STRIP_HEIGHT / height))
    return np.hstack([resized(picture, size) for picture in pictures])


def shown(queries: Videos, gallery: Videos, result: Retrieval) -> list[Query]:
    """Test videos, evenly spread over the set, with their neighbours."""
    count = min(SHOWN_QUERIES, len(queries.paths))
    picked = []
    for q in np.linspace(0, len(queries.paths) - 1, count).round().astype(int):
        near = [
            Neighbour(
                gallery.paths[g],
                gallery.class_names[gallery.classes[g]],
                float(result.similarities[q, rank]),
                bool(result.hits[q, rank]),
            )
            for rank, g in enumerate(result.neighbours[q][:SHOWN_NEIGHBOURS])
        ]
        picked.append(Query(queries.paths[q], queries.class_names[queries.classes[q]], near))
    return picked
