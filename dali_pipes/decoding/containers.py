"""The containers that are opened, by FFmpeg's names.

FFmpeg finds out by content, whatever a file is called, and among what it knows are lists of other
files (concat, HLS, DASH), patterns of file names, text as pictures and capture devices. Here are
those that hold a video in the file itself: of the world, of cameras and recorders, of old games.
"""

CONTAINERS = (
    "apng", "asf", "avi", "bink", "cine", "dhav", "dv", "flic", "flv", "gif", "gxf", "hxvs",
    "ifv", "iv8", "ivf", "ivr", "kux", "live_flv", "luodat", "lvf", "lxf", "matroska", "mlv",
    "mov", "mpeg", "mpegts", "mpjpeg", "mxf", "mxg", "nc", "nsv", "nut", "nuv", "ogg", "pva", "rm",
    "roq", "ser", "smk", "swf", "ty", "vivo", "wtv", "xmv", "yuv4mpegpipe",
    # streams without one
    "av1", "avs2", "avs3", "cavsvideo", "dirac", "dnxhd", "evc", "h261", "h263", "h264", "hevc",
    "ingenient", "m4v", "mjpeg", "mjpeg_2000", "mpegvideo", "obu", "vc1", "vc1test", "vvc",
)  # fmt: skip
