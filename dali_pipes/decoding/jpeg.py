"""The images of the published layout: frame000001.jpg, frame000002.jpg, ...

Image decoders fill what is missing of a damaged JPEG with grey and say nothing; here a file is
examined before it is believed.
"""

import os
import re
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)  # begins with one byte: found quickly
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a segment; RST0-7 within a scan


def image_name(number: int) -> str:
    """File name of a frame or flow image, counted from 1."""
    return f"frame{number:06d}.jpg"


def count_images(folder: str) -> int:
    """How many images frame000001.jpg, frame000002.jpg, ... a folder holds without a gap."""
    names = set(os.listdir(folder))
    count = 0
    while image_name(count + 1) in names:
        count += 1
    return count


def damage(data: bytes) -> str | None:
    """What is wrong with the bytes of a JPEG file, or None: all its segments are there, to the end.

    Walks the markers; finds truncation and most damage, though not a changed pixel value.
    """
    if data[:2] != bytes([0xFF, _START]):
        return "is no JPEG image"
    at, scans = 2, 0
    while True:
        found = _MARKER.match(data, at)
        if found is None:
            return "is damaged" if at < len(data) else "is cut off"
        marker, at = found[1][0], found.end()
        if marker == _END:
            return None if scans else "is damaged"
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            return "is cut off" if length >= 2 else "is damaged"
        at += length
        if marker == _SCAN:
            scans += 1
            at = _end_of_scan(data, at)


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the entropy-coded data that begin at `at` end: at a marker that is no restart."""
    while found := _NEXT_MARKER.search(data, at):
        if found[0][1] not in _ALONE:
            return found.start()
        at = found.end()
    return len(data)


def read_encoded(path: str) -> NDArray[np.uint8]:
    """The bytes of a JPEG file [n]. Raises OSError, or ValueError that says what is wrong."""
    with open(path, "rb") as file:
        data = file.read()
    if wrong := damage(data):
        raise ValueError(wrong)
    return np.frombuffer(data, np.uint8)


def read_image(path: str) -> NDArray[np.uint8]:
    """A JPEG file -> uint8 RGB [H,W,3]. Raises OSError, or ValueError that says what is wrong."""
    image = cv2.imdecode(read_encoded(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("cannot be decoded")
    return cast(NDArray[np.uint8], image)
