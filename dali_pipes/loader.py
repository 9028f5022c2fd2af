"""`ClipLoader`: labelled clips for a training loop, on its device.

for batch in ClipLoader(videos="videos/", batch_size=8):
    loss = step(batch.frames, batch.labels)  # uint8 [8,16,112,112,3], int64 [8,27]
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dali_pipes.batch import ClipBatch
from dali_pipes.clips import ClipSpec, clip_at, clip_start, rank_slots
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.flow import GONE, NO_FLOW, resolve_flow
from dali_pipes.pipelines.aside import Made
from dali_pipes.pipelines.feed import Feed, Received, decodes_on_gpu
from dali_pipes.pipelines.fetch import Share
from dali_pipes.pipelines.fetcher import Fetching
from dali_pipes.pipelines.nvdec import DECODE_THREADS
from dali_pipes.sources import Reels, Source, VideoFiles, open_source
from dali_pipes.sources.index import UNKNOWN, Index
from dali_pipes.sources.lists import FORMS, NO_START
from dali_pipes.sources.survey import survey
from kernels.gpu import check_gpu
from kernels.labels import clip_labels
from kernels.labels.schema import LABELS, Rule

STALL_SECONDS = 300.0
FETCH_AHEAD = 128  # clips
CACHE_SIZE = 200 * 10**9  # bytes


class NothingUsable(ValueError):
    """No clip of the source can be used."""


@dataclass(frozen=True)
class Skip:
    """A file that was left out. Each is reported once."""

    path: str
    stage: str  # open, decode or flow
    reason: str
    slot: int | None  # of the stream; None: found before the first clip

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.stage}: {self.reason}"


class ClipLoader:
    """An endless stream of labelled clips, in an order that depends on seed and items alone.

    Iterating yields the batches of one epoch, `ClipBatch` on `device`. Batches run across the
    ends of epochs: all have the same size, but for clips of bad files, which are left out.

    videos: folder (recursive; a video's class is its folder), list file or Source; or
    reels: folder or address (s3://...) that `dali_pipes.prepare reels` made; resize has to be
    theirs; or
    rgb_prefix: frames in the published layout, with or without flow_x_prefix, flow_y_prefix.
    data_list: `class/video start_frame class_id` a line, start frames from 1.
    batch_size: clips a process; clip_len: frames; stride: video frames a clip frame; resize:
    (height, width) in pixels before the crop; size: side of the crop in pixels.
    rule: corrected | reference; flow: auto | stored | tvl1 | tvl1-fast |
    nvof. labels: False computes
    neither labels nor flow, for those who want frames only: `flow` has no field, `labels` are 0.
    sampling: random (training) | even (evaluation: in order, centre crop, no flip).
    device: None is the GPU if there is one. rank takes every world_size-th slot of the stream.
    num_workers: decoding processes; 0 decodes in this one. prefetch: batches prepared ahead.
    decode_threads: threads that drive a GPU's decoders. stall_seconds: after so long without a
    batch and with no byte of a file read LoaderStopped is raised; faults of an address are borne
    for 60 % of it. on_skip: called with each `Skip`; what it raises comes out.
    Of reels at an address: fetch_ahead clips are fetched before their turn; cache is a folder of
    this machine where up to cache_size bytes of them are kept, for its ranks together and later
    runs; node_ranks: how many ranks a machine has, whose numbers are neighbours.

    Raises ValueError on arguments that cannot work, NothingUsable if no video can be used.
    """

    def __init__(
        self,
        videos: Path | str | Source | None = None,
        *,
        reels: Path | str | None = None,
        data_list: Path | str | None = None,
        rgb_prefix: Path | str | None = None,
        flow_x_prefix: Path | str | None = None,
        flow_y_prefix: Path | str | None = None,
        batch_size: int = 8,
        clip_len: int = 16,
        size: int = 112,
        resize: tuple[int, int] = (128, 171),
        stride: int = 1,
        rule: Rule = "corrected",
        flow: str = "auto",
        labels: bool = True,
        flip: bool = True,
        clips_per_video: int = 1,
        sampling: Literal["random", "even"] = "random",
        seed: int = 0,
        device: torch.device | str | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 2,
        prefetch: int = 2,
        decode_threads: int = DECODE_THREADS,
        stall_seconds: float = STALL_SECONDS,
        fetch_ahead: int = FETCH_AHEAD,
        cache: Path | str | None = None,
        cache_size: int = CACHE_SIZE,
        node_ranks: int = 1,
        on_skip: Callable[[Skip], None] | None = None,
    ) -> None:
        if min(batch_size, prefetch, decode_threads) < 1 or not 0 <= num_workers <= MOST_WORKERS:
            raise ValueError(
                "batch_size, prefetch and decode_threads must be at least 1 and num_workers lie in "
                f"0..{MOST_WORKERS}, got {batch_size}, {prefetch}, {decode_threads}, {num_workers}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        if min(fetch_ahead, cache_size, node_ranks) < 1:
            raise ValueError(
                "fetch_ahead, cache_size and node_ranks must be at least 1, "
                f"got {fetch_ahead}, {cache_size}, {node_ranks}"
            )
        cache = None if cache is None else Path(os.path.abspath(cache))
        self.spec = ClipSpec(
            clip_len, stride, resize, size, rule, flip, clips_per_video, sampling, seed
        )
        self.source = open_source(
            videos, data_list, rgb_prefix, flow_x_prefix, flow_y_prefix, reels, cache
        )
        if isinstance(self.source, Reels):
            self.source.check_size(resize)
        self.device, self._device_reason = _device(device)
        self.flow, self._flow_reason = (
            resolve_flow(flow, self.device.type, self.source.has_flow)
            if labels
            else (NO_FLOW, "no labels are wanted")
        )
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.num_workers, self.stall_seconds = num_workers, stall_seconds
        self.skipped: list[Skip] = []
        self.consumed = 0  # slots of the stream that training has had, on all ranks together
        # Of the last batch, by stage, where known: waiting, decode, flow, labels; see
        # docs/loading.md. On a GPU, labels and TV-L1 are those of the last batch it has done.
        self.seconds_a_clip: dict[str, float] = {}
        self._on_skip = on_skip
        self._reported: set[str] = set()
        self._barren = 0  # slots since the last usable clip
        self._made: Made[tuple[Received, ClipBatch]] | None = None  # ahead, on a GPU

        index = Index(self.source.index_path)
        on_gpu = decodes_on_gpu(self.flow, self.device) and isinstance(self.source, VideoFiles)
        self._known = survey(self.source, index, progress=rank == 0, for_gpu=on_gpu)
        index.close()
        self._feed = Feed(
            self.source,
            self.spec,
            self._known,
            self.flow,
            self.device,
            batch_size,
            num_workers,
            prefetch,
            decode_threads,
            stall_seconds,
            Fetching(fetch_ahead, cache, cache_size, rank, node_ranks),
        )
        self._examine()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if self._feed.bytes_ahead > memory:
            raise ValueError(
                f"batches of {batch_size} clips under way take {self._feed.bytes_ahead >> 30} GiB, "
                f"the machine has {memory >> 30}; lower batch_size (--bs) or prefetch"
            )

    @property
    def paths(self) -> Sequence[str]:
        """The file or folder of every item: what `ClipBatch.video` counts in."""
        return self.source.paths

    @property
    def clips_per_epoch(self) -> int:
        """Slots of an epoch on all ranks together, those of bad files included."""
        return len(self.source) * self.spec.clips_per_video

    @property
    def epoch(self) -> int:
        """The epoch that the next clip belongs to."""
        return self.consumed // self.clips_per_epoch

    def __len__(self) -> int:
        """Batches left until the next epoch has begun."""
        left = (self.epoch + 1) * self.clips_per_epoch - self.consumed
        return math.ceil(left / self._global_batch)

    def __iter__(self) -> Iterator[ClipBatch]:
        epoch = self.epoch
        while self.epoch == epoch:
            yield self.next_batch()

    def next_batch(self) -> ClipBatch:
        """The next batch of the stream, whatever the epoch.

        Raises LoaderStopped if decoding hangs or dies, NothingUsable if no clip of an epoch was
        any good. After an interrupt the stream goes on where it was.
        """
        consumed = self.consumed
        try:
            batch = self._next()
            self.consumed += self._global_batch
            return batch
        except BaseException:  # the pipeline may be a batch ahead: begin it anew, from here
            self.consumed = consumed
            self.close()
            raise

    def _next(self) -> ClipBatch:
        aside = self._feed.aside
        made = self._made or aside.make(lambda: self._make(self.consumed))
        got, batch = aside.take(made)
        self._made = None
        if aside.is_there and self._feed.is_ready:
            self._made = aside.make(lambda: self._make(self.consumed + self._global_batch))
        for place, bad in sorted(got.bad.items()):
            self._skip(bad, got.slots[place])
        self._barren = 0 if got.good else self._barren + len(got.slots)
        if self._barren >= self.clips_per_epoch:
            raise NothingUsable(self._nothing())
        of_workers = {name: total / max(1, len(batch)) for name, total in got.seconds.items()}
        self.seconds_a_clip = of_workers | self._feed.clock.seconds_a_clip()
        return batch

    def _make(self, consumed: int) -> tuple[Received, ClipBatch]:
        """The batch of the stream that follows so many slots; it has to come next from the feed."""
        slots = rank_slots(consumed, self.batch_size, self.rank, self.world_size)
        clips = [clip_at(slot, len(self.source), self.spec) for slot in slots]
        got = self._feed.next(Share(slots.start, slots.step), clips)
        if got.slots != list(slots):
            raise AssertionError(f"the pipeline gave slots {got.slots}, wanted {slots}")
        good = [clips[place] for place in got.good]
        rows = [
            (clip.video, start, *clip.crop, clip.flip)
            for clip, start in zip(good, got.starts, strict=True)
        ]
        facts = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5).T.contiguous()
        video, start, *crop, flip = self._feed.to_device(facts)
        labels = self._labels(got.frames, got.flow)
        where = (video, start, torch.stack(crop, dim=1), flip.bool())
        return got, ClipBatch(got.frames, got.flow, labels, *where)

    def _labels(self, frames: Tensor, flow: Tensor) -> Tensor:
        if self.flow == NO_FLOW:
            return torch.zeros(len(frames), len(LABELS), dtype=torch.int64, device=self.device)
        with self._feed.clock.stage("labels", len(frames)):
            return clip_labels(frames, flow, self.spec.rule)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing happens if the stream is already in it."""
        if epoch != self.epoch:
            self._jump(epoch * self.clips_per_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, and what it is a stream of: plain values."""
        return {"consumed": self.consumed, "stream": self._stream()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another loader stopped; batch size and number of ranks may differ.

        Raises ValueError if that was a stream of other clips, and says what differs.
        """
        consumed = state.get("consumed") if isinstance(state, dict) else None
        if type(consumed) is not int or not 0 <= consumed < 2**53:
            raise ValueError(f"the loader's state has no place in a stream: consumed {consumed!r}")
        here, there = self._stream(), state.get("stream")
        if not isinstance(there, dict):
            raise ValueError(f"the loader's state says of no stream what it is: {there!r:.40}")
        different = [
            f"{name} was {there.get(name)}, is {here.get(name)}"
            for name in sorted({*here, *there})
            if here.get(name) != there.get(name)
        ]
        if there.get("flow") in GONE:
            raise ValueError(f"{GONE[there['flow']]}; begin a new run")
        if different:
            raise ValueError(
                f"the state is of another stream of clips: {'; '.join(different)}; "
                "resume with the same data and arguments"
            )
        self._jump(consumed)

    def close(self) -> None:
        """End the decoding workers. Iterating again starts new ones."""
        self._made = None
        self._feed.close()

    def describe(self) -> str:
        """What the loader does, for people, a line each."""
        bad = len(self._known.bad)
        found = [f"{len(self.source)} videos or clips", f"{bad} unusable" if bad else "all usable"]
        unopened = int((self._known.frames == UNKNOWN).sum()) - sum(
            self._known.frames[item] == UNKNOWN for item in self._known.bad
        )
        if unopened:
            found[1:] = [f"{bad} unusable", f"{unopened} not opened yet: workers will"]
        workers = self.num_workers
        lines = [
            ("device", f"{self.device}{self._device_reason and f' ({self._device_reason})'}"),
            ("source", f"{self.source.name}: {', '.join(found)}"),
            *([("fetching", told)] if (told := self._feed.fetching_words) else []),
            ("decoder", self._feed.decoder),
            ("flow", f"{self.flow} ({self._flow_reason})"),
            ("labels", "none" if self.flow == NO_FLOW else f"27, rule {self.spec.rule}"),
            ("workers", f"{workers} processes" if workers else "none: decoding in this process"),
            ("epoch", f"{self.clips_per_epoch} clips, {len(self)} batches of {self._global_batch}"),
            ("memory", f"{self._feed.bytes_ahead / 2**20:.0f} MiB of batches under way"),
        ]
        if self.skipped:
            shown = self.skipped[:_SHOWN_SKIPS]
            more = len(self.skipped) - len(shown)
            lines.append(("skipped", f"{len(self.skipped)} files"))
            lines += [("", str(skip)) for skip in shown]
            lines += [("", f"... and {more} more")] if more else []
        return "\n".join(f"{name:8} {text}" for name, text in lines)

    @property
    def _global_batch(self) -> int:
        return self.batch_size * self.world_size

    def _jump(self, consumed: int) -> None:
        if consumed != self.consumed:
            self.close()
            self.consumed = consumed

    def _stream(self) -> dict[str, Any]:
        """What decides which clips there are and in which order."""
        spec = {name: str(value) for name, value in asdict(self.spec).items()}
        made_as = self.source.manifest.flow if isinstance(self.source, Reels) else "stored"
        flow = self.flow if self.flow != "stored" else made_as
        return {**spec, "items": items_of(self.source), "flow": flow}

    def _examine(self) -> None:
        """Report what is known to be bad or too short; raise if nothing is left."""
        known, starts = self._known, self.source.starts
        count = np.where(known.decoded == UNKNOWN, known.frames, known.decoded)
        need = np.where(starts == NO_START, 0, starts) + self.spec.needs
        if len(starts) > 1 and np.all((starts != NO_START) & (starts + 1 >= count) & (count > 0)):
            raise ValueError(
                f"{self.source.name}: every start frame is at or past its video's end: are they "
                f"numbers of frames (as in TSN's lists)? {FORMS}"
            )
        for item in np.flatnonzero((count != UNKNOWN) & (count < need)).tolist():
            if bad := too_short(self.source, item, int(count[item]), self.spec.needs):
                known.bad[item] = bad
        for bad in (*self.source.left_out, *(known.bad[item] for item in sorted(known.bad))):
            self._skip(bad, None)
        if len(known.bad) == len(self.source):
            raise NothingUsable(self._nothing())

    def _nothing(self) -> str:
        reasons = "\n".join(f"  {skip}" for skip in self.skipped[:_SHOWN_SKIPS])
        return f"{self.source.name}: nothing usable among {len(self.source)}:\n{reasons}"

    def _skip(self, bad: BadVideo, slot: int | None) -> None:
        if bad.path in self._reported:
            return
        self._reported.add(bad.path)
        skip = Skip(bad.path, bad.stage, bad.reason, slot)
        self.skipped.append(skip)
        if self._on_skip is not None:
            self._on_skip(skip)


_SHOWN_SKIPS = 20
MOST_WORKERS = 1024


def too_short(source: Source, item: int, frames: int, needs: int) -> BadVideo | None:
    """Why no clip of `needs` frames fits into an item of so many, or where it is listed."""
    listed = None if source.starts[item] == NO_START else int(source.starts[item])
    try:
        clip_start(0.0, listed, frames, None, needs)
    except ValueError as error:
        return BadVideo(source.paths[item], "open", str(error))
    return None


def items_of(source: Source) -> str:
    """How many items, and a digest of which and in what order, wherever their folder lies."""
    names = "\n".join("/".join(path.split("/")[-2:]) for path in source.paths)
    items = blake2b(os.fsencode(names), digest_size=8)
    items.update(source.starts.tobytes())
    return f"{len(source)} ({items.hexdigest()})"


def _device(device: torch.device | str | None) -> tuple[torch.device, str]:
    """(the device, which or why; empty: the caller knows).

    Raises ValueError if it is not there, or a GPU too old for the kernels.
    """
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu"), "no NVIDIA GPU found"
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r} is none of cpu, cuda, cuda:N") from None
    if device.type == "cpu":
        return device, ""
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device} is not there; {torch.cuda.device_count()} GPUs found")
    device = torch.device("cuda", device.index or 0)
    name = torch.cuda.get_device_name(device)
    check_gpu(name, torch.cuda.get_device_capability(device))
    return device, name
