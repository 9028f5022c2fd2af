"""What storing as JPEG costs the labels: python -m benchmarks.fidelity --videos DIR

One clip of each video is prepared by the commands that users give, as reels of several qualities
and in the published layout, with TV-L1 on the CPU. The labels that ClipLoader gives for random
crops are compared with those of the same crops of frames and flow that were never an image: TV-L1
of native frames, coded in 8 bits, and the frames, both resized without antialiasing. A row is
appended to benchmarks/results/fidelity.jsonl; times do not matter.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import timing
from benchmarks.flow import Frames, fit, parse, read_clips
from benchmarks.inputs import layout_arguments, run_command
from dali_pipes import ClipBatch, ClipLoader
from dali_pipes.clips import Clip, ClipSpec
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.video import read_frames
from dali_pipes.flow import tvl1_flow
from dali_pipes.pipelines.fetch import cut_flow, cut_frames
from dali_pipes.prepare import flow, frames, reels
from dali_pipes.prepare.encode import write_video
from dali_pipes.prepare.images import QUALITY
from dali_pipes.sources import FrameFolders, Reels
from kernels.flow.code import encode
from kernels.labels import clip_labels
from kernels.labels.cpu import cores
from kernels.labels.schema import LABELS, RULES, Rule

Row = dict[str, Any]

QUALITIES = (90, 95, 98)
RESIZE = ClipSpec().resize
COLUMNS = {  # of a row, and the labels that each is about: family and kind
    "position": ("motion", "position"),
    "orientation": ("motion", "orientation"),
    "frame": ("motion", "frame"),
    "colour_position": ("appearance", "position"),
    "colour": ("appearance", "colour"),
}


@dataclass(frozen=True)
class Exact:
    """A clip as the loader would have it, had it never been an image."""

    frames: Frames  # uint8 [T+1,h,w,3]
    flow: NDArray[np.uint8]  # coded, planes [T,2,h,w]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(__doc__, argv)
    clips = read_clips(options.videos, options.clips)
    with ThreadPoolExecutor(cores()) as pool:
        exact = list(pool.map(never_an_image, clips))
    results = []
    with TemporaryDirectory() as folder:
        videos = write_clips(clips, Path(folder, "clips"))
        for about, arguments in stored_clips(videos, Path(folder)):
            for rule in RULES:
                row = {**about, "rule": rule}
                results.append(row | compared(arguments, rule, exact, options.crops))
    print(timing.table(results))
    print(f"row appended to {timing.record('fidelity', results, options.results)}")


def never_an_image(clip: Frames) -> Exact:
    """Native frames [T+1,H,W,3] -> small frames, and TV-L1 flow of the native ones."""
    coded = encode(tvl1_flow(fit(clip)))  # [T,H,W,2]
    small = np.stack([resized(field, RESIZE) for field in coded])
    return Exact(np.stack([resized(frame, RESIZE) for frame in clip]), np.moveaxis(small, -1, 1))


def write_clips(clips: Sequence[Frames], folder: Path) -> Path:
    """Each clip as a video without loss, its number for a name. Exits if it shows other frames."""
    folder.mkdir()
    for number, clip in enumerate(clips):
        file = folder / f"{number:03}.mkv"
        write_video(file, clip, "ffv1", pix_fmt="bgr0")
        if not np.array_equal(read_frames(file, range(len(clip))), clip):
            sys.exit(f"{file}: was not written without loss; nothing is compared")
    return folder


def stored_clips(videos: Path, folder: Path) -> Iterator[tuple[Row, Row]]:
    """What a row is about, and ClipLoader's arguments, for each way to store. Exits on failures."""
    for quality in QUALITIES:
        out = folder / f"reels-{quality}"
        _prepare(reels, videos, "--out", out, "--device", "cpu", "--quality", quality)
        yield {"stored": "reels", "quality": quality}, {"reels": out}
    layout = folder / "layout"
    _prepare(frames, videos, "--out", layout)
    _prepare(flow, layout, "--device", "cpu")
    yield {"stored": "JPEG folders", "quality": QUALITY}, layout_arguments(layout)


def _prepare(command: Any, *arguments: object) -> None:
    if run_command(command, list(map(str, arguments))):
        sys.exit(f"{command.__name__}: some clips were not prepared; nothing is compared")


def compared(arguments: Row, rule: Rule, exact: Sequence[Exact], crops: int) -> Row:
    """The columns of a row: agreement with the exact labels on `crops` of each clip, and sizes.

    `arguments`: of ClipLoader, where the clips are.
    """
    loader = ClipLoader(
        **arguments, rule=rule, batch_size=crops, clips_per_video=crops, device="cpu", num_workers=0
    )
    try:
        same = np.concatenate(
            [batch.labels.numpy() == exact_labels(loader, batch, exact) for batch in loader]
        )
    finally:
        loader.close()
    return agreement(same) | {"crops": len(same)} | kilobytes(loader)


def agreement(same: NDArray[np.bool_]) -> Row:
    """In %, how many labels of each kind are the `same` [N,27]."""
    kinds = [(label.family, label.kind) for label in LABELS]
    row: Row = {}
    for column, wanted in COLUMNS.items():
        chosen = same[:, [kind == wanted for kind in kinds]]
        row[column] = round(100 * float(chosen.mean()), 1)
    return row


def exact_labels(loader: ClipLoader, batch: ClipBatch, exact: Sequence[Exact]) -> NDArray[np.int64]:
    """The labels [N,27] of the batch's clips, cut from the exact ones of the same name."""
    spec = loader.spec
    columns = (batch.video, batch.start, batch.crop, batch.flip)
    pixels = []
    for video, start, (top, left), flip in zip(*(c.tolist() for c in columns), strict=True):
        whole = exact[int(Path(loader.paths[video]).stem)]
        clip = Clip(0, video, 0.0, (top, left), flip)
        shown = whole.frames[start : start + spec.clip_len]
        fields = whole.flow[start : start + spec.flow_fields]
        pixels.append((cut_frames(shown, clip, spec), cut_flow(fields, clip, spec)))
    frames, flow = map(np.stack, zip(*pixels, strict=True))
    return clip_labels(frames, flow, spec.rule)


def kilobytes(loader: ClipLoader) -> Row:
    """Of a frame and of a flow field, on average."""
    source = loader.source
    assert isinstance(source, FrameFolders | Reels)
    numbers = range(loader.spec.clip_len)
    frame_bytes, field_bytes = [], []
    for item in range(len(source)):
        rgb, *flow = source.read_encoded(item, numbers, numbers)
        frame_bytes += [image.nbytes for image in rgb]
        field_bytes += [sum(image.nbytes for image in parts) for parts in zip(*flow, strict=True)]
    return {
        "kb_a_frame": timing.digits(float(np.mean(frame_bytes)) / 1000),
        "kb_a_field": timing.digits(float(np.mean(field_bytes)) / 1000),
    }


if __name__ == "__main__":
    main()
