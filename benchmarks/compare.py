"""What two runs of a benchmark differ in: python -m benchmarks.compare OLD NEW

OLD and NEW are files of runs as in benchmarks/results: FILE is its last run, FILE@COMMIT the last
one of that commit. Results are matched by what they are about. The ratio is new to old, and its
range comes from the quartiles of both: a result is better or worse where that lies beyond 1 by
more than --tolerance percent. Exit code 1: something is worse; 2: there is no such run.

    python -m benchmarks.compare report.jsonl@6b2ecef report.jsonl
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import timing

Row = dict[str, Any]
RUN = {"commit", "machine", "versions", "results"}  # what every run has

# The columns that hold what was measured, or remarks on it. All others say what a row is about.
# fmt: off
MEASURED = frozenset((
    "us_per_clip", "clips_per_s", "iqr_percent", "repeats", "cpu_us_per_clip",
    "seconds", "mib", "gb_per_s", "tflop_per_s", "pairs_per_s",
    "ceiling", "percent_of_ceiling", "percent_of_copy", "of_ceiling", "of_stages", "of_cached",
    "of_folder", "fetcher_ms", "store_ms",
    "share_waiting", "ratio", "ratio_low", "ratio_high", "times_published",
    "reels_ratio", "reels_ratio_low", "reels_ratio_high",
    "published_labels", "position", "orientation", "frame", "colour_position", "colour", "crops",
    "kb_a_frame", "kb_a_field", "frames", "note",
    "bytes_per_frame", "bytes_with_flow", "cold_clips_per_s", "cold_iqr_percent",
    "disk_kb_per_clip", "error", "psnr_db", "counting_seconds",
    "retrieval", "linear-probe", "chosen", "compile_seconds", "host_ms", "ms",
    *(f"{judge}, {figure}" for judge in ("textures", "speeds")
        for figure in ("retrieval", "probe", "probe, 1", "probe, 2", "probe, 5")),
))
# fmt: on

# Compared are memory and speed, by the first of these that a result has.
SPEED = ("clips_per_s", "pairs_per_s", "gb_per_s", "tflop_per_s", "seconds")
MEMORY = "mib"
LESS_IS_BETTER = frozenset(("seconds", MEMORY))
WORDS = {False: ("faster", "slower", "same"), True: ("less", "more", "same")}


class BadRun(ValueError):
    """A file without such a run."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", metavar="OLD", help="FILE or FILE@COMMIT")
    parser.add_argument("new", metavar="NEW", help="FILE or FILE@COMMIT")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="changes up to this are none (default: 5)",
    )
    args = parser.parse_args(argv)
    try:
        old, new = read_run(args.old), read_run(args.new)
    except BadRun as error:
        print(f"benchmarks.compare: {error}", file=sys.stderr)
        return 2
    for name in ("machine", "versions"):
        if changes := differences(old[name], new[name]):
            print(f"warning: not the same {name}: {', '.join(changes)}")
    compared, alone = compare(old["results"], new["results"], args.tolerance)
    print(timing.table(compared) if compared else "no result in common")
    for side, names in alone.items():
        for name in names:
            print(f"only in {side}: {name}")
    return int(any(row["is"] in ("slower", "more") for row in compared))


def read_run(choice: str) -> Row:
    """The run that FILE or FILE@COMMIT names. Raises BadRun, saying what to do instead."""
    name, _, commit = choice.partition("@") if not Path(choice).exists() else (choice, "", "")
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
        runs = [json.loads(line) for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadRun(
            f"{name}: cannot be read: {error.args[-1]}; name a file of runs, as in {timing.RESULTS}"
        ) from error
    except json.JSONDecodeError as error:
        raise BadRun(f"{name}: is no file of runs ({error}); every line is JSON") from error
    for run in runs:
        if not isinstance(run, dict) or not run.keys() >= RUN:
            raise BadRun(
                f"{name}: a line is no run of a benchmark; name a file of {timing.RESULTS}"
            )
    found = [run for run in runs if run["commit"].startswith(commit)]
    if not found:
        commits = ", ".join(dict.fromkeys(run["commit"] for run in runs)) or "none"
        raise BadRun(f"{name}: has no run of commit {commit or '...'}; there are: {commits}")
    return dict(found[-1])


def differences(old: Row, new: Row) -> list[str]:
    """What has changed, but for the load."""
    return [
        f"{name} {old.get(name, '-')} -> {new.get(name, '-')}"
        for name in {**old, **new}
        if name != "load" and old.get(name) != new.get(name)
    ]


def compare(
    old: Sequence[Row], new: Sequence[Row], tolerance: float
) -> tuple[list[Row], dict[str, list[str]]]:
    """A row for each result that both have, and the names of those on one side only."""
    before, after = by_name(old), by_name(new)
    rows = []
    for name, one in after.items():
        other = before.get(name, {})
        both = [column for column in SPEED if column in one and column in other][:1]
        both += [MEMORY] if MEMORY in one and MEMORY in other else []
        rows += [{"result": name} | changed(other, one, column, tolerance) for column in both]
    alone = {
        "OLD": [name for name in before if name not in after],
        "NEW": [name for name in after if name not in before],
    }
    return rows, alone


def by_name(results: Sequence[Row]) -> dict[str, Row]:
    """Results by what they are about."""
    return {identity(row): row for row in results if {*SPEED, MEMORY} & row.keys()}


def identity(row: Row) -> str:
    """What a row is about, in one line: texts as they are, numbers with their names."""
    parts = {name: value for name, value in row.items() if name not in MEASURED}
    return ", ".join(
        value if isinstance(value, str) else f"{name} {value}"
        for name, value in sorted(parts.items(), key=lambda part: not isinstance(part[1], str))
    )


def changed(old: Row, new: Row, column: str, tolerance: float) -> Row:
    """The new value as a multiple of the old, its range, and what that means."""
    ratio = new[column] / old[column]
    # Half the distance between the quartiles lies on each side of a median; memory has no spread.
    spread = 0 if column == MEMORY else 1 / 200
    half_old, half_new = (min(0.99, spread * row.get("iqr_percent", 0)) for row in (old, new))
    low = ratio * (1 - half_new) / (1 + half_old)
    high = ratio * (1 + half_new) / (1 - half_old)
    more, less = low > 1 + tolerance / 100, high < 1 - tolerance / 100
    better, worse = (less, more) if column in LESS_IS_BETTER else (more, less)
    return {
        "of": column,
        "old": old[column],
        "new": new[column],
        "ratio": timing.digits(ratio),
        "range": f"{low:.2f}-{high:.2f}",
        "is": WORDS[column == MEMORY][0 if better else 1 if worse else 2],
    }


if __name__ == "__main__":
    sys.exit(main())
