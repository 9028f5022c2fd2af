"""Which files are videos: by how their names end, as FFmpeg's containers and streams are called."""

import mimetypes
import os

# fmt: off
VIDEO_SUFFIXES = frozenset((
    # containers
    ".3g2", ".3gp", ".amv", ".asf", ".avi", ".dav", ".dif", ".divx", ".dv", ".f4v", ".flv", ".gif",
    ".gxf", ".ismv", ".ivf", ".m2p", ".m2t", ".m2ts", ".m4v", ".mj2", ".mk3d", ".mkv", ".mod",
    ".mov", ".movie", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogm",
    ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".tod", ".trp", ".ts", ".vob", ".webm", ".wmv", ".wtv",
    ".xvid", ".y4m",
    # streams without one
    ".264", ".265", ".avc", ".h261", ".h263", ".h264", ".h265", ".hevc", ".m1v", ".m2v", ".mjpeg",
    ".mjpg", ".mpv", ".obu", ".vc1",
))
# fmt: on
_STILL_OR_SOUND = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"M4A ", b"M4B ", b"crx ")


def is_video_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def looks_like_video(path: str) -> bool:
    """Whether a file of another name begins as videos do. Files of known other kinds, such as .jpg
    or .json, are not opened."""
    kind, _ = mimetypes.guess_type(path)
    if kind is not None and not kind.startswith("video/"):
        return False
    try:
        if not os.path.isfile(path):  # a pipe would not end
            return False
        with open(path, "rb") as file:
            begin = file.read(512)
    except OSError:
        return False
    return (
        (begin[4:8] == b"ftyp" and begin[8:12] not in _STILL_OR_SOUND)  # MP4, MOV
        or (begin[:4] == b"RIFF" and begin[8:12] == b"AVI ")
        or (begin[:4] == b"\x1aE\xdf\xa3" and not path.endswith((".mka", ".mks")))  # Matroska
        or begin[:4] in (b"FLV\x01", b"\0\0\1\xba", b"\0\0\1\xb3")  # FLV, MPEG-1 and 2
        or begin[:8] == b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"  # ASF
        or (begin[:4] == b"OggS" and b"\x80theora" in begin)
        or (len(begin) > 376 and begin[0] == begin[188] == begin[376] == 0x47)  # MPEG TS
    )
