"""The containers that are opened, by FFmpeg's names.

FFmpeg finds out by content, whatever a file is called, and among what it knows are lists of other
files (concat, HLS, DASH), patterns of file names and capture devices. Here are all that hold what
`sources.suffixes` takes for a video in the file itself.
"""

CONTAINERS = (
    "amv", "asf", "avi", "dhav", "dv", "flv", "gif", "gxf", "ivf", "kux", "live_flv", "matroska",
    "mov", "mpeg", "mpegts", "mxf", "nut", "ogg", "rm", "wtv", "yuv4mpegpipe",
    # streams without one
    "av1", "h261", "h263", "h264", "hevc", "m4v", "mjpeg", "mpegvideo", "obu", "vc1", "vc1test",
)  # fmt: skip
