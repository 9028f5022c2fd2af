"""The outcome of a task, with its protocol, as text, JSON, TensorBoard events and a page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from dali_pipes.decoding.opening import printable
from dali_pipes.pages.render import BLUE, data_url, page, svg

SHOWN_QUERIES = 12
SHOWN_NEIGHBOURS = 5
NAMED_CLASSES = 60  # a larger confusion matrix is drawn without class names

TEMPLATE = Path(__file__).with_suffix(".html")

Strip = Callable[[str], NDArray[np.uint8]]  # path -> frames side by side, uint8 RGB [H,W,3]


@dataclass(frozen=True)
class Neighbour:
    """A retrieved video."""

    path: str
    class_name: str
    similarity: float
    hit: bool


@dataclass(frozen=True)
class Query:
    """A test video and what was retrieved for it, nearest first."""

    path: str
    class_name: str
    neighbours: list[Neighbour]


@dataclass(frozen=True)
class Outcome:
    """What a task found. Figures are shares in 0..1 unless their name says otherwise."""

    task: str
    protocol: Mapping[str, Any]  # how it was done, in the order of the work
    figures: Mapping[str, float]
    videos: int  # that took part
    left_out: Sequence[tuple[str, str]] = ()  # (what, why)
    warnings: Sequence[str] = ()
    class_names: Sequence[str] = ()
    confusion: NDArray[np.int64] | None = None  # [C,C], true class by predicted class
    queries: Sequence[Query] = field(default=())

    @property
    def per_class(self) -> dict[str, float]:
        """The share of each class's test videos that were recognised; classes without any: none."""
        if self.confusion is None:
            return {}
        total = self.confusion.sum(axis=1)
        return {
            name: float(self.confusion[c, c] / total[c])
            for c, name in enumerate(self.class_names)
            if total[c]
        }


def text(outcome: Outcome) -> str:
    """The protocol and its result, for the terminal."""
    width = max(map(len, (*outcome.protocol, *outcome.figures, "videos")), default=0)
    lines = [outcome.task]
    lines += [f"  {name:{width}}  {value}" for name, value in outcome.protocol.items()]
    left_out = f", {len(outcome.left_out)} left out" if outcome.left_out else ", none left out"
    lines.append(f"  {'videos':{width}}  {outcome.videos}{left_out}")
    lines += [f"  left out: {what}: {why}" for what, why in outcome.left_out[:10]]
    if len(outcome.left_out) > 10:
        lines.append(f"  ... and {len(outcome.left_out) - 10} more, all of them in result.json")
    lines += [f"  warning: {warning}" for warning in outcome.warnings]
    lines += [f"  {name:{width}}  {value:.4f}" for name, value in outcome.figures.items()]
    return "\n".join(map(printable, lines))


def write(outcome: Outcome, out: Path, strip: Strip) -> list[Path]:
    """Write result.json, report.html and TensorBoard events to `out`; the two files' paths."""
    out.mkdir(parents=True, exist_ok=True)
    result, report = out / "result.json", out / "report.html"
    content = {
        "task": outcome.task,
        "protocol": dict(outcome.protocol),
        "result": dict(outcome.figures),
        "videos": outcome.videos,
        "left_out": [{"what": what, "why": why} for what, why in outcome.left_out],
        "warnings": list(outcome.warnings),
        "per_class": outcome.per_class,
        "classes": list(outcome.class_names),
        "confusion": None if outcome.confusion is None else outcome.confusion.tolist(),
    }
    result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    report.write_text(html(outcome, strip), encoding="utf-8")
    with SummaryWriter(str(out)) as writer:
        for name, value in outcome.figures.items():
            writer.add_scalar(f"{outcome.task}/{name}", value, 0)
        writer.add_text(outcome.task, f"```\n{text(outcome)}\n```", 0)
        if outcome.confusion is not None:
            writer.add_figure(f"{outcome.task}/confusion", _confusion(outcome), 0)
    return [result, report]


def html(outcome: Outcome, strip: Strip) -> str:
    """A page that needs nothing but itself."""
    known = outcome.confusion is not None
    return page(
        TEMPLATE,
        outcome.task,
        outcome=outcome,
        figures=[(name, f"{value:.4f}") for name, value in outcome.figures.items()],
        protocol=[*outcome.protocol.items(), ("videos", outcome.videos)],
        picture=lambda path: _jpeg(strip(path)),
        confusion=svg(_confusion(outcome)) if known else "",
        bars=svg(_bars(outcome.per_class)) if known else "",
    )


def _jpeg(picture: NDArray[np.uint8]) -> str:
    coded, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert coded
    return data_url(jpeg.tobytes(), "image/jpeg")


def _confusion(outcome: Outcome) -> Figure:
    """Rows sum to 1: of the videos of a class, the share taken for each class."""
    assert outcome.confusion is not None
    shares = outcome.confusion / np.maximum(outcome.confusion.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.22 * len(shares), 4, 12))
    figure = Figure(figsize=(side + 2, side + 1), layout="constrained")
    axes = figure.add_subplot()
    blues = LinearSegmentedColormap.from_list("none to blue", [BLUE + "00", BLUE])
    axes.imshow(shares, cmap=blues, vmin=0, vmax=1, interpolation="none")
    axes.set(xlabel="predicted", ylabel="true")
    if len(shares) <= NAMED_CLASSES:
        _name(axes.set_xticks, outcome.class_names, rotation=90)
        _name(axes.set_yticks, outcome.class_names)
    return figure


def _name(set_ticks: Callable[..., Any], names: Sequence[str], **style: Any) -> None:
    """Names at 0, 1, ...: text whatever is in them, no formula between $ and $."""
    words = [printable(name) for name in names]
    set_ticks(range(len(words)), words, parse_math=False, fontsize=7, **style)


def _bars(per_class: Mapping[str, float]) -> Figure:
    ordered = sorted(per_class.items(), key=lambda item: item[1])
    figure = Figure(figsize=(8, 0.18 * len(ordered) + 0.8), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(ordered)), [value for _, value in ordered], color=BLUE)
    _name(axes.set_yticks, [name for name, _ in ordered])
    axes.set(xlim=(0, 1), xlabel="share of test videos recognised")
    axes.margins(y=0.01)
    return figure
