"""A page measured in pixels, and what stands on it: images, text, boxes."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.uint8]

# The page, in pixels.
WIDTH, MARGIN, GUTTER, PANEL, GAP = 1400, 24, 88, 228, 12
INK, FAINT, TRUE, PREDICTED = "#1c1c1c", "#6f6f6f", "#00e5ff", "#ff4fd8"


class Page:
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
        style |= {"parse_math": False}  # a name may have $ in it
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
