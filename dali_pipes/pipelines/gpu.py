"""The DALI pipeline of videos on a GPU: the stages of `cpu` with `mixed` and `gpu` operators.

    workers examine packets -> NVDEC decodes -> resize -> crop, flip
                                             -> frames for TV-L1, or hardware flow

What NVDEC cannot decode, workers do; the rest of the graph is the same. `device` "cpu" runs the
graph without a GPU, for codecs that DALI decodes on a CPU; None for `device_id` lets it be defined
and serialised where there is no GPU.
"""

from typing import TYPE_CHECKING, Any

from dali_pipes.pipelines.cpu import Device, cropped, source, worker_arguments
from dali_pipes.pipelines.fetch import FetchEncoded
from dali_pipes.pipelines.nvdec import decode
from kernels.flow.code import FLOW_LIMIT_PX

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


def video_pipeline(
    fetch: FetchEncoded,
    batch_size: int,
    workers: int,
    prefetch: int,
    threads: int,
    device_id: int | None,
    device: Device = "mixed",
) -> "Pipeline":
    """Frames uint8 [T,S,S,3] of videos, and what the labels' flow comes from.

    That is hardware flow, coded, uint8 [F,S,S,2], if the fetch is for it, else the frames that
    TV-L1 takes, uint8 [F+1,h',w',3]: resized for `tvl1-fast`, else fitted, of any size. Last comes
    the fitted size (height, width) float32 [2]. `threads` wait for NVDEC.
    """
    from nvidia.dali import fn, pipeline_def, types

    spec = fetch.spec

    @pipeline_def(enable_conditionals=True)
    def graph() -> Any:
        encoded, first, at, shown, on_cpu, size, small, fitted, *others = source(
            fetch,
            workers,
            prefetch,
            [
                (types.UINT8, ""),
                *[(types.INT32, "")] * 3,
                (types.BOOL, ""),
                (types.FLOAT, ""),
                (types.UINT8, "FHWC"),
                (types.UINT8, "FHWC"),
            ],
        )
        crop, flip, mask, report, reason = others
        if on_cpu:
            frames = _on(device, small)
            whole = _on(device, fitted)
        else:
            native = decode(
                encoded, first, at, shown, spec.frames_for_flow, spec.stride, device=device
            )
            frames = _resized(native[: fetch.resized_frames], spec.resize)
            whole = fn.resize(native, size=size, interp_type=types.INTERP_LINEAR, antialias=True)
        if fetch.flow == "tvl1-fast":
            whole = frames
            frames = frames[: spec.clip_len]
        if fetch.flow == "nvof":
            flow = _resized(_coded(hardware_flow(whole, spec.frames_for_flow)), spec.resize)
            whole = cropped(flow, crop, flip, spec.size) ^ _on(device, mask)
        return cropped(frames, crop, flip, spec.size), whole, report, reason, size

    return graph(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        set_affinity=False,  # all ranks would take the same cores
        **worker_arguments(workers, prefetch),
    )


def hardware_flow(frames: Any, count: int, grid: int = 1) -> Any:
    """Flow of NVIDIA's unit from each frame to the next: [T,H,W,3] -> float32 px [T-1,h,w,2].

    `count` is T; a clip that was cut short is filled up with black first. `grid`: px between
    vectors. DALI's operator gives the flow from a frame to the one before, so it is shown the
    frames last to first.
    """
    from nvidia.dali import fn

    whole = fn.pad(frames, axis_names="F", shape=[count])
    backwards = fn.sequence_rearrange(whole, new_order=list(reversed(range(count))))
    flow = fn.optical_flow(backwards, output_grid=grid, preset=0.0)
    return fn.sequence_rearrange(flow, new_order=list(reversed(range(count - 1))))


def _on(device: Device, node: Any) -> Any:
    return node.gpu() if device == "mixed" else node


def _resized(frames: Any, size: tuple[int, int]) -> Any:
    from nvidia.dali import fn, types

    return fn.resize(frames, size=size, interp_type=types.INTERP_LINEAR, antialias=False)


def _coded(flow: Any) -> Any:
    """Pixels per frame -> bytes: kernels.flow.code.encode."""
    from nvidia.dali import fn, math, types

    limited = math.clamp(flow, -FLOW_LIMIT_PX, FLOW_LIMIT_PX)
    levels = (limited + FLOW_LIMIT_PX) * (255 / (2 * FLOW_LIMIT_PX))
    return fn.cast(math.floor(levels + 0.5), dtype=types.UINT8)
