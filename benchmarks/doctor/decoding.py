"""Codecs that decode: two seconds of each, every frame compared."""

import tempfile
from collections.abc import Callable, Sequence
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
SIDES = (144, 176)  # px: the least that NVDEC is given
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


def moving() -> Frames:
    """A texture that moves by 3 pixels a frame: each frame is far from all others."""
    return Synthetic.make(1, COUNT, SIDES).read_clip(0, range(COUNT), None)[0]


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


@dataclass
class Tried:
    """What came of each codec."""

    good: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # and why
    untried: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{', '.join(self.good)}: {COUNT} of {COUNT} frames right"] if self.good else []
        parts += self.wrong
        parts += [f"not tried: {', '.join(self.untried)}"] if self.untried else []
        return "; ".join(parts)


def on_cpu(codecs: Sequence[str] = tuple(ENCODINGS)) -> Finding:
    """By the project's own reader, against what was encoded."""
    tried = _tried(codecs, _read_wrongly)
    remedy = "make venv: the pinned PyAV (av) brings FFmpeg with all of them"
    if tried.wrong:
        return bad(str(tried), remedy)
    return warning(str(tried), remedy) if tried.untried else ok(str(tried))


def on_gpu(
    codecs: Sequence[str] = GPU_CODECS, device_id: int | None = 0, device: Device = "mixed"
) -> Finding:
    """By NVDEC, against the CPU's frames of the same file; `device` "cpu": by DALI there."""

    def why(path: Path, _: Frames) -> str:
        found = by_dali(path, path.stem, device_id, device)
        return difference(found, read_frames(path, range(COUNT)))

    tried = _tried(codecs, why)
    remedy = (
        "training decodes these in workers, more slowly: raise --num_workers; "
        "else a newer driver, or `python -m dali_pipes.prepare reels`"
    )
    return warning(str(tried), remedy) if tried.wrong or tried.untried else ok(str(tried))


def by_dali(path: Path, codec: str, device_id: int | None, device: Device) -> Frames:
    """All frames, as the pipelines of videos decode on a GPU."""
    clip = encoded_clip(path, range(COUNT), (codec,))
    run = nvdec.decoder([clip], COUNT, device_id, device).run()
    return np.asarray(run[0].as_cpu().at(0))


def _read_wrongly(path: Path, true: Frames) -> str:
    """How the reader fails; a clip inside has to be the same as in the whole."""
    whole = read_frames(path, range(COUNT))
    inside = read_frames(path, MIDDLE)
    if not (why := difference(whole, true)) and not np.array_equal(
        inside, whole[MIDDLE.start : MIDDLE.stop]
    ):
        return f"frames {MIDDLE.start} to {MIDDLE.stop - 1} are others than by counting"
    return why


def _tried(codecs: Sequence[str], why_wrong: Callable[[Path, Frames], str]) -> Tried:
    """`why_wrong` gets a video, its codec for a name, and what was encoded; "" if all is right."""
    frames, tried = moving(), Tried()
    with tempfile.TemporaryDirectory() as folder:
        for codec in codecs:
            encoding = ENCODINGS[codec]
            path = Path(folder) / f"{codec}.{encoding.container}"
            try:
                encode(path, frames, encoding)
            except (OSError, ValueError) as error:  # FFmpeg's errors are of these
                tried.untried.append(f"{codec} ({encoding.encoder}: {first_line(error)})")
                continue
            try:
                why = why_wrong(path, frames)
            except BadVideo as error:
                why = error.reason
            except (Unsure, RuntimeError) as error:
                why = first_line(error)
            if why:
                tried.wrong.append(f"{codec}: {why}")
            else:
                tried.good.append(codec)
    return tried


def encode(path: Path, frames: Frames, encoding: Encoding) -> None:
    """Raises OSError or ValueError where this FFmpeg lacks the encoder."""
    write_video(
        path, frames, encoding.encoder, FPS, pix_fmt=encoding.pix_fmt, options=encoding.options
    )
