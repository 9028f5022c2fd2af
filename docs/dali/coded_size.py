"""fn.decoders.video on a GPU makes a new decoder a clip where the coded size is not the shown one.

H.264 codes whole macroblocks: 426x240 is coded as 432x240 and cropped, 320x240 is not cropped.

expected  a clip of 426x240 takes about as long as one of 320x240, for decoders are cached
seen      ms a clip of 16 frames, batch 32, by threads of the pipeline:
              threads     1     2     4     8    16
              320x240  17.8  12.4   9.7   8.9   9.4
              426x240  77.6  81.4  80.3  81.6  82.4
with      nvidia-dali-cuda130 2.4.0, NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0
"""

import io
import time
from fractions import Fraction

import av
import numpy as np
from nvidia.dali import Pipeline, fn

BATCH, FIRST, COUNT = 32, 12, 16


def moving(count: int, height: int, width: int) -> list[np.ndarray]:
    """uint8 RGB: squares that move by 3 pixels to the left and 2 up."""
    random = np.random.default_rng(0)
    cells = random.integers(0, 256, (height // 8 + 30, width // 8 + 30), np.uint8)
    large = cells.repeat(8, 0).repeat(8, 1)
    grey = [large[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]
    return [np.stack([g, 255 - g, g // 2 + i % 120], -1) for i, g in enumerate(grey)]


def video(width: int = 426) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, width, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
        for number, image in enumerate(moving(48, 240, width)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return out.getvalue()


def graph(data: bytes, device_id: int | None = 0, threads: int = 4) -> Pipeline:
    pipeline = Pipeline(
        batch_size=BATCH, num_threads=threads, device_id=device_id, prefetch_queue_depth=1
    )
    with pipeline:
        encoded = fn.external_source(lambda: [np.frombuffer(data, np.uint8)] * BATCH)
        pipeline.set_outputs(
            fn.decoders.video(encoded, device="mixed", start_frame=FIRST, sequence_length=COUNT)
        )
    return pipeline


if __name__ == "__main__":
    for width in (320, 426):
        for threads in (1, 2, 4, 8, 16):
            pipeline = graph(video(width), threads=threads)
            pipeline.build()
            pipeline.run()
            began = time.perf_counter()
            for _ in range(4):
                pipeline.run()
            ms = 1000 * (time.perf_counter() - began) / (4 * BATCH)
            print(f"{width}x240, {threads} threads: {ms:.1f} ms a clip")
