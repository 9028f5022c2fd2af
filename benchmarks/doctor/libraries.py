"""Libraries that come with the driver, or with DALI, and do their work on a GPU."""

import ctypes

import cv2
import numpy as np

from benchmarks.doctor.finding import Finding, bad, first_line, ok, warning

VIDEO = "in a container: docker run -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
# Name, and what does not work without it.
OF_DRIVER = {
    "libnvcuvid.so.1": "no video is decoded on the GPU: workers do",
    "libnvidia-opticalflow.so.1": "--flow nvof does not work",
}
_NEAR = 3.0  # levels, on average: decoders round in their own ways


def of_driver(name: str) -> Finding:
    """One of `OF_DRIVER`."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return warning(f"{first_line(error)}; {OF_DRIVER[name]}", f"{VIDEO}; or install the driver")
    return ok("loads")


def nvjpeg(device: str = "mixed", device_id: int | None = 0) -> Finding:
    """A JPEG through DALI's decoder, as reels and frame folders have it; `device` "cpu": there."""
    from nvidia.dali import Pipeline, fn

    y, x = np.mgrid[:240, :320]
    picture = np.stack([x * 255 // 319, y * 255 // 239, (x + y) % 256], axis=-1).astype(np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    remedy = "make venv: reels and frame folders on a GPU need it; or train with --device cpu"
    try:
        with pipeline:
            encoded = fn.external_source(lambda: [data.ravel()])
            pipeline.set_outputs(fn.decoders.image(encoded, device=device))
        pipeline.build()
        found = np.asarray(pipeline.run()[0].as_cpu().at(0)).astype(int)
    except RuntimeError as error:
        return bad(first_line(error), remedy)
    shown = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert shown is not None
    true = shown[..., ::-1]  # RGB
    if found.shape != true.shape:
        return bad(f"gives a picture {found.shape} for {true.shape}", remedy)
    off = float(np.abs(found - true).mean())
    said = f"{off:.2f} levels from OpenCV's picture"
    return ok(said) if off < _NEAR else bad(said, remedy)
