"""Codecs that decode: two seconds of each, every frame compared."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.doctor.finding import Finding, bad, first_line, ok, warning
from dali_pipes.decoding.encoded import GPU_CODECS, encoded_clip
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.pictures import Unsure
from dali_pipes.decoding.video import read_frames
from dali_pipes.pipelines import nvdec
from dali_pipes.pipelines.cpu import Device
from dali_pipes.prepare.encode import write_video
from dali_pipes.sources.synthetic import Synthetic

Frames = NDArray[np.uint8]  # [T,H,W,3]

FPS = 25
COUNT = 2 * FPS
MIDDLE = range(20, 36)  # a clip that begins between keyframes
NEAR = 12.0  # levels, on average: what coding and converting colours may cost
_MBIT = {"b": "3000000"}
_VPX = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "lag-in-frames": "0"} | _MBIT


@dataclass(frozen=True)
class Encoding:
    """How a codec is written to be tried: encoder and flags, container, pixel format."""

    encoder: str
    container: str
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"


ENCODINGS = {
    "h264": Encoding("libx264", "mp4", {"preset": "veryfast"}),
    "hevc": Encoding("libx265", "mp4", {"preset": "veryfast", "x265-params": "log-level=none"}),
    "mpeg4": Encoding("mpeg4", "avi", _MBIT),
    "vp8": Encoding("libvpx", "webm", _VPX),
    "vp9": Encoding("libvpx-vp9", "webm", _VPX),
    "av1": Encoding("libsvtav1", "mp4", {"preset": "12"}),
    "mjpeg": Encoding("mjpeg", "avi", pix_fmt="yuvj420p"),
    "mpeg2video": Encoding("mpeg2video", "mpg", {"bf": "2"} | _MBIT),
    "mpeg1video": Encoding("mpeg1video", "mpg", {"bf": "2"} | _MBIT),
    "wmv2": Encoding("wmv2", "wmv", _MBIT),
    "flv1": Encoding("flv", "flv", _MBIT),
    "prores": Encoding("prores_ks", "mov", pix_fmt="yuv422p10le"),
    "ffv1": Encoding("ffv1", "mkv"),
}
SAMPLES = ("h264", "mpeg4")  # what the sample videos are


def moving() -> Frames:
    """A texture that moves by 3 pixels a frame: each frame is far from all others."""
    return Synthetic.make(1, COUNT).read_clip(0, range(COUNT), None)[0]


def difference(found: Frames, true: Frames) -> str:
    """Why `found` are not the frames `true`, each in its place; "" if they are."""
    if found.shape != true.shape:
        return f"gives {found.shape} for {true.shape}"
    some, wanted = (frames[:, 4::8, 4::8].astype(np.float32) for frames in (found, true))
    off = np.abs(some[:, None] - wanted[None]).mean(axis=(2, 3, 4))  # [found,true]
    nearest = off.argmin(axis=1)
    for number, like in enumerate(nearest.tolist()):
        if like != number:
            return f"frame {number} is frame {like}"
        if not off[number, number] < NEAR:
            return f"frame {number} is {off[number, number]:.0f} levels off"
    return ""


def on_cpu(encodings: dict[str, Encoding] = ENCODINGS) -> Finding:
    """By the project's own reader, against what was encoded; a clip inside against the whole."""
    frames = moving()
    good, wrong, untried = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for codec, encoding in encodings.items():
            path = Path(folder) / f"{codec}.{encoding.container}"
            try:
                encode(path, frames, encoding)
            except (OSError, ValueError) as error:  # FFmpeg's errors are of these
                untried.append(f"{codec} ({encoding.encoder}: {first_line(error)})")
                continue
            try:
                whole = read_frames(path, range(COUNT))
                why = difference(whole, frames)
                if not why and not np.array_equal(
                    read_frames(path, MIDDLE), whole[MIDDLE.start : MIDDLE.stop]
                ):
                    why = f"frames {MIDDLE.start} to {MIDDLE.stop - 1} are others than by counting"
            except BadVideo as error:
                why = error.reason
            if why:
                wrong.append(f"{codec}: {why}")
            else:
                good.append(codec)
    said = _said(good, wrong, untried)
    remedy = "make venv: the pinned PyAV (av) brings FFmpeg with all of them"
    if wrong:
        return bad(said, remedy)
    return warning(said, remedy) if untried else ok(said)


def on_gpu(device_id: int | None = 0, device: Device = "mixed") -> Finding:
    """By NVDEC, against the CPU's frames of the same file; `device` "cpu": by DALI there."""
    frames = moving()
    good, wrong, untried = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for codec in GPU_CODECS:
            path = Path(folder) / f"{codec}.{ENCODINGS[codec].container}"
            try:
                encode(path, frames, ENCODINGS[codec])
            except (OSError, ValueError) as error:
                untried.append(f"{codec} ({ENCODINGS[codec].encoder}: {first_line(error)})")
                continue
            try:
                clip = encoded_clip(path, range(COUNT), (codec,))
                run = nvdec.decoder([clip], COUNT, device_id, device).run()
                found = np.asarray(run[0].as_cpu().at(0))
                why = difference(found, read_frames(path, range(COUNT)))
            except (Unsure, BadVideo, RuntimeError) as error:
                why = first_line(error)
            if why:
                wrong.append(f"{codec}: {why}")
            else:
                good.append(codec)
    said = _said(good, wrong, untried)
    remedy = (
        "training decodes these in workers, more slowly: raise --num_workers; "
        "else a newer driver, or `python -m dali_pipes.prepare reels`"
    )
    return warning(said, remedy) if wrong or untried else ok(said)


def encode(path: Path, frames: Frames, encoding: Encoding) -> None:
    """Raises OSError or ValueError where this FFmpeg lacks the encoder."""
    try:
        write_video(
            path, frames, encoding.encoder, FPS, pix_fmt=encoding.pix_fmt, options=encoding.options
        )
    finally:
        # SVT-AV1 makes its caller a real-time thread where that is allowed (as root).
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _said(good: list[str], wrong: list[str], untried: list[str]) -> str:
    parts = [f"{', '.join(good)}: {COUNT} of {COUNT} frames right"] if good else []
    parts += wrong
    parts += [f"not tried: {', '.join(untried)}"] if untried else []
    return "; ".join(parts)
