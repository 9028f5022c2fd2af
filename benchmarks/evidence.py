"""Does pre-training help? python -m benchmarks.evidence trains and judges on sample videos.

A class of the sample videos is a motion and nothing else, and the videos that judge share no kind
of texture and no hue with those trained on: appearance alone cannot tell the classes apart. Each
variant of pre-training, and the same network untrained, is judged on held-out videos by retrieval
and by a linear probe. Labels come from the published flow, TV-L1 stored in reels, or from
tvl1-fast, computed from the videos while training. Every command is printed as it could be typed;
what is done already is not done again. The table is written to OUT/evidence.md and
OUT/evidence.png, and a row is appended to benchmarks/results/evidence.jsonl.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks import timing
from dali_pipes.prepare.samples import MOTIONS, SPLITS, write_samples
from dali_pipes.sources.reels import Reels, are_reels
from model.flags import Help, Parser, positive, whole
from model.training import checkpoint

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]

# Small pictures, so that a CPU sees enough clips in the time; every third frame, so that motion is
# large enough for them; learning rates high, since the loss is a mean over labels, and constant in
# a run this short (docs/log.md).
HEIGHT = 120  # px, of the videos
CLIP = ["--size", "32", "--resize", "36x48", "--stride", "3"]
TRAINING = ["--bs", "32", "--wd", "5e-4", "--clips_per_video", "8", "--step_s", "1000"]
REGRESSION = ["--head", "regression", "--lr", "0.02"]
CLASSIFICATION = ["--head", "classification", "--lr", "0.1"]
TASKS = {  # the figure of each that is shown
    "retrieval": "top-1",
    "linear-probe": "video accuracy",
}


@dataclass(frozen=True)
class PreTraining:
    flow: str  # tvl1, stored in reels | tvl1-fast, from videos
    flags: list[str]


VARIANTS: dict[str, PreTraining | None] = {
    "untrained": None,
    "regression": PreTraining("tvl1", REGRESSION),
    "regression, tvl1-fast": PreTraining("tvl1-fast", REGRESSION),
    "classification": PreTraining("tvl1", CLASSIFICATION),
    "classification, tvl1-fast": PreTraining("tvl1-fast", CLASSIFICATION),
    "classification, curriculum": PreTraining("tvl1", [*CLASSIFICATION, "--curriculum", "0.5"]),
}


@dataclass(frozen=True)
class Command:
    """What to run, and whether that has been done."""

    words: list[str]
    done: Callable[[], bool]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        claim(args)
    except ValueError as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 2
    for split in SPLITS:
        videos = args.out / split
        if not videos.exists():
            print(f"rendering {videos}", flush=True)
            write_samples(videos, args.videos_per_class, split, seed=0, height=HEIGHT)
    todo = [command for command in commands(args) if not command.done()]
    began = time.monotonic()
    for number, command in enumerate(todo):
        left = (time.monotonic() - began) / 60 * (len(todo) - number) / number if number else None
        about = f", about {left:.0f} min left" if left is not None else ""
        print(f"\n[{number + 1} of {len(todo)}{about}] {shlex.join(command.words)}", flush=True)
        status = subprocess.run([sys.executable, *command.words[1:]], cwd=ROOT).returncode
        if status or not command.done():
            print(
                f"evidence: that command ended with status {status} and is not done; mend its "
                "cause and start again: what is done is kept",
                file=sys.stderr,
            )
            return 1
    rows = collect(args)
    text = table(rows, args.seeds)
    (args.out / "evidence.md").write_text(text + "\n")
    picture(rows).savefig(args.out / "evidence.png", dpi=110)
    print("", text, sep="\n")
    print(args.out / "evidence.md", args.out / "evidence.png", sep="\n")
    print(f"row appended to {timing.record('evidence', rows, args.results)}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m benchmarks.evidence",
        description="Does pre-training help? Trains and judges networks on sample videos.",
        formatter_class=Help,
    )
    # fmt: off
    parser.add_argument("--out", type=Path, default=Path("build/evidence"), metavar="DIR",
        help="videos, checkpoints, features and results; an interrupted run goes on here")
    parser.add_argument("--seeds", type=whole(1), default=3, metavar="N",
        help="times that everything is done, with other weights, clips and splits")
    parser.add_argument("--steps", type=whole(1), default=400, metavar="N",
        help="optimiser steps of each pre-training")
    parser.add_argument("--model", default="c3d", help="backbone")
    parser.add_argument("--width", type=positive, default=0.25, metavar="FACTOR",
        help="factor on the network's channels")
    parser.add_argument("--videos_per_class", type=whole(2), default=20, metavar="N",
        help="sample videos of each motion, of either split")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, metavar="DIR",
        help="folder of evidence.jsonl")
    # fmt: on
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    return args


def commands(args: argparse.Namespace) -> Iterator[Command]:
    """Everything to run, in order: reels with the published flow first, then every variant."""
    videos, reels = str(args.out / "train"), str(args.out / "reels")
    yield Command(
        [
            *("python", "-m", "dali_pipes.prepare", "reels", videos, "--out", reels),
            *("--resize", CLIP[CLIP.index("--resize") + 1]),
        ],
        partial(has_videos, Path(reels), args.videos_per_class),
    )
    data = {"tvl1": ["--reels", reels], "tvl1-fast": ["--videos", videos, "--flow", "tvl1-fast"]}
    network = ["--model", args.model, "--width", f"{args.width:g}"]
    for seed in range(args.seeds):
        for variant, training in VARIANTS.items():
            place = folder(args.out, variant, seed)
            network_from = "random"
            if training is not None:
                models = place / "models"
                network_from = str(models)
                yield Command(
                    [
                        *("python", "train.py", *data[training.flow]),
                        *(*network, *CLIP, *TRAINING, *training.flags),
                        *("--steps", str(args.steps), "--seed", str(seed)),
                        *("--model_save_dir", network_from, "--log_dir", str(place / "log")),
                        "--resume",
                    ],
                    partial(is_trained, models, args.steps),
                )
            for task in TASKS:
                yield Command(
                    [
                        *("python", "-m", "model.evaluate", task, "--checkpoint", network_from),
                        *("--videos", str(args.out / "test"), "--test_fraction", "0.5"),
                        *(*network, *CLIP, "--clips_per_video", "4", "--seed", str(seed)),
                        *("--cache", str(place / "features"), "--out", str(place / task)),
                    ],
                    (place / task / "result.json").exists,
                )


def has_videos(reels: Path, videos_per_class: int) -> bool:
    return are_reels(reels) and len(Reels.found(reels)) == videos_per_class * len(MOTIONS)


def is_trained(models: Path, steps: int) -> bool:
    found = checkpoint.newest(models)
    return found is not None and found[1]["step"] >= steps


def claim(args: argparse.Namespace) -> None:
    """Keep results of different settings apart. Raises ValueError where OUT has others."""
    names = ("model", "width", "steps", "videos_per_class")
    settings = {name: getattr(args, name) for name in names} | {"flags": [CLIP, TRAINING, VARIANTS]}
    kept = args.out / "settings.json"
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=1, default=vars)
    if kept.exists() and kept.read_text() != text:
        raise ValueError(
            f"{kept} is of other settings: choose another --out, or delete that folder"
        )
    kept.write_text(text)


def folder(out: Path, variant: str, seed: int) -> Path:
    return out / f"{variant.replace(', ', '-')}-{seed}"


def collect(args: argparse.Namespace) -> list[Row]:
    """A row for each variant and seed, with the shown figure of each task, in percent."""
    rows = []
    for variant in VARIANTS:
        for seed in range(args.seeds):
            row: Row = {"variant": variant, "seed": seed}
            for task, figure in TASKS.items():
                result = folder(args.out, variant, seed) / task / "result.json"
                row[task] = round(100 * json.loads(result.read_text())["result"][figure], 1)
            rows.append(row)
    return rows


def table(rows: Sequence[Row], seeds: int) -> str:
    """Markdown: mean and standard deviation over seeds, and the ratio to the untrained network."""
    heads = [f"{task}, {figure}" for task, figure in TASKS.items()]
    lines = ["| pre-training | " + " | ".join(f"{head}, % | × untrained" for head in heads) + " |"]
    lines.append("|---" * (1 + 2 * len(TASKS)) + "|")
    for variant in VARIANTS:
        cells = []
        for task in TASKS:
            values = figures_of(rows, variant, task)
            base = mean(figures_of(rows, "untrained", task))
            ratio = f"{mean(values) / base:.2f}" if base else "–"
            cells += [f"{mean(values):.1f}{spread(values)}", ratio]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    chance = 100 / len(MOTIONS)
    lines.append(f"\nMean ± standard deviation of {seeds} seeds; chance is {chance:.1f} %.")
    return "\n".join(lines)


def figures_of(rows: Sequence[Row], variant: str, task: str) -> list[float]:
    return [row[task] for row in rows if row["variant"] == variant]


def spread(values: Sequence[float]) -> str:
    return f" ± {stdev(values):.1f}" if len(values) > 1 else ""


def picture(rows: Sequence[Row]) -> Figure:
    """A bar for each variant and task, a dot for each seed."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for place, (axes, task) in enumerate(zip(figure.subplots(1, len(TASKS)), TASKS, strict=True)):
        for variant in VARIANTS:
            values = figures_of(rows, variant, task)
            colour = "#a0aec0" if VARIANTS[variant] is None else "#2b6cb0"
            axes.barh(variant, mean(values), color=colour)
            axes.scatter(values, [variant] * len(values), color="black", s=14, zorder=3)
        axes.axvline(100 / len(MOTIONS), color="#c53030", linestyle=":", label="chance")
        axes.set(xlabel=f"{task}, {TASKS[task]}, %")
        axes.invert_yaxis()
        axes.tick_params(labelleft=place == 0)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
