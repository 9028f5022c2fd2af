"""Judge a pre-trained network by one of five tasks; the flags are in model/evaluation/options.py.

python -m model.evaluate retrieval --checkpoint CKPT --videos DIR --out OUT

Exit code 0: done; 2: flags or input do not allow it.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dali_pipes import ClipLoader
from dali_pipes.decoding.video import BadVideo, TooShort, probe, read_clip, resized
from dali_pipes.loader import NothingUsable, Skip
from dali_pipes.prepare.list_clips import read_split
from dali_pipes.prepare.work import BadInput
from dali_pipes.sources import Source, open_source
from model.evaluation import report
from model.evaluation.classify import Scores, confusion, linear_probe, score
from model.evaluation.features import FeatureCache, Table, cache_key, extract
from model.evaluation.finetune import Classifier, probabilities, train
from model.evaluation.network import Loaded, load
from model.evaluation.options import CLIP_DEFAULTS, parse
from model.evaluation.report import Neighbour, Outcome, Query
from model.evaluation.retrieval import KS, Retrieval, retrieve
from model.evaluation.scenes import leave_one_out
from model.evaluation.similarity import DISTANCES, cross_validate, describe_pairs
from model.evaluation.splits import (
    Split,
    read_pairs,
    shared_groups,
    split_by_list,
    split_by_name,
    split_files,
)
from model.networks.backbone import Backbone
from model.training.distributed import joined
from model.training.precision import Precision, choose

SHARD = 32  # videos in a file of the cache
STRIP_FRAMES, STRIP_HEIGHT = 4, 56  # pictures of a video in the report


@dataclass
class Work:
    """What every task works with."""

    args: Namespace
    network: Loaded
    device: torch.device
    precision: Precision
    left_out: dict[str, str] = field(default_factory=dict)  # path: why
    warnings: list[str] = field(default_factory=list)

    @property
    def backbone(self) -> Backbone:
        return self.network.backbone

    def clips(self, source: Source, **more: Any) -> ClipLoader:
        """A loader of unlabelled clips of the source."""
        args = self.args
        return ClipLoader(
            source,
            clip_len=args.clip_len,
            size=args.size,
            resize=args.resize,
            stride=args.stride,
            labels=False,
            device=self.device,
            num_workers=args.num_workers,
            seed=args.seed,
            on_skip=self.skipped,
            **more,
        )

    def skipped(self, skip: Skip) -> None:
        self.left_out.setdefault(skip.path, f"{skip.stage}: {skip.reason}")

    def once(self, source: Source) -> Iterator[Any]:
        """Batches with every clip of every video exactly once, in order."""
        k = self.args.clips_per_video
        total = len(source) * k
        # Batches run across the ends of epochs; of these sizes a whole number makes an epoch.
        size = max(n for n in range(1, self.args.bs + 1) if total % n == 0)
        loader = self.clips(source, batch_size=size, clips_per_video=k, sampling="even")
        try:
            yield from tqdm(loader, unit="batch", disable=not sys.stderr.isatty())
        finally:
            loader.close()

    def protocol(self, **more: Any) -> dict[str, Any]:
        """How it was done, common part first."""
        args = self.args
        height, width = args.resize
        clips = f"{args.clips_per_video} a video, evenly spread, {args.clip_len} frames"
        clips += f" (every {args.stride}.)" if args.stride > 1 else ""
        return {
            "network": self.network.words,
            "precision": f"{self.precision.name} on {self.device.type}",
            "clips": f"{clips}, resized to {height}x{width}, centre crop {args.size}",
            **more,
        }


@dataclass(frozen=True)
class Videos:
    """Videos with features, and the class of each."""

    paths: list[str]
    classes: NDArray[np.int64]  # [V]
    class_names: list[str]
    table: Table


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        network = load(args.checkpoint, args.model, args.width, args.seed)
        for name, fallback in CLIP_DEFAULTS.items():  # the clips that the network was trained on
            if getattr(args, name) is None:
                setattr(args, name, network.clips.get(name, fallback))
        args.resize = tuple(args.resize)
        with joined(args.device) as ranks:
            network.backbone.to(ranks.device)
            work = Work(args, network, ranks.device, choose(args.precision, ranks.device))
            outcome = TASKS[args.task](work)
            files = report.write(outcome, args.out, strip)
    except (ValueError, OSError, BadVideo, BadInput) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(report.text(outcome))
    for file in files:
        print(file)
    return 0


# Tasks


def run_retrieval(work: Work) -> Outcome:
    args = work.args
    train_set, test_set, split = sides(work, ["map" if args.pooling == "max" else "clips"])
    train_x, test_x = (pooled(videos, args.pooling) for videos in (train_set, test_set))
    result = retrieve(test_x, test_set.classes, train_x, train_set.classes, args.centred)
    figures = {f"top-{k}": result.at(k) for k in KS if k <= len(train_set.paths)}
    nearest = train_set.classes[result.neighbours[:, 0]]
    layer = work.backbone.stages[-1]
    pooling = {
        "max": "spatial max-pooling by 2, flattened",
        "average": "average over time and space",
    }[args.pooling]
    return Outcome(
        args.task,
        work.protocol(
            layer=f"{layer}, {pooling}, {train_x.shape[1]} numbers, mean over clips",
            distance="cosine, each set's mean subtracted (CoCLR)" if args.centred else "cosine",
            split=split.name,
            gallery=f"{len(train_x)} training videos",
            queries=f"{len(test_x)} test videos; a hit if any of the k nearest has the class",
        ),
        figures,
        len(train_x) + len(test_x),
        list(work.left_out.items()),
        work.warnings,
        test_set.class_names,
        confusion(test_set.classes, nearest, len(test_set.class_names)),
        shown(test_set, train_set, result),
    )


def run_linear_probe(work: Work) -> Outcome:
    train_set, test_set, split = sides(work, ["clips"])
    names = train_set.class_names
    result = linear_probe(
        train_set.table["clips"],
        train_set.classes,
        test_set.table["clips"],
        test_set.classes,
        len(names),
        work.args.strength,
    )
    protocol = work.protocol(
        layer=f"{work.backbone.stages[-1]}, average over time and space, frozen",
        classifier=f"logistic regression on standardised clip features, C {work.args.strength:g}",
        split=split.name,
        train=f"{len(train_set.paths)} videos",
        test=f"{len(test_set.paths)} videos; a video's score is the mean of its clips' softmax",
    )
    total = len(train_set.paths) + len(test_set.paths)
    return classified(work, result, protocol, names, total)


def run_finetune(work: Work) -> Outcome:
    args = work.args
    train_source, test_source, split = split_sources(work)
    names = sorted({*classes_of(train_source), *classes_of(test_source)})
    torch.manual_seed(args.seed)
    net = Classifier(work.backbone, len(names), args.dropout)
    net.to(device=work.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    loader = work.clips(train_source, batch_size=args.bs)
    settings = {
        "network": cache_key(work.backbone, {}),
        "split": split.name,
        "precision": work.precision.name,
        **{name: getattr(args, name) for name in ("epochs", "lr", "wd", "dropout", "bs", "seed")},
    }
    train(
        net,
        loader,
        torch.from_numpy(class_ids(train_source, names)),
        args.epochs,
        args.lr,
        args.wd,
        work.precision,
        args.out / "finetuned",
        settings,
        print,
    )
    loader.close()
    trained = sum(path not in work.left_out for path in train_source.paths)
    tested = dict(probabilities(net, work.once(test_source), args.clips_per_video, work.precision))
    if not tested:
        raise ValueError("no test video could be read")
    account_for(work, test_source, set(tested))
    result = score(
        np.stack(list(tested.values())), class_ids(test_source, names)[list(tested)], len(names)
    )
    protocol = work.protocol(
        training=f"all weights, {args.epochs} epochs, a random clip of each video an epoch, "
        f"flips, batch {args.bs}, SGD, lr {args.lr:g} falling along a cosine, "
        f"weight decay {args.wd:g}, dropout {args.dropout:g}",
        split=split.name,
        train=f"{trained} videos",
        test=f"{len(tested)} videos; a video's score is the mean of its clips' softmax",
    )
    return classified(work, result, protocol, names, trained + len(tested))


def run_scenes(work: Work) -> Outcome:
    args = work.args
    videos = described(work, open_source(args.videos), ["clips"])
    several = np.bincount(videos.classes)[videos.classes] > 1  # [V]
    for video in np.flatnonzero(~several):
        work.left_out[videos.paths[video]] = "the only video of its class: nothing to learn from"
    classes = videos.classes[several]
    predicted = leave_one_out(pooled(videos, "average")[several], classes, args.strength)
    n = len(np.unique(classes))
    return Outcome(
        args.task,
        work.protocol(
            layer=f"{work.backbone.stages[-1]}, average over time, space and clips",
            classifier="scaled to length 1, standardised, linear SVM, "
            f"C {args.strength:g}, leave one video out",
            data=f"{len(classes)} videos of {n} classes (YUPENN: 420 of 14, Maryland: 130 of 13)",
        ),
        {"accuracy": float((predicted == classes).mean())},
        len(classes),
        list(work.left_out.items()),
        work.warnings,
        videos.class_names,
        confusion(classes, predicted, len(videos.class_names)),
    )


def run_similarity(work: Work) -> Outcome:
    args = work.args
    layers = args.layers or list(work.backbone.stages[-4:])
    if unknown := set(layers) - set(work.backbone.stages):
        raise ValueError(
            f"--layers {','.join(sorted(unknown))}: the network has "
            + ",".join(work.backbone.stages)
        )
    videos = described(work, open_source(args.videos), layers)
    pairs = read_pairs(args.pairs, videos.paths)
    for pair in pairs.missing:
        work.left_out[f"pair {pair}"] = "a video of it is not there, or could not be read"
    distances = describe_pairs([videos.table[name] for name in layers], pairs.first, pairs.second)
    result = cross_validate(distances, pairs.same, pairs.folds, args.strength)
    return Outcome(
        args.task,
        work.protocol(
            layers=f"{', '.join(layers)}: average over time, space and clips",
            distances=", ".join(DISTANCES),
            classifier=f"standardised, linear SVM, C {args.strength:g}",
            folds=f"{len(result.fold_accuracies)}, as given by {args.pairs.name}",
            pairs=f"{len(pairs.same)}, {pairs.same.mean():.0%} of them same",
            AUC="of one ROC over all pairs' out-of-fold decision values",
        ),
        {
            "accuracy": result.accuracy,
            "accuracy, standard error": result.standard_error,
            "AUC": result.auc,
        },
        len({*pairs.first.tolist(), *pairs.second.tolist()}),
        list(work.left_out.items()),
        work.warnings,
        ["not same", "same"],
        confusion(pairs.same.astype(int), (result.decisions > 0).astype(int), 2),
    )


TASKS: dict[str, Callable[[Work], Outcome]] = {
    "retrieval": run_retrieval,
    "linear-probe": run_linear_probe,
    "finetune": run_finetune,
    "scenes": run_scenes,
    "similarity": run_similarity,
}


def classified(
    work: Work, result: Scores, protocol: dict[str, Any], names: list[str], videos: int
) -> Outcome:
    return Outcome(
        work.args.task,
        protocol,
        {"clip accuracy": result.clip_accuracy, "video accuracy": result.video_accuracy},
        videos,
        list(work.left_out.items()),
        work.warnings,
        names,
        result.confusion,
    )


def shown(queries: Videos, gallery: Videos, result: Retrieval) -> list[Query]:
    """Test videos, evenly spread over the set, with their neighbours."""
    count = min(report.SHOWN_QUERIES, len(queries.paths))
    picked = []
    for q in np.linspace(0, len(queries.paths) - 1, count).round().astype(int):
        near = [
            Neighbour(
                gallery.paths[g],
                gallery.class_names[gallery.classes[g]],
                float(result.similarities[q, rank]),
                bool(result.hits[q, rank]),
            )
            for rank, g in enumerate(result.neighbours[q][: report.SHOWN_NEIGHBOURS])
        ]
        picked.append(Query(queries.paths[q], queries.class_names[queries.classes[q]], near))
    return picked


# Data


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
    known: dict[int, str] = {}
    for item, path in enumerate(source.paths):
        try:
            known[item] = "|".join([os.path.abspath(path), *map(str, source.stamp(item))])
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
    frames = probe(path).frames
    numbers = [(2 * n + 1) * frames // (2 * STRIP_FRAMES) for n in range(STRIP_FRAMES)]
    try:
        pictures, _ = read_clip(path, numbers, None)
    except TooShort as error:  # its container promised more
        last = max(error.frames - 1, 0)
        pictures, _ = read_clip(path, [min(number, last) for number in numbers], None)
    height, width = pictures.shape[1:3]
    size = (STRIP_HEIGHT, round(width * STRIP_HEIGHT / height))
    return np.hstack([resized(picture, size) for picture in pictures])


if __name__ == "__main__":
    sys.exit(main())
