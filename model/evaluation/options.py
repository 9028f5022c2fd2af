"""The command line of model.evaluate."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import BACKBONES
from model.flags import (
    Help,
    Parser,
    events_folder,
    not_negative,
    positive,
    processes,
    seed,
    share,
    size,
    whole,
)
from model.training.precision import PRECISIONS

DESCRIPTION = """\
Judge a pre-trained network by a task. Writes OUT/result.json, OUT/report.html and TensorBoard
events, and prints the protocol with the result."""
EPILOG = """\
CKPT is a checkpoint of train.py, one of the authors' published code, or the word random: the
network of --model and --width, untrained. Features of videos are computed once and kept for all
tasks; an interrupted command goes on where it was. Protocols: docs/evaluation.md."""

# What a clip is, where neither a flag nor the checkpoint says so.
CLIP_DEFAULTS: dict[str, Any] = {
    "clip_len": 16,
    "size": 112,
    "resize": (128, 171),
    "stride": 1,
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a task. A bad flag or combination ends the program with exit code 2."""
    parser = Parser(
        "python -m model.evaluate", description=DESCRIPTION, epilog=EPILOG, formatter_class=Help
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")

    def task(name: str, words: str, *parents: Parser) -> argparse.ArgumentParser:
        return tasks.add_parser(
            name,
            help=words,
            description=f"{name}: {words}.",
            epilog=EPILOG,
            parents=[_common(), *parents],
            formatter_class=Help,
        )

    # fmt: off
    svm = Parser(add_help=False)
    svm.add_argument("--strength", type=positive, default=1.0, metavar="C",
        help="inverse of the L2 penalty")

    one = task("retrieval", "nearest training videos of each test video", _split())
    one.add_argument("--pooling", choices=("max", "average"), default="max",
        help="of the last stage: max-pooling by 2, flattened, or the average of all")
    one.add_argument("--centred", action="store_true", help="subtract each set's mean (CoCLR)")

    one = task(
        "linear-probe", "logistic regression on features of the frozen network", _split(), svm
    )
    one.add_argument("--few", type=whole(1), nargs="+", default=(), metavar="N",
        help="also learn from N training videos of each class only, e.g. --few 1 2 5")

    one = task("finetune", "train all weights and a new classifier", _split())
    one.add_argument("--epochs", type=whole(1), default=30, metavar="N",
        help="a random clip of each video an epoch")
    one.add_argument("--lr", type=positive, default=1e-3, metavar="RATE", help="of SGD at first")
    one.add_argument("--wd", type=not_negative, default=5e-4, metavar="DECAY", help="weight decay")
    one.add_argument("--dropout", type=share, default=0.5, metavar="SHARE",
        help="before the classifier")
    one.add_argument("--no_flip", action="store_true",
        help="for classes that a mirror image changes, like moving to the left")

    task("scenes", "linear SVM, leave one out (YUPENN, Maryland)", svm)

    one = task("similarity", "same or not-same pairs of videos (ASLAN)", svm)
    one.add_argument("--pairs", type=Path, required=True, metavar="FILE",
        help="lines `fold video video same`")
    one.add_argument("--layers", type=lambda text: text.split(","), metavar="A,B",
        help="stages to compare (default: the last four)")
    # fmt: on

    args = parser.parse_args(argv)
    if getattr(args, "split", None) and args.test_videos:
        parser.error("--split and --test_videos exclude each other")
    if getattr(args, "pairs", None) and not args.pairs.is_file():
        parser.error(f"--pairs {args.pairs}: no such file")
    args.cache = args.cache or args.out.parent / "features"
    return args


def _common() -> Parser:
    """The flags of every task."""
    # fmt: off
    parser = Parser(add_help=False)
    group = parser.add_argument_group("network")
    group.add_argument("--checkpoint", required=True, metavar="CKPT",
        help="file, folder of a run, or the word random")
    group.add_argument("--model", choices=tuple(BACKBONES), default="c3d",
        help="which network a random one is")
    group.add_argument("--width", type=positive, default=1.0, metavar="FACTOR",
        help="of a random network")

    group = parser.add_argument_group("data")
    group.add_argument("--videos", required=True, metavar="DIR|ADDRESS",
        help="videos, searched with subfolders, or reels, also at an address (s3://bucket/prefix); "
        "a video's class is its folder")
    group.add_argument("--out", type=events_folder, required=True, metavar="DIR",
        help="where results go")
    group.add_argument("--cache", type=Path, metavar="DIR",
        help="where features are kept for all tasks (default: the folder features beside OUT)")
    group.add_argument("--clips_per_video", type=whole(1), default=10, metavar="N",
        help="evenly spread over the video")
    as_trained = "(default: as the network was trained)"
    group.add_argument("--clip_len", type=whole(2), metavar="FRAMES",
        help=f"frames in a clip {as_trained}")
    group.add_argument("--size", type=whole(8), metavar="PIXELS",
        help=f"side of the centre crop {as_trained}")
    group.add_argument("--resize", type=size, metavar="HxW",
        help=f"frame size before the crop {as_trained}")
    group.add_argument("--stride", type=whole(1), metavar="FRAMES",
        help=f"video frames from one clip frame to the next {as_trained}")

    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]",
        help="where to compute; auto is the GPU if there is one")
    group.add_argument("--precision", choices=PRECISIONS, default="float32",
        help="number format of the network; auto is the fastest that the device has; tf32 (GPU) is "
        "float32 with convolutions that multiply 10 bits of mantissa")
    group.add_argument("--bs", type=whole(1), default=8, metavar="CLIPS", help="batch size")
    group.add_argument("--num_workers", type=processes, default=2, metavar="N",
        help="decoding processes; 0 decodes in this one")
    group.add_argument("--seed", type=seed, default=0, metavar="N",
        help="decides random weights, splits and the order of training")
    # fmt: on
    return parser


def _split() -> Parser:
    """The flags that tell training from test videos."""
    # fmt: off
    parser = Parser(add_help=False)
    group = parser.add_argument_group("training and test videos")
    group.add_argument("--split", type=Path, metavar="DIR", help="UCF101 or HMDB51 split files")
    group.add_argument("--fold", type=whole(1), default=1, metavar="N",
        help="which of their splits")
    group.add_argument("--test_videos", metavar="DIR|ADDRESS",
        help="test videos in a folder of their own; all of --videos train")
    group.add_argument("--test_fraction", type=share, default=0.3, metavar="SHARE",
        help="held out of each class where neither --split nor --test_videos is given")
    # fmt: on
    return parser
