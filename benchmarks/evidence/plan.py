"""What is trained, how it is judged, and by which commands.

A class of the sample videos is a motion and nothing else. The videos that judge differ from those
trained on in one thing each: `textures` shares no kind of texture and no hue with them, in `speeds`
shapes move 2.5 times as fast, at their fastest 6 to 15 pixels a frame of height 240 instead of 2.5
to 6.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dali_pipes.prepare.samples import MOTIONS
from dali_pipes.sources.reels import Reels, are_reels
from model.training import checkpoint

# Small pictures, so that a CPU sees enough clips in the time; every third frame, so that motion is
# large enough for them; learning rates high, since the loss is a mean over labels (docs/log.md).
BATCH = 32
CLIP = ["--size", "32", "--resize", "36x48", "--stride", "3"]
TRAINING = ["--bs", str(BATCH), "--wd", "5e-4", "--clips_per_video", "8"]
CONSTANT = ["--step_s", "1000"]  # the learning rate falls after so many epochs
NO_LABELS = "0,0,0,0"
FEW = ["1", "2", "5"]  # videos of a class that a probe learns from, besides all

VIDEOS = {  # by folder: how they are rendered
    "train": ["--split", "train", "--seed", "0"],
    "textures": ["--split", "test", "--seed", "0"],
    "speeds": ["--split", "train", "--seed", "1", "--speed", "2.5"],
}
JUDGES = ("textures", "speeds")
TASKS = {  # the flags of each, and its figures by their names here
    "retrieval": ([], {"retrieval": "top-1"}),
    "linear-probe": (
        ["--few", *FEW],
        {"probe": "video accuracy"} | {f"probe, {n}": f"video accuracy, {n} a class" for n in FEW},
    ),
}

UNTRAINED, SUPERVISED = "untrained", "supervised"
BEST = ["--head", "classification", "--lr", "0.1"]  # of the heads; what the controls are of
VARIANTS: dict[str, list[str]] = {  # of pre-training: flags of train.py
    "regression": ["--head", "regression", "--lr", "0.005"],
    "geometric": ["--head", "geometric", "--lr", "0.02"],
    "classification": BEST,
    "motion labels only": [*BEST, "--app_flag", NO_LABELS],
    "appearance labels only": [*BEST, "--motion_flag", NO_LABELS, "--app_w", "1"],
    "labels shuffled": [*BEST, "--shuffle_labels"],
}
LEARNING_THE_CLASSES = ["--lr", "0.05", "--wd", "5e-4", "--dropout", "0", "--no_flip"]
NETWORKS = (UNTRAINED, *VARIANTS, SUPERVISED)


@dataclass(frozen=True)
class Command:
    """What to run, and whether that has been done."""

    words: list[str]
    done: Callable[[], bool]


def settings(args: Namespace) -> dict[str, object]:
    """All that decides what comes out, as plain values."""
    names = ("model", "width", "steps", "videos_per_class")
    flags = [CLIP, TRAINING, CONSTANT, VIDEOS, JUDGES, TASKS, VARIANTS, LEARNING_THE_CLASSES]
    return {name: getattr(args, name) for name in names} | {"flags": flags}


def data(args: Namespace) -> list[Command]:
    """Videos, and reels of them; one command after the other."""
    commands = []
    for name, looks in VIDEOS.items():
        videos, reels = args.out / name, args.out / f"{name}-reels"
        count = str(args.videos_per_class)
        words = ["python", "-m", "dali_pipes.prepare", "samples", "--out", str(videos), *looks]
        words += ["--videos-per-class", count, "--height", "120"]
        commands.append(Command(words, videos.exists))
        words = ["python", "-m", "dali_pipes.prepare", "reels", str(videos), "--out", str(reels)]
        words += ["--resize", CLIP[CLIP.index("--resize") + 1]]
        # The flow of videos that judge is not looked at: the one that is computed soonest.
        words += ["--flow", "tvl1-fast" if name in JUDGES else "tvl1"]
        videos_of_all = args.videos_per_class * len(MOTIONS)
        commands.append(Command(words, partial(has_videos, reels, videos_of_all)))
    return commands


def chain(args: Namespace, network: str, seed: int) -> list[Command]:
    """To train a network and to judge it; one command after the other."""
    place = folder(args.out, network, seed)
    reels = str(args.out / "train-reels")
    shape = ["--model", args.model, "--width", f"{args.width:g}"]
    common = ["--seed", str(seed), "--num_workers", "0"]
    judged = "random"
    commands = []
    if network in VARIANTS:
        judged = str(place / "models")
        words = ["python", "train.py", "--reels", reels, *shape, *CLIP, *TRAINING, *CONSTANT]
        words += [*VARIANTS[network], "--steps", str(args.steps), *common, "--resume"]
        words += ["--model_save_dir", judged, "--log_dir", str(place / "log")]
        commands.append(Command(words, partial(is_trained, place / "models", args.steps)))
    elif network == SUPERVISED:
        judged = str(place / "finetune" / "finetuned")
        words = ["python", "-m", "model.evaluate", "finetune", "--checkpoint", "random", *shape]
        words += ["--videos", reels, "--test_videos", str(args.out / "textures-reels"), *CLIP]
        words += ["--bs", str(BATCH), *LEARNING_THE_CLASSES, *common]
        words += ["--epochs", str(epochs(args)), "--out", str(place / "finetune")]
        commands.append(Command(words, (place / "finetune" / "result.json").exists))
    for judge in JUDGES:
        for task, (flags, _) in TASKS.items():
            out = place / judge / task
            words = ["python", "-m", "model.evaluate", task, "--checkpoint", judged, *shape]
            words += ["--videos", str(args.out / f"{judge}-reels"), "--test_fraction", "0.5"]
            words += [*CLIP, "--clips_per_video", "4", *flags, *common]
            words += ["--cache", str(place / "features"), "--out", str(out)]
            commands.append(Command(words, (out / "result.json").exists))
    return commands


def epochs(args: Namespace) -> int:
    """Of a clip a video, for as many clips as pre-training sees."""
    return max(1, round(args.steps * BATCH / (args.videos_per_class * len(MOTIONS))))


def folder(out: Path, network: str, seed: int) -> Path:
    return out / f"{network.replace(', ', '-').replace(' ', '-')}-{seed}"


def has_videos(reels: Path, videos: int) -> bool:
    return are_reels(reels) and len(Reels.found(reels)) == videos


def is_trained(models: Path, steps: int) -> bool:
    found = checkpoint.newest(models)
    return found is not None and found[1]["step"] >= steps
