"""What limits this machine: every stage alone, the whole loader, training, and rivals, in one run.

    python -m benchmarks                                    on the sample videos
    python -m benchmarks --videos DIR --published CLONE     yours, beside the authors' code

Prints a report, writes it as text, JSON and a page with plots below --out, and appends a row with
machine, versions, commit and command to benchmarks/results/report.jsonl. Inputs are verified
first; a figure whose input is wrong is not taken.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import inputs, page, timing
from benchmarks.bottleneck import Cost, limits
from benchmarks.training import Measured, training
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.loader import NothingUsable
from dali_pipes.prepare.work import BadInput
from dali_pipes.sources import Reels
from kernels.labels.cpu import cores
from model import BACKBONES
from model.flags import Help, Parser, positive, whole
from train import Stop

Row = dict[str, Any]
PARTS = ("stages", "loader", "training", "peers", "growth")
STAGE_CLIPS = 8  # that every stage is measured on
STARTED = time.perf_counter()


@dataclass
class Report:
    """What was measured, and what follows from it."""

    rows: list[Row] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    trained: Measured | None = None

    def text(self) -> str:
        """A table for each section, in the order measured."""
        tables = []
        for section in dict.fromkeys(row["section"] for row in self.rows):
            rows = [row for row in self.rows if row["section"] == section]
            bare = [{k: v for k, v in row.items() if k != "section"} for row in rows]
            tables.append(f"{section}\n{timing.table(bare)}")
        return "\n\n".join(tables)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        if args.tune:
            return tuned(args)
        report = measure(args)
    except (ValueError, OSError, BadVideo, BadInput, NothingUsable, Stop) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print("", report.text(), "", *report.findings, "", sep="\n")
    row = timing.record("report", report.rows, args.results, "benchmarks")
    print(*write(report, args.out), row, sep="\n")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = Parser(
        "python -m benchmarks",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=Help,
    )
    # fmt: off
    parser.add_argument("--videos", type=Path, metavar="DIR",
        help="videos to measure on (default: the sample videos, rendered if need be)")
    parser.add_argument("--published", type=Path, metavar="CLONE",
        help="a clone of the authors' code (laura-wang/video_repres_sts), driven unchanged")
    parser.add_argument("--tune", action="store_true",
        help="no report: find the batch, workers and prefetch depth that train fastest here")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
        help=f"parts of the report: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--model", choices=tuple(BACKBONES), default="c3d", help="backbone")
    parser.add_argument("--width", type=positive, default=1.0 if gpu else 0.25, metavar="FACTOR",
        help="factor on the network's channels; without a GPU 0.25")
    parser.add_argument("--bs", type=whole(1), default=30 if gpu else 4, metavar="CLIPS",
        help="batch of the training step; the loader alone is measured at 16")
    parser.add_argument("--seconds", type=positive, default=1.0, metavar="S",
        help="to spend on each measurement, about")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="DIR",
        help="where the report and what it is measured on go")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, metavar="DIR",
        help="folder of report.jsonl")
    # fmt: on
    return parser.parse_args(argv)


def tuned(args: argparse.Namespace) -> int:
    """Print the flags of train.py that suit this machine, and from which figures they follow."""
    from benchmarks.tune import tune

    videos = inputs.few_videos(args.videos or inputs.sample_videos(), args.out)
    network = ["--model", args.model, "--width", str(args.width)]
    rows, flags = tune(videos, network, args.seconds)
    print("", timing.table(rows), "", f"train.py {flags}", "", sep="\n")
    print(timing.record("tune", rows, args.results, "benchmarks"))
    return 0


def measure(args: argparse.Namespace) -> Report:
    """Raises ValueError, OSError, BadVideo or BadInput where the videos do not allow it."""
    from benchmarks import gpu_stages, reel_stages, stages  # DALI takes a while to import

    report = Report()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = args.videos or inputs.sample_videos()
    videos = inputs.few_videos(given, args.out)
    if args.published or set(args.only) - {"growth"}:
        reels = inputs.as_reels(videos, args.out)
    if args.published or {"stages", "loader", "peers"} & set(args.only):
        prepared = inputs.in_published_layout(videos, args.out)
    if {"stages", "loader"} & set(args.only):
        clips = inputs.some_clips(videos, STAGE_CLIPS)
        paths = inputs.some_image_paths(prepared, STAGE_CLIPS)
        of_reels = Reels.found(reels), inputs.some_clips(reels, reel_stages.CLIPS)
    network = ["--model", args.model, "--width", str(args.width), "--bs", str(args.bs)]

    if {"stages", "training"} & set(args.only):
        say("training step")
        flags = ["--videos", str(videos), *network, "--num_workers", str(cores())]
        report.trained = training(flags, args.seconds, reels)
        report.rows += report.trained.ceilings.rows() + report.trained.rows
    if "training" in args.only:
        from benchmarks.networks import networks

        say("network")
        report.rows += networks(flags, args.seconds)
    if "stages" in args.only:
        assert report.trained is not None
        say("stages")
        ceilings = report.trained.ceilings
        report.rows += stages.on_cpu(clips, paths, ceilings, args.seconds)
        report.rows += reel_stages.on_cpu(*of_reels, ceilings, args.seconds)
        if device.type == "cuda":
            images = stages.read_images(paths)
            stored = reel_stages.for_gpu(*of_reels)
            report.rows += gpu_stages.on_gpu(clips, images, stored, ceilings, args.seconds)
        report.findings += limits(costs(report.rows, device), units(device))
    if "loader" in args.only:
        from benchmarks.loaders import whole as whole_loader

        say("whole loader")
        kinds = {
            "videos": {"videos": videos},
            "JPEG folders": inputs.layout_arguments(prepared),
            "reels": {"reels": reels},
        }
        alone = {}
        if device.type == "cpu":
            alone = {
                "videos": stages.from_videos(clips),
                "JPEG folders": stages.from_images(paths, clips),
                "reels": reel_stages.from_reels(*of_reels),
            }
        report.rows += whole_loader(kinds, alone, device, args.seconds)
    if "peers" in args.only:
        from benchmarks.peers import peers

        say("other loaders")
        report.rows += peers(videos, reels, args.seconds, workers=cores())
    if args.published:
        from benchmarks.published import published

        say("published code")
        report.rows += published(args.published, prepared, videos, reels, args.seconds, cores())
    if "growth" in args.only:
        from benchmarks.growth import bends, growth

        say("growth")
        report.rows += growth(videos, device, network, args.seconds)
        report.findings += bends(report.rows)
    return report


def costs(rows: Sequence[Row], device: torch.device) -> list[Cost]:
    """What a clip of a training run from videos costs, stage by stage."""
    from benchmarks import gpu_stages, stages

    stage = {row["stage"]: row for row in rows if row["section"] == "stage"}
    if device.type == "cuda":
        return [
            Cost(name, resource, stage[name]["us_per_clip"])
            for name, resource in gpu_stages.PATH.items()
            if name in stage
        ]
    path = [*stages.PATH, "training step"]
    return [Cost(name, "CPU cores", stage[name]["cpu_us_per_clip"]) for name in path]


def units(device: torch.device) -> dict[str, int]:
    found = {"CPU cores": cores()}
    return found | {"GPU": 1, "video decoder": 1} if device.type == "cuda" else found


def write(report: Report, out: Path) -> list[Path]:
    """The report as text, JSON and a page; their paths."""
    steps = report.trained.steps if report.trained else []
    machine = timing.machine()
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    tables = report.text()
    content = {
        "machine": machine,
        "versions": timing.versions(),
        "commit": timing.commit(),
        "results": report.rows,
        "findings": report.findings,
    }
    files = {
        "report.txt": "\n".join([facts, "", tables, "", *report.findings, ""]),
        "report.json": json.dumps(content, indent=1) + "\n",
        "report.html": page.page(
            "What limits this machine",
            facts,
            report.findings,
            tables,
            page.figures(report.rows, steps),
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in files]


def say(what: str) -> None:
    print(f"{what} ... ({time.perf_counter() - STARTED:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
