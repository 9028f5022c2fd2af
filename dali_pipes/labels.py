"""Write the 27 labels of the clips of a folder to a file: `python -m dali_pipes.labels DIR`.

The clips come through the same pipelines as for training: clips evenly spread over each video,
centre crop, not flipped. Exit status: 0 every video is in the file, 1 some are not (each is named),
2 nothing could be done with what was given.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.clip_flags import SOURCE, add_clip_arguments
from dali_pipes.pipelines.running import LoaderStopped
from dali_pipes.prepare.store import check_out, write_whole
from dali_pipes.sources import open_prepared
from dali_pipes.storage import place
from dali_pipes.terminal import command, ended, printable_lines
from kernels.labels.schema import NAMES

if TYPE_CHECKING:
    from dali_pipes.loader import ClipLoader

SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Table:
    """The labels of M clips, and how they were made."""

    video: list[str]  # [M], path relative to the folder given
    start: NDArray[np.int64]  # [M], first frame, 0-based
    labels: NDArray[np.int64]  # [M,27], in the order of kernels.labels.schema.NAMES
    made: dict[str, Any]  # rule, flow source, clip length, stride, resize, crop


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return command(_parser(), argv, _write)


def _write(args: argparse.Namespace) -> int:
    try:
        if args.out.suffix == ".parquet":
            _check_parquet()
        check_out(args.out, SUFFIXES)
        loader = _loader(args)
    except (ValueError, OSError) as error:
        return ended(2, error)
    try:
        table = export(loader, args.dir)
        write_whole(args.out, _npz(table) if args.out.suffix == ".npz" else _parquet(table))
    except ValueError as error:
        return ended(2, error)
    except (LoaderStopped, OSError) as error:
        return ended(1, error)
    left_out = len(loader.skipped)
    written = f"{args.out}: labels of {len(table.video)} clips of {len(set(table.video))} videos"
    print(printable_lines(written))
    if left_out:
        print(f"{left_out} left out:")
    for skip in loader.skipped:
        print(f"  {skip}")
    return 1 if left_out else 0


def _check_parquet() -> None:
    """Raise ValueError if such a file cannot be written."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; for .parquet: pip install pyarrow, or choose .npz") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dali_pipes.labels",
        description="Write the 27 labels of the clips of a folder to a file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("dir", type=place, metavar="DIR", help=SOURCE)
    parser.add_argument("--out", type=Path, required=True, help="labels.npz or labels.parquet")
    parser.add_argument(
        "--data_list", type=Path, metavar="FILE", help="only these clips: class/video start class"
    )
    parser.add_argument("--clips_per_video", type=int, default=1, help="from its start to its end")
    parser.add_argument("--bs", type=int, default=8, help="clips labelled at once")
    add_clip_arguments(parser)
    return parser


def _loader(args: argparse.Namespace) -> "ClipLoader":
    from dali_pipes.loader import ClipLoader

    return ClipLoader(
        open_prepared(args.dir, args.data_list),
        batch_size=args.bs,
        clip_len=args.clip_len,
        size=args.size,
        resize=args.resize,
        stride=args.stride,
        rule=args.labels,
        flow=args.flow,
        flip=False,
        clips_per_video=args.clips_per_video,
        sampling="even",
        device=args.device,
        num_workers=args.num_workers,
    )


def export(loader: "ClipLoader", root: Path | str) -> Table:
    """The labels of one epoch of a loader that samples evenly; each clip once."""
    from dali_pipes.once import each_once

    print(printable_lines(loader.describe()), file=sys.stderr)
    rows: dict[tuple[int, int], NDArray[np.int64]] = {}  # by video and start
    for batch in each_once(loader):
        clips = zip(batch.video.tolist(), batch.start.tolist(), strict=True)
        rows.update(zip(clips, batch.labels.cpu().numpy(), strict=True))
    places = sorted(rows)
    return Table(
        [os.path.relpath(loader.paths[video], root) for video, _ in places],
        np.array([start for _, start in places], np.int64),
        np.array([rows[place] for place in places], np.int64).reshape(-1, len(NAMES)),
        {
            "rule": loader.spec.rule,
            "flow": loader.flow,
            "clip_len": loader.spec.clip_len,
            "stride": loader.spec.stride,
            "resize": list(loader.spec.resize),
            "size": loader.spec.size,
        },
    )


def _npz(table: Table) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file,
        video=np.array(table.video),
        start=table.start,
        labels=table.labels,
        names=np.array(NAMES),
        made=np.array(json.dumps(table.made)),
    )
    return file.getvalue()


def _parquet(table: Table) -> bytes:
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, Any] = {
        # Has to be UTF-8.
        "video": [os.fsencode(name).decode("utf-8", "backslashreplace") for name in table.video],
        "start": table.start,
        **{name: table.labels[:, n] for n, name in enumerate(NAMES)},
    }
    rows = pyarrow.table(columns).replace_schema_metadata({"made": json.dumps(table.made)})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(rows, sink)
    return sink.getvalue().to_pybytes()


if __name__ == "__main__":
    sys.exit(main())
