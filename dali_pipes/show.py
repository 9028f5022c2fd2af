"""A labelled clip as a picture: frames, flow, chosen blocks, directions, colours, and words.

python -m dali_pipes.show VIDEO [--start FRAME] [--out PICTURE]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.clips import ClipSpec, start_frame
from dali_pipes.decoding.video import BadVideo, probe, read_clip, read_frames
from dali_pipes.flow import dis_flow, flow_size, tvl1_flow
from kernels.flow import code as flow_code
from kernels.labels.partitions import PATTERN_SLICES, partition
from kernels.labels.schema import INDEX, LABELS, RULES, Rule, flow_fields
from kernels.labels.words import octant_rgb, value_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# The page, in pixels.
WIDTH, MARGIN, GUTTER, PANEL, GAP = 1400, 24, 88, 228, 12
STRIP = 16  # at most so many frames in the film strip
INK, FAINT, TRUE, PREDICTED = "#1c1c1c", "#6f6f6f", "#00e5ff", "#ff4fd8"


def clip_picture(
    frames: Image,
    flow: Image,
    labels: NDArray[np.int64],
    rule: Rule = "corrected",
    predicted: NDArray[np.int64] | None = None,
    title: str | None = None,
) -> Image:
    """Draw one clip with its labels, and beside them a network's if given.

    `frames` uint8 RGB [T,S,S,3]; `flow` uint8 coded [F,S,S,2]; `labels` and `predicted` [27],
    where a predicted value outside its label's range (0, say) means: none. Returns uint8 RGB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    flow = flow[: flow_fields(rule, len(frames))]
    clip = _Clip(frames, flow, np.asarray(labels), rule, predicted)
    strip_height = (WIDTH - 2 * MARGIN - GUTTER) // min(len(frames), STRIP)
    panels_top = 84 + 2 * strip_height + 62
    height = panels_top + 3 * (PANEL + GAP) + 34
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    page = _Page(figure, height)
    page.text(MARGIN, 34, title or "a labelled clip", size=17, weight="bold")
    page.text(
        MARGIN,
        62,
        f"in: {len(frames)} frames of one crop and the flow between them    "
        f"out: {len(LABELS)} labels, drawn and in words below ({rule} rule)",
        size=11,
        color=FAINT,
    )
    _film_strip(page, clip, 84, strip_height)
    _panels(page, clip, panels_top)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@dataclass
class _Clip:
    frames: Image
    flow: Image
    labels: NDArray[np.int64]
    rule: Rule
    predicted: NDArray[np.int64] | None

    def value(self, name: str) -> int:
        return int(self.labels[INDEX[name]])

    def guess(self, name: str) -> int | None:
        """The predicted value, or None if there is none."""
        if self.predicted is None:
            return None
        value = int(self.predicted[INDEX[name]])
        return value if 1 <= value <= LABELS[INDEX[name]].classes(len(self.frames)) else None

    def words(self, name: str, value: int) -> str:
        return value_words(name, value, self.rule, len(self.frames))

    def mask(self, pattern: int, value: int) -> Mask:
        """The pixels [S,S] of the block with the 1-based number `value` in pattern 1, 2 or 3."""
        if value == 0:  # `reference`, and nothing moves: no block is chosen
            return np.zeros(self.frames.shape[1:3], bool)
        return partition(len(self.frames[0]), self.rule).mask(
            PATTERN_SLICES[pattern - 1].start + value - 1
        )


class _Page:
    """A figure measured in pixels from its top left corner."""

    def __init__(self, figure: "Figure", height: int) -> None:
        self.figure, self.height = figure, height

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        bottom = self.height - top - height
        box = (left / WIDTH, bottom / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_axis_off()
        return axes

    def image(self, picture: Image, left: float, top: float, size: float) -> "Axes":
        axes = self.axes(left, top, size, size)
        axes.imshow(picture, interpolation="antialiased")
        return axes

    def text(self, left: float, middle: float, words: str, **style: object) -> None:
        style = {"va": "center", "ha": "left", "color": INK, "size": 11} | style
        self.figure.text(left / WIDTH, 1 - middle / self.height, words, **style)  # type: ignore[arg-type]

    def box(self, left: float, top: float, width: float, height: float, **style: object) -> None:
        from matplotlib.patches import Rectangle

        corner = (left / WIDTH, 1 - (top + height) / self.height)
        patch = Rectangle(
            corner,
            width / WIDTH,
            height / self.height,
            transform=self.figure.transFigure,
            **style,  # type: ignore[arg-type]
        )
        self.figure.add_artist(patch)


# ---- frames and flow -------------------------------------------------------------------------


def _film_strip(page: _Page, clip: _Clip, top: float, size: int) -> None:
    """All frames in a row, the flow fields under and between them, and marks at ug and vg."""
    total = len(clip.frames)
    shown = np.linspace(0, total - 1, min(total, STRIP)).round().astype(int)
    left = MARGIN + GUTTER
    page.text(MARGIN, top + size / 2, "frames", size=12)
    for column, t in enumerate(shown):
        page.image(clip.frames[t], left + column * size, top, size - 3)
    pictures = flow_colours(clip.flow)
    page.text(MARGIN, top + 1.5 * size, "flow", size=12)
    page.image(_wheel(), MARGIN + 42, top + 1.5 * size - 16, 32)
    for column, t in enumerate(shown[:-1]):
        page.image(pictures[t], left + (column + 0.5) * size, top + size + 1, size - 3)

    def place(field: float) -> float:
        """Where flow field `field`, from 0, has its middle."""
        return left + (np.interp(field, shown, np.arange(len(shown))) + 1) * size - 1.5

    page.text(MARGIN, top + 2 * size + 20, "▲ strongest", size=10)
    for component, row in (("u", 12), ("v", 28)):
        value, guess = clip.value(f"{component}g"), clip.guess(f"{component}g")
        y = top + 2 * size + row
        page.text(place(value - 1), y, f"▲ {component}", ha="center")
        if guess not in (None, value):
            page.text(place(guess - 1), y, f"△ {component}", ha="center", color=PREDICTED)


def flow_colours(flow: Image) -> Image:
    """Coded flow uint8 [F,S,S,2] -> RGB [F,S,S,3]: hue is direction, strength is speed.

    Right is red, down yellow-green, left cyan, up violet; white does not move; the fastest
    hundredth of the clip has full colour.
    """
    u, v = np.moveaxis(flow_code.decode(flow), -1, 0)
    speed = np.hypot(u, v)
    fastest = max(float(np.percentile(speed, 99)), 1.0)
    hue = np.degrees(np.arctan2(v, u)) % 360
    hsv = np.stack([hue, np.minimum(speed / fastest, 1), np.ones_like(hue)], axis=-1)
    rgb = cv2.cvtColor(hsv.reshape(-1, 1, 3).astype(np.float32), cv2.COLOR_HSV2RGB)
    return np.rint(255 * rgb).astype(np.uint8).reshape(*flow.shape[:-1], 3)


def _wheel() -> Image:
    """The colours of all directions, on a disc."""
    axis = np.linspace(-20, 20, 64, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    inside = (np.hypot(u, v) <= 20)[..., None]
    return np.where(inside, flow_colours(flow_code.encode(np.stack([u, v], -1))[None])[0], 255)


# ---- the three patterns ----------------------------------------------------------------------


def _panels(page: _Page, clip: _Clip, top: float) -> None:
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
            ("u\nhorizontal\nmotion", _motion_panel, _motion_words),
            ("v\nvertical\nmotion", _motion_panel, _motion_words),
            ("colour", _colour_panel, _colour_words),
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
    return cast(NDArray[np.float32], np.hypot(along_x, along_y))


def _motion_panel(
    page: _Page, clip: _Clip, component: str, pattern: int, left: float, top: float
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
    # The arrow stands where the block's boundaries are strongest.
    smooth = np.where(mask, cv2.GaussianBlur(strength, (0, 0), 3), -1)
    y, x = np.unravel_index(int(smooth.argmax()), smooth.shape)
    orientation = f"{component}{pattern}o"
    turned = clip.guess(orientation)
    if turned not in (None, clip.value(orientation)):
        _arrow(axes, (int(x), int(y)), turned, len(mask), PREDICTED)
    _arrow(axes, (int(x), int(y)), clip.value(orientation), len(mask), "white")


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
    page: _Page, clip: _Clip, _source: str, pattern: int, left: float, top: float
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


def _pattern_lines(axes: "Axes", clip: _Clip, pattern: int) -> None:
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


# ---- words -----------------------------------------------------------------------------------


@dataclass
class _Line:
    """One label, or several that are read together."""

    head: str
    names: list[str]
    join: str = ", "

    def words(self, clip: _Clip) -> str:
        return self.join.join(clip.words(name, clip.value(name)) for name in self.names)

    def numbers(self, clip: _Clip) -> str:
        return "   ".join(f"{name} {clip.value(name)}" for name in self.names)

    def predicted(self, clip: _Clip) -> str:
        guesses = [(name, clip.guess(name)) for name in self.names]
        return self.join.join(
            clip.words(name, guess) for name, guess in guesses if guess is not None
        )


def _motion_words(page: _Page, clip: _Clip, component: str, left: float, top: float) -> None:
    axis = {"u": "horizontal", "v": "vertical"}[component]
    lines = [
        _Line(head, [f"{component}{pattern}p", f"{component}{pattern}o"], ";  ")
        for pattern, head in enumerate(("squares", "rings", "triangles"), start=1)
    ]
    lines.append(_Line("clip", [f"{component}g"]))
    question = f"Where does {axis} motion change most, which way, and when?"
    _word_block(page, clip, question, lines, left, top)


def _colour_words(page: _Page, clip: _Clip, _source: str, left: float, top: float) -> None:
    lines = [
        _Line(head, [f"{pattern}{letter}{kind}" for kind in "pc"], ": ")
        for pattern, block in enumerate(("squares", "rings", "triangles"), start=1)
        for letter, head in (("d", f"{block}  D"), ("c", "C"))
    ]
    lines.append(_Line("clip", ["gc"]))
    question = "Where do colours change most (D) and least (C); main colour there?"
    _word_block(page, clip, question, lines, left, top)


def _word_block(
    page: _Page, clip: _Clip, question: str, lines: list[_Line], left: float, top: float
) -> None:
    page.text(left, top + 10, question, size=11, color=FAINT, style="italic")
    step = (PANEL - 24) / len(lines)
    for i, line in enumerate(lines):
        y = top + 26 + i * step + step / 2 - (7 if line.predicted(clip) else 0)
        page.text(left + 82, y, line.head, weight="bold", ha="right")
        page.text(left + 94, y, line.words(clip))
        page.text(WIDTH - MARGIN, y, line.numbers(clip), ha="right", size=9.5, color=FAINT)
        if line.names[-1].endswith("c"):
            page.box(left + 370, y - 6, 12, 12, fc=octant_rgb(clip.value(line.names[-1])), ec=INK)
        if line.predicted(clip):
            page.text(left + 94, y + 13, line.predicted(clip), size=9.5, color=PREDICTED)


# ---- the command -----------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dali_pipes.show",
        description="Draw a clip of a video with its 27 labels.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser.add_argument("--start", type=int, help="first frame, from 0; None: the video's middle")
    parser.add_argument("--out", type=Path, default=Path("clip.png"), help="PNG to write")
    parser.add_argument("--rule", choices=RULES, default="corrected", help="how labels are defined")
    parser.add_argument(
        "--flow", choices=("tvl1", "dis"), default="tvl1",
        help="tvl1: as published, some seconds a clip; dis: what training on a CPU computes",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        picture = _picture_of(args.video, args.start, args.rule, args.flow)
    except (BadVideo, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    cv2.imwrite(str(args.out), picture[..., ::-1])
    print(args.out)
    return 0


def _picture_of(video: Path, start: int | None, rule: Rule, flow: str) -> Image:
    """Read, label and draw one clip: the centre crop of the spec that training uses by default."""
    from kernels.labels import clip_labels

    spec = ClipSpec(rule=rule)
    count = spec.frames_for_flow
    frames_in_video = probe(video).frames
    if start is None:
        start = start_frame(0.5, frames_in_video, spec.span(count))
    numbers = range(start, start + count)
    frames, native = read_clip(video, numbers, spec.resize)
    if flow == "tvl1":
        native_frames = read_frames(video, numbers, flow_size(native))
        fields = [flow_code.encode(field) for field in tvl1_flow(native_frames)]
        coded = np.stack([cv2.resize(field, spec.resize[::-1]) for field in fields])
    else:
        coded = dis_flow(frames, native)
    top, left = ((side - spec.size) // 2 for side in spec.resize)
    crop = np.s_[:, top : top + spec.size, left : left + spec.size]
    frames, coded = frames[: spec.clip_len][crop], coded[: spec.flow_fields].astype(np.uint8)[crop]
    labels = clip_labels(frames[None], coded[None], rule)[0]
    title = f"{video.name}, frames {start} to {start + spec.clip_len - 1} of {frames_in_video}"
    return clip_picture(frames, coded, labels, rule, title=title)


if __name__ == "__main__":
    sys.exit(main())
