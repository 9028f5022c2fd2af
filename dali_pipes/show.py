"""Draw a clip of a video with its labels.

python -m dali_pipes.show VIDEO [--start FRAME] [--out PICTURE]
python -m dali_pipes.show REELS/class/video
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dali_pipes.clips import ClipSpec, start_frame
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import picture_count, read_frames
from dali_pipes.drawing.page import Image
from dali_pipes.drawing.picture import clip_picture
from dali_pipes.flow import COMPUTED, add_flow_argument, fast_flow, flow_size, tvl1_flow
from dali_pipes.sources import Reels, open_video
from dali_pipes.storage import place
from dali_pipes.terminal import command, ended, printable_lines
from kernels.flow import code as flow_code
from kernels.labels.schema import RULES, Rule


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    return command(_parser(), argv, _draw, "interrupted; no picture written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dali_pipes.show",
        description="Draw a clip of a video with its 27 labels.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "video", type=place, metavar="VIDEO", help="a video file, or REELS/class/video"
    )
    parser.add_argument("--start", type=int, help="first frame, from 0; None: the video's middle")
    parser.add_argument("--out", type=Path, default=Path("clip.png"), help="PNG to write")
    parser.add_argument("--rule", choices=RULES, default="corrected", help="how labels are defined")
    add_flow_argument(
        parser, COMPUTED,
        "of a video file: tvl1, as published, some seconds a clip, or tvl1-fast, what training on "
        "a CPU computes; reels have theirs",
    )  # fmt: skip
    return parser


def _draw(args: argparse.Namespace) -> int:
    try:
        if not cv2.haveImageWriter(f"picture{args.out.suffix}"):
            raise ValueError(f"--out {args.out}: must end in .png, .jpg or the like")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        picture = _picture_of(args.video, args.start, args.rule, args.flow)
        args.out.write_bytes(cv2.imencode(args.out.suffix, picture[..., ::-1])[1].tobytes())
    except (BadVideo, ValueError, OSError) as error:
        return ended(2, error)
    print(printable_lines(args.out))
    return 0


def _picture_of(video: Path | str, start: int | None, rule: Rule, flow: str) -> Image:
    """Read, label and draw one clip: the centre crop of the spec that training uses by default."""
    from kernels.labels import clip_labels

    source = open_video(video)
    spec = ClipSpec(rule=rule)
    if isinstance(source, Reels):
        spec = ClipSpec(rule=rule, resize=source.manifest.resize)
    in_reels = isinstance(source, Reels)
    frames_in_video = source.probe(0).frames if in_reels else picture_count(video)
    if start is None:
        start = start_frame(0.5, frames_in_video, spec.needs)
    if not 0 <= start <= frames_in_video - spec.needs:
        reason = f"has {frames_in_video} frames, no clip of {spec.needs} begins at {start}"
        raise BadVideo(video, "decode", reason)
    numbers = range(start, start + spec.needs)
    frames, native = source.read_clip(0, numbers, spec.resize)
    if isinstance(source, Reels):
        coded = source.read_flow(0, numbers[: spec.flow_fields])
    elif flow == "tvl1":
        native_frames = read_frames(video, numbers, flow_size(native))
        fields = [flow_code.encode(field) for field in tvl1_flow(native_frames)]
        coded = np.stack([cv2.resize(field, spec.resize[::-1]) for field in fields])
    else:
        coded = np.moveaxis(fast_flow(frames, native), 1, -1)
    top, left = ((side - spec.size) // 2 for side in spec.resize)
    crop = np.s_[:, top : top + spec.size, left : left + spec.size]
    frames, coded = frames[: spec.clip_len][crop], coded[: spec.flow_fields].astype(np.uint8)[crop]
    labels = clip_labels(frames[None], coded[None], rule)[0]
    name, last = os.path.basename(video), start + spec.clip_len - 1
    title = f"{name}, frames {start} to {last} of {frames_in_video}"
    return clip_picture(frames, coded, labels, rule, title=title)


if __name__ == "__main__":
    sys.exit(main())
