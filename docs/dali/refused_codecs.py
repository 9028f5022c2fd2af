"""fn.decoders.video on a GPU: MJPEG is documented and refused, and no error names file or codec.

expected  MJPEG decodes: "supported by both CPU and Mixed backends" says the documentation. Where a
          GPU lacks a codec, as an H100 lacks AV1, the exception says so, so that a program can
          choose another decoder.
seen      MJPEG: "Codec 7 (mjpeg) is not supported by the GPU variant of this operator." AV1: "Codec
          av1 is not supported by NVDEC on this platform." Both on stderr only; the RuntimeError is
          one of the pipeline and names neither the codec nor a sample.
with      nvidia-dali-cuda130 2.4.0, NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0
"""

import io
from fractions import Fraction

import av
import numpy as np
from nvidia.dali import Pipeline, fn

FORMATS = {"mjpeg": ("avi", "yuvj420p"), "libsvtav1": ("mp4", "yuv420p")}


def video(codec: str = "mjpeg") -> bytes:
    kind, pixels = FORMATS[codec]
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, 320, pixels
        for number in range(24):
            image = np.full((240, 320, 3), 10 * number, np.uint8)
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
            fn.decoders.video(encoded, device="mixed", start_frame=0, sequence_length=8)
        )
    return pipeline


if __name__ == "__main__":
    for codec in FORMATS:
        try:
            pipeline = graph(video(codec))
            pipeline.build()
            print(codec, pipeline.run()[0].shape())
        except RuntimeError as error:
            print(codec, error)
