"""Synthetic textures, whose motion is known; no files. For tests and benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.opening import TooShort
from dali_pipes.decoding.pixels import resized
from dali_pipes.decoding.video import VideoInfo
from dali_pipes.sources.lists import NO_START
from dali_pipes.sources.source import Items


@dataclass(frozen=True)
class Synthetic(Items):
    """Textures that move by a known whole number of pixels a frame; no files. For tests and
    benchmarks. Frames wrap around at their edges."""

    frames: int = 64
    size: tuple[int, int] = (240, 320)
    has_flow = False

    # Motions (u, v) in pixels a frame; a video's class is its motion.
    MOTIONS = ((3, 0), (2, 2), (0, 3), (-2, 2), (-3, 0), (-2, -2), (0, -3), (2, -2))

    @classmethod
    def make(cls, videos: int, frames: int = 64, size: tuple[int, int] = (240, 320)) -> Self:
        """`videos` videos of `frames` frames of (height, width) pixels."""
        names = ["{:+d}{:+d}".format(*motion) for motion in cls.MOTIONS]
        class_ids = np.arange(videos) % len(names)
        return cls(
            name=f"{videos} synthetic videos",
            paths=[f"synthetic/{names[c]}/{video:06d}" for video, c in enumerate(class_ids)],
            class_ids=class_ids,
            class_names=names,
            starts=np.full(videos, NO_START, np.int64),
            frames=frames,
            size=size,
        )

    def motion(self, item: int) -> tuple[int, int]:
        """(u, v) of an item in pixels a frame."""
        return self.MOTIONS[self.class_ids[item]]

    def stamp(self, item: int) -> tuple[int, int]:
        return self.frames, 0

    def probe(self, item: int) -> VideoInfo:
        return VideoInfo(self.frames, *self.size, "synthetic")

    def read_clip(
        self, item: int, numbers: Sequence[int], resize: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        if numbers[-1] >= self.frames:
            raise TooShort.asked(self.paths[item], "decode", self.frames, numbers[-1])
        seed = int.from_bytes(blake2b(self.paths[item].encode(), digest_size=8).digest(), "big")
        noise = np.random.default_rng(seed).integers(0, 256, (*self.size, 3), np.uint8)
        edge = 12
        wrapped = np.pad(noise, ((edge, edge), (edge, edge), (0, 0)), mode="wrap")
        smooth = cv2.GaussianBlur(wrapped, (0, 0), 3)[edge:-edge, edge:-edge].astype(np.float32)
        low, high = smooth.min(), smooth.max()
        texture = ((smooth - low) * (255 / (high - low))).astype(np.uint8)
        u, v = self.motion(item)
        images = [np.roll(texture, (v * n, u * n), axis=(0, 1)) for n in numbers]
        if resize is not None:
            images = [resized(image, resize) for image in images]
        return np.stack(images), self.size
