"""The labels in words, beside the panels that show them."""

from dataclasses import dataclass

from dali_pipes.drawing.clip import LabelledClip
from dali_pipes.drawing.page import FAINT, INK, MARGIN, PANEL, PREDICTED, WIDTH, Page
from kernels.labels.words import octant_rgb


@dataclass
class _Line:
    """One label, or several that are read together."""

    head: str
    names: list[str]
    join: str = ", "

    def words(self, clip: LabelledClip) -> str:
        return self.join.join(clip.words(name, clip.value(name)) for name in self.names)

    def numbers(self, clip: LabelledClip) -> str:
        return "   ".join(f"{name} {clip.value(name)}" for name in self.names)

    def predicted(self, clip: LabelledClip) -> str:
        guesses = [(name, clip.guess(name)) for name in self.names]
        return self.join.join(
            clip.words(name, guess) for name, guess in guesses if guess is not None
        )


def motion_words(page: Page, clip: LabelledClip, component: str, left: float, top: float) -> None:
    axis = {"u": "horizontal", "v": "vertical"}[component]
    lines = [
        _Line(head, [f"{component}{pattern}p", f"{component}{pattern}o"], ";  ")
        for pattern, head in enumerate(("squares", "rings", "triangles"), start=1)
    ]
    lines.append(_Line("clip", [f"{component}g"]))
    question = f"Where does {axis} motion change most, which way, and when?"
    _word_block(page, clip, question, lines, left, top)


def colour_words(page: Page, clip: LabelledClip, _source: str, left: float, top: float) -> None:
    lines = [
        _Line(head, [f"{pattern}{letter}{kind}" for kind in "pc"], ": ")
        for pattern, block in enumerate(("squares", "rings", "triangles"), start=1)
        for letter, head in (("d", f"{block}  D"), ("c", "C"))
    ]
    lines.append(_Line("clip", ["gc"]))
    question = "Where do colours change most (D) and least (C); main colour there?"
    _word_block(page, clip, question, lines, left, top)


def _word_block(
    page: Page, clip: LabelledClip, question: str, lines: list[_Line], left: float, top: float
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
