"""What came of the evidence: figures of the commands, as tables and as a picture."""

import json
from argparse import Namespace
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.evidence.plan import FEW, JUDGES, NETWORKS, SUPERVISED, TASKS, UNTRAINED, folder
from dali_pipes.prepare.samples import MOTIONS

Row = dict[str, Any]
CHANCE = 100 / len(MOTIONS)
SHOWN = [f"{judge}, {figure}" for judge in JUDGES for figure in ("retrieval", "probe")]


def collect(args: Namespace) -> list[Row]:
    """A row for each network and seed, with every figure in percent."""
    rows = []
    for network in NETWORKS:
        for seed in range(args.seeds):
            row: Row = {"network": network, "seed": seed}
            for judge in JUDGES:
                for task, (_, figures) in TASKS.items():
                    file = folder(args.out, network, seed) / judge / task / "result.json"
                    found = json.loads(file.read_text())["result"]
                    for name, figure in figures.items():
                        row[f"{judge}, {name}"] = round(100 * found[figure], 1)
            rows.append(row)
    return rows


def report(rows: Sequence[Row], seeds: int) -> str:
    """All tables in Markdown, and what their figures are."""
    note = f"In %, mean ± standard deviation of {seeds} seeds; in brackets times untrained."
    tables = [table(rows, SHOWN), closed(rows), *(table(rows, probes(judge)) for judge in JUDGES)]
    return "\n\n".join([*tables, f"{note} Chance is {CHANCE:.1f} %."])


def probes(judge: str) -> list[str]:
    """The figures of probes on few and on all videos of a class."""
    return [*(f"{judge}, probe, {n}" for n in FEW), f"{judge}, probe"]


def table(rows: Sequence[Row], figures: Sequence[str]) -> str:
    """Mean, spread and ratio to the untrained network, a row a network."""
    lines = [f"| | {' | '.join(figures)} |", "|---" * (1 + len(figures)) + "|"]
    for network in NETWORKS:
        cells = []
        for figure in figures:
            values, base = of(rows, network, figure), mean(of(rows, UNTRAINED, figure))
            ratio = f" ({mean(values) / base:.2f})" if base and network != UNTRAINED else ""
            cells.append(f"{mean(values):.1f}{spread(values)}{ratio}")
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def closed(rows: Sequence[Row]) -> str:
    """How much of the way from the untrained to the supervised network each one goes, in %."""
    lines = [f"| of the gap closed, % | {' | '.join(SHOWN)} |", "|---" * (1 + len(SHOWN)) + "|"]
    for network in NETWORKS:
        if network not in (UNTRAINED, SUPERVISED):
            shares = [share(rows, network, figure) for figure in SHOWN]
            cells = ["–" if one is None else f"{100 * one:.0f}" for one in shares]
            lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def share(rows: Sequence[Row], network: str, figure: str) -> float | None:
    """Of the gap between untrained and supervised, by means; None where there is no gap."""
    low, value, high = (mean(of(rows, one, figure)) for one in (UNTRAINED, network, SUPERVISED))
    return (value - low) / (high - low) if high > low else None


def of(rows: Sequence[Row], network: str, figure: str) -> list[float]:
    return [row[figure] for row in rows if row["network"] == network]


def spread(values: Sequence[float]) -> str:
    return f" ± {stdev(values):.1f}" if len(values) > 1 else ""


def picture(rows: Sequence[Row]) -> Figure:
    """A bar for each network and figure, a dot for each seed; below, what few labels give."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 0.9])[:, 0]
    for place, (axes, shown) in enumerate(zip(above.subplots(1, len(SHOWN)), SHOWN, strict=True)):
        for network in NETWORKS:
            values = of(rows, network, shown)
            grey = network in (UNTRAINED, SUPERVISED)
            axes.barh(network, mean(values), color="#a0aec0" if grey else "#2b6cb0")
            axes.scatter(values, [network] * len(values), color="black", s=10, zorder=3)
        axes.axvline(CHANCE, color="#c53030", linestyle=":", label="chance")
        axes.set(xlabel=f"{shown}, %")
        axes.invert_yaxis()
        axes.tick_params(labelleft=place == 0)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    fewer = below.subplots(1, len(JUDGES), sharey=True, squeeze=False)[0]
    for axes, judge in zip(fewer, JUDGES, strict=True):
        names = [*FEW, "all"]
        for network in NETWORKS:
            means = [mean(of(rows, network, figure)) for figure in probes(judge)]
            axes.plot(names, means, ".-", label=network)
        axes.axhline(CHANCE, color="#c53030", linestyle=":")
        axes.set(xlabel="labelled videos of a class", title=judge)
        axes.spines[["top", "right"]].set_visible(False)
    below.axes[0].set_ylabel("probe, %")
    below.axes[-1].legend(
        frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return figure
