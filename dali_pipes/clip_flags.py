"""The flags of commands that label the clips of a folder: which clips, which labels, what with."""

import argparse
import os
from typing import Any

from dali_pipes.clips import ClipSpec
from dali_pipes.flow import add_flow_argument
from dali_pipes.prepare.work import height_width
from kernels.labels.schema import RULES

SOURCE = (
    "videos at any depth, or what `dali_pipes.prepare` made: reels, also at an address "
    "(s3://bucket/prefix), or rgb/ and flow/"
)


def add_clip_arguments(parser: argparse.ArgumentParser, told: str | None = None) -> None:
    """`told`: what holds where a flag is not given; None: the default of `ClipSpec`."""

    def add(flag: str, name: str, words: str, **more: Any) -> None:
        if told is None:
            default = getattr(ClipSpec, name)
            more["default"] = "x".join(map(str, default)) if name == "resize" else default
        else:
            words = f"{words}; default: {told}"
        parser.add_argument(flag, help=words, **more)

    add("--labels", "rule", "the rule", choices=RULES)
    add_flow_argument(parser)
    add("--clip_len", "clip_len", "frames", type=int)
    add("--stride", "stride", "video frames a clip frame", type=int)
    add("--size", "size", "side of the centre crop in pixels", type=int)
    add("--resize", "resize", "before the crop", type=height_width, metavar="HxW")
    parser.add_argument(
        "--num_workers", type=int, default=len(os.sched_getaffinity(0)), help="decoding processes"
    )
    parser.add_argument("--device", help="cpu or cuda; default: a GPU if there is one")
