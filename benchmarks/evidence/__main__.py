"""Does pre-training help? python -m benchmarks.evidence trains and judges on sample videos.

Each variant of pre-training, the same network untrained, and the same network that learned the
classes themselves, are judged on videos unlike those trained on, by retrieval and by linear probes.
Every command is printed as it could be typed; what is done already is not done again. Tables and a
picture are written to OUT/evidence.md and OUT/evidence.png, and a row is appended to
benchmarks/results/evidence.jsonl.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from benchmarks import timing
from benchmarks.evidence import plan
from benchmarks.evidence.tables import collect, picture, report
from benchmarks.evidence.work import Failed, Hands
from dali_pipes.terminal import ended
from model.flags import Help, Parser, positive, whole


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        claim(args)
        data = plan.data(args)
        Hands(data).chain(data)
        runs = [(network, seed) for seed in range(args.seeds) for network in plan.NETWORKS]
        chains = [plan.chain(args, *run) for run in runs]
        logs = [plan.folder(args.out, *run) / "log.txt" for run in runs]
        Hands(list(chain.from_iterable(chains))).chains(chains, logs, args.jobs)
    except ValueError as error:
        return ended(2, f"evidence: {error}")
    except (Failed, OSError) as error:
        return ended(1, f"evidence: {error}")
    except KeyboardInterrupt:
        return ended(130, "evidence: interrupted; the same command goes on where it was")
    rows = collect(args)
    text = report(rows, args.seeds)
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
    parser.add_argument("--steps", type=whole(1), default=480, metavar="N",
        help="optimiser steps of each pre-training")
    parser.add_argument("--model", default="c3d", help="backbone")
    parser.add_argument("--width", type=positive, default=0.125, metavar="FACTOR",
        help="factor on the network's channels")
    parser.add_argument("--videos_per_class", type=whole(2), default=20, metavar="N",
        help="sample videos of each motion, to train on and to judge by")
    parser.add_argument("--jobs", type=whole(1), default=len(os.sched_getaffinity(0)), metavar="N",
        help="networks at work at once; default: one a core")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, metavar="DIR",
        help="folder of evidence.jsonl")
    # fmt: on
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    return args


def claim(args: argparse.Namespace) -> None:
    """Keep results of different settings apart. Raises ValueError where OUT has others."""
    kept = args.out / "settings.json"
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plan.settings(args), indent=1)
    if kept.exists() and kept.read_text() != text:
        raise ValueError(
            f"{kept} is of other settings: choose another --out, or delete that folder"
        )
    kept.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
