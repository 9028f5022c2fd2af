"""fn.decoders.video on a GPU: pictures with odd sides are wrong.

expected  frames 20 to 27 of a VP9 file of 321x241 pixels
seen      nearest to 20 21 21 23 24 25 25 27, by up to 30 levels, where the same picture in 320x240
          gives 20 to 27 by 15 (of which most is another conversion of colours)
with      nvidia-dali-cuda130 2.4.0, NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0
"""

import io
from fractions import Fraction

import av
import numpy as np
from nvidia.dali import Pipeline, fn

FIRST, COUNT = 20, 8


def moving(count: int, height: int, width: int) -> list[np.ndarray]:
    """uint8 RGB: squares that move by 3 pixels to the left and 2 up."""
    random = np.random.default_rng(0)
    cells = random.integers(0, 256, (height // 8 + 30, width // 8 + 30), np.uint8)
    large = cells.repeat(8, 0).repeat(8, 1)
    grey = [large[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]
    return [np.stack([g, 255 - g, g // 2 + i % 120], -1) for i, g in enumerate(grey)]


def video(height: int = 241, width: int = 321) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="webm") as file:
        stream = file.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = 12
        for number, image in enumerate(moving(48, height, width)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return out.getvalue()


def graph(data: bytes, device_id: int | None = 0) -> Pipeline:
    pipeline = Pipeline(batch_size=1, num_threads=4, device_id=device_id)
    with pipeline:
        encoded = fn.external_source(lambda: [np.frombuffer(data, np.uint8)])
        pipeline.set_outputs(
            fn.decoders.video(encoded, device="mixed", start_frame=FIRST, sequence_length=COUNT)
        )
    return pipeline


if __name__ == "__main__":
    for height, width in ((240, 320), (241, 321)):
        data = video(height, width)
        with av.open(io.BytesIO(data)) as file:
            true = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        pipeline = graph(data)
        pipeline.build()
        for n, frame in enumerate(np.asarray(pipeline.run()[0].as_cpu().at(0))):
            difference = np.abs(true.astype(np.int16) - frame).mean((1, 2, 3))
            near, levels = difference.argmin(), difference.min()
            print(f"{width}x{height} frame {FIRST + n}: nearest {near}, by {levels:.1f} levels")
