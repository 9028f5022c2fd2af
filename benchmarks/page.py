"""The report as a page that needs nothing but itself: plots as SVG, tables as text."""

from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import Any

from matplotlib.figure import Figure

from benchmarks.training import Step

Row = dict[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em }
pre { overflow-x: auto; font-size: 12px; background: #f6f6f6; padding: .8em }
svg { max-width: 100%; height: auto }
"""


def page(title: str, facts: str, findings: Sequence[str], tables: str, figures: str) -> str:
    items = "".join(f"<li>{escape(finding)}" for finding in findings)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{STYLE}</style><h1>{escape(title)}</h1><p>{escape(facts)}</p>"
        f"<h2>What limits this machine</h2><ul>{items}</ul>{figures}"
        f"<h2>Every figure</h2><pre>{escape(tables)}</pre></html>\n"
    )


def figures(rows: Sequence[Row], steps: Sequence[Step]) -> str:
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
    return "".join(f"<h2>{escape(title)}</h2>{_svg(figure)}" for title, figure in drawn)


def _is_loader(row: Row) -> bool:
    sections = ("loader", "peers", "published")
    return row["section"] in sections and row["input"] != "arrays" and "us_per_clip" in row


BLUE, GREY, RED = "#2b6cb0", "#a0aec0", "#c53030"


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
            color=RED,
            label="at the machine's ceiling",
            zorder=3,
        )
        axes.legend(frameon=False)
    axes.set(xscale="log", xlabel="ms a clip")
    axes.invert_yaxis()
    return figure


def timeline(steps: Sequence[Step]) -> Figure:
    figure, axes = _axes(1.8)
    waiting = [(step.began, step.had_batch - step.began) for step in steps]
    working = [(step.had_batch, step.ended - step.had_batch) for step in steps]
    axes.broken_barh(waiting, (0, 1), color=RED, label="waiting for a batch, and labelling it")
    axes.broken_barh(working, (0, 1), color=BLUE, edgecolor="white", label="step")
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
        curves = [row for row in rows if row["by"] == by]
        for what in dict.fromkeys(row["what"] for row in curves):
            points = [row for row in curves if row["what"] == what]
            speeds = [1e6 / row["us_per_clip"] for row in points]
            axes.plot([row["at"] for row in points], speeds, marker="o", label=what)
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


def _svg(figure: Figure) -> str:
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]  # without the XML declaration
