"""The DALI pipeline of clips on the CPU: what the loader runs without a GPU.

    workers decode, resize, compute flow, crop, flip -> DALI batches, prefetches

It gives (frames, flow, report, reason), as all pipelines do; see `fetch` for the last two. Crop and
flip are data: DALI draws nothing, so every form of the pipeline yields the same clips.
"""

from typing import TYPE_CHECKING, Any, Literal

from dali_pipes.pipelines.fetch import Fetch, FetchPixels

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

Device = Literal["cpu", "mixed"]  # where DALI decodes; mixed: from the CPU to a GPU


def clip_pipeline(fetch: FetchPixels, batch_size: int, workers: int, prefetch: int) -> "Pipeline":
    """Clips made by workers: frames uint8 [T,S,S,3] and flow uint8 [F,S,S,2] a sample.

    `prefetch`: batches that DALI prepares ahead.
    """
    from nvidia.dali import Pipeline, types

    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=1,
        device_id=None,
        **worker_arguments(workers, prefetch),
    )
    with pipeline:
        kinds = [(types.UINT8, "FHWC"), (types.UINT8, "FHWC")]
        pipeline.set_outputs(*source(fetch, workers, prefetch, kinds))
    return pipeline


def source(
    fetch: Fetch,
    workers: int,
    prefetch: int,
    kinds: list[tuple[Any, str]],
    batch: bool = False,
) -> Any:
    """The outputs of a fetch as graph nodes; `kinds`: (type, layout) of its arrays.

    `batch`: the fetch gives a batch at a time.
    """
    from nvidia.dali import fn, types

    where = [] if fetch.cuts else [types.INT32, types.INT32, types.UINT8]  # crop, flip, mask
    facts = [*where, types.INT64, types.UINT8]  # report, reason
    kinds = [*kinds, *((dtype, "") for dtype in facts)]
    return fn.external_source(
        fetch,
        num_outputs=len(kinds),
        batch=batch,
        batch_info=batch,
        parallel=workers > 0,
        prefetch_queue_depth=prefetch if workers > 0 else None,
        dtype=[dtype for dtype, _ in kinds],
        layout=[layout for _, layout in kinds],
    )


def cropped(images: Any, crop: Any, flip: Any, size: int) -> Any:
    """Cut size x size pixels at `crop` (top, left), mirrored if `flip`."""
    from nvidia.dali import fn

    cut = fn.slice(images, start=crop, shape=[size, size], axes=(1, 2))
    return fn.flip(cut, horizontal=flip)


def worker_arguments(workers: int, prefetch: int) -> dict[str, Any]:
    """Pipeline arguments for `workers` Python processes; 0: Python work is done in this one."""
    arguments: dict[str, Any] = {"prefetch_queue_depth": prefetch}
    if workers:
        arguments |= {"py_num_workers": workers, "py_start_method": "spawn"}
    return arguments
