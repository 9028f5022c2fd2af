"""The report as a page that needs nothing but itself: plots as SVG, tables as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from benchmarks.training import Step
from dali_pipes.pages import render
from dali_pipes.pages.render import BLUE, GREY, ORANGE

Row = dict[str, Any]

TEMPLATE = Path(__file__).with_suffix(".html")


def page(title: str, facts: str, findings: Sequence[str], tables: str, figures: Markup) -> str:
    """The HTML: `figures` as the function of that name draws them, all else as text."""
    lines = tables.split("\n")
    return render.page(
        TEMPLATE, title, facts=facts, findings=findings, tables=lines, figures=figures
    )


def figures(rows: Sequence[Row], steps: Sequence[Step]) -> Markup:
    """All plots that there are data for, with their headings."""
    drawn = []
    if bars := [row for row in rows if row["section"] == "stage"]:
        drawn.append(("Every stage alone", stage_bars(bars)))
    if steps:
        drawn.append(("Training steps, one after another", timeline(steps)))
    if curves := [row for row in rows if row["section"] == "growth"]:
        drawn.append(("How speed grows", growth_curves(curves)))
    if rivals := [row for row in rows if _is_loader(row)]:
        drawn.append(("Whole loaders", rival_bars(rivals)))
    part = Markup('<h2>{}</h2>\n<div class="wide">{}</div>\n')
    return Markup().join(part.format(title, render.svg(figure)) for title, figure in drawn)


def _is_loader(row: Row) -> bool:
    sections = ("loader", "peers", "published")
    return row["section"] in sections and row["input"] != "arrays" and "us_per_clip" in row


def stage_bars(rows: Sequence[Row]) -> Figure:
    """Milliseconds a clip, with what the machine's ceiling would allow."""
    figure, axes = _axes(0.34 * len(rows) + 1)
    names = [f"{row['stage']} ({row['on']})" for row in rows]
    axes.barh(names, [row["us_per_clip"] / 1e3 for row in rows], color=BLUE)
    bounded = [(name, row) for name, row in zip(names, rows, strict=True) if "ceiling" in row]
    if bounded:
        axes.scatter(
            [1e3 / row["ceiling"] for _, row in bounded],
            [name for name, _ in bounded],
            marker="|",
            s=160,
            linewidths=3,
            color=ORANGE,
            label="at the machine's ceiling",
            zorder=3,
        )
        axes.legend(frameon=False)
    axes.set(xscale="log", xlabel="ms a clip")
    axes.invert_yaxis()
    return figure


def timeline(steps: Sequence[Step]) -> Figure:
    """When steps waited, and when they worked."""
    figure, axes = _axes(1.8)
    waiting = [(step.began, step.had_batch - step.began) for step in steps]
    working = [(step.had_batch, step.ended - step.had_batch) for step in steps]
    axes.broken_barh(waiting, (0, 1), color=ORANGE, label="waiting for a batch, and labelling it")
    axes.broken_barh(working, (0, 1), fc=BLUE, ec="black", lw=0.5, label="step")
    axes.set(xlabel="s", yticks=[], xlim=(0, steps[-1].ended))
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def growth_curves(rows: Sequence[Row]) -> Figure:
    """Clips/s, by each thing that grows."""
    grows = list(dict.fromkeys(row["by"] for row in rows))
    figure = Figure(figsize=(10, 3.4 * -(-len(grows) // 2)), layout="constrained")
    for place, by in enumerate(grows):
        axes = figure.add_subplot(-(-len(grows) // 2), min(2, len(grows)), place + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_prop_cycle(color=[BLUE, ORANGE, GREY], marker=["o", "s", "^"])
        curves = [row for row in rows if row["by"] == by]
        for what in dict.fromkeys(row["what"] for row in curves):
            points = [row for row in curves if row["what"] == what]
            speeds = [1e6 / row["us_per_clip"] for row in points]
            axes.plot([row["at"] for row in points], speeds, label=what)
        axes.set(xlabel=by, ylabel="clips/s")
        costs = [row["us_per_clip"] for row in curves]
        if max(costs) > 4 * min(costs):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.1e6 / min(costs))
        axes.set_xscale("log", base=10 if by == "list length" else 2)
        ticks = list(dict.fromkeys(row["at"] for row in curves))
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False)
    return figure


def _short(number: int) -> str:
    return f"{number // 1000}k" if number >= 1000 else str(number)


def rival_bars(rows: Sequence[Row]) -> Figure:
    """Clips/s of every loader with their spread, the fastest first; ours in blue."""
    figure, axes = _axes(0.34 * len(rows) + 1)
    rows = sorted(rows, key=lambda row: row["us_per_clip"])
    names = [
        f"{row['loader']}, {row['input']}, {row['section']}{_other_frames(row)}" for row in rows
    ]
    spread = [row["clips_per_s"] * row["iqr_percent"] / 200 for row in rows]
    ours = [BLUE if row["loader"].startswith("ClipLoader") else GREY for row in rows]
    axes.barh(names, [row["clips_per_s"] for row in rows], xerr=spread, color=ours)
    axes.set(xlabel="clips/s")
    axes.invert_yaxis()
    return figure


def _other_frames(row: Row) -> str:
    frames = row.get("frames", "same")
    return "" if frames == "same" else f"\nframes: {frames}"


def _axes(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
