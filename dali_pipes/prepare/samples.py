"""Render sample videos with known motion: textured shapes that move in one of eight ways.

A class is a motion and nothing else: textures, colours, outlines, sizes, places, speeds and the
background are drawn alike for all of them. The two splits share no kind of texture and no hue, so
that what was learned on one by appearance is of no use on the other.
"""

import argparse
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.prepare.encode import write_video
from dali_pipes.prepare.work import BadInput

Split = Literal["train", "test"]
Field = NDArray[np.float32]
Picture = NDArray[np.uint8]

HEIGHT, WIDTH = 240, 320
FRAMES = (60, 90)  # a video's length lies between these
SPRITE = 256  # side in pixels of a shape's picture before it is scaled

# What a motion does per frame, in units of a shape's speed in pixels: (right, down, outwards at
# the rim, clockwise at the rim).
MOTIONS = {
    "right": (1, 0, 0, 0),
    "left": (-1, 0, 0, 0),
    "down": (0, 1, 0, 0),
    "up": (0, -1, 0, 0),
    "expand": (0, 0, 1, 0),
    "shrink": (0, 0, -1, 0),
    "clockwise": (0, 0, 0, 1),
    "anticlockwise": (0, 0, 0, -1),
}
SPLITS: tuple[Split, ...] = ("train", "test")


def render(
    motion: str, number: int, split: Split = "train", seed: int = 0, speed: float = 1.0
) -> Iterator[NDArray[np.uint8]]:
    """Frames, uint8 RGB [240,320,3], of a motion's video `number`; fixed by the arguments.

    Shapes move `speed` times as fast as they would; all else stays.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), list(MOTIONS).index(motion), number])
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    drift = np.arange(frames)[:, None] * rng.uniform(-0.5, 0.5, 2)  # [T,2] px, a moving camera
    margin = FRAMES[1] // 2
    scenery = _texture(rng, split, HEIGHT + 2 * margin, WIDTH + 2 * margin)
    shapes = [_shape(rng, split, motion, frames, speed) for _ in range(rng.integers(3, 6))]
    for t in range(frames):
        shift = np.column_stack([np.eye(2), drift[t] - margin])
        picture = cast(Field, cv2.warpAffine(scenery, shift, (WIDTH, HEIGHT)))
        for shape in shapes:
            shape.draw(picture, t)
        yield np.rint(picture).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Shape:
    """A textured shape and its course over the frames of a video."""

    sprites: list[Field]  # RGBA [s,s,4], alpha-weighted colours, each half the side of the last
    centre: NDArray[np.float64]  # [T,2] px, (x, y)
    radius: NDArray[np.float64]  # [T] px
    angle: NDArray[np.float64]  # [T] radians, clockwise
    opacity: NDArray[np.float64]  # [T]

    def draw(self, picture: Field, t: int) -> None:
        """Blend the shape as it is at frame t into `picture` float32 [H,W,3]."""
        (x, y), radius = self.centre[t], self.radius[t]
        reach = int(radius) + 2
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        right, bottom = min(int(x) + reach, WIDTH), min(int(y) + reach, HEIGHT)
        if left >= right or top >= bottom:
            return
        level = int(np.clip(np.log2(SPRITE / (2 * radius)), 0, len(self.sprites) - 1))
        sprite = self.sprites[level]
        scale = 2 * radius / len(sprite)
        turn = scale * np.array(
            [
                [np.cos(self.angle[t]), -np.sin(self.angle[t])],
                [np.sin(self.angle[t]), np.cos(self.angle[t])],
            ]
        )
        middle = np.full(2, (len(sprite) - 1) / 2)
        origin = (x - left, y - top) - turn @ middle
        placed = cv2.warpAffine(
            sprite, np.column_stack([turn, origin]), (right - left, bottom - top)
        )
        placed *= self.opacity[t]
        area = picture[top:bottom, left:right]
        area *= 1 - placed[..., 3:]
        area += placed[..., :3]


def _shape(
    rng: np.random.Generator, split: Split, motion: str, frames: int, factor: float
) -> Shape:
    """A shape of random looks, place and speed that moves as `motion` says."""
    right, down, outwards, clockwise = MOTIONS[motion]
    # A slow start, a burst at some time, a slow end: the frame of largest motion is not fixed.
    time = np.arange(frames)
    burst = np.exp(-(((time - rng.uniform(0, frames)) / rng.uniform(4, 15)) ** 2))
    speed = factor * (rng.uniform(1, 2) + rng.uniform(1.5, 4) * burst)  # px a frame
    path = np.cumsum(speed)

    radius, opacity = np.full(frames, rng.uniform(25, 80)), np.ones(frames)
    if outwards:  # grow from 8 px to 110 and fade, then start again; or the same backwards
        smallest, largest = 8, 110
        phase = (rng.uniform(0, 1) + outwards * path / (largest - smallest)) % 1
        radius = smallest + (largest - smallest) * phase
        opacity = np.minimum(1, (1 - phase) / 0.15)
    # What leaves on one side comes back on the other, once it is out of sight.
    course = rng.uniform(0.1, 0.9, 2) * (WIDTH, HEIGHT) + path[:, None] * (right, down)
    reach = radius[:, None] + 2
    centre = (course + reach) % ((WIDTH, HEIGHT) + 2 * reach) - reach
    angle = rng.uniform(0, 2 * np.pi) + clockwise * path / radius
    return Shape(_sprites(rng, split), centre, radius, angle, opacity)


def _sprites(rng: np.random.Generator, split: Split) -> list[Field]:
    """A random closed curve filled with a random texture, in falling sizes."""
    axis = np.linspace(-1, 1, SPRITE, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    around, distance = np.arctan2(y, x), np.hypot(x, y)
    outline = np.full_like(x, 0.7)
    for lobes in range(2, 6):
        strength, phase = rng.uniform(0, 0.5 / lobes), rng.uniform(0, 2 * np.pi)
        outline += np.float32(strength) * np.cos(lobes * around + np.float32(phase))
    outline *= 0.97 / outline.max()
    alpha = np.clip((outline - distance) * SPRITE / 4, 0, 1)[..., None]
    sprite = np.concatenate([_texture(rng, split, SPRITE, SPRITE) * alpha, alpha], axis=-1)
    sizes = [sprite]
    while len(sizes[-1]) > 16:
        sizes.append(
            cast(Field, cv2.resize(sizes[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        )
    return sizes


def _texture(rng: np.random.Generator, split: Split, height: int, width: int) -> Field:
    """A random picture, float32 RGB [height,width,3] in 0..255, of the split's kinds and hues."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    across, along = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    wave = np.float32(2 * np.pi / rng.uniform(20, 60))
    bend = 6 * _noise(rng, height, width)
    kind = rng.choice({"train": ["cloud", "stripes", "dots"], "test": ["checks", "rings"]}[split])
    match kind:
        case "cloud":
            value = _noise(rng, height, width)
        case "stripes":
            value = 0.5 + 0.5 * np.sin(across * wave + bend)
        case "dots":
            value = np.maximum(0, np.sin(across * wave) * np.sin(along * wave)) ** 0.5
        case "checks":
            value = 0.5 + 0.5 * np.tanh(4 * np.sin(across * wave) * np.sin(along * wave))
        case "rings":
            value = 0.5 + 0.5 * np.sin(np.hypot(x - width / 2, y - height / 2) * wave + bend)
    value = 0.8 * value + 0.2 * _noise(rng, height, width)
    palette = np.stack([_colour(rng, split) for _ in range(3)])  # dark to light, by value
    mix = np.stack([np.interp(value, (0, 0.5, 1), palette[:, c]) for c in range(3)], axis=-1)
    return mix.astype(np.float32)


def _noise(rng: np.random.Generator, height: int, width: int) -> Field:
    """Smooth noise in 0..1 with detail from a third of the picture down to a few pixels."""
    total = np.zeros((height, width), np.float32)
    for cells in (3, 8, 20, 50):
        grid = rng.random((cells, cells), dtype=np.float32)
        detail = cast(Field, cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
        total += detail / np.float32(cells**0.5)
    return (total - total.min()) / np.ptp(total)


def _colour(rng: np.random.Generator, split: Split) -> NDArray[np.float32]:
    """A random colour, RGB in 0..255; hues of the splits alternate in steps of 60 degrees."""
    hue = 120 * int(rng.integers(3)) + 60 * SPLITS.index(split) + rng.uniform(5, 55)
    hsv = np.array([[[hue, rng.uniform(0.3, 1), rng.uniform(0.15, 1)]]], np.float32)
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def write_sample(
    path: Path,
    motion: str,
    number: int,
    split: Split,
    seed: int,
    height: int = HEIGHT,
    speed: float = 1.0,
) -> None:
    """Render one video: H.264 if `path` ends in .mp4, MPEG-4 otherwise, with B-frames.

    `height` px, the width in proportion: all of it, motion too, is made smaller.
    """
    cv2.setNumThreads(1)  # one process a core already
    # The bytes, too, are to depend on the arguments only: one encoder thread, and no look ahead,
    # by which x264 writes other bytes from run to run.
    if path.suffix == ".mp4":
        codec, options = "libx264", {"crf": "20", "preset": "veryfast", "threads": "1"}
        options["x264-params"] = "b-adapt=0:mbtree=0:rc-lookahead=0"
    else:
        codec, options = "mpeg4", {"b": "3000000", "threads": "1"}
    size = (height * WIDTH // HEIGHT, height)
    frames = render(motion, number, split, seed, speed)
    if height != HEIGHT:
        frames = (
            cast(Picture, cv2.resize(frame, size, interpolation=cv2.INTER_AREA)) for frame in frames
        )
    write_video(path, frames, codec, options=options)


def write_samples(
    out: Path,
    videos_per_class: int,
    split: Split,
    seed: int,
    height: int = HEIGHT,
    speed: float = 1.0,
) -> int:
    """Render `videos_per_class` videos a class into `out`/<motion>/, on all cores; their number.

    Every other video is H.264 in mp4, the rest MPEG-4 in AVI, both with B-frames. `out` appears
    once it is complete. Raises FileExistsError if it is there already.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it or choose another --out")
    unfinished = out.with_name(f".{uuid4().hex}.part")
    jobs = []
    for motion in MOTIONS:
        (unfinished / motion).mkdir(parents=True)
        for number in range(videos_per_class):
            name = f"{motion}_{number:03}.{'avi' if number % 2 else 'mp4'}"
            jobs.append((unfinished / motion / name, motion, number, split, seed, height, speed))
    workers = len(os.sched_getaffinity(0))
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(write_sample, *zip(*jobs, strict=True)))
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return len(jobs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--videos-per-class", type=int, default=7, help="videos of each motion")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="the two share no texture kind and no hue"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same videos")
    parser.add_argument(
        "--height",
        type=int,
        default=HEIGHT,
        help="of the videos in pixels, the width in proportion",
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="how many times as fast the shapes move"
    )


def main(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    if args.videos_per_class < 1:
        raise BadInput(f"--videos-per-class must be at least 1, got {args.videos_per_class}")
    if args.height < 24 or args.height % 6:  # sides of video are even
        raise BadInput(f"--height must be a multiple of 6 from 24 on, got {args.height}")
    if not 0 < args.speed <= 10:
        raise BadInput(f"--speed must lie above 0, up to 10, got {args.speed:g}")
    chosen = (args.split, args.seed, args.height, args.speed)
    try:
        videos = write_samples(args.out, args.videos_per_class, *chosen)
    except FileExistsError as error:
        raise BadInput(str(error)) from error
    print(f"{videos} videos of {len(MOTIONS)} motions in {args.out}")
    return 0
