"""The command line of train.py. Published flags keep their names and defaults."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kernels.labels.schema import RULES
from model import BACKBONES
from model.flags import (
    Help,
    Parser,
    amount,
    events_folder,
    not_negative,
    part,
    positive,
    processes,
    seed,
    share,
    size,
    whole,
)
from model.networks.heads import HEADS, N_FLAGS
from model.training.precision import PRECISIONS

AddFlow = Callable[[argparse._ArgumentGroup], None]

PUBLISHED_LIST = Path("list/ucf101_train.list")  # taken if it is there, as by the published code
IGNORED = {  # published flags without a use here: why
    "motion_dims": "the label schema gives the number of motion labels; choose with --motion_flag",
    "app_dims": "the label schema gives the number of appearance labels; choose with --app_flag",
    "plt": "paths are given on the command line",
    "dataset": "paths are given on the command line",
}


def parse(add_flow: AddFlow, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a run, checked against each other. `add_flow` adds the flag --flow.

    A bad flag or combination ends the program with exit code 2 and one line.
    """
    parser = _parser(add_flow)
    args = parser.parse_args(argv)
    for name, why in IGNORED.items():
        if getattr(args, name) is not None:
            print(f"--{name} is ignored: {why}")
        delattr(args, name)
    if args.videos is args.reels is args.rgb_prefix is args.data_list is None:
        parser.error(
            "nothing to train on: pass --videos DIR, --reels REELS, or --rgb_prefix RGB_DIR "
            "--flow_x_prefix FLOW_X_DIR --flow_y_prefix FLOW_Y_DIR"
        )
    if args.gpu is not None:
        if args.device not in ("auto", f"cuda:{args.gpu}"):
            parser.error(f"--gpu {args.gpu} and --device {args.device} contradict each other")
        args.device = f"cuda:{args.gpu}"
    del args.gpu
    if args.rgb_prefix is not None and args.data_list is None and PUBLISHED_LIST.is_file():
        args.data_list = PUBLISHED_LIST
    if not any(args.motion_flag + args.app_flag):
        parser.error("--motion_flag and --app_flag leave no label to learn")
    if args.shuffle_labels and args.bs < 2:
        parser.error("--shuffle_labels needs batches of two clips: pass --bs 2 or more")
    return args


def _parser(add_flow: AddFlow) -> argparse.ArgumentParser:
    parser = Parser(
        "train.py",
        description="Pre-train a video network on spatio-temporal statistics.",
        epilog="Several GPUs: torchrun --nproc-per-node=N train.py ...",
        formatter_class=Help,
        allow_abbrev=False,
    )

    # fmt: off
    group = parser.add_argument_group("data (--videos, --reels, or the three prefixes)")
    group.add_argument("--videos", metavar="DIR",
        help="folder of videos, searched with its subfolders; a video's class is its folder")
    group.add_argument("--reels", metavar="DIR|ADDRESS",
        help="what `python -m dali_pipes.prepare reels` made, frames and flow at training size: a "
        "folder, or an address (s3://bucket/prefix, gs://, https://)")
    group.add_argument("--rgb_prefix", type=Path, metavar="DIR",
        help="folder of frame folders: [class/]video/frame000001.jpg")
    group.add_argument("--flow_x_prefix", type=Path, metavar="DIR",
        help="horizontal flow: video/frame000001.jpg")
    group.add_argument("--flow_y_prefix", type=Path, metavar="DIR",
        help="vertical flow: video/frame000001.jpg")
    group.add_argument("--data_list", type=Path, metavar="FILE",
        help="lines 'class/video start_frame class_id', start frames from 1; with --rgb_prefix "
        f"{PUBLISHED_LIST} if it exists, else everything found")
    group.add_argument("--clip_len", type=whole(2), default=16, metavar="FRAMES",
        help="frames in a clip")
    group.add_argument("--stride", type=whole(1), default=1, metavar="FRAMES",
        help="video frames from one clip frame to the next")
    group.add_argument("--resize", type=size, default=(128, 171), metavar="HxW",
        help="size of frames before the crop, in pixels (default: 128x171)")
    group.add_argument("--size", type=whole(8), default=112, metavar="PIXELS",
        help="side of the square crop")
    group.add_argument("--clips_per_video", type=whole(1), default=1, metavar="N",
        help="clips of each video in an epoch")
    group.add_argument("--val_fraction", type=share, default=0.0, metavar="SHARE",
        help="share of the videos held out to measure accuracy on, 0 to below 1")
    group.add_argument("--num_workers", type=processes, default=2, metavar="N",
        help="decoding processes of each training process; 0 decodes in that itself")
    group.add_argument("--prefetch", type=whole(1), default=2, metavar="BATCHES",
        help="batches to prepare ahead: more take memory and bridge longer stalls")
    group.add_argument("--decode_threads", type=whole(1, 1024), default=8, metavar="N",
        help="threads of each training process that drive the GPU's decoders of video and JPEG")
    group.add_argument("--stall-seconds", type=positive, default=300.0, metavar="SECONDS",
        help="end the run after so long without a batch; 60 %% of it a clip may take to come from "
        "an address, faults included, before it is left out")
    group.add_argument("--on-bad-file", choices=("skip", "stop"), default="skip",
        help="leave a bad file out and report it, or end the run")

    group = parser.add_argument_group("reels at an address")
    group.add_argument("--fetch-ahead", type=whole(1, 100_000), default=128, metavar="CLIPS",
        help="clips that each training process fetches before their turn, as many at once as "
        "needed")
    group.add_argument("--cache", type=Path, metavar="DIR",
        help="folder of this machine that keeps what was fetched, for all its processes and later "
        "runs")
    group.add_argument("--cache-size", type=amount, default=200 * 10**9, metavar="BYTES",
        help="how much of it: 200G, 1.5T (default: 200G); what is needed last goes first")

    group = parser.add_argument_group("labels")
    group.add_argument("--labels", choices=RULES, default="corrected",
        help="rule of the 27 labels: as the papers describe, or as the published code computes")
    add_flow(group)
    group.add_argument("--motion_flag", type=_flags, default=(1,) * N_FLAGS, metavar="1,1,1,1",
        help="motion labels to learn: squares, rings, triangles, whole clip (default: 1,1,1,1)")
    group.add_argument("--app_flag", type=_flags, default=(1,) * N_FLAGS, metavar="1,1,1,1",
        help="appearance labels to learn, likewise (default: 1,1,1,1)")
    group.add_argument("--shuffle_labels", action="store_true",
        help="a control: give each clip of a batch the labels of another, which say nothing of it")

    group = parser.add_argument_group("network")
    group.add_argument("--model", choices=tuple(BACKBONES), default="c3d", help="backbone")
    group.add_argument("--width", type=positive, default=1.0, metavar="FACTOR",
        help="factor on the channels of all layers; 0.25 suits a CPU")
    group.add_argument("--head", choices=tuple(HEADS), default="regression",
        help="predict label values with squared error (published), classes with cross-entropy, or "
        "points that stand for what the values mean with squared error")

    group = parser.add_argument_group("optimisation")
    group.add_argument("--lr", type=positive, default=5e-4, metavar="RATE",
        help="learning rate; biases take twice this")
    group.add_argument("--bs", type=whole(1), default=4, metavar="CLIPS",
        help="batch size of each process (published: 30)")
    group.add_argument("--motion_w", type=not_negative, default=1.0, metavar="WEIGHT",
        help="weight of the motion loss")
    group.add_argument("--app_w", type=not_negative, default=0.1, metavar="WEIGHT",
        help="weight of the appearance loss")
    group.add_argument("--momentum", type=not_negative, default=0.9, help="momentum of SGD")
    group.add_argument("--wd", type=not_negative, default=5e-3, metavar="DECAY",
        help="weight decay")
    group.add_argument("--step_s", type=whole(1), default=6, metavar="EPOCHS",
        help="epochs from one fall of the learning rate to the next")
    group.add_argument("--gamma", type=part, default=0.1, metavar="FACTOR",
        help="what the learning rate is multiplied by at each fall")
    group.add_argument("--epoch_num", type=whole(1), default=18, metavar="EPOCHS",
        help="length of the training")
    group.add_argument("--steps", type=whole(1), metavar="N",
        help="end after N optimiser steps in all, counted from the first start; replaces "
        "--epoch_num")
    group.add_argument("--seed", type=seed, default=0, metavar="N",
        help="decides weights, order, crops and flips")

    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]",
        help="where to train; auto is the GPU if there is one")
    group.add_argument("--gpu", type=whole(0), metavar="N", help="the same as --device cuda:N")
    group.add_argument("--precision", choices=PRECISIONS, default="auto",
        help="number format of the network; auto is the fastest that the device has; tf32 (GPU) is "
        "float32 with convolutions that multiply 10 bits of mantissa")
    group.add_argument("--compile", action="store_true", help="compile the network (torch.compile)")
    group.add_argument("--sync_bn", action="store_true",
        help="with torchrun: batch norm over the clips of all processes")

    group = parser.add_argument_group("output")
    group.add_argument("--model_save_dir", type=Path, default=Path("pretrain_models"),
        metavar="DIR", help="checkpoints, a folder for each run")
    group.add_argument("--log_dir", type=events_folder, default=Path("visual_logs"), metavar="DIR",
        help="TensorBoard events and skipped.jsonl, a folder for each run")
    group.add_argument("--max_save_num", type=whole(1), default=3, metavar="N",
        help="checkpoints of a run to keep")
    group.add_argument("--save_minutes", type=not_negative, default=10.0, metavar="MINUTES",
        help="longest time between checkpoints, which every epoch's end writes anyway; 0 writes "
        "one at every step")
    group.add_argument("--resume", nargs="?", const=True, metavar="PATH",
        help="continue from a checkpoint: a file, a folder, or without a value the newest under "
        "--model_save_dir")

    group = parser.add_argument_group("accepted and ignored (published)")
    for name in IGNORED:
        group.add_argument(f"--{name}", metavar="X", help=IGNORED[name])
    # fmt: on
    return parser


def _flags(text: str) -> tuple[int, ...]:
    flags = text.split(",")
    if len(flags) != N_FLAGS or not set(flags) <= {"0", "1"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not {N_FLAGS} times 0 or 1, like 1,1,0,1")
    return tuple(map(int, flags))


# Flags that each process may have for itself. That the data are the same is the loader's to
# check: they may lie elsewhere.
_OWN = {
    *("videos", "reels", "data_list", "rgb_prefix", "flow_x_prefix", "flow_y_prefix"),
    *("on_bad_file", "stall_seconds", "fetch_ahead", "cache", "cache_size", "num_workers"),
    *("prefetch", "decode_threads", "device", "precision", "compile"),
    *("model_save_dir", "log_dir", "max_save_num", "save_minutes", "resume"),
}
# Flags that a resumed run may change; all others decide what is computed.
_FREE = _OWN | {"bs", "epoch_num", "steps", "sync_bn"}


def plain(args: argparse.Namespace) -> dict[str, Any]:
    """The options as plain values, for a checkpoint."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
    }


def common(args: argparse.Namespace) -> dict[str, str]:
    """The flags, in words, that must be the same on all processes of a run."""
    return {f"--{name}": _text(value) for name, value in plain(args).items() if name not in _OWN}


def check_same_run(args: argparse.Namespace, saved: dict[str, Any]) -> None:
    """Raise ValueError if a run with the options `saved` cannot be continued with `args`."""
    if saved.get("curriculum"):
        raise ValueError("the checkpoint was made with --curriculum, which is no more; start anew")
    for name, value in plain(args).items():
        if name not in _FREE and name in saved and saved[name] != value:
            raise ValueError(
                f"the checkpoint was made with --{name} {_text(saved[name])}, not {_text(value)}; "
                "pass the same, or start anew without --resume"
            )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
