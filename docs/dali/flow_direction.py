"""fn.optical_flow gives the flow from each frame to the one before; its documentation is silent.

expected  field i says where the pixels of frame i are in frame i + 1, as OpenCV's functions given
          two frames in order; or a sentence in the documentation that it is otherwise
seen      for a picture that moves by 3 pixels to the right and 2 down: median u -3.00, v -2.00, on
          grids of 1, 2 and 4 pixels; with the frames in reverse order 3.00 and 2.00
with      nvidia-dali-cuda130 2.4.0, NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0
"""

import numpy as np
from nvidia.dali import Pipeline, fn

RIGHT, DOWN = 3, 2  # px a frame


def video() -> np.ndarray:
    """A smooth texture: uint8 [6,240,320,3]."""
    noise = np.random.default_rng(0).standard_normal((320, 420))
    for axis in (0, 1):
        for _ in range(4):
            noise = sum(np.roll(noise, step, axis) for step in (-1, 0, 1))
    grey = ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)
    at = [(40 - DOWN * i, 40 - RIGHT * i) for i in range(6)]
    return np.stack([grey[y : y + 240, x : x + 320, None].repeat(3, 2) for y, x in at])


def graph(clip: np.ndarray, device_id: int | None = 0) -> Pipeline:
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=device_id)
    with pipeline:
        frames = fn.external_source(lambda: [clip], layout="FHWC").gpu()
        pipeline.set_outputs(fn.optical_flow(frames, output_grid=1))
    return pipeline


if __name__ == "__main__":
    pipeline = graph(video())
    pipeline.build()
    flow = np.asarray(pipeline.run()[0].as_cpu().at(0))[:, 60:-60, 80:-80]
    print(f"moved by {RIGHT}, {DOWN}: median u {np.median(flow[..., 0]):.2f}", end="")
    print(f", v {np.median(flow[..., 1]):.2f}")
