"""Bounds of memory and time, and what a file says of its size before either is spent on it.

A file of 4 KiB can claim a billion pictures, one of a few bytes a picture of four billion pixels.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

MOST_PIXELS = 1 << 27  # of a picture: the 15360x8640 of 16K and nothing larger; 400 MB as RGB
MOST_DECODED = 1 << 39  # pixels for one clip: two hours of 1080p, about half an hour of a core
LARGEST_HOLE = 1 << 26  # bytes that were never written, one after another
_ON_THE_WAY = (b"moov", b"trak", b"mdia", b"minf", b"stbl")  # boxes of ISO/IEC 14496-12 to `stsz`


def too_many_pixels(height: int, width: int) -> str | None:
    """Why pictures of such a size are not decoded; None if they are."""
    if height * width <= MOST_PIXELS:
        return None
    return f"says that it is {width}x{height} pixels; {MOST_PIXELS} are taken at most"


def too_much_to_decode(pictures: int, height: int, width: int) -> str | None:
    """Why no clip is taken for which so many pictures must be decoded; None if one is."""
    if pictures * height * width <= MOST_DECODED:
        return None
    return (
        f"a clip there takes {pictures} pictures of {width}x{height} to decode, more than "
        f"{MOST_DECODED} pixels; cut it into parts"
    )


def endless(path: str | os.PathLike[str]) -> str | None:
    """Why a file is not opened through which FFmpeg would look for ever; None if it is.

    An MP4 or MOV whose table has more samples of one size than it has bytes: other tables end where
    the file does. Any other file that goes on as a large hole, as unfinished downloads do: it is
    looked through byte for byte. Raises OSError.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(12)[4:8] not in (b"ftyp", b"moov", b"wide", b"free", b"skip", b"mdat"):
            return _unwritten(file.fileno(), size)
        for samples in _of_one_size(file, 0, size):
            if samples > size:
                return f"says that it holds {samples} pictures in {size} bytes"
    return None


def _unwritten(file: int, size: int) -> str | None:
    """None where the file system does not tell of holes."""
    at = 0
    while at < size and (hole := os.lseek(file, at, os.SEEK_HOLE)) < size:
        try:
            at = os.lseek(file, hole, os.SEEK_DATA)
        except OSError:  # there is none
            at = size
        if at - hole > LARGEST_HOLE:
            return f"was never written from byte {hole} to {at} of {size}; finish the download"
    return None


def _of_one_size(file: BinaryIO, at: int, end: int) -> Iterator[int]:
    """The number of samples in each table (stsz) of samples of one size, of any track but sound."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(20)
        size, kind, inner = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if size == 1:  # the size follows
            size, inner = int.from_bytes(head[8:16], "big"), at + 16
        elif size == 0:
            size = end - at
        if size < 8:
            return
        if kind == b"hdlr" and head[16:20] == b"soun":  # sound of one size needs no table
            return
        if kind in _ON_THE_WAY:
            yield from _of_one_size(file, inner, min(at + size, end))
        elif kind == b"stsz" and head[12:16] != bytes(4):
            yield int.from_bytes(head[16:20], "big")
        at += size
