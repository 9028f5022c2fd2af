"""Numbered JPEG images: frame000001.jpg, frame000002.jpg, ... of the published layout, or others.

Image decoders fill what is missing of a damaged JPEG with grey and say nothing; here a file is
examined before it is believed.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.claims import too_many_pixels
from dali_pipes.decoding.opening import BadVideo

_NUMBERED = re.compile(r"(.*?)(\d+)(\.jpe?g)", re.IGNORECASE | re.DOTALL)
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)  # begins with one byte: found quickly
_STDERR = 2
_stderr_lent = Lock()
_DAMAGED = ("Corrupt JPEG data", "Premature end of JPEG file")  # how libjpeg's warnings begin
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-15
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a segment; RST0-7 within a scan


@dataclass(frozen=True)
class Naming:
    """How numbered images are called; they count from 1."""

    prefix: str = "frame"
    digits: int = 6
    suffix: str = ".jpg"

    def __call__(self, number: int) -> str:
        return f"{self.prefix}{number:0{self.digits}d}{self.suffix}"


PUBLISHED = Naming()


def image_name(number: int) -> str:
    """File name of a frame or flow image in the published layout, counted from 1."""
    return PUBLISHED(number)


def images_among(names: Iterable[str]) -> list[str]:
    """The names of JPEG images, sorted."""
    return sorted(name for name in names if name.lower().endswith((".jpg", ".jpeg")))


def naming_of(names: Iterable[str]) -> Naming | None:
    """How the images among a folder's files are called; None: there are none.

    Raises ValueError if that is not certain.
    """
    images = images_among(names)
    if not images:
        return None
    found = dict[Naming, str]()
    for name in images:
        if numbered := _NUMBERED.fullmatch(name):
            prefix, digits, suffix = numbered.groups()
            found.setdefault(Naming(prefix, len(digits), suffix), name)
    if PUBLISHED in found:
        return PUBLISHED
    if len(found) != 1:
        kinds = ", ".join(islice(found.values(), 3)) or images[0]
        raise ValueError(
            f"cannot tell how its images are called ({kinds}); they are numbered with leading "
            f"zeros, one kind a folder, for example {PUBLISHED(1)}"
        )
    return next(iter(found))


def count_images(folder: str, naming: Naming = PUBLISHED) -> int:
    """How many images, from number 1 on, a folder holds without a gap.

    Raises OSError, and BadVideo if they begin at 0: flow and lists count from 1.
    """
    names = set(os.listdir(folder))
    if naming(0) in names:
        reason = f"images count from 1, and there is {naming(0)}; rename them"
        raise BadVideo(folder, "open", reason)
    count = 0
    while naming(count + 1) in names:
        count += 1
    return count


def damage(data: bytes) -> str | None:
    """What is wrong with the bytes of a JPEG file, or None: all its segments are there, to the end.

    Walks the markers: finds truncation, and seldom damage within a scan (`docs/faults.md`).
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
        if marker in _FRAME_HEADERS:
            height, width = (int.from_bytes(data[at + n : at + n + 2], "big") for n in (3, 5))
            if absurd := too_many_pixels(height, width):
                return absurd
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


def read_decodable(path: str) -> NDArray[np.uint8]:
    """`read_encoded` that also raises ValueError where decoders refuse what the markers frame."""
    data = read_encoded(path)
    _decoded(data, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return data


def read_image(path: str) -> NDArray[np.uint8]:
    """A JPEG file -> uint8 RGB [H,W,3]. Raises OSError, or ValueError that says what is wrong."""
    return _decoded(read_encoded(path))


def _decoded(data: NDArray[np.uint8], how: int = cv2.IMREAD_COLOR_RGB) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(data, how)
    except cv2.error:  # no pixels, or too many for OpenCV
        image = None
    if image is None:
        raise ValueError("is no JPEG image that can be decoded")
    return cast("NDArray[np.uint8]", image)


def read_image_strictly(path: str) -> NDArray[np.uint8]:
    """`read_image` that also raises ValueError where the decoder had to guess pixels."""
    image, said = _decoded_with_warnings(read_encoded(path))
    if said:
        raise ValueError(f"is damaged: libjpeg says: {said[0]}")
    return image


def _decoded_with_warnings(data: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[str]]:
    """The image, and libjpeg's warnings, which it gives to the standard error alone."""
    with _stderr_lent:
        said, stderr = os.memfd_create("stderr"), os.dup(_STDERR)
        try:
            os.dup2(said, _STDERR)
            image = _decoded(data)
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            with open(said, errors="replace") as file:
                file.seek(0)
                lines = file.readlines()
    warnings = [line.strip() for line in lines if line.startswith(_DAMAGED)]
    others = [line for line in lines if not line.startswith(_DAMAGED)]
    if others:  # another thread's
        os.write(_STDERR, "".join(others).encode())
    return image, warnings
