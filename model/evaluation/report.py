"""The outcome of a task, with its protocol, as text, JSON, TensorBoard events and a page."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from dali_pipes.decoding.opening import printable

SHOWN_QUERIES = 12
SHOWN_NEIGHBOURS = 5
NAMED_CLASSES = 60  # a larger confusion matrix is drawn without class names

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
    result, page = out / "result.json", out / "report.html"
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
    page.write_text(html(outcome, strip), encoding="utf-8")
    with SummaryWriter(str(out)) as writer:
        for name, value in outcome.figures.items():
            writer.add_scalar(f"{outcome.task}/{name}", value, 0)
        writer.add_text(outcome.task, f"```\n{text(outcome)}\n```", 0)
        if outcome.confusion is not None:
            writer.add_figure(f"{outcome.task}/confusion", _confusion(outcome), 0)
    return [result, page]


def html(outcome: Outcome, strip: Strip) -> str:
    """A page that needs nothing but itself."""
    parts = [
        f"<h1>{escape(outcome.task)}</h1>",
        *(f"<p class=warning>Warning: {_text(warning)}</p>" for warning in outcome.warnings),
        _table("Result", {name: f"{value:.4f}" for name, value in outcome.figures.items()}),
        _table("Protocol", {**outcome.protocol, "videos": outcome.videos}),
    ]
    if outcome.queries:
        parts.append("<h2>Retrieved neighbours</h2><p>Left the test video; then its nearest")
        parts.append("training videos, green where the class is the same.</p><table class=strips>")
        parts += [_query_row(query, strip) for query in outcome.queries]
        parts.append("</table>")
    if outcome.confusion is not None:
        parts.append("<h2>Confusion</h2>" + _picture(_confusion(outcome), "png"))
        parts.append("<h2>Classes</h2>" + _picture(_bars(outcome.per_class), "svg"))
    if outcome.left_out:
        parts.append(_table("Left out", dict(outcome.left_out)))
    title = f"{escape(outcome.task)}, STS-DALI"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{STYLE}</style>" + "\n".join(parts) + "</html>\n"
    )


STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left }
td { vertical-align: top } img { max-width: 100%; display: block }
.strips td { padding: 3px; font-size: 12px } .strips img { height: 56px; border: 3px solid #888 }
.strips .hit img { border-color: #2a2 } .strips .miss img { border-color: #c33 }
.warning { background: #fe9; padding: .5em }
"""


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _table(title: str, rows: Mapping[str, Any]) -> str:
    cells = "".join(f"<tr><th>{_text(name)}<td>{_text(value)}" for name, value in rows.items())
    return f"<h2>{escape(title)}</h2><table>{cells}</table>"


def _query_row(query: Query, strip: Strip) -> str:
    cells = [_strip_cell("query", query.path, query.class_name, "", strip)]
    for near in query.neighbours:
        words = f" {near.similarity:.3f}"
        kind = "hit" if near.hit else "miss"
        cells.append(_strip_cell(kind, near.path, near.class_name, words, strip))
    return f"<tr>{''.join(cells)}"


def _strip_cell(kind: str, path: str, class_name: str, words: str, strip: Strip) -> str:
    coded, jpeg = cv2.imencode(".jpg", strip(path)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert coded
    source = base64.b64encode(jpeg.tobytes()).decode()
    return (
        f'<td class={kind}><img src="data:image/jpeg;base64,{source}" title="{_text(path)}" '
        f'alt="{_text(Path(path).name)}">{_text(class_name)}{words}'
    )


def _confusion(outcome: Outcome) -> Figure:
    """Rows sum to 1: of the videos of a class, the share taken for each class."""
    assert outcome.confusion is not None
    shares = outcome.confusion / np.maximum(outcome.confusion.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.22 * len(shares), 4, 12))
    figure = Figure(figsize=(side + 2, side + 1), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
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
    axes.barh(range(len(ordered)), [value for _, value in ordered])
    _name(axes.set_yticks, [name for name, _ in ordered])
    axes.set(xlim=(0, 1), xlabel="share of test videos recognised")
    axes.margins(y=0.01)
    return figure


def _picture(figure: Figure, kind: str) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=100)
    if kind == "svg":
        drawing = buffer.getvalue().decode()
        return drawing[drawing.index("<svg") :]  # without the XML declaration
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
