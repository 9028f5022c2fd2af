"""The film strip: frames in a row, the flow between them, and the strongest fields."""

import cv2
import numpy as np

from dali_pipes.drawing.clip import LabelledClip
from dali_pipes.drawing.page import GUTTER, MARGIN, PREDICTED, Image, Page
from kernels.flow import code as flow_code

STRIP = 16  # at most so many frames in the film strip


def film_strip(page: Page, clip: LabelledClip, top: float, size: int) -> None:
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
