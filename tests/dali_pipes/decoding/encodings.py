"""Videos of every container, codec and flag that PyAV's wheel can encode."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dali_pipes.prepare.encode import write_video

FRAMES = 100
SIZE = 144, 176  # px; one of the few that H.261 knows
KEYFRAME_EVERY = 18

_FAST = {"deadline": "realtime", "cpu-used": "8"}
_ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "8"}
_FIELDS = {"flags": "+ildct+ilme"}


def _x264(params: str) -> dict[str, str]:
    return {"x264-params": params}


def _x265(params: str) -> dict[str, str]:
    return {"x265-params": params}


# (containers, codec, flags of the encoder, pixel format)
ENCODINGS = [
    ("mp4 mkv avi flv ts mov nut h264 m2ts", "libx264", {}, "yuv420p"),
    ("mp4 ts", "libx264", _x264("open-gop=1"), "yuv420p"),
    ("mp4 mkv", "libx264", _x264("intra-refresh=1"), "yuv420p"),
    ("mp4", "libx264", _x264("interlaced=1"), "yuv420p"),
    ("mp4", "libx264", _x264("fake-interlaced=1"), "yuv420p"),
    ("mp4", "libx264", _x264("b-pyramid=strict:bframes=5"), "yuv420p"),
    ("mp4", "libx264", _x264("slices=4"), "yuv420p"),
    ("mp4", "libx264", _x264("keyint=1"), "yuv420p"),
    ("mp4", "libx264", _x264("ref=8:bframes=0"), "yuv420p"),
    ("mkv", "libx264", {}, "yuv444p"),
    ("mkv", "libx264", {}, "yuv420p10le"),
    ("mp4 mkv ts hevc", "libx265", {}, "yuv420p"),
    ("mkv", "libx265", _x265("open-gop=1:bframes=4"), "yuv420p"),
    ("mkv", "libx265", _x265("interlace=tff"), "yuv420p"),
    ("mkv", "libx265", _x265("intra-refresh=1:bframes=0"), "yuv420p"),
    ("mp4 mkv avi nut 3gp", "mpeg4", {}, "yuv420p"),
    ("mkv", "mpeg4", _FIELDS, "yuv420p"),
    ("avi", "mpeg4", {"flags": "+qpel"}, "yuv420p"),
    ("mkv ts mpg vob m2v mxf mov", "mpeg2video", {"bf": "2"}, "yuv420p"),
    ("ts", "mpeg2video", {"bf": "2"} | _FIELDS, "yuv420p"),
    ("mpg mkv", "mpeg1video", {"bf": "2"}, "yuv420p"),
    ("webm mkv ivf", "libvpx", _FAST, "yuv420p"),
    ("webm", "libvpx", _ALT_REF | {"b": "300k"}, "yuv420p"),
    ("webm mkv mp4 ivf", "libvpx-vp9", _FAST, "yuv420p"),
    ("webm mp4", "libvpx-vp9", _ALT_REF | {"b": "300k"}, "yuv420p"),
    ("webm", "libvpx-vp9", _FAST, "yuv444p"),
    ("webm mkv mp4 ivf obu", "libsvtav1", {"preset": "12"}, "yuv420p"),
    ("avi mkv mov mjpeg", "mjpeg", {}, "yuvj420p"),
    ("wmv", "wmv1", {}, "yuv420p"),
    ("asf", "wmv2", {}, "yuv420p"),
    ("avi", "msmpeg4v2", {}, "yuv420p"),
    ("avi asf", "msmpeg4", {}, "yuv420p"),
    ("flv", "flv", {}, "yuv420p"),
    ("3gp mov", "h263", {}, "yuv420p"),
    ("avi", "h263p", {}, "yuv420p"),
    ("h261", "h261", {}, "yuv420p"),
    ("rm", "rv10", {}, "yuv420p"),
    ("rm", "rv20", {}, "yuv420p"),
    ("avi", "snow", {}, "yuv420p"),
    ("mov", "svq1", {}, "yuv410p"),
    ("mov", "qtrle", {}, "rgb24"),
    ("mov", "cfhd", {}, "yuv422p10le"),
    ("avi", "msvideo1", {}, "rgb555le"),
    ("flv", "flashsv", {}, "bgr24"),
    ("avi", "zmbv", {}, "bgr0"),
    ("mov", "rpza", {}, "rgb555le"),
    ("gif", "gif", {}, "rgb8"),
    ("apng", "apng", {}, "rgb24"),
    ("mov avi", "png", {}, "rgb24"),
    ("mov", "tiff", {}, "rgb24"),
    ("mov", "targa", {}, "bgr24"),
    ("mkv", "jpeg2000", {}, "yuv420p"),
    ("mov mkv", "prores", {}, "yuv422p10le"),
    ("mov", "v210", {}, "yuv422p10le"),
    ("mov", "r210", {}, "gbrp10le"),
    ("mov", "dxv", {}, "rgba"),
    ("mkv", "ffv1", {}, "yuv420p"),
    ("avi", "ffv1", {}, "yuv444p"),
    ("avi", "huffyuv", {}, "yuv422p"),
    ("avi", "ffvhuff", {}, "yuv420p"),
    ("avi", "magicyuv", {}, "yuv444p"),
    ("avi", "asv1", {}, "yuv420p"),
    ("avi", "asv2", {}, "yuv420p"),
    ("avi", "cljr", {}, "yuv411p"),
    ("avi", "zlib", {}, "bgr24"),
    ("avi y4m", "rawvideo", {}, "yuv420p"),
    ("nut", "rawvideo", {}, "rgb24"),
]


def write_all(folder: Path) -> Iterator[Path]:
    """Every encoding of the same moving texture."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 20, 235, cv2.NORM_MINMAX)
    height, width = SIZE
    frames = [
        np.ascontiguousarray(np.roll(texture, (n, 2 * n), (0, 1))[:height, :width])
        for n in range(FRAMES)
    ]
    for number, (containers, codec, options, pix_fmt) in enumerate(ENCODINGS):
        for container in containers.split():
            path = folder / f"{number} {codec}.{container}"
            write_video(
                path, frames, codec, keyframe_every=KEYFRAME_EVERY, pix_fmt=pix_fmt,
                options=dict(options),
            )  # fmt: skip
            yield path
