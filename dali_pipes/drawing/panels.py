"""The three patterns: rows u, v and colour; columns squares, rings and triangles."""

from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.drawing.clip import LabelledClip, Mask
from dali_pipes.drawing.page import GAP, GUTTER, MARGIN, PANEL, PREDICTED, TRUE, Image, Page
from dali_pipes.drawing.words import colour_words, motion_words
from kernels.labels.partitions import PATTERN_SLICES
from kernels.labels.words import octant_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def panels(page: Page, clip: LabelledClip, top: float) -> None:
    """Rows u, v and colours; columns squares, rings and triangles; words at the right."""
    left = MARGIN + GUTTER
    heads = ("16 squares", "4 rings", "8 triangles")
    for column, head in enumerate(heads):
        centre = left + column * (PANEL + GAP) + PANEL / 2
        page.text(centre, top - 14, head, ha="center", weight="bold")
    if clip.predicted is not None:
        x = left + 3 * (PANEL + GAP) + 16
        page.text(x, top - 14, "solid: true", weight="bold", color="#0097a7")
        page.text(
            x + 120, top - 14, "dashed: predicted, where it differs", weight="bold", color=PREDICTED
        )
    for row, (name, draw, words) in enumerate(
        (
            ("u\nhorizontal\nmotion", _motion_panel, motion_words),
            ("v\nvertical\nmotion", _motion_panel, motion_words),
            ("colour", _colour_panel, colour_words),
        )
    ):
        y = top + row * (PANEL + GAP)
        page.text(MARGIN, y + PANEL / 2, name)
        source = "uvc"[row]
        for column in range(3):
            draw(page, clip, source, column + 1, left + column * (PANEL + GAP), y)
        words(page, clip, source, left + 3 * (PANEL + GAP) + 16, y)


def motion_boundaries(flow: Image, component: str) -> NDArray[np.float32]:
    """Magnitude [S,S] of a component's gradient summed over coded flow [F,S,S,2]."""
    fields = flow[..., "uv".index(component)].sum(0, np.float32)
    ones, slope = np.ones(3), np.array([-1.0, 0, 1])
    border = cv2.BORDER_REPLICATE
    along_x = cv2.sepFilter2D(fields, cv2.CV_32F, slope, ones, borderType=border)
    along_y = cv2.sepFilter2D(fields, cv2.CV_32F, ones, slope, borderType=border)
    return cast("NDArray[np.float32]", np.hypot(along_x, along_y))


def strongest(strength: NDArray[np.float32], mask: Mask) -> tuple[int, int]:
    """Where (x, y) in a block its motion boundaries are strongest: there stands its arrow."""
    smooth = np.where(mask, cv2.GaussianBlur(strength, (0, 0), 3), -1)
    y, x = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return int(x), int(y)


def _motion_panel(
    page: Page, clip: LabelledClip, component: str, pattern: int, left: float, top: float
) -> None:
    from matplotlib import colormaps

    strength = motion_boundaries(clip.flow, component)
    heat = np.minimum(strength / max(float(np.percentile(strength, 99)), 1e-6), 1)[..., None]
    middle = clip.frames[len(clip.frames) // 2].mean(-1, keepdims=True) / 255 * 0.6
    glow = colormaps["inferno"](0.25 + 0.75 * heat[..., 0])[..., :3]
    picture = (255 * (middle * (1 - heat) + glow * heat)).astype(np.uint8)
    mask = clip.mask(pattern, clip.value(f"{component}{pattern}p"))
    picture = np.where(mask[..., None], picture, (picture * 0.6).astype(np.uint8))
    axes = page.image(picture, left, top, PANEL)
    _pattern_lines(axes, clip, pattern)
    guess = clip.guess(f"{component}{pattern}p")
    if guess is not None:
        _outline(axes, clip.mask(pattern, guess), PREDICTED, dashed=True)
    _outline(axes, mask, TRUE)
    x, y = strongest(strength, mask)
    orientation = f"{component}{pattern}o"
    turned = clip.guess(orientation)
    if turned not in (None, clip.value(orientation)):
        _arrow(axes, (x, y), turned, len(mask), PREDICTED)
    _arrow(axes, (x, y), clip.value(orientation), len(mask), "white")


def _arrow(axes: "Axes", at: tuple[int, int], orientation: int, size: int, colour: str) -> None:
    """An arrow through the pixel `at` (x, y), moved so that it fits in the frame."""
    from matplotlib.patheffects import withStroke

    if orientation == 0:  # `reference`, and nothing moves
        return
    angle = np.radians(45 * (orientation - 1))
    half = 0.12 * size * np.array([np.cos(angle), np.sin(angle)])
    x, y = np.clip(at, 0.12 * size, 0.88 * size)
    axes.annotate(
        "", (x + half[0], y + half[1]), (x - half[0], y - half[1]), annotation_clip=False,
        arrowprops={
            "arrowstyle": "-|>,head_width=0.32,head_length=0.5", "mutation_scale": 18,
            "color": colour, "lw": 3, "shrinkA": 0, "shrinkB": 0,
            "path_effects": [withStroke(linewidth=6, foreground="black")],
        },
    )  # fmt: skip


def _colour_panel(
    page: Page, clip: LabelledClip, _source: str, pattern: int, left: float, top: float
) -> None:
    frame = clip.frames[len(clip.frames) // 2]
    chosen = {
        "D": clip.mask(pattern, clip.value(f"{pattern}dp")),
        "C": clip.mask(pattern, clip.value(f"{pattern}cp")),
    }
    faded = (frame * 0.45 + 255 * 0.25).astype(np.uint8)
    picture = np.where((chosen["D"] | chosen["C"])[..., None], frame, faded)
    axes = page.image(picture, left, top, PANEL)
    _pattern_lines(axes, clip, pattern)
    for letter, mask in chosen.items():
        guess = clip.guess(f"{pattern}{letter.lower()}p")
        if guess is not None:
            _outline(axes, clip.mask(pattern, guess), PREDICTED, dashed=True)
        _outline(axes, mask, TRUE)
    for letter, mask in chosen.items():
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        colour = octant_rgb(clip.value(f"{pattern}{letter.lower()}c"))
        dark = sum(colour) < 1.4
        axes.text(
            float(x) - 1, float(y) - 1, letter, ha="center", va="center", size=13, weight="bold",
            color="white" if dark else "black",
            bbox={"boxstyle": "circle,pad=0.3", "fc": colour, "ec": "white" if dark else "black"},
        )  # fmt: skip


def _pattern_lines(axes: "Axes", clip: LabelledClip, pattern: int) -> None:
    blocks = PATTERN_SLICES[pattern - 1]
    for number in range(1, blocks.stop - blocks.start + 1):
        axes.contour(clip.mask(pattern, number), [0.5], colors="white", linewidths=0.7, alpha=0.6)


def _outline(axes: "Axes", mask: Mask, colour: str, dashed: bool = False) -> None:
    from matplotlib.patheffects import withStroke

    if not mask.any():
        return
    # Padded, so that the outline closes where the block touches the frame's edge.
    padded = np.pad(mask, 1).astype(float)
    axis = np.arange(-1, len(mask) + 1).clip(-0.2, len(mask) - 0.8)
    line = axes.contour(
        axis, axis, padded, [0.5], colors=colour, linewidths=2.6,
        linestyles=[(0, (2, 1.4))] if dashed else "solid",
    )  # fmt: skip
    if not dashed:
        line.set(path_effects=[withStroke(linewidth=4.4, foreground="black")])
    axes.set(xlim=(-0.5, len(mask) - 0.5), ylim=(len(mask) - 0.5, -0.5))
