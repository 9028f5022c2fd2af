"""fn.decoders.video on a GPU: of interlaced H.264 with a packet for each field, frames are others.

expected  frames 20 to 27; frame n is grey of level 16 + n here
seen      0 12 0 12 0 13 0 14: a packet is counted as a frame
with      nvidia-dali-cuda130 2.4.0, NVIDIA H100 80GB HBM3, driver 580.159.04, CUDA 13.0; there with
          another file of the same kind (PAFF, raw macroblocks, 64x64, an IDR every 20 frames)
"""

import io
from fractions import Fraction

import av
import numpy as np
from nvidia.dali import Pipeline, fn

FIRST, COUNT = 20, 8
SIDE, IDR_EVERY, FRAMES = 64, 20, 100
MACROBLOCKS = SIDE // 16 * (SIDE // 32)  # of a field


def ue(value: int) -> str:
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def unit(kind: int, bits: str) -> bytes:
    """A NAL unit in Annex B, with its stop bit and emulation prevention."""
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    out = bytearray([0, 0, 0, 1, 3 << 5 | kind])
    zeros = 0
    for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def parameters() -> bytes:
    """Main profile, frame_num of 8 bits, output in order of decoding, fields allowed."""
    sps = f"{77:08b}{0:08b}{30:08b}" + ue(0) + ue(4) + ue(2) + ue(2) + "0"
    sps += ue(SIDE // 16 - 1) + ue(SIDE // 32 - 1) + "00" + "100"
    pps = ue(0) + ue(0) + "00" + ue(0) * 3 + "000" + ue(0) * 3 + "000"
    return unit(7, sps) + unit(8, pps)


def field(level: int, bottom: int, idr: bool, frame_num: int, idr_id: int) -> bytes:
    """An I slice of raw macroblocks (I_PCM) of one grey."""
    bits = ue(0) + ue(7) + ue(0) + f"{frame_num:08b}" + "1" + str(bottom)
    bits += ue(idr_id) + "00" if idr else "0"
    bits += ue(0)
    for _ in range(MACROBLOCKS):
        bits += ue(25)
        bits += "0" * (-len(bits) % 8)
        bits += f"{level:08b}" * 256 + f"{128:08b}" * 128
    return unit(5 if idr else 1, bits)


def packets() -> list[tuple[bytes, bool]]:
    """Two of each frame, and whether it begins with parameters."""
    made = []
    for number in range(FRAMES):
        first, count = number % IDR_EVERY == 0, number // IDR_EVERY
        for bottom in (0, 1):
            idr = first and not bottom
            data = field(16 + number, bottom, idr, number % IDR_EVERY, count % 2)
            made.append((parameters() + data if idr else data, idr))
    return made


def video() -> bytes:
    made, out = packets(), io.BytesIO()
    annex_b = io.BytesIO(b"".join(data for data, _ in made))
    with av.open(annex_b, format="h264") as raw, av.open(out, "w", format="mp4") as file:
        stream = file.add_stream_from_template(raw.streams.video[0])
        stream.time_base = Fraction(1, 50)
        for number, (data, idr) in enumerate(made):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.duration, packet.time_base, packet.is_keyframe = 1, Fraction(1, 50), idr
            packet.stream = stream
            file.mux(packet)
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
