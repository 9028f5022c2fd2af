"""One process a rank that fetches the clips of remote reels ahead of those who decode them.

    object store  ->  fetcher: Ahead (requests, node cache)  ->  decoding workers, over a socket

Workers ask for byte ranges; which ones and in what order follows from `clip_at`, so that they are
on their way before they are asked for. A process of its own: talking to an object store takes some
milliseconds of Python a clip, which neither training nor decoding should wait for.
"""

import os
import signal
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError, get_context, parent_process
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from dali_pipes.clips import ClipSpec, clip_at, clip_start, videos_at
from dali_pipes.flow import NO_FLOW
from dali_pipes.pipelines.fetch import Share, end_with, numbers_from, shown_and_fields
from dali_pipes.pipelines.spawn import quiet_children
from dali_pipes.sources import Reels
from dali_pipes.sources.lists import NO_START
from dali_pipes.sources.reels import extent
from dali_pipes.storage import RemoteFiles, Unreachable
from dali_pipes.storage.ahead import Ahead, Range
from dali_pipes.storage.cache import Cache, Held, Piece, piece_name
from dali_pipes.storage.copies import version_key
from dali_pipes.storage.files import Stamp
from dali_pipes.storage.remote import Version

PROCESS = "sts-dali-fetcher"
BORNE = 0.6  # of stall_seconds: a clip that does not come is left out before the run is stopped


@dataclass(frozen=True)
class Fetching:
    """How the clips of remote reels are fetched."""

    ahead: int  # clips before a worker takes them
    cache: Path | None  # of this machine, for its ranks together
    cache_bytes: int
    rank: int
    node_ranks: int  # ranks of a machine; their numbers are neighbours

    def __str__(self) -> str:
        kept = "no cache"
        if self.cache is not None:
            kept = f"up to {self.cache_bytes / 1e9:g} GB kept in {self.cache}"
        return f"{self.ahead} clips ahead, {kept}"


@dataclass
class Fetched:
    """The files of remote reels, as a fetcher hands them to this process."""

    files: RemoteFiles
    address: str  # of its socket
    key: bytes

    def __post_init__(self) -> None:
        self._here = threading.local()

    @property
    def place(self) -> str:
        return self.files.place

    def stamp(self, name: str) -> Stamp:
        return self.files.stamp(name)

    def read_whole(self, name: str) -> bytes:
        return self.files.read_whole(name)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Raises NotFetched, Unreachable."""
        found = self._ask(name, offset, size, False)
        if isinstance(found, Held):  # gone meanwhile: anew
            return found.read() or self.read_again(name, offset, size)
        return found

    def read_again(self, name: str, offset: int, size: int) -> bytes:
        """Raises NotFetched, Unreachable."""
        found = self._ask(name, offset, size, True)
        assert not isinstance(found, Held)
        return found

    def _ask(self, *request: Any) -> bytes | Held:
        try:
            if not hasattr(self._here, "connection"):
                self._here.connection = Client(self.address, "AF_UNIX", self.key)
            self._here.connection.send(request)
            answer = self._here.connection.recv()
        except (EOFError, OSError) as error:
            raise Unreachable(f"{self.place}: the process that fetches from there ended") from error
        if isinstance(answer, Exception):
            raise answer
        found: bytes | Held = answer
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "address": self.address, "key": self.key}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class Fetcher:
    """The process, from when it is made until it is closed, and its files."""

    def __init__(self, plan: "Plan", fetching: Fetching, stall_seconds: float) -> None:
        files = plan.files.with_patience(BORNE * stall_seconds)
        plan = replace(plan, source=replace(plan.source, files=files))
        # Abstract: no file is left behind, however it ends. Whoever has the key may ask.
        self.files = Fetched(files, f"\0sts-dali-{uuid4().hex}", os.urandom(32))
        spawn = get_context("spawn")
        self._ready, begun = spawn.Pipe(duplex=False)
        process = spawn.Process(
            target=_serve, args=(plan, fetching, self.files, begun), daemon=True, name=PROCESS
        )
        with quiet_children(main=False):
            process.start()
        begun.close()
        self.close = weakref.finalize(self, _end, process)

    def wait(self) -> None:
        """Until it answers. Raises Unreachable if it ended."""
        try:
            self._ready.recv()
        except EOFError:
            place = self.files.place
            raise Unreachable(f"{place}: the process that fetches from there ended") from None


def _end(process: BaseProcess) -> None:
    process.kill()
    process.join()


@dataclass(frozen=True)
class Plan:
    """Which bytes of remote reels the clips of a share are, in order."""

    source: Reels
    spec: ClipSpec
    flow: str
    share: Share

    @property
    def files(self) -> RemoteFiles:
        assert isinstance(self.source.files, RemoteFiles)
        return self.source.files

    def __call__(self, number: int) -> Range | None:
        """Those of the clip in the `number`-th slot; None: it cannot be had."""
        clip = clip_at(self.share.slot(number), len(self.source), self.spec)
        item = clip.video
        listed, frames = int(self.source.starts[item]), int(self.source.frames[item])
        is_there = isinstance(self.files.versions[self.source.shard_name(item)], Version)
        if not (is_there and frames):
            return None
        try:
            start = clip_start(
                clip.position, None if listed == NO_START else listed, frames, None, self.spec.needs
            )
        except ValueError:
            return None
        shown, fields = shown_and_fields(numbers_from(start, self.spec), self.spec)
        last = shown[-1] if self.flow == NO_FLOW else max(shown[-1], fields[-1])
        steps = self.source.steps(item)[start : last + 2]  # and the row after
        return self._range(item, *extent(steps))

    def range_at(self, shard: str, offset: int, size: int) -> Range:
        """Bytes of a shard, with the video that they are of."""
        begins = self.source.begins
        of_shard = np.flatnonzero(self.source.shard == self.source.shards.index(shard))
        before = of_shard[begins[of_shard] <= offset]
        return self._range(int(before[np.argmax(begins[before])]), offset, size)

    def next_uses(self, number: int, fetching: Fetching) -> dict[str, int]:
        """By `Piece.name`: the slot where a rank of this node needs it next, from `number` on, as
        far as the end of the next epoch."""
        an_epoch = len(self.source) * self.spec.clips_per_video
        here = self.share.slot(number)
        slots = np.arange(here, (here // an_epoch + 2) * an_epoch)
        ranks = (slots - self.share.first + fetching.rank) % self.share.step  # that take them
        slots = slots[ranks // fetching.node_ranks == fetching.rank // fetching.node_ranks]
        items, places = np.unique(videos_at(slots, len(self.source), self.spec), return_index=True)
        keys = [self._key(shard) for shard in self.source.shards]
        uses: dict[str, int] = {}
        rows = (self.source.shard[items], self.source.begins[items], slots[places])
        for shard, begin, slot in zip(*(row.tolist() for row in rows), strict=True):
            name = piece_name(keys[shard], begin)
            uses[name] = min(slot, uses.get(name, slot))  # a list may have a video often
        return uses

    def _range(self, item: int, offset: int, size: int) -> Range:
        shard = self.source.shard_name(item)
        piece = Piece(self._key(shard), *extent(self.source.steps(item)))
        return Range(shard, offset, size, piece)

    def _key(self, shard: str) -> str:
        version = self.files.versions[shard]
        if isinstance(version, str):  # it is not there
            return ""
        return version_key(self.source.folder, shard, version)


def _serve(plan: Plan, fetching: Fetching, files: Fetched, begun: Connection) -> None:
    """What the process does: fetch ahead, and answer whoever asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()
    cache = None
    if fetching.cache is not None:
        cache = Cache(
            fetching.cache,
            fetching.cache_bytes,
            fetching.node_ranks,
            lambda: plan.next_uses(max(0, ahead.reached), fetching),
        )
    with Listener(files.address, "AF_UNIX", backlog=128, authkey=files.key) as listener:
        ahead = Ahead(plan.files, cache, plan, fetching.ahead)
        begun.send(True)
        while True:
            try:
                connection = listener.accept()
            except (AuthenticationError, EOFError, OSError):
                continue
            arguments = (connection, ahead, plan)
            threading.Thread(target=_answer, args=arguments, daemon=True).start()


def _answer(connection: Connection, ahead: Ahead, plan: Plan) -> None:
    """Answer a worker until it ends."""
    with suppress(EOFError, OSError), connection:
        while True:
            shard, offset, size, again = connection.recv()
            answer: bytes | Held | Exception
            try:
                if again:
                    answer = ahead.get_again(plan.range_at(shard, offset, size))
                else:
                    answer = ahead.get(shard, offset, size)
            except Exception as error:
                answer = error
            connection.send(answer)
