"""Decoding on a GPU: what DALI is asked, and which codecs it can be trusted with.

A GPU lacks codecs, a container lacks the driver's library, and DALI says neither in a way that a
program could read. So each codec is tried once, on a clip whose frames are known; what does not
give them is decoded by workers.
"""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.encoded import GPU_CODECS, Encoded, encoded_clip
from dali_pipes.decoding.pictures import Unsure
from dali_pipes.decoding.video import read_frames
from dali_pipes.pipelines.cpu import Device
from dali_pipes.prepare.encode import write_video

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

# What drives a GPU's decoders, whose number it need not match: of 1, 2, 4, 8 and 16 threads, 8 were
# the fastest on an H100 (docs/loading.md).
DECODE_THREADS = 8

_ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp8": "libvpx", "vp9": "libvpx-vp9"}
_FRAMES, _CLIP = 12, range(5, 11)
_SIDES = (240, 320)  # px
_NEAR = 12.0  # levels: decoders convert colours each in its own way; a frame moves by 40


@cache
def trusted_codecs(device_id: int | None, device: Device = "mixed") -> tuple[str, ...]:
    """Those of `GPU_CODECS` that decode rightly on a GPU; `device` "cpu": by DALI on the CPU."""
    return tuple(codec for codec in GPU_CODECS if _shows_what_it_should(codec, device_id, device))


def _shows_what_it_should(codec: str, device_id: int | None, device: Device) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{'webm' if codec.startswith('vp') else 'mp4'}"
        quiet = {"x265-params": "log-level=none"} if codec == "hevc" else {}
        try:
            write_video(
                path, _moving(), _ENCODERS.get(codec, codec), keyframe_every=4, options=quiet
            )
            clip = encoded_clip(path, _CLIP, (codec,))
            run = decoder([clip], len(_CLIP), device_id, device, threads=1).run()
            found = np.asarray(run[0].as_cpu().at(0)).astype(int)
        except (Unsure, RuntimeError, ValueError, OSError):  # no encoder, no decoder
            return False
        true = read_frames(path, _CLIP)
    return found.shape == true.shape and float(np.abs(found - true).mean()) < _NEAR


def _moving() -> NDArray[np.uint8]:
    """Frames [T,H,W,3] in grey of which each is far from all others."""
    coarse = np.random.default_rng(0).integers(0, 256, (_FRAMES, *(side // 40 for side in _SIDES)))
    grey = coarse.repeat(40, axis=1).repeat(40, axis=2).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def decoder(
    clips: Sequence[Encoded],
    clip_len: int,
    device_id: int | None,
    device: Device = "mixed",
    threads: int = DECODE_THREADS,
) -> "Pipeline":
    """A built pipeline whose every run decodes the same clips: uint8 [T,H,W,3] of each."""
    from nvidia.dali import Pipeline, fn

    columns: list[list[NDArray[Any]]] = [
        list(column) for column in zip(*(clip.arrays() for clip in clips), strict=True)
    ]
    pipeline = Pipeline(
        batch_size=len(clips), num_threads=threads, device_id=device_id, prefetch_queue_depth=1
    )
    with pipeline:
        encoded, first, at, shown = fn.external_source(lambda: columns, num_outputs=4)
        pipeline.set_outputs(decode(encoded, first, at, shown, clip_len, device=device))
    pipeline.build()
    return pipeline


def decode(
    encoded: Any, first: Any, at: Any, shown: Any, clip_len: int, stride: int = 1, *, device: Device
) -> Any:
    """Frames uint8 [T,H,W,3] of clips given as `Encoded.arrays`, only the pixels to keep."""
    from nvidia.dali import fn

    whole = fn.decoders.video(
        encoded,
        device=device,
        start_frame=first,
        sequence_length=clip_len,
        stride=stride,
        pad_mode="none",  # never black frames
    )
    return fn.slice(whole, start=at, shape=shown, axes=(1, 2))
