"""Report what a folder of videos, or of reels, holds and what is wrong with it.

Videos are decoded whole; of reels every checksum is compared. Exit status 1 if anything is wrong.
With --json, an interrupted check of videos continues where it stopped.
"""

import argparse
import json
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from dali_pipes.decoding.opening import BadVideo, opened, printable
from dali_pipes.decoding.showing import decoded, packets_of
from dali_pipes.decoding.video import probe, told_pictures
from dali_pipes.prepare.check_reels import check_reels
from dali_pipes.prepare.store import write_text
from dali_pipes.prepare.work import add_workers_argument, bad_input, each, ranks, worker_count
from dali_pipes.sources import VideoFiles
from dali_pipes.sources.reels import are_reels
from dali_pipes.storage import place as path_or_address

# Good files of HMDB51 have one frame in the header more than pictures.
SPARE_FRAMES = 1
_BESIDE_PICTURES = "SEI type"  # how FFmpeg begins to speak of messages that no picture needs


@dataclass(frozen=True)
class Finding:
    """What a video file holds; what could not be found out is None."""

    path: str
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    header_frames: int | None = None  # what the header says; 0 if it says nothing
    packets: int | None = None
    frames: int | None = None  # that really decode
    wrong: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dir",
        type=path_or_address,
        metavar="DIR",
        help="videos at any depth, or reels, also an address",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument(
        "--min-frames",
        type=int,
        default=16,
        metavar="N",
        help="a video needs to be useful (a clip)",
    )
    add_workers_argument(parser)


def main(args: argparse.Namespace) -> int:
    place = ranks()
    workers = worker_count(args.workers, place)
    if are_reels(args.dir):
        return check_reels(args.dir, args.json, args.min_frames, place, workers)
    with bad_input():
        source = VideoFiles.found(args.dir)
    share = place.share(source.paths)
    journal = _Journal(args.json, args.min_frames) if args.json else None
    known = journal.read() if journal else {}
    found = {path: known[path] for path in share if path in known}
    todo = [path for path in share if path not in found]
    stage = partial(inspect, min_frames=args.min_frames)
    for path, outcome in each(
        stage,
        todo,
        place,
        title="check",
        unit="video",
        name=str,
        workers=workers,
        before=len(found),
    ):
        finding = _unreadable(outcome) if isinstance(outcome, BadVideo) else outcome
        found[path] = finding
        if journal:
            journal.add(finding)
    shares = place.meet(list(found.values()))
    findings = [finding for share in shares for finding in share]
    findings += map(_unreadable, source.left_out)
    findings.sort(key=lambda finding: finding.path)
    wrong = sum(bool(finding.wrong) for finding in findings)
    if place.rank == 0:
        print(_table(findings, args.dir))
        print(f"{len(findings)} checked, {wrong} with something wrong")
        if journal:
            journal.finish({"folder": str(args.dir), "wrong": wrong}, findings)
            print(f"written: {args.json}")
    return place.end(1 if wrong else 0)


def _unreadable(bad: BadVideo) -> Finding:
    return Finding(bad.path, wrong=(f"{bad.stage}: {bad.reason}",))


def inspect(path: str, min_frames: int) -> Finding:
    """Decode a video whole. Never raises for what is wrong with the file."""
    import av.logging

    try:
        info, told = probe(path), told_pictures(path)
        with opened(path, "open") as (container, stream):
            header = stream.frames
            packets = sum(1 for _ in packets_of(container, stream))  # hidden ones, too
    except BadVideo as error:
        return _unreadable(error)
    wrong, frames, sizes = [], 0, set()
    # Damage between packets only shows in what FFmpeg says: it finds the next packet and goes on.
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # what is repeated would be told with the next file
    with av.logging.Capture() as said:
        try:
            for frame in decoded(path):
                frames += 1
                sizes.add((frame.width, frame.height))
        except BadVideo as error:
            wrong.append(f"decoding ends after {frames} frames: {error.reason}")
    av.logging.set_level(None)
    damage = [(part, text) for _, part, text in said if not text.startswith(_BESIDE_PICTURES)]
    if damage:
        part, text = damage[0]
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        wrong.append(f"FFmpeg's {part} says: {text.strip()}{more}")
    if not wrong and told not in (None, frames):
        wrong.append(f"its packets hold {told} pictures, {frames} decode")
    # Headers count packets, of which some hold a field, or a hidden picture, or are cut off.
    if not wrong and header and not frames - SPARE_FRAMES <= header <= packets + SPARE_FRAMES:
        wrong.append(f"its header says {header} frames, {frames} are there")
    if len(sizes) > 1:
        wrong.append("frame size changes: " + ", ".join(f"{w}x{h}" for w, h in sorted(sizes)))
    if frames < min_frames:
        wrong.append(f"{frames} frames, a clip needs {min_frames}")
    return Finding(
        path, info.codec, info.width, info.height, header, info.frames, frames, tuple(wrong)
    )


def _table(findings: list[Finding], folder: Path) -> str:
    """One line a file; names in full, whatever the width of the output."""
    rows: list[tuple[str, ...]] = [
        ("video", "codec", "size", "header", "packets", "frames", "wrong")
    ]
    for found in findings:
        numbers = (found.header_frames or None, found.packets, found.frames)
        rows.append(
            (
                printable(os.path.relpath(found.path, folder)),
                found.codec or "-",
                f"{found.width}x{found.height}" if found.width else "-",
                *("-" if number is None else str(number) for number in numbers),
                "; ".join(found.wrong) or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


class _Journal:
    """Findings written one by one beside the report, so that a later run need not repeat them.

    Every process has its own file and reads all: however many ranks there are after a restart,
    nothing is checked twice. A finding counts as long as its video is unchanged.
    """

    def __init__(self, report: Path, min_frames: int) -> None:
        self._report = report
        self._settings = {"min_frames": min_frames}
        report.parent.mkdir(parents=True, exist_ok=True)
        self._own = report.with_name(f"{report.name}.part-{uuid4().hex}")

    def _files(self) -> list[Path]:
        return sorted(self._report.parent.glob(f"{_literal(self._report.name)}.part-*"))

    def read(self) -> dict[str, Finding]:
        found = {}
        for file in self._files():
            for line in file.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # the process died while it wrote this line
                finding = Finding(**{**row["finding"], "wrong": tuple(row["finding"]["wrong"])})
                if row["stamp"] == self._stamp(finding.path):
                    found[finding.path] = finding
        return found

    def add(self, finding: Finding) -> None:
        row = {"stamp": self._stamp(finding.path), "finding": asdict(finding)}
        with self._own.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, head: dict[str, Any], findings: list[Finding]) -> None:
        """Write the whole report, and remove the journals."""
        report = {**head, **self._settings, "videos": [asdict(finding) for finding in findings]}
        write_text(self._report, json.dumps(report, indent=2) + "\n")
        for file in self._files():
            file.unlink()

    def _stamp(self, path: str) -> list[Any]:
        """What must be unchanged for a finding to count."""
        try:
            status = os.stat(path)
        except OSError:
            return [None, None, self._settings]
        return [status.st_size, status.st_mtime_ns, self._settings]


def _literal(name: str) -> str:
    """A file name with nothing special to glob."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
