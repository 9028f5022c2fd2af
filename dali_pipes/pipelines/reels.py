"""The DALI pipeline of reels on a GPU: neither frames nor flow are ever pixels on the host.

workers read and check bytes -> NVJPEG decodes -> crop, flip

On a CPU workers decode (`fetch.FetchReels`) and the pipeline is that of videos.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from dali_pipes.pipelines.cpu import Device, source, worker_arguments
from dali_pipes.pipelines.fetch import FetchImages

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


def reel_pipeline(
    fetch: FetchImages,
    workers: int,
    prefetch: int,
    threads: int,
    device: Device = "mixed",
    device_id: int | None = None,
) -> "Pipeline":
    """Reels, one frame a sample: uint8 [S,S,3], flow uint8 [S,S,2]; see `images.image_pipeline`.

    `threads` drive the decoder. `device` "cpu" runs the graph without a GPU; "mixed" without a
    `device_id` can be serialised, not run.
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
    from nvidia.dali import fn, types

    rgb, u_above_v, crop, flip, mask, report, reason = source(
        fetch, workers, prefetch, [(types.UINT8, "")] * 2, batch=True
    )
    below = np.array([fetch.spec.resize[0], 0], np.int32)  # where v begins

    def part(images: Any, start: Any) -> Any:
        return fn.slice(images, start=start, shape=[fetch.spec.size] * 2, axes=(0, 1))

    def decoded(encoded: Any, kind: Any) -> Any:
        return fn.decoders.image(
            encoded,
            device=device,
            output_type=kind,
            jpeg_fancy_upsampling=True,  # a GPU as a CPU
        )

    both = decoded(u_above_v, types.GRAY)
    flow = fn.cat(part(both, crop), part(both, crop + below), axis=2)
    mask = fn.reshape(mask, shape=[1, 1, 2])
    frames = fn.flip(part(decoded(rgb, types.RGB), crop), horizontal=flip)
    flow = fn.flip(flow, horizontal=flip) ^ (mask.gpu() if device == "mixed" else mask)
    return frames, flow, report, reason
