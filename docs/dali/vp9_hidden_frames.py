"""fn.decoders.video on a GPU: frames of VP9 with hidden frames are others.

Two-pass VP9 has them: a packet (superframe) then holds a frame that is only referred to, before
the one that is shown.

expected  frames 20 to 27, as FFmpeg counts them
seen      18 19 20 21 22 23 24 38, of the file of 60 packets, 5 of which hold two frames
with      nvidia-dali-cuda130 2.4.0, NVIDIA H200, driver 580.159.04, CUDA 13.0
needs     the ffmpeg command, for PyAV cannot encode in two passes
"""

import io
import subprocess
import tempfile
from pathlib import Path

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


def video() -> bytes:
    raw = b"".join(frame.tobytes() for frame in moving(60, 240, 320))
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            command = "ffmpeg -v error -y -f rawvideo -pix_fmt rgb24 -s 320x240 -r 25 -i - -g 60"
            command += (
                " -pix_fmt yuv420p -c:v libvpx-vp9 -b:v 200k -auto-alt-ref 1 -lag-in-frames 25"
            )
            command += f" -pass {number} two_pass.webm"
            subprocess.run(command.split(), input=raw, cwd=folder, check=True)
        return (Path(folder) / "two_pass.webm").read_bytes()


def graph(data: bytes, device_id: int | None = 0) -> Pipeline:
    pipeline = Pipeline(batch_size=1, num_threads=4, device_id=device_id)
    with pipeline:
        encoded = fn.external_source(lambda: [np.frombuffer(data, np.uint8)])
        pipeline.set_outputs(
            fn.decoders.video(encoded, device="mixed", start_frame=FIRST, sequence_length=COUNT)
        )
    return pipeline


if __name__ == "__main__":
    data = video()
    with av.open(io.BytesIO(data)) as file:
        true = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    pipeline = graph(data)
    pipeline.build()
    for n, frame in enumerate(np.asarray(pipeline.run()[0].as_cpu().at(0))):
        difference = np.abs(true.astype(np.int16) - frame).mean((1, 2, 3))
        print(f"frame {FIRST + n}: nearest {difference.argmin()}, by {difference.min():.1f} levels")
