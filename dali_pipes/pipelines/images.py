"""The DALI pipeline of stored JPEG images, of frame folders and of reels, on the CPU or on a GPU.

    workers read and examine images -> DALI decodes (NVJPEG on a GPU), resizes, crops, flips

Of reels on a GPU, neither frames nor flow are ever pixels on the host; on a CPU workers decode them
(`fetch.FetchReels`), which is quicker there.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from dali_pipes.clips import ClipSpec
from dali_pipes.pipelines.cpu import Device, source, worker_arguments
from dali_pipes.pipelines.fetch import FetchImages
from dali_pipes.sources import Reels

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


def image_pipeline(
    fetch: FetchImages,
    workers: int,
    prefetch: int,
    threads: int,
    device: Device = "cpu",
    device_id: int | None = None,
) -> "Pipeline":
    """Frame folders or reels, one frame a sample: uint8 [S,S,3], flow uint8 [S,S,2].

    A batch of N clips is N * T samples; as quick as T outputs stacked, and quicker to build.
    `threads` decode; `device` "mixed": on the GPU `device_id`. Without one it can be serialised,
    not run.
    """
    from nvidia.dali import Pipeline

    pipeline = Pipeline(
        batch_size=fetch.batch_size * fetch.spec.clip_len,
        num_threads=threads,
        device_id=device_id,
        **worker_arguments(workers, prefetch),
    )
    with pipeline:
        pipeline.set_outputs(*_graph(fetch, workers, prefetch, device))
    return pipeline


def _graph(fetch: FetchImages, workers: int, prefetch: int, device: Device) -> Any:
    """Decode on `device`, cut and flip."""
    from nvidia.dali import fn, types

    rgb, *flow, crop, flip, mask, report, reason = source(
        fetch, workers, prefetch, [(types.UINT8, "")] * fetch.kinds, batch=True
    )

    def decoded(encoded: Any, kind: Any) -> Any:
        return fn.decoders.image(
            encoded,
            device=device,
            output_type=kind,
            jpeg_fancy_upsampling=True,  # a GPU as a CPU
        )

    images = [decoded(rgb, types.RGB), *(decoded(kind, types.GRAY) for kind in flow)]
    cut = _of_reels if isinstance(fetch.source, Reels) else _of_folders
    frames, u, v = cut(images, crop, flip, fetch.spec)
    mask = fn.reshape(mask, shape=[1, 1, 2])
    fields = fn.cat(u, v, axis=2) ^ (mask.gpu() if device == "mixed" else mask)
    return frames, fields, report, reason


def _of_folders(images: list[Any], crop: Any, flip: Any, spec: ClipSpec) -> tuple[Any, Any, Any]:
    """The part of RGB, u and v images of any size, resized and mirrored."""
    size = spec.size
    side, mirrored = np.full(2, size, np.float32), flip * np.array([0, size], np.float32)
    whole = np.array(spec.resize, np.float32)
    start, end = (crop + mirrored) / whole, (crop + side - mirrored) / whole
    rgb, u, v = (resized_part(image, start, end, size) for image in images)
    return rgb, u, v


def _of_reels(images: list[Any], crop: Any, flip: Any, spec: ClipSpec) -> tuple[Any, Any, Any]:
    """The part of RGB images, and of u and v, which are one image, v below; mirrored."""
    from nvidia.dali import fn

    def part(image: Any, start: Any) -> Any:
        return fn.flip(
            fn.slice(image, start=start, shape=[spec.size] * 2, axes=(0, 1)), horizontal=flip
        )

    rgb, both = images
    below = np.array([spec.resize[0], 0], np.int32)  # where v begins
    return part(rgb, crop), part(both, crop), part(both, crop + below)


def resized_part(images: Any, start: Any, end: Any, size: int) -> Any:
    """The part from `start` to `end` (y, x in 0..1; mirrored if end < start) as size x size pixels.

    To rounding what the whole image resized and then cut gives, for less work.
    """
    from nvidia.dali import fn, types

    return fn.resize(
        images,
        size=[size, size],
        roi_start=start,
        roi_end=end,
        roi_relative=True,
        interp_type=types.INTERP_LINEAR,
        antialias=False,  # as the published pipeline
    )
