"""What clips cost by storage format: python -m benchmarks.formats --videos DIR

Random 16-frame clips of the same videos are read from the files as given, from H.264 at training
size, from JPEG folders, from reels and from raw arrays, always as frames at training size. First
every format must give the frames asked for, and exact ones those very pixels; else nothing is
timed. Times are of one core: warm, with all files in memory, and cold, with a clip's files dropped
from it before. A row is appended to benchmarks/results/formats.jsonl.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import inputs, peers, rivals, timing
from benchmarks.cold import Cold, Read, timed_cold
from benchmarks.small_files import SPEC, Images, resized_frames
from benchmarks.stored import REELS, Format, Stored, store
from dali_pipes.clips import clip_at, start_frame
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.prepare.work import BadInput
from model.flags import Help, Parser, positive, whole

Row = dict[str, Any]

ROUNDS, COLD_ROUNDS = 5, 3  # turns of each format


@dataclass(frozen=True)
class Clip:
    """Frames asked for, and what they are by counting from the video's first."""

    video: int
    numbers: range
    images: Images  # [T,128,171,3]
    sample: peers.Sample  # they and their neighbours


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    cv2.setNumThreads(1)
    try:
        videos = inputs.few_videos(args.videos or inputs.sample_videos(), args.out)
        stored = store(videos, args.out)
    except (BadInput, ValueError, OSError) as error:
        print(f"formats: {error}", file=sys.stderr)
        return 2
    print(f"checking {args.clips} clips in every format ...", flush=True)
    clips = counted(stored, draw(stored, args.clips))
    errors = {form.name: verified(form, clips, stored) for form in stored.formats}
    print("timing ...", flush=True)
    rows = measured(stored.formats, clips, args.seconds, sum(stored.frames))
    for row in rows:
        row |= errors[row["format"]]
    print(timing.table(rows))
    print(f"row appended to {timing.record('formats', rows, args.results)}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m benchmarks.formats",
        description="What clips cost by storage format.",
        formatter_class=Help,
    )
    # fmt: off
    parser.add_argument("--videos", type=Path, metavar="DIR",
        help="folder of videos (default: sample videos)")
    parser.add_argument("--clips", type=whole(1), default=32, metavar="N",
        help="clips to read, the same from every format")
    parser.add_argument("--seconds", type=positive, default=1.0, metavar="S",
        help="least length of a format's turn; it reads all clips at least once")
    parser.add_argument("--out", type=Path, default=Path("build/bench/formats"), metavar="DIR",
        help="the videos in every format, made once")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, metavar="DIR",
        help="folder of formats.jsonl")
    # fmt: on
    return parser.parse_args(argv)


# -- which clips ----------------------------------------------------------------------------------


def draw(stored: Stored, count: int) -> list[tuple[int, range]]:
    """(video, frame numbers) of the first clips of a training run."""
    clips = []
    for i in range(count):
        clip = clip_at(i, len(stored.paths), SPEC)
        start = start_frame(clip.position, stored.frames[clip.video], SPEC.needs)
        clips.append((clip.video, range(start, start + SPEC.clip_len)))
    return clips


def counted(stored: Stored, drawn: Sequence[tuple[int, range]]) -> list[Clip]:
    """The clips by counting frames of the videos as given, and `peers.AROUND` on both sides."""
    clips = []
    for video, numbers in drawn:
        last = min(stored.frames[video], numbers.stop + peers.AROUND)
        around = range(max(0, numbers.start - peers.AROUND), last)
        frames = islice(resized_frames(stored.paths[video]), around.start, around.stop)
        shown = dict(zip(around, frames, strict=True))
        sample = peers.Sample(
            stored.paths[video], numbers, SPEC.resize, {n: peers.grey(shown[n]) for n in around}
        )
        clips.append(Clip(video, numbers, np.stack([shown[n] for n in numbers]), sample))
    return clips


# -- verify ---------------------------------------------------------------------------------------


def verified(form: Format, clips: Sequence[Clip], stored: Stored) -> Row:
    """How far its frames are from those of the videos; exits if they are others.

    `error`: mean absolute difference, grey levels of 255; `psnr_db`: absent where there is none.
    """
    absolute, squared = [], []
    for clip in clips:
        name = stored.paths[clip.video]
        try:
            images = form.read(clip.video, clip.numbers)
        except (BadVideo, OSError) as bad:
            sys.exit(f"formats: {form.name}: {bad}; {_remedy(stored)}")
        if len(images) != len(clip.numbers):
            sys.exit(f"formats: {form.name}: {name}: {len(images)} frames; {_remedy(stored)}")
        for image, number in zip(images, clip.numbers, strict=True):
            if instead := peers.other_frame(image, number, clip.sample):
                sys.exit(
                    f"formats: {form.name}: {name} frame {number}: {instead}; {_remedy(stored)}"
                )
        difference = images.astype(np.float32) - clip.images
        if form.exact and difference.any():
            sys.exit(f"formats: {form.name}: {name}: pixels differ; {_remedy(stored)}")
        absolute.append(np.abs(difference).mean(dtype=float))
        squared.append(np.square(difference).mean(dtype=float))
    row: Row = {"error": round(float(np.mean(absolute)), 2)}
    if np.any(squared):
        row["psnr_db"] = round(float(10 * np.log10(255**2 / np.mean(squared))), 1)
    return row


def _remedy(stored: Stored) -> str:
    return f"nothing is timed; remove {stored.folder} and start again"


# -- measure --------------------------------------------------------------------------------------


def measured(
    formats: Sequence[Format], clips: Sequence[Clip], seconds: float, frames: int
) -> list[Row]:
    """A row a format. A turn is one pass over all clips or more, so that each has the same ones.

    `frames`: of all videos, which the bytes are spread over.
    """
    reads = {
        form.name: [
            Read(partial(form.read, clip.video, clip.numbers), form.files(clip.video, clip.numbers))
            for clip in clips
        ]
        for form in formats
    }
    with rivals.threads(1):
        passes = {name: _pass_over(of_format) for name, of_format in reads.items()}
        warm = timing.interleaved(passes, ROUNDS, seconds, drained=0, processor=True)
        cold = timed_cold(reads, COLD_ROUNDS)
    for name in [name for name in reads if name not in cold]:
        print(f"{name}: not measured cold: its files do not leave memory, or /proc tells no reads")
    rows = []
    for form in formats:
        row: Row = {"format": form.name, "bytes_per_frame": round(form.size / frames)}
        if form.flow_size:
            row["bytes_with_flow"] = round((form.size + form.flow_size) / frames)
        row |= warm[form.name].per(1)
        if form.name != REELS:
            row |= rivals.ratio(warm[form.name], warm[REELS])
        if form.name in cold:
            row |= _columns(cold[form.name])
        rows.append(row)
    return rows


def _pass_over(reads: Sequence[Read]) -> Callable[[], int]:
    def read_all() -> int:
        for read in reads:
            read.call()
        return len(reads)

    return read_all


def _columns(cold: Cold) -> Row:
    columns = cold.timing.per(1)
    return {
        "cold_clips_per_s": columns["clips_per_s"],
        "cold_iqr_percent": columns["iqr_percent"],
        "disk_kb_per_clip": timing.digits(cold.from_disk / 1000),
    }


if __name__ == "__main__":
    sys.exit(main())
