"""The whole picture of a labelled clip."""

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decoding.opening import printable
from dali_pipes.drawing.clip import LabelledClip
from dali_pipes.drawing.page import FAINT, GAP, GUTTER, MARGIN, PANEL, WIDTH, Image, Page
from dali_pipes.drawing.panels import panels
from dali_pipes.drawing.strip import STRIP, film_strip
from kernels.labels.schema import LABELS, Rule, flow_fields


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
    clip = LabelledClip(frames, flow, np.asarray(labels), rule, predicted)
    strip_height = (WIDTH - 2 * MARGIN - GUTTER) // min(len(frames), STRIP)
    panels_top = 84 + 2 * strip_height + 62
    height = panels_top + 3 * (PANEL + GAP) + 34
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    page = Page(figure, height)
    page.text(MARGIN, 34, printable(title or "a labelled clip"), size=17, weight="bold")
    page.text(
        MARGIN,
        62,
        f"in: {len(frames)} frames of one crop and the flow between them    "
        f"out: {len(LABELS)} labels, drawn and in words below ({rule} rule)",
        size=11,
        color=FAINT,
    )
    film_strip(page, clip, 84, strip_height)
    panels(page, clip, panels_top)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
