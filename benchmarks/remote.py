"""What clips of reels cost from an object store: python -m benchmarks.remote --reels DIR

The reels are copied under many names until an epoch is long, and served on this machine by
`benchmarks.object_server`, whose answers come 0, 10 and 50 ms late. `ClipLoader` reads them from
their folder, and from s3:// without a cache (every clip is a request), with an empty cache and with
a full one. First each way has to give the batch that the folder gives; else nothing is timed. Ways
are measured in turns. With one decoding worker a second core is left to fetcher and store; with one
a core they take time from decoding, the store too, which elsewhere is another machine: `fetcher_ms`
and `store_ms` are their processor time a clip. A row goes to benchmarks/results/remote.jsonl.
"""

import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import inputs, timing
from benchmarks.object_server import serving
from dali_pipes import ClipBatch, ClipLoader
from dali_pipes.clips import ClipSpec
from dali_pipes.decoding.reel import Header
from dali_pipes.pipelines.fetch import Share
from dali_pipes.pipelines.fetcher import PROCESS, Plan
from dali_pipes.prepare.shards import ShardWriter, finish, read_done
from dali_pipes.prepare.work import BadInput
from dali_pipes.sources import Reels
from dali_pipes.sources.reels import MANIFEST, extent
from dali_pipes.storage import LocalFiles
from dali_pipes.storage.cache import Cache
from model.flags import Help, Parser, positive, whole

Row = dict[str, Any]

BATCH = 8
LATENCIES = (0, 10, 50)  # ms
AHEAD = (8, 32, 128)  # clips, at the longest latency
WORKERS = sorted({1, len(os.sched_getaffinity(0))})
EPOCH = 500  # clips, so that a turn meets no video twice


@dataclass(frozen=True)
class Way:
    """How clips come: from the folder, or from the store so late."""

    name: str
    latency: int | None = None  # ms; None: from the folder
    cache: str | None = None  # empty | full
    ahead: int = AHEAD[-1]

    @property
    def columns(self) -> Row:
        late = {} if self.latency is None else {"latency_ms": self.latency, "ahead": self.ahead}
        return {"reels": self.name, **late}


WAYS = (
    Way("in a folder"),
    *(Way("s3, no cache", late) for late in LATENCIES),
    *(Way("s3, no cache", LATENCIES[-1], ahead=ahead) for ahead in AHEAD[:-1]),
    Way("s3, empty cache", LATENCIES[-1], "empty"),
    Way("s3, full cache", LATENCIES[-1], "full"),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        "python -m benchmarks.remote",
        description="What clips of reels cost from an object store.",
        formatter_class=Help,
    )
    # fmt: off
    parser.add_argument("--reels", type=Path, metavar="DIR",
        help="what `dali_pipes.prepare reels` made (default: reels of the sample videos)")
    parser.add_argument("--rounds", type=whole(2), default=3, metavar="N", help="turns of each way")
    parser.add_argument("--seconds", type=positive, default=2.0, metavar="S", help="of a turn")
    parser.add_argument("--out", type=Path, default=Path("build/bench/remote"), metavar="DIR",
        help="where copies and caches go; 1.5 GB, kept")
    parser.add_argument("--results", type=Path, default=timing.RESULTS, metavar="DIR",
        help="where the row goes")
    # fmt: on
    args = parser.parse_args(argv)
    try:
        reels = args.reels or inputs.as_reels(inputs.sample_videos(), args.out)
        many = copied(Reels.found(reels), args.out / "bucket" / "reels")
    except (BadInput, ValueError, OSError) as error:
        print(f"remote: {error}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        urls = {late: stack.enter_context(serving(many.parents[1], late)) for late in LATENCIES}
        rows = measured(Bench(many, args.out, urls), args.rounds, args.seconds)
    print(timing.table(rows))
    print(f"row appended to {timing.record('remote', rows, args.results)}")
    return 0


def copied(reels: Reels, folder: Path) -> Path:
    """The same videos under so many names that an epoch has EPOCH clips; made once."""
    copies = -(-EPOCH // len(reels))
    if folder.exists() and len(Reels.found(folder)) == copies * len(reels):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(Path(reels.folder, MANIFEST), folder)
    pictures = folder / ".pictures"
    with ShardWriter(folder, 0) as writer:
        for item in range(len(reels)):
            steps, count = reels.steps(item), int(reels.frames[item])
            pictures.write_bytes(reels.files.read(reels.shard_name(item), *extent(steps)))
            sizes = steps["offset"][1:] - steps["offset"][:-1]
            rgb = steps["rgb"][:count]
            height, width = reels.sizes[item].tolist()
            images = (rgb.tolist(), (sizes - rgb).tolist(), steps["crc32"][:count].tolist())
            name = os.path.relpath(reels.paths[item], reels.folder)
            for copy in range(copies):
                header = Header(
                    f"{copy:03d}/{name}", height, width, float(reels.fps[item]), *images
                )
                writer.add(header, pictures, "")
    pictures.unlink()
    finish(folder, read_done(folder))
    return folder


def measured(bench: "Bench", rounds: int, seconds: float) -> list[Row]:
    """A row a way and number of workers, once every way gives the folder's batch."""
    print("checking and filling ...", flush=True)
    bench.fill()
    bench.verify()
    rows = []
    for workers in WORKERS:
        turns: dict[Way, list[Turn]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way in WAYS:
                print(f"  {workers} workers, round {number + 1}: {way.columns}", flush=True)
                with bench.loader(way, workers) as clips:
                    turns[way].append(turn(clips, seconds))
        folder = turns[WAYS[0]]
        for way, taken in turns.items():
            row = way.columns | {"workers": workers, "batch": BATCH}
            row |= timing.summary([one.seconds for one in taken]).per(1)
            shares = [one.seconds / mine.seconds for one, mine in zip(folder, taken, strict=True)]
            row["of_folder"] = timing.digits(statistics.median(shares))
            if way.latency is not None:
                for name in ("fetcher", "store"):
                    spent = statistics.median(getattr(one, name) for one in taken)
                    row[f"{name}_ms"] = timing.digits(1000 * spent)
            rows.append(row)
    return rows


@dataclass(frozen=True)
class Turn:
    """What a clip took, in seconds, and what of a processor two processes took for it."""

    seconds: float
    fetcher: float
    store: float


def turn(clips: ClipLoader, seconds: float) -> Turn:
    """Read for so long, once what was ready at first is gone."""
    for _ in range(4):
        clips.next_batch()
    count, began, fetcher, store = 0, time.perf_counter(), fetcher_seconds(), store_seconds()
    while (elapsed := time.perf_counter() - began) < seconds or not count:
        count += len(clips.next_batch())
    spent = (elapsed, fetcher_seconds() - fetcher, store_seconds() - store)
    return Turn(*(one / count for one in spent))


def fetcher_seconds() -> float:
    """Processor time of this process's fetcher so far; 0 if it has none."""
    return sum(_processor_seconds(c.pid) for c in active_children() if c.name == PROCESS and c.pid)


def store_seconds() -> float:
    """Processor time of the servers so far."""
    return sum(
        _processor_seconds(int(path.parent.name))
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"benchmarks.object_server" in path.read_bytes()
    )


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Bench:
    """The reels, where caches go, and the servers by how late they answer."""

    reels: Path
    out: Path
    urls: Mapping[int, str]

    @contextmanager
    def loader(self, way: Way, workers: int) -> Iterator[ClipLoader]:
        """One that reads in this way."""
        resize = Reels.found(self.reels).manifest.resize
        more: dict[str, Any] = {"batch_size": BATCH, "num_workers": workers, "device": "cpu"}
        if way.cache is not None:
            more["cache"] = self.out / f"cache-{way.cache}"
        if way.cache == "empty":
            shutil.rmtree(more["cache"], ignore_errors=True)
        with self.store(way.latency):
            place = self.reels if way.latency is None else self.address
            clips = ClipLoader(reels=place, resize=resize, fetch_ahead=way.ahead, **more)
            try:
                yield clips
            finally:
                clips.close()

    @property
    def address(self) -> str:
        return f"s3://{self.reels.parent.name}/{self.reels.name}"

    @contextmanager
    def store(self, latency: int | None) -> Iterator[None]:
        """Within, the address is served so late."""
        place = {
            "AWS_ENDPOINT_URL": self.urls[latency or 0],
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": str(self.out.absolute()),
        }
        with mock.patch.dict(os.environ, place):
            yield

    def fill(self) -> None:
        """Put everything into the full cache."""
        with self.store(0):
            source = Reels.found(self.address)
            plan = Plan(source, ClipSpec(resize=source.manifest.resize), "stored", Share(0, 1))
            cache = Cache(self.out / "cache-full", 10**12, 1, dict)
            for item in range(len(source)):
                where = (source.shard_name(item), *extent(source.steps(item)))
                piece = plan.range_at(*where).piece
                if cache.absent(piece, 0, piece.pages):
                    cache.write(piece, 0, LocalFiles(str(self.reels)).read(*where))

    def verify(self) -> None:
        """Exit unless each way gives the batch that the folder gives."""
        first: ClipBatch | None = None
        for way in WAYS:
            with self.loader(way, 1) as clips:
                batch = clips.next_batch()
            first = first or batch
            for name in ("frames", "flow", "labels", "start"):
                if not torch.equal(getattr(first, name), getattr(batch, name)):
                    sys.exit(f"remote: {way.columns} gives other {name} than the folder")


if __name__ == "__main__":
    sys.exit(main())
