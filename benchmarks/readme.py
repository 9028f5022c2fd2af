"""Write the last report into README.md: python -m benchmarks.readme

What stands between <!-- benchmark --> and <!-- /benchmark --> comes from the last run in
benchmarks/results/report.jsonl, machine and command included, and is written by nobody.
"""

import sys
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.compare import BadRun, identity, read_run

Row = dict[str, Any]
README = timing.RESULTS.parents[1] / "README.md"
BEGIN, END = "<!-- benchmark -->\n", "<!-- /benchmark -->"
SECTIONS = ("published", "peers", "loader", "training", "stage")  # the report has more


def main(readme: Path = README, results: Path = timing.RESULTS) -> int:
    try:
        text = with_benchmark(
            readme.read_text(encoding="utf-8"), read_run(str(results / "report.jsonl"))
        )
    except BadRun as error:
        print(f"benchmarks.readme: {error}", file=sys.stderr)
        return 2
    readme.write_text(text, encoding="utf-8")
    return 0


def with_benchmark(text: str, run: Row) -> str:
    """The README's text with the run in its place. Raises BadRun where there is no place."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BadRun(
            f"README.md: has no lines {BEGIN.strip()} and {END}; put them where it belongs"
        )
    return before + begin + described(run) + end + after


def described(run: Row) -> str:
    """The run in Markdown: where it was made, how, and a table."""
    machine = run["machine"]
    facts = [machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gib']} GiB"]
    facts += [machine["gpu"]] if "gpu" in machine else []
    facts += [f"load {machine['load']} at the end"]
    lines = [
        f"{', '.join(facts)}; {run['date'][:10]}, commit {run['commit']}, `{run['command']}`:",
        "",
        "| | | clips/s | spread | ratio | frames | published labels |",
        "|---|---|--:|--:|--:|---|--:|",
        *(_line(row) for section in SECTIONS for row in run["results"] if _shown(row, section)),
    ]
    return "\n".join(lines) + "\n"


def _shown(row: Row, section: str) -> bool:
    return row["section"] == section and "clips_per_s" in row


def _line(row: Row) -> str:
    name = identity({column: value for column, value in row.items() if column != "section"})
    ratio = "" if "ratio" not in row else f"{row['ratio']}"
    if "ratio_low" in row:
        ratio += f" ({row['ratio_low']}–{row['ratio_high']})"
    cells = [row["section"], name, row["clips_per_s"], f"{row['iqr_percent']} %", ratio]
    cells += [row.get("frames", "")]
    cells += [f"{row['published_labels']} %" if "published_labels" in row else ""]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
