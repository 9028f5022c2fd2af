"""Judge a pre-trained network by one of five tasks; the flags are in model/evaluation/options.py.

python -m model.evaluate retrieval --checkpoint CKPT --videos DIR --out OUT

Exit code 0: done; 2: flags or input do not allow it; 1: it went wrong on the way.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dali_pipes.decoding.opening import BadVideo
from dali_pipes.pipelines.running import LoaderStopped
from dali_pipes.prepare.work import BadInput
from dali_pipes.sources import open_source
from dali_pipes.terminal import accept_all_names, ended
from model.evaluation import report
from model.evaluation.classify import DRAWS, Scores, confusion, few, linear_probe, score
from model.evaluation.features import cache_key
from model.evaluation.finetune import Classifier, probabilities, train
from model.evaluation.network import load, made_by
from model.evaluation.options import CLIP_DEFAULTS, parse
from model.evaluation.report import Outcome
from model.evaluation.retrieval import KS, retrieve
from model.evaluation.scenes import leave_one_out
from model.evaluation.similarity import DISTANCES, cross_validate, describe_pairs
from model.evaluation.splits import read_pairs
from model.evaluation.videos import (
    account_for,
    class_ids,
    classes_of,
    described,
    pooled,
    shown,
    sides,
    split_sources,
    strip,
)
from model.evaluation.work import Work
from model.training.checkpoint import NotFinite, check_room
from model.training.distributed import joined
from model.training.precision import choose


def main(argv: Sequence[str] | None = None) -> int:
    accept_all_names()
    args = parse(argv)
    try:
        for folder in (args.out, args.cache):
            folder.mkdir(parents=True, exist_ok=True)
            check_room(folder, 2**20)
    except OSError as error:
        return ended(2, f"evaluate: {error}")
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
    except (ValueError, BadVideo, BadInput) as error:
        return ended(2, f"evaluate: {error}")
    except (LoaderStopped, OSError, MemoryError) as error:
        return ended(1, f"evaluate: {error}")
    except NotFinite as error:
        return ended(1, f"evaluate: {network.words}: {error}")
    except KeyboardInterrupt:
        return ended(130, "evaluate: interrupted; the same command goes on where it was")
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
    figures = {
        f"video accuracy, {count} a class": few(
            train_set.table["clips"],
            train_set.classes,
            test_set.table["clips"],
            test_set.classes,
            len(names),
            count,
            work.args.strength,
            work.args.seed,
        )
        for count in work.args.few
    }
    if figures:
        protocol["few"] = f"mean over {DRAWS} draws of so many training videos of each class"
    total = len(train_set.paths) + len(test_set.paths)
    return classified(work, result, protocol, names, total, figures)


def run_finetune(work: Work) -> Outcome:
    args = work.args
    train_source, test_source, split = split_sources(work)
    names = sorted({*classes_of(train_source), *classes_of(test_source)})
    torch.manual_seed(args.seed)
    net = Classifier(work.backbone, len(names), args.dropout)
    net.to(device=work.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    loader = work.clips(train_source, batch_size=args.bs, flip=not args.no_flip)
    settings = {
        "network": cache_key(work.backbone, {}),
        "split": split.name,
        "precision": work.precision.name,
        **{name: getattr(args, name) for name in ("epochs", "lr", "wd", "dropout", "bs", "seed")},
    }
    if args.no_flip:
        settings["flips"] = False
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
        made_by(work.backbone, vars(args)),
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
        f"{'no flips' if args.no_flip else 'flips'}, batch {args.bs}, SGD, lr {args.lr:g} falling "
        f"along a cosine, weight decay {args.wd:g}, dropout {args.dropout:g}",
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


def classified(
    work: Work,
    result: Scores,
    protocol: dict[str, Any],
    names: list[str],
    videos: int,
    more: dict[str, float] | None = None,
) -> Outcome:
    return Outcome(
        work.args.task,
        protocol,
        {
            "clip accuracy": result.clip_accuracy,
            "video accuracy": result.video_accuracy,
            **(more or {}),
        },
        videos,
        list(work.left_out.items()),
        work.warnings,
        names,
        result.confusion,
    )


TASKS: dict[str, Callable[[Work], Outcome]] = {
    "retrieval": run_retrieval,
    "linear-probe": run_linear_probe,
    "finetune": run_finetune,
    "scenes": run_scenes,
    "similarity": run_similarity,
}


if __name__ == "__main__":
    sys.exit(main())
