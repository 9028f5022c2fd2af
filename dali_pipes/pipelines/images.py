"""The DALI pipeline of frame folders with stored flow, on the CPU or on a GPU.

workers read and examine images -> DALI decodes (NVJPEG on a GPU), resizes, crops, flips
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from dali_pipes.pipelines.cpu import Device, source, worker_arguments
from dali_pipes.pipelines.fetch import FetchImages

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
    """Frame folders, one frame a sample: uint8 [S,S,3], flow uint8 [S,S,2].

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
    """Decode on `device`, resize, crop and flip."""
    from nvidia.dali import fn, types

    rgb, u, v, crop, flip, mask, report, reason = source(
        fetch, workers, prefetch, [(types.UINT8, "")] * 3, batch=True
    )
    size = fetch.spec.size
    side, mirrored = np.full(2, size, np.float32), flip * np.array([0, size], np.float32)
    whole = np.array(fetch.spec.resize, np.float32)
    start, end = (crop + mirrored) / whole, (crop + side - mirrored) / whole

    def image(encoded: Any, kind: Any) -> Any:
        decoded = fn.decoders.image(
            encoded,
            device=device,
            output_type=kind,
            jpeg_fancy_upsampling=True,  # a GPU as a CPU
        )
        return resized_part(decoded, start, end, size)

    flow = fn.cat(image(u, types.GRAY), image(v, types.GRAY), axis=2)
    mask = fn.reshape(mask, shape=[1, 1, 2])
    return image(rgb, types.RGB), flow ^ (mask.gpu() if device == "mixed" else mask), report, reason


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
