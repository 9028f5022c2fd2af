"""See what the labels of a data set say: `python -m dali_pipes.browse SOURCE --out PAGE.html`.

One file that opens in any browser, without a network: what the data are, every label as a
distribution, the clips behind every bar, doubtful clips, and a network's predictions beside the
labels. Exit status: 0 written; 2 nothing could be done with what was given; 1 it went wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dali_pipes.clip_flags import SOURCE, add_clip_arguments
from dali_pipes.clips import ClipSpec
from dali_pipes.decoding.opening import BadVideo, words
from dali_pipes.flow import FlowName
from dali_pipes.pipelines.running import LoaderStopped
from dali_pipes.prepare.store import check_out, write_text
from dali_pipes.sources import Reels, Source, open_prepared
from dali_pipes.sources.lists import NO_START
from dali_pipes.sources.survey import PROBE_AT_START
from dali_pipes.storage import place
from dali_pipes.terminal import command, ended, printable_lines

if TYPE_CHECKING:
    from dali_pipes.browsing.data_set import DataSet
    from model.evaluation.network import Pretrained

SUFFIXES = (".html", ".htm")  # no other file is replaced by a slip of the pen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return command(_parser(), argv, _write)


def _write(args: argparse.Namespace) -> int:
    try:
        check_out(args.out, SUFFIXES)
        found = look(args)
    except ValueError as error:
        return ended(2, error)
    except (LoaderStopped, OSError) as error:
        return ended(1, error)
    from dali_pipes.browsing.page import html

    page = html(found)
    try:
        write_text(args.out, page)
    except OSError as error:
        return ended(1, f"{args.out}: cannot be written: {words(error)}")
    print(printable_lines(f"{args.out}: {len(page) / 1e6:.1f} MB; open it in a browser"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dali_pipes.browse",
        description="Put a data set and its 27 labels on a page: one HTML file, for any browser.",
    )
    parser.add_argument("source", type=place, metavar="SOURCE", help=SOURCE)
    parser.add_argument(
        "--out", type=Path, default=Path("browse.html"), metavar="PAGE.html",
        help="default: browse.html",
    )  # fmt: skip
    parser.add_argument(
        "--data_list", type=Path, metavar="FILE", help="only these clips: class/video start class"
    )
    parser.add_argument(
        "--clips", type=int, default=400,
        help="about so many, spread over the files; some 15 kB each; default: 400",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=Path, metavar="CKPT",
        help="of train.py, a file or a folder of runs, or of the published code: show what the "
        "network predicts",
    )  # fmt: skip
    add_clip_arguments(parser, "as the checkpoint's, or else train.py's")
    return parser


def look(args: argparse.Namespace) -> "DataSet":
    """All that the page says. Raises ValueError, OSError or LoaderStopped."""
    from dali_pipes.browsing.clips import choose, collect
    from dali_pipes.browsing.data_set import DataSet
    from dali_pipes.browsing.files import look_at
    from dali_pipes.browsing.network import predictor
    from dali_pipes.loader import ClipLoader, Skip, too_short

    if args.clips < 1:
        raise ValueError(f"--clips must be at least 1, got {args.clips}")
    network = None
    if args.checkpoint is not None:
        from model.evaluation.network import load_with_heads

        network = load_with_heads(args.checkpoint)
    source = whole = open_prepared(args.source, args.data_list)
    if len(whole) > PROBE_AT_START:  # of a large set, a sample
        source = whole.subset([n * len(whole) // PROBE_AT_START for n in range(PROBE_AT_START)])
    settings = _settings(args, source, network)
    needs = ClipSpec(**settings).needs
    files, bad = look_at(source)
    for item, file in files.items():
        if short := too_short(source, item, file.frames, needs):
            bad[item] = short
    fit = {item: file for item, file in files.items() if item not in bad}
    items, of_each = choose(fit, needs, args.clips)
    if (source.starts[items] != NO_START).all():  # listed clips are one each
        of_each = 1
    loader = ClipLoader(
        source.subset(items or range(len(source))),  # none is fit: the loader says why
        **settings,
        flow=args.flow,
        flip=False,
        clips_per_video=of_each,
        sampling="even",
        device=args.device,
        num_workers=args.num_workers,
    )
    clips = collect(loader, predictor(network.net, loader.device) if network else None)
    left_out: list[BadVideo | Skip] = [bad[item] for item in sorted(bad)]
    left_out += loader.skipped
    for clip in clips:
        clip.video = items[clip.video]  # of the loader's, as of those looked at
    return DataSet(
        args.source,
        source,
        len(whole),
        files,
        left_out,
        loader.spec,
        cast("FlowName", loader.flow),
        clips,
        network.words if network else None,
    )


def _settings(
    args: argparse.Namespace, source: Source, network: "Pretrained | None"
) -> dict[str, Any]:
    """What the clips are: as asked for, or as the network was trained on, or as train.py's.

    Raises ValueError if the network does not predict labels of such clips.
    """
    settings: dict[str, Any] = {}
    if isinstance(source, Reels):
        settings["resize"] = source.manifest.resize
    if network is not None:
        settings |= network.clips | {"rule": network.rule}
        settings["resize"] = tuple(settings.get("resize", ClipSpec.resize))
    asked = {"rule": args.labels} | {
        name: getattr(args, name) for name in ("clip_len", "stride", "size", "resize")
    }
    settings |= {name: value for name, value in asked.items() if value is not None}
    frames = settings.get("clip_len", ClipSpec.clip_len)
    if network is not None and frames != network.net.heads.clip_len:
        learned = network.net.heads.clip_len
        raise ValueError(f"--clip_len {frames}: the network predicts labels of {learned} frames")
    return settings


if __name__ == "__main__":
    sys.exit(main())
