"""Opening a stranger's video file: whatever goes wrong is that file's fault, in one line."""

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dali_pipes.decoding.claims import MOST_PIXELS, endless, too_many_pixels
from dali_pipes.decoding.containers import CONTAINERS
from dali_pipes.decoding.pictures import Unsure

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av


_STRICT = ("tiff",)  # decoders that stop at damage anyway, and if told to at unknown tags too


class BadVideo(Exception):
    """A video, or a clip of it, that cannot be used: which file, at what stage, and why."""

    def __init__(self, path: Path | str, stage: str, reason: str) -> None:
        super().__init__(str(path), stage, reason)
        self.path, self.stage, self.reason = str(path), stage, reason

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.stage}: {self.reason}"


class TooShort(BadVideo):
    """Decoding ended before the clip did; `frames` is how many frames there are."""

    def __init__(self, path: Path | str, stage: str, reason: str, frames: int) -> None:
        super().__init__(path, stage, reason)
        self.args = (str(path), stage, reason, frames)
        self.frames = frames

    @classmethod
    def asked(cls, path: Path | str, stage: str, frames: int, number: int) -> Self:
        """Frame `number` was asked for."""
        return cls(path, stage, f"has {frames} frames, frame {number} was asked for", frames)


def printable(path: str) -> str:
    """A path on one line: line breaks, control characters and bytes that are not UTF-8 escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def words(error: "OSError | av.FFmpegError") -> str:
    """What the system or FFmpeg says of an error, without numbers and paths."""
    reason = error.strerror or type(error).__name__
    return reason[0].lower() + reason[1:]


def file_status(path: Path | str) -> os.stat_result:
    """Raises BadVideo if there is no regular file: opening a pipe would wait for ever."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadVideo(path, "open", words(error)) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise BadVideo(path, "open", f"is {kind}")
    return status


@contextmanager
def opened(
    path: Path | str, stage: str
) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """The container and its video stream. Whatever FFmpeg, PyAV or the system raise becomes
    BadVideo: it is the file's fault, and others go on."""
    import av

    file_status(path)
    try:
        if absurd := endless(path):
            raise BadVideo(path, "open", absurd)
        with _container(path) as container:
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise BadVideo(path, "open", "has no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise BadVideo(path, "open", "FFmpeg has no decoder for its codec; convert it")
            context = stream.codec_context
            if absurd := too_many_pixels(context.height, context.width):
                raise BadVideo(path, "open", absurd)
            context.thread_type = "NONE"  # workers are the parallelism
            # A decoder hides damage (grey or repeated blocks) unless it is told to stop at it.
            explode = {} if context.name in _STRICT else {"err_detect": "explode"}
            context.options = {"max_pixels": str(MOST_PIXELS), **explode}
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise BadVideo(path, stage, words(error)) from error
    except (BadVideo, Unsure, AssertionError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadVideo(path, stage, reason) from error


def _container(path: Path | str) -> "av.container.InputContainer":
    """Of this file only: a playlist dressed as a video must not open others, or addresses."""
    import av

    only = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    try:
        # HMDB51 has metadata that is not UTF-8, which is no reason to refuse good files.
        return av.open(f"file:{path}", metadata_errors="replace", options=only)
    except av.error.ArgumentError as error:
        reason = "is damaged, or in none of the containers that are read: convert it to MP4"
        raise BadVideo(path, "open", reason) from error


def _is_cover(stream: "av.VideoStream") -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)
