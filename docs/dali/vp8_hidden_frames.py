"""fn.decoders.video on a GPU: frames of VP8 with hidden frames come too early.

Two-pass VP8 has frames that are only referred to (alternate references), in packets of their own.

expected  frames 20 to 27, as FFmpeg counts them
seen      frames 18 to 25: the two hidden frames before the clip were counted
with      nvidia-dali-cuda130 2.4.0, NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0
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


def video() -> bytes:
    """WebM in which hidden frames have time stamps of their own, as vpxenc writes them."""
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            command = "ffmpeg -v error -y -f lavfi -i testsrc2=s=176x144:r=25:d=12 -g 60"
            command += " -c:v libvpx -b:v 200k -auto-alt-ref 1 -lag-in-frames 25 -arnr-maxframes 7"
            command += f" -pass {number} two_pass.webm"
            subprocess.run(command.split(), cwd=folder, check=True)
        made = io.BytesIO((Path(folder) / "two_pass.webm").read_bytes())
    out = io.BytesIO()
    with av.open(made) as source, av.open(out, "w", format="webm") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        last = -1
        for packet in source.demux(video=0):
            if packet.size:
                packet.dts = packet.pts = last = max(packet.pts, last + 1)  # ms
                packet.stream = stream
                target.mux(packet)
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
    data = video()
    with av.open(io.BytesIO(data)) as file:
        true = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    pipeline = graph(data)
    pipeline.build()
    for n, frame in enumerate(np.asarray(pipeline.run()[0].as_cpu().at(0))):
        difference = np.abs(true.astype(np.int16) - frame).mean((1, 2, 3))
        print(f"frame {FIRST + n}: nearest {difference.argmin()}, by {difference.min():.1f} levels")
