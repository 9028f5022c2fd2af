"""fn.decoders.video on a GPU: the further into the video a clip begins, the longer it takes.

expected  with `build_index` (the default) decoding begins at the last keyframe before the clip.
          Those are 0, 240 and 480 here, so a clip at 240 is as quick as one at 0.
seen      ms a clip of 16 frames, batch 16, 8 threads: at 0 9.2, at 100 12.8, at 240 18.4, at 500
          40.3; so the frames before it are decoded from the first on
with      nvidia-dali-cuda130 2.4.0, NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0
"""

import io
import time
from fractions import Fraction

import av
import numpy as np
from nvidia.dali import Pipeline, fn

BATCH, COUNT = 16, 16


def moving(count: int, height: int, width: int) -> list[np.ndarray]:
    """uint8 RGB: squares that move by 3 pixels to the left and 2 up."""
    random = np.random.default_rng(0)
    shape = ((height + 2 * count) // 8 + 30, (width + 3 * count) // 8 + 30)
    large = random.integers(0, 256, shape, np.uint8).repeat(8, 0).repeat(8, 1)
    grey = [large[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]
    return [np.stack([g, 255 - g, g // 2 + i % 120], -1) for i, g in enumerate(grey)]


def video() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 250, 2
        for number, image in enumerate(moving(600, 240, 320)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return out.getvalue()


def graph(data: bytes, device_id: int | None = 0, first: int = 0) -> Pipeline:
    pipeline = Pipeline(
        batch_size=BATCH, num_threads=8, device_id=device_id, prefetch_queue_depth=1
    )
    with pipeline:
        encoded = fn.external_source(lambda: [np.frombuffer(data, np.uint8)] * BATCH)
        pipeline.set_outputs(
            fn.decoders.video(
                encoded,
                device="mixed",
                start_frame=first,
                sequence_length=COUNT,
                build_index=True,
            )
        )
    return pipeline


if __name__ == "__main__":
    data = video()
    for first in (0, 100, 240, 500):
        pipeline = graph(data, first=first)
        pipeline.build()
        pipeline.run()
        began = time.perf_counter()
        for _ in range(3):
            pipeline.run()
        ms = 1000 * (time.perf_counter() - began) / (3 * BATCH)
        print(f"clip at {first}: {ms:.1f} ms a clip")
